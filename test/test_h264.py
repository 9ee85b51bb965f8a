# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Video in packets: the decoder itself, and recordings that hold it."""

import contextlib
import json
import random
import resource
import sqlite3
from types import SimpleNamespace

import av
import numpy as np
import pytest
import video_kit
from conftest import scene
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from video_kit import encoded, picture, plain, plain_video, stamp_of

from masa_ros import cli
from masa_ros.codecs.bitstream import Bitstream
from masa_ros.codecs.decoder import VideoDecoder
from masa_ros.errors import ImageError
from masa_ros.images import Picture, rgb_from_frame, rgb_from_picture
from masa_ros.recordings.bags import (
    IMAGE_TYPE,
    PACKET_TYPE,
    VIDEO_TYPE,
    BagWriter,
    typestore,
)
from masa_ros.recordings.sources import open_source
from masa_ros.recordings.tracks_file import read_tracks
from masa_ros.types import Frame

NOISE = 4.0  # mean difference in grey levels that compression and half the colours may make


def decoded(messages, decoder=None):
    """Decode messages to their end: tags are their places."""
    decoder = decoder or VideoDecoder()
    answers = []
    for place, message in enumerate(messages):
        answers += decoder.decode(message, place)
    answers += decoder.flush()
    assert sorted(place for place, _ in answers) == list(range(len(messages))), 'each exactly once'
    assert len(decoder) == 0
    return answers


def check_pictures(answers, packets):
    """Every picture must be that of its packet, with the stamp of its packet."""
    shown = [(place, answer) for place, answer in answers if isinstance(answer, Picture)]
    for place, answer in shown:
        number = packets[place].number
        assert answer.header.stamp.sec == number
        assert answer.header.frame_id == 'camera'
        difference = np.abs(rgb_from_picture(answer).astype(int) - picture(number)).mean()
        assert difference < NOISE, f'picture {number} differs by {difference:.1f}'
    return [packets[place].number for place, _ in shown]


def causes(answers, packets):
    return {
        packets[place].number: answer.cause
        for place, answer in answers
        if isinstance(answer, ImageError)
    }


STREAMS = [('h264', 0), ('h264', 2), ('hevc', 0), ('hevc', 2), ('vp9', 0)]


@pytest.mark.parametrize('codec, b_frames', STREAMS)
@pytest.mark.parametrize('kind', ['ffmpeg', 'foxglove'])
def test_every_packet_gives_its_picture_under_its_own_stamp(codec, b_frames, kind):
    packets = encoded(codec, b_frames=b_frames)
    if b_frames:
        assert [p.number for p in packets] != sorted(p.number for p in packets), 'it reorders'
    name = codec.replace('hevc', 'h265')
    make = plain_video if kind == 'foxglove' else plain
    answers = decoded([make(packet, name) for packet in packets])
    assert causes(answers, packets) == {}
    assert check_pictures(answers, packets) == list(range(len(packets))), 'in the order shown'


def test_av1():
    try:
        encoder = av.CodecContext.create('libsvtav1', 'w')
        av.codec.Codec('libdav1d', 'r')
    except ValueError as error:
        pytest.skip(f'this PyAV has no AV1: {error}')
    del encoder
    video_kit.ENCODERS['av1'] = ('libsvtav1', {'svtav1-params': 'pred-struct=1:lookahead=0'})
    packets = encoded('av1')
    answers = decoded([plain_video(packet, 'av1') for packet in packets])
    assert check_pictures(answers, packets) == list(range(len(packets)))
    late = decoded([plain_video(packet, 'av1') for packet in packets[3:]])
    assert len(check_pictures(late, packets[3:])) == len(packets) - 8


@pytest.mark.parametrize('codec', ['h264', 'hevc', 'vp9'])
def test_without_b_frames_no_picture_waits(codec):
    decoder = VideoDecoder()
    for packet in encoded(codec):
        answers = decoder.decode(plain(packet, codec), packet.number)
        assert [tag for tag, _ in answers] == [packet.number]


@pytest.mark.parametrize('codec, b_frames', STREAMS)
def test_whoever_joins_late_waits_for_a_key_frame(codec, b_frames):
    packets = encoded(codec, b_frames=b_frames)[3:]
    first = next(i for i, packet in enumerate(packets) if packet.key)
    answers = decoded([plain(packet, codec) for packet in packets])
    refused = causes(answers, packets)
    assert {number for number, cause in refused.items() if cause == 'without_key_frame'} == {
        packet.number for packet in packets[:first]
    }
    # Pictures of an open group that are shown before the key frame build on what did not come.
    assert set(refused.values()) <= {'without_key_frame', 'without_picture'}
    shown = check_pictures(answers, packets)
    assert set(range(packets[first].number, 24)) <= set(shown)


DAMAGES = {
    'cut': lambda data: data[: len(data) // 2],
    'random': lambda data: random.Random(1).randbytes(len(data)),
    'empty': lambda data: b'',
}


@pytest.mark.parametrize('codec', ['h264', 'hevc', 'vp9'])
@pytest.mark.parametrize('damage', DAMAGES)
def test_nothing_is_shown_from_a_broken_packet_to_the_next_key_frame(codec, damage):
    packets = list(encoded(codec))
    packets[3] = packets[3]._replace(data=DAMAGES[damage](packets[3].data))
    answers = decoded([plain(packet, codec) for packet in packets])
    assert causes(answers, packets) == {
        3: 'broken_video',
        **dict.fromkeys(range(4, 8), 'without_key_frame'),
    }
    assert check_pictures(answers, packets) == [0, 1, 2, *range(8, 24)]


def test_damaged_bits_in_h264_are_seen():
    packets = list(encoded(options=(('crf', '5'),)))
    data = bytearray(packets[3].data)
    data[len(data) // 2 : len(data) // 2 + 40] = random.Random(2).randbytes(40)
    packets[3] = packets[3]._replace(data=bytes(data))
    answers = decoded([plain(packet) for packet in packets])
    assert causes(answers, packets)[3] == 'broken_video'
    assert check_pictures(answers, packets) == [0, 1, 2, *range(8, 24)]


@pytest.mark.parametrize('lost', [1, 4, 8, 15])
@pytest.mark.parametrize('kind', ['ffmpeg', 'foxglove'])
def test_a_lost_packet_of_h264_is_noticed(lost, kind):
    packets = [packet for packet in encoded() if packet.number != lost]
    make = plain_video if kind == 'foxglove' else plain
    answers = decoded([make(packet) for packet in packets])
    after = range(lost + 1, -(-(lost + 1) // 8) * 8)
    expected = dict.fromkeys(after, 'without_key_frame')
    if expected:
        expected[after[0]] = 'broken_video'
    assert causes(answers, packets) == expected
    assert check_pictures(answers, packets) == [
        number for number in range(24) if number != lost and number not in after
    ]


def test_a_lost_packet_of_h264_with_b_frames_costs_what_builds_on_it():
    packets = encoded(b_frames=2)
    builds = next(i for i, p in enumerate(packets) if i > 2 and packets[i + 1].number < p.number)
    without = [*packets[:builds], *packets[builds + 1 :]]
    answers = decoded([plain(packet) for packet in without])
    assert causes(answers, without), 'a frame that others build on'
    shown = check_pictures(answers, without)
    assert set(range(16, 24)) <= set(shown)
    # One that nothing builds on costs itself only.
    leaf = next(i for i, p in enumerate(packets) if i > 2 and packets[i - 1].number > p.number)
    leaf = max(i for i in range(leaf, leaf + 2) if packets[i].number < packets[leaf - 1].number)
    without = [*packets[:leaf], *packets[leaf + 1 :]]
    assert causes(decoded([plain(packet) for packet in without]), without) == {}


@pytest.mark.parametrize('lost', [4, 8])
@pytest.mark.parametrize('codec', ['hevc', 'vp9'])
def test_a_lost_packet_of_other_codecs_is_noticed_where_packets_are_counted(lost, codec):
    packets = [packet for packet in encoded(codec) if packet.number != lost]
    answers = decoded([plain(packet, codec) for packet in packets])
    assert check_pictures(answers, packets) == [
        number for number in range(24) if number != lost and (number < lost or number // 8 > 0)
    ][: None if lost == 4 else lost] + ([] if lost == 4 else list(range(16, 24)))


def test_a_stream_that_counts_in_time_is_not_taken_for_one_with_gaps():
    times = [0, 3000, 6000, 12000, 15000, 15001]
    packets = encoded('hevc')[:6]
    messages = [plain(packet, 'hevc') for packet in packets]
    for message, time in zip(messages[:5], times):
        message.pts = time
    answers = decoded(messages[:5])
    assert check_pictures(answers, packets[:5]) == list(range(5))


@pytest.mark.parametrize(
    'encoding',
    [
        *('libx264', 'h264_nvenc', 'h264_vaapi', 'h264_nvmpi', 'h264_v4l2m2m', 'libopenh264'),
        *('h264;yuv420p;bgr8;bgr8', 'H264', 'h264'),
    ],
)
def test_codecs_are_known_by_the_names_of_their_encoders(encoding):
    packets = encoded()[:3]
    answers = decoded([plain(packet, encoding) for packet in packets])
    assert check_pictures(answers, packets) == [0, 1, 2]


@pytest.mark.parametrize('encoding', ['hevc_nvenc', 'libx265', 'hevc;nv12;bgr8;rgb8', 'h265'])
def test_and_those_of_h265(encoding):
    packets = encoded('hevc')[:3]
    answers = decoded([plain(packet, encoding) for packet in packets])
    assert check_pictures(answers, packets) == [0, 1, 2]


@pytest.mark.parametrize('encoding', ['', 'theora', ';;;', 'h263;yuv420p;bgr8;bgr8', 'mjpeg'])
def test_a_wrong_name_of_a_codec_is_named(encoding):
    decoder = VideoDecoder()
    packets = encoded()
    assert len(decoder.decode(plain(packets[0]), 0)) == 1
    ((tag, error),) = decoder.decode(plain(packets[1], encoding), 'tag')
    assert tag == 'tag' and error.cause == 'encoding'
    assert 'h264, h265' in str(error)
    # It is not of this stream, which goes on.
    ((_, answer),) = decoder.decode(plain(packets[1]), 1)
    assert isinstance(answer, Picture)


def test_codec_and_size_may_change_and_no_picture_is_lost():
    parts = [
        (encoded(b_frames=2, count=10), 'h264'),
        (encoded(b_frames=2, count=10, size=(480, 640)), 'h264'),
        (encoded('hevc', count=10), 'hevc'),
        (encoded(count=10), 'h264'),
    ]
    messages = [plain(packet, name) for packets, name in parts for packet in packets]
    answers = decoded(messages)
    assert all(isinstance(answer, Picture) for _, answer in answers), causes(answers, messages)
    sizes = [(answer.frame.height, answer.frame.width) for _, answer in answers]
    assert sizes == [(240, 320)] * 10 + [(480, 640)] * 10 + [(240, 320)] * 20
    numbers = [answer.header.stamp.sec for _, answer in answers]
    assert numbers == [*range(10)] * 4


def test_parameters_may_come_in_a_packet_of_their_own():
    packets = list(encoded())
    first = packets[0].data
    places = [i for i in range(len(first)) if first[i : i + 3] == b'\0\0\1']
    slice_ = next(i for i in places if first[i + 3] & 31 == 5)
    messages = [plain(packet) for packet in packets]
    alone = plain(packets[0]._replace(data=first[:slice_], key=False))
    messages[0].data = np.frombuffer(first[slice_:], np.uint8)
    answers = decoded([alone, *messages])
    assert [(place, a.cause) for place, a in answers if isinstance(a, ImageError)] == [
        (0, 'without_picture')
    ]
    # And without them nothing can be decoded: what follows waits for those of the next key frame.
    answers = decoded(messages)
    assert causes(answers, packets) == dict.fromkeys(range(8), 'without_key_frame')


@pytest.mark.parametrize('wide', [False, True])
@pytest.mark.parametrize('matrix', ['bt709', 'smpte170m', 'unknown'])
def test_colours_are_those_that_the_stream_names(matrix, wide):
    colours = np.array([(200, 30, 30), (20, 180, 40), (30, 40, 210), (250, 250, 250)], np.uint8)
    image = np.repeat(np.repeat(colours.reshape(2, 2, 3), 32, 0), 32, 1)
    red, blue = (0.2126, 0.0722) if matrix == 'bt709' else (0.299, 0.114)
    r, g, b = (image[:, :, i].astype(float) for i in range(3))
    luma = red * r + (1 - red - blue) * g + blue * b
    u, v = (b - luma) / (2 * (1 - blue)), (r - luma) / (2 * (1 - red))
    if not wide:
        luma, u, v = 16 + luma * 219 / 255, u * 224 / 255, v * 224 / 255
    planes = np.concatenate(
        [luma, (128 + u[::2, ::2]).reshape(16, 64), (128 + v[::2, ::2]).reshape(16, 64)]
    )
    frame = av.VideoFrame.from_ndarray(np.rint(planes).astype(np.uint8), format='yuv420p')
    encoder = av.CodecContext.create('libx264', 'w')
    encoder.width = encoder.height = 64
    encoder.pix_fmt, encoder.time_base = 'yuv420p', video_kit.Fraction(1, 10)
    encoder.options = {'qp': '1', 'colorspace': matrix, 'color_range': 'pc' if wide else 'tv'}
    frame.color_range = 2 if wide else 1
    frame.colorspace = {'bt709': 1, 'smpte170m': 6, 'unknown': 2}[matrix]
    frame.pts = 0
    packets = [*encoder.encode(frame), *encoder.encode(None)]
    messages = [plain(video_kit.Encoded(0, True, bytes(packet))) for packet in packets]
    ((_, answer),) = decoded(messages)
    pixels = rgb_from_picture(answer)
    assert pixels.shape == (64, 64, 3) and pixels.dtype == np.uint8
    for y in (10, 50):
        for x in (10, 50):
            assert np.abs(pixels[y, x].astype(int) - image[y, x]).max() <= 4


@pytest.mark.parametrize('name', ['rgb24', 'gbrp', 'gray', 'yuv444p', 'yuv420p10le', 'nv12'])
def test_pictures_of_other_formats_are_converted(name):
    frame = av.VideoFrame.from_ndarray(scene(), format='rgb24').reformat(format=name)
    pixels = rgb_from_frame(frame)
    grey = scene().astype(int) @ [0.299, 0.587, 0.114]
    expected = np.repeat(grey[:, :, None], 3, 2) if name == 'gray' else scene()
    assert np.abs(pixels.astype(int) - expected).mean() < NOISE


def test_a_bayer_pattern_or_brightness_sent_as_luma_keeps_its_bytes():
    plane = scene()[:, :, 1].copy()
    plane[0, 0], plane[0, 1] = 0, 255  # beyond the range of a video
    chroma = np.full((120, 320), 128, np.uint8)
    frame = av.VideoFrame.from_ndarray(np.concatenate([plane, chroma]), format='yuv420p')
    header = SimpleNamespace(stamp=None, frame_id='')
    grey = rgb_from_picture(Picture(header, frame, 'mono8'))
    np.testing.assert_array_equal(grey, np.repeat(plane[:, :, None], 3, 2))
    mosaic = rgb_from_picture(Picture(header, frame, 'bayer_rggb8'))
    assert mosaic.shape == (240, 320, 3) and (mosaic[:, :, 0] != mosaic[:, :, 1]).any()
    colours = rgb_from_picture(Picture(header, frame, 'bgr8'))
    assert np.abs(colours.astype(int) - grey).mean() > 2, 'that one is widened'


class _Bits(list):
    """Bits of a NAL unit."""

    def number(self, value, count):
        self.extend(int(bit) for bit in f'{value:0{count}b}')

    def golomb(self, *values):
        for value in values:
            text = f'{value + 1:b}'
            self.extend([0] * (len(text) - 1) + [int(bit) for bit in text])

    def nal(self, head):
        bits = ''.join(map(str, [*self, 1]))
        bits += '0' * (-len(bits) % 8)
        data = int(bits, 2).to_bytes(len(bits) // 8, 'big')
        for last in range(4):
            data = data.replace(b'\0\0' + bytes([last]), b'\0\0\3' + bytes([last]))
        return b'\0\0\0\1' + bytes([head]) + data


def parameters(width, height, kind=2, gaps=0):
    """Sequence parameters of H.264, baseline, as ITU-T H.264 7.3.2.1.1."""
    bits = _Bits()
    bits.number(66, 8)
    bits.number(0, 8)
    bits.number(52, 8)
    bits.golomb(0, 0, kind)  # id, length of the frame number - 4, order of pictures
    if kind == 1:
        bits.number(0, 1)
        bits.golomb(0, 0, 2, 1, 4)
    bits.golomb(1)
    bits.number(gaps, 1)
    bits.golomb(width // 16 - 1, height // 16 - 1)
    bits.number(0b1100, 4)
    return bits.nal(0x67)


@pytest.mark.parametrize('size', [(60000, 60000), (16384, 16384)])
def test_a_packet_that_claims_an_absurd_size_costs_no_memory(size):
    picture_parameters = _Bits()
    picture_parameters.golomb(0, 0)
    picture_parameters.number(0, 2)
    picture_parameters.golomb(0, 0, 0)
    picture_parameters.number(0, 3)
    picture_parameters.golomb(0, 0, 0)
    picture_parameters.number(0, 3)
    data = (
        parameters(*size) + picture_parameters.nal(0x68) + b'\0\0\1\x65' + bytes(4) + b'\xb8' * 99
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    good = encoded()
    messages = [plain(video_kit.Encoded(0, True, data)) for _ in range(3)]
    for message in messages:
        message.width, message.height = size
    answers = decoded([*messages, *(plain(packet) for packet in good)])
    assert [a.cause for _, a in answers if isinstance(a, ImageError)] == ['broken_video'] * 3
    assert sum(isinstance(answer, Picture) for _, answer in answers) == len(good)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, 'KiB'


@pytest.mark.parametrize('kind', [0, 1, 2])
def test_frame_numbers_are_read_as_the_standard_says(kind):
    def slice_(number, reference=True, idr=False):
        bits = _Bits()
        bits.golomb(0, 7 if idr else 5, 0)
        bits.number(number, 4)
        bits.number(0b1010, 4)
        return bits.nal((0x60 if reference else 0) | (5 if idr else 1))

    def gaps(*packets, allowed=0):
        stream = Bitstream('h264')
        head = parameters(320, 240, kind, allowed) if kind else parameters_of_kind_0(allowed)
        looks = [stream.look(head + packets[0]), *map(stream.look, packets[1:])]
        assert looks[0].key
        return [look.gap for look in looks]

    def parameters_of_kind_0(allowed):
        bits = _Bits()
        bits.number(66, 8)
        bits.number(0, 8)
        bits.number(52, 8)
        bits.golomb(0, 0, 0, 2, 1)
        bits.number(allowed, 1)
        return bits.nal(0x67)

    first = slice_(0, idr=True)
    assert gaps(first, *(slice_(i % 16) for i in range(1, 40))) == [False] * 40
    assert gaps(first, slice_(1), slice_(3)) == [False, False, True]
    assert gaps(first, slice_(1), slice_(3), allowed=1) == [False] * 3
    # What nothing builds on has the number of the frame after it.
    assert gaps(first, slice_(1, False), slice_(1, False), slice_(1), slice_(2)) == [False] * 5


def test_random_bytes_neither_crash_nor_hang_nor_give_pictures_of_others():
    chance = random.Random(0)
    streams = {codec: encoded(codec) for codec in ('h264', 'hevc', 'vp9')}
    decoder, messages = VideoDecoder(), []
    for _ in range(600):
        codec = chance.choice(['h264', 'h264', 'hevc', 'vp9', 'av1', 'nothing'])
        packet = chance.choice(streams.get(codec, streams['h264']))
        data = bytearray(packet.data)
        what = chance.randrange(4)
        if what == 0:
            data = bytearray(chance.randbytes(chance.randrange(400)))
        elif what == 1:
            for _ in range(chance.randrange(1, 20)):
                data[chance.randrange(len(data))] = chance.randrange(256)
        elif what == 2:
            data = data[: chance.randrange(len(data))]
        packet = video_kit.Encoded(packet.number, chance.random() < 0.3, bytes(data))
        messages.append(plain(packet, codec))
    pending = 0
    answers = []
    for place, message in enumerate(messages):
        answers += decoder.decode(message, place)
        pending = max(pending, len(decoder))
    answers += decoder.flush()
    assert sorted(place for place, _ in answers) == list(range(len(messages)))
    assert pending <= 16
    for _, answer in answers:
        if isinstance(answer, Picture):
            assert rgb_from_picture(answer).shape[2] == 3


# Recordings


def write_bag(path, packets, kind, plugin=StoragePlugin.MCAP, define=True, encoding='h264'):
    """A rosbag2 recording of one video topic."""
    store = typestore()
    types = store.types
    with Writer(path, version=9, storage_plugin=plugin) as bag:
        connection = bag.add_connection('/camera/image_raw/ffmpeg', kind, typestore=store)
        for place, packet in enumerate(packets):
            at = stamp_of(packet.number)
            stamp = types['builtin_interfaces/msg/Time'](sec=at // 10**9, nanosec=at % 10**9)
            data = np.frombuffer(packet.data, np.uint8)
            if kind == PACKET_TYPE:
                header = types['std_msgs/msg/Header'](stamp=stamp, frame_id='camera')
                fields = video_kit.fields(packet, f'{encoding};yuv420p;bgr8;bgr8')
                message = types[kind](header=header, data=data, **fields)
            else:
                message = types[kind](
                    timestamp=stamp, frame_id='camera', data=data, format=encoding
                )
            bag.write(connection, stamp_of(place) + 1, store.serialize_cdr(message, kind))
    return path


@pytest.mark.parametrize('plugin', [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize('kind', [PACKET_TYPE, VIDEO_TYPE])
@pytest.mark.parametrize('codec, b_frames', [('h264', 0), ('h264', 2), ('hevc', 0)])
def test_bags_of_both_kinds_give_the_pictures_in_their_order(
    tmp_path, plugin, kind, codec, b_frames
):
    packets = encoded(codec, b_frames=b_frames)
    name = codec.replace('hevc', 'h265')
    source = open_source(write_bag(tmp_path / 'bag', packets, kind, plugin, encoding=name))
    items = list(source)
    assert len(source) == len(items) == 24
    assert [item.frame.stamp_ns for item in items] == [stamp_of(i) for i in range(24)]
    for number, item in enumerate(items):
        assert item.frame.frame_id == 'camera'
        assert np.abs(item.frame.image.astype(int) - picture(number)).mean() < NOISE
        place = next(i for i, packet in enumerate(packets) if packet.number == number)
        assert item.arrived_ns == stamp_of(place) + 1, 'when its own packet was recorded'
    assert [item.frame.stamp_ns for item in source] == [stamp_of(i) for i in range(24)], 'again'


def test_a_bag_that_does_not_hold_the_definitions_is_read_all_the_same(tmp_path):
    folder = write_bag(tmp_path / 'bag', encoded(), PACKET_TYPE, StoragePlugin.SQLITE3)
    (file,) = folder.glob('*.db3')
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        database.execute('DROP TABLE message_definitions')  # there is none in those of Humble
        database.execute('UPDATE schema SET schema_version = 3')
    items = list(open_source(folder))
    assert [item.frame.stamp_ns for item in items] == [stamp_of(i) for i in range(24)]


def test_definitions_of_the_bag_come_before_our_own(tmp_path):
    store = get_typestore(Stores.ROS2_HUMBLE)
    other = 'string encoding\nuint64 pts\nuint8 flags\nuint8[] data\nstd_msgs/Header header'
    store.register(get_types_from_msg(other, PACKET_TYPE))
    types = store.types
    with Writer(tmp_path / 'bag', version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        connection = bag.add_connection('/video', PACKET_TYPE, typestore=store)
        for packet in encoded()[:8]:
            stamp = types['builtin_interfaces/msg/Time'](sec=packet.number + 1, nanosec=0)
            message = types[PACKET_TYPE](
                header=types['std_msgs/msg/Header'](stamp=stamp, frame_id='camera'),
                data=np.frombuffer(packet.data, np.uint8),
                **{'encoding': 'libx264', 'pts': packet.number, 'flags': int(packet.key)},
            )
            bag.write(connection, packet.number, store.serialize_cdr(message, PACKET_TYPE))
    items = list(open_source(tmp_path / 'bag'))
    assert [item.frame.stamp_ns for item in items] == [(i + 1) * 10**9 for i in range(8)]


def test_what_a_recording_lacks_is_said_image_by_image(tmp_path):
    packets = [packet for packet in encoded() if packet.number != 12][3:]
    items = list(open_source(write_bag(tmp_path / 'bag', packets, VIDEO_TYPE)))
    assert len(items) == len(packets)
    told = [item.frame.cause if isinstance(item.frame, ImageError) else '' for item in items]
    assert told == [
        *['without_key_frame'] * 5,
        *[''] * 4,
        *['broken_video', 'without_key_frame', 'without_key_frame'],
        *[''] * 8,
    ]
    assert 'key frame' in str(items[0].frame)


def test_a_message_that_cannot_be_read_is_a_broken_packet(tmp_path):
    packets = encoded('hevc')
    store = typestore()
    path = tmp_path / 'bag.mcap'
    with BagWriter(path, '/video', VIDEO_TYPE) as writer:
        for packet in packets:
            stamp = store.types['builtin_interfaces/msg/Time'](sec=packet.number, nanosec=1)
            message = store.types[VIDEO_TYPE](
                timestamp=stamp,
                frame_id='camera',
                data=np.frombuffer(packet.data, np.uint8),
                format='h265',
            )
            data = bytes(store.serialize_cdr(message, VIDEO_TYPE))
            if packet.number == 3:
                data = data[:30]
            writer._writer.add_message(writer._channel, packet.number, data, packet.number)
    frames = [item.frame for item in open_source(path)]
    told = [frame.cause if isinstance(frame, ImageError) else '' for frame in frames]
    assert told == ['', '', '', 'data', *['without_key_frame'] * 4, *[''] * 16]


def replayed(source, output, *options):
    """Tracks of a recording by the weights of the package, frame by frame."""
    assert (
        cli.main(['replay', str(source), '--output', str(output), '--device', 'cpu', *options])
        == 0
    )
    return [frame.instances for frame in read_tracks(output / 'tracks.json')]


@pytest.mark.parametrize(
    'codec, b_frames, kind', [('h264', 0, PACKET_TYPE), ('h264', 2, VIDEO_TYPE)]
)
def test_a_video_gives_the_tracks_of_its_images(tmp_path, codec, b_frames, kind):
    """As many tracks, each over the one of the images by a mean IoU of 0.9."""
    count = 12
    with BagWriter(tmp_path / 'raw.mcap', '/camera/image_raw', IMAGE_TYPE) as bag:
        for number in range(count):
            bag.write_image(picture(number), stamp_of(number), 'camera')
    expected = replayed(tmp_path / 'raw.mcap', tmp_path / 'raw', '--no-overlay')
    packets = encoded(codec, count=count, b_frames=b_frames)
    bag = write_bag(tmp_path / 'video', packets, kind)
    found = replayed(bag, tmp_path / 'out', '--no-overlay')
    tracks, again, overlap = video_kit.matched(expected, found, count)
    assert tracks == again >= 3
    assert overlap > 0.9
    summary = json.loads((tmp_path / 'out/summary.json').read_text())
    assert summary['frames_tracked'] == count and not summary['refused']


def test_a_video_file_gives_the_same_pixels_as_a_bag_of_it(tmp_path):
    with av.open(str(tmp_path / 'video.mkv'), 'w') as container:
        stream = container.add_stream('libx264', rate=10)
        stream.height, stream.width, stream.pix_fmt = 240, 320, 'yuv420p'
        for number in range(8):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(picture(number), format='rgb24'))
            )
        container.mux(stream.encode(None))
    file = [item.frame for item in open_source(tmp_path / 'video.mkv')]
    assert all(isinstance(frame, Frame) for frame in file) and len(file) == 8
    with av.open(str(tmp_path / 'video.mkv')) as container:
        for frame, decoded_frame in zip(file, container.decode(video=0)):
            np.testing.assert_array_equal(frame.image, rgb_from_frame(decoded_frame))
