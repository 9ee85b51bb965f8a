# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Video in packets to the tracker node, over real DDS."""

import array
import contextlib
import threading
import time

import numpy as np
import pytest
import video_kit
from conftest import scene
from ros_harness import ENDS, SECOND, Harness, tracking, warned
from video_kit import encoded, picture, plain

from masa_ros import methods
from masa_ros.nodes import decoding, inputs
from masa_ros.nodes.decoding import Decoding
from masa_ros.nodes.messages import ns_to_stamp, stamp_to_ns, tracks_from_msg
from masa_ros.nodes.qos import profile

pytestmark = pytest.mark.ros

FFMPEG = pytest.importorskip('ffmpeg_image_transport_msgs.msg')
FOXGLOVE = pytest.importorskip('foxglove_msgs.msg')
KINDS = {'ffmpeg': FFMPEG.FFMPEGPacket, 'foxglove': FOXGLOVE.CompressedVideo}


class Camera:
    """Publishes a video as image_transport does: reliable, with room for many packets."""

    def __init__(self, harness, transport='ffmpeg'):
        self.harness, self.kind = harness, KINDS[transport]
        self.topic = f'image_raw/{transport}'
        qos = profile('reliable', 100)
        self._publisher = harness.peer.create_publisher(self.kind, self.topic, qos)
        assert harness.until(lambda: self._publisher.get_subscription_count() == 1)

    def message(self, packet, encoding='h264', stamp_ns=None):
        stamp = ns_to_stamp(stamp_ns or 100 * SECOND + packet.number * SECOND // 10)
        data = array.array('B', packet.data)
        if self.kind is KINDS['foxglove']:
            return self.kind(timestamp=stamp, frame_id='camera', data=data, format=encoding)
        fields = video_kit.fields(packet, f'{encoding};yuv420p;bgr8;bgr8')
        message = self.kind(data=data, **fields)
        message.header.stamp, message.header.frame_id = stamp, 'camera'
        return message

    def publish(self, packet, encoding='h264'):
        self._publisher.publish(self.message(packet, encoding))

    def send(self, packets, encoding='h264'):
        """Publish packets, each when the node is done with the one before."""
        statistics = self.harness.cameras[0].statistics
        for packet in packets:
            before = statistics.received
            self.publish(packet, encoding)
            assert self.harness.until(lambda before=before: statistics.received > before)
            assert self.harness.until(lambda: at_rest(self.harness, held=3))


def counters(harness):
    figures = harness.cameras[0].statistics.report()
    return {name: figures[name] for name in ('received', *ENDS)}


def at_rest(harness, held=0):
    """Whether every image received is in one counter, but for as many as a decoder holds."""
    received, ended = harness.account()
    waiting = len(harness.cameras[0].inputs._decoding._decoder) if held else 0
    return received == ended + min(waiting, held)


def numbers(tracks):
    return [(stamp_to_ns(m.header.stamp) - 100 * SECOND) * 10 // SECOND for m in tracks]


def assert_numbers(harness, expected):
    """The node may be done with an image before its tracks are here."""
    harness.until(lambda: len(harness.tracks) >= len(expected))
    assert numbers(harness.tracks) == expected


@contextlib.contextmanager
def node(weights, transport='ffmpeg', **overrides):
    """A node whose image transport is a video."""
    overrides |= {'image_transport': transport, 'image_qos': 'reliable'}
    parameters = {'device': 'cpu', 'input_size': 192, **overrides}
    if weights:
        parameters['weights'] = str(weights)
    with contextlib.closing(Harness(parameters)) as harness:
        yield harness


@pytest.mark.parametrize(
    'transport, codec', [('ffmpeg', 'h264'), ('ffmpeg', 'hevc'), ('foxglove', 'h264')]
)
def test_a_video_gives_the_tracks_of_its_images(transport, codec):
    """As many tracks, each over the one of the images by a mean IoU of 0.9."""
    count = 12
    with contextlib.closing(Harness({'device': 'cpu'})) as harness:
        harness.wait_until_tracking()
        for number in range(count):
            stamp_ns = 100 * SECOND + number * SECOND // 10
            assert harness.exchange(harness.image(picture(number), stamp_ns=stamp_ns))
        expected = [tracks_from_msg(message) for message in harness.tracks]
    packets = encoded(codec, count=count)
    with contextlib.closing(
        Harness({'device': 'cpu', 'image_transport': transport, 'image_qos': 'reliable'})
    ) as harness:
        camera = Camera(harness, transport)
        camera.send(packets, codec.replace('hevc', 'h265'))
        assert harness.until(lambda: len(harness.tracks) == count)
        assert numbers(harness.tracks) == list(range(count))
        assert {m.header.frame_id for m in harness.tracks} == {'camera'}
        assert counters(harness) == dict.fromkeys(ENDS, 0) | {
            'received': count,
            'processed': count,
        }
        found = [tracks_from_msg(message) for message in harness.tracks]
        assert harness.until(lambda: harness.report('publishers') == '1')
    tracks, again, overlap = video_kit.matched(expected, found, count)
    assert tracks == again >= 3
    assert overlap > 0.9


def test_b_frames_come_under_their_own_stamps_and_the_rest_is_skipped_at_the_end(seeded_weights):
    packets = encoded(count=16, b_frames=2)
    with node(seeded_weights) as harness:
        camera = Camera(harness)
        camera.send(packets)
        held_back = harness.cameras[0].inputs
        assert harness.until(lambda: len(harness.tracks) + held_back.waiting == 16)
        shown = numbers(harness.tracks)
        assert shown == sorted(shown) == list(range(len(shown)))
        held = 16 - len(shown)
        assert 1 <= held <= 3, 'the decoder waits for what is shown before'
        assert harness.until(lambda: harness.report('waiting') == str(held))
        statistics = harness.cameras[0].statistics
        assert harness.node.trigger_deactivate()
        assert statistics.skipped == held
        assert statistics.received == statistics.processed + statistics.skipped == 16


def test_who_joins_late_waits_for_a_key_frame_in_one_line(seeded_weights, capfd):
    with node(seeded_weights) as harness:
        camera = Camera(harness)
        camera.send(encoded()[3:12])
        assert_numbers(harness, [8, 9, 10, 11])
        assert harness.until(lambda: harness.report('rejected_without_key_frame') == '5')
        assert counters(harness)['rejected'] == 5 and at_rest(harness)
        lines = warned(capfd, 'key frame')
        assert len(lines) == 1, lines
        assert '/image_raw/ffmpeg' in lines[0] and 'began before' in lines[0]


@pytest.mark.parametrize('damage', ['cut', 'lost', 'random', 'empty'])
def test_nothing_smeared_is_tracked_after_a_broken_or_lost_packet(seeded_weights, damage, capfd):
    packets = list(encoded())
    if damage == 'lost':
        del packets[3]
    else:
        data = {'cut': packets[3].data[:60], 'random': bytes(range(200)), 'empty': b''}[damage]
        packets[3] = packets[3]._replace(data=data)
    with node(seeded_weights, transport='foxglove') as harness:
        camera = Camera(harness, 'foxglove')
        camera.send(packets[:12])
        expected = [0, 1, 2, 8, 9, 10, 11] + ([12] if damage == 'lost' else [])
        assert harness.until(lambda: numbers(harness.tracks) == expected)
        rejected = harness.cameras[0].statistics.rejected
        lost = damage == 'lost'
        assert rejected == {'broken_video': 1, 'without_key_frame': 3 if lost else 4}
        assert at_rest(harness)
        assert len(warned(capfd, 'of the video')) == 1


def test_a_wrong_codec_is_named_and_the_next_stream_is_tracked(seeded_weights, capfd):
    with node(seeded_weights) as harness:
        camera = Camera(harness)
        camera.send(encoded()[:3], 'theora')
        assert harness.until(lambda: harness.report('rejected_encoding') == '3')
        (line,) = warned(capfd, 'names no video codec')
        assert "'theora'" in line and 'h265' in line
        camera.send(encoded()[:2])
        # Its stamps begin again: the first of them comes late.
        camera.send(encoded('hevc', size=(480, 640))[:3], 'hevc')
        assert harness.until(lambda: len(harness.tracks) == 4)
        sizes = [(m.image_height, m.image_width) for m in harness.tracks]
        assert sizes == [(240, 320)] * 2 + [(480, 640)] * 2


def test_all_packets_are_decoded_though_a_slow_model_skips_their_pictures(seeded_weights):
    """Newest wins among the pictures; those that are tracked are whole."""
    count, seen = 60, {}
    held = threading.Event()

    def slow(*arguments):
        method = methods.load(*arguments)
        encode = method.encode

        def slowly(frames):
            for frame in frames:
                seen[frame.stamp_ns] = frame.image.copy()
            if len(seen) == 2:
                held.wait(30)
            return encode(frames)

        method.encode = slowly
        return method

    parameters = {'weights': str(seeded_weights), 'device': 'cpu', 'input_size': 192}
    parameters |= {'image_transport': 'ffmpeg', 'image_qos': 'reliable'}
    with contextlib.closing(Harness(parameters, slow)) as harness:
        camera = Camera(harness)
        statistics = harness.cameras[0].statistics
        packets = encoded(count=count, gop=200)  # all build on the first
        for place, packet in enumerate(packets):
            camera.publish(packet)
            assert harness.until(lambda place=place: statistics.received == place + 1)
            if place == 1:
                assert harness.until(lambda: len(seen) == 2)
        threads = harness.cameras[0].inputs._decoding
        assert harness.until(lambda: len(threads) == 0), 'decoded while the model is busy'
        held.set()
        assert harness.until(lambda: at_rest(harness))
        now = counters(harness)
        assert now['received'] == count and now['rejected'] == now['failed'] == 0
        assert now['processed'] == len(seen) == 3
        assert now['skipped'] == count - 3
    assert max(seen) == 100 * SECOND + (count - 1) * SECOND // 10, 'the newest'
    for stamp_ns, image in seen.items():
        number = (stamp_ns - 100 * SECOND) * 10 // SECOND
        assert np.abs(image.astype(int) - picture(number)).mean() < 4


def test_the_rate_is_limited_after_decoding(seeded_weights):
    with node(seeded_weights, max_rate=0.01) as harness:
        camera = Camera(harness)
        camera.send(encoded())
        now = counters(harness)
        assert (now['processed'], now['skipped'], now['rejected']) == (1, 23, 0)


def test_a_node_that_is_deactivated_forgets_the_stream(seeded_weights):
    with node(seeded_weights) as harness:
        camera = Camera(harness)
        camera.send(encoded()[:4])
        assert_numbers(harness, [0, 1, 2, 3])
        before = threading.active_count()
        harness.node.trigger_deactivate()
        assert harness.until(lambda: not decoders()), 'its thread ends'
        assert threading.active_count() < before
        harness.node.trigger_activate()
        assert harness.until(lambda: camera._publisher.get_subscription_count() == 1)
        camera.send(encoded()[4:10])
        assert_numbers(harness, [0, 1, 2, 3, 8, 9])
        assert harness.cameras[0].statistics.rejected == {'without_key_frame': 4}
        harness.node.trigger_deactivate()
        harness.node.trigger_cleanup()
        assert not decoders()


def decoders():
    return [t for t in threading.enumerate() if t.name == 'masa_decoder']


def test_given_detections_are_paired_with_the_pictures(seeded_weights):
    vision = pytest.importorskip('vision_msgs.msg')
    with node(seeded_weights, given_detections=True) as harness:
        camera = Camera(harness)
        boxes = harness.peer.create_publisher(vision.Detection2DArray, 'detections', 10)
        assert harness.until(lambda: boxes.get_subscription_count() == 1)
        statistics = harness.cameras[0].statistics
        for packet in encoded()[:4]:
            if packet.number != 2:
                given = vision.Detection2DArray(header=camera.message(packet).header)
                box = vision.Detection2D()
                box.bbox.size_x = box.bbox.size_y = 60.0
                box.bbox.center.position.x, box.bbox.center.position.y = 70.0, 80.0
                given.detections = [box]
                boxes.publish(given)
            camera.publish(packet)
            received = packet.number + 1
            assert harness.until(lambda n=received: statistics.received == n)
            done = [1, 2, 2, 3][packet.number]
            assert harness.until(lambda n=done: statistics.processed == n)
        assert statistics.rejected == {'without_detections': 1}
        assert_numbers(harness, [0, 1, 3])
        assert at_rest(harness)


def test_a_packet_of_the_same_process_is_taken_too(seeded_weights):
    with node(seeded_weights) as harness:
        camera = Camera(harness)
        for packet in encoded()[:2]:
            before = len(harness.tracks)
            harness.node.offer(camera.message(packet))
            assert harness.until(lambda n=before: len(harness.tracks) > n)
        assert_numbers(harness, [0, 1])
        # And an image beside it, which needs no decoder.
        harness.node.offer(harness.image(scene(), stamp_ns=101 * SECOND))
        assert harness.until(lambda: len(harness.tracks) == 3)


def test_a_packet_to_a_node_of_images_says_what_does_not_fit(seeded_weights):
    with contextlib.closing(tracking(seeded_weights)) as harness:
        harness.node.offer(KINDS['ffmpeg']())
        assert harness.until(lambda: harness.report('rejected_encoding') == '1')
        assert 'FFMPEGPacket does not fit image_transport: raw' in harness.report('last_problem')


@pytest.mark.parametrize('missing', ['ffmpeg_image_transport_msgs', 'masa_ros.nodes.decoding'])
def test_what_is_not_installed_is_named_and_the_node_lives(
    seeded_weights, missing, monkeypatch, capfd
):
    if missing.endswith('msgs'):
        real = inputs.importlib.import_module

        def refuse(name):
            if name.startswith(missing):
                raise ModuleNotFoundError(f"No module named '{missing}'")
            return real(name)

        monkeypatch.setattr(inputs.importlib, 'import_module', refuse)
        words = 'apt install ros-$ROS_DISTRO-ffmpeg-image-transport-msgs'
    else:
        monkeypatch.setitem(__import__('sys').modules, missing, None)
        words = 'pip install av'
    with node(seeded_weights, autostart=False) as harness:
        harness.node.trigger_configure()
        harness.node.trigger_activate()
        (line,) = warned(capfd, 'cannot start')
        assert 'image_transport: ffmpeg needs' in line and words in line
        monkeypatch.undo()
        harness.node.trigger_activate()
        Camera(harness).send(encoded()[:1])
        assert_numbers(harness, [0])


class Listener:
    """What a thread that decodes tells."""

    def __init__(self):
        self.ready, self.rejected, self.failed, self.behind, self.skipped = [], [], [], [], 0

    def decoding(self):
        return Decoding(
            lambda tag, picture: self.ready.append(tag),
            lambda cause, text: self.rejected.append(cause),
            self._skip,
            self.failed.append,
            self.behind.append,
        )

    def _skip(self):
        self.skipped += 1

    @property
    def ended(self):
        return len(self.ready) + len(self.rejected) + len(self.failed) + self.skipped


def wait(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_decoding_that_falls_behind_skips_to_a_key_frame(monkeypatch):
    monkeypatch.setattr(decoding, '_LONGEST', 10)
    gate, heard = threading.Event(), Listener()
    thread = heard.decoding()
    real = thread._decoder.decode

    def slowly(message, tag):
        gate.wait(20)
        return real(message, tag)

    thread._decoder.decode = slowly
    packets = encoded()
    thread.offer(plain(packets[0]), 0)
    wait(lambda: not thread._queue)  # the thread has it
    for packet in packets[1:20]:
        thread.offer(plain(packet), packet.number)
    assert heard.behind == [11] and heard.skipped == 11
    gate.set()
    wait(lambda: not thread._queue)
    for packet in packets[20:]:
        thread.offer(plain(packet), packet.number)
    wait(lambda: heard.ended == len(packets))
    # 1 to 11 are skipped, 12 to 15 build on them, 16 is a key frame.
    assert heard.ready == [0, *range(16, 24)]
    assert heard.rejected == ['without_key_frame'] * 4
    thread.stop()
    thread.offer(plain(packets[0]), 'late')
    assert heard.ended == len(packets) + 1 and len(thread) == 0


def test_a_mistake_in_decoding_costs_its_packet_and_the_thread_goes_on():
    heard = Listener()
    thread = heard.decoding()
    packets = encoded()
    thread.offer(plain(packets[0]), 0)
    thread.offer(object(), 'nonsense')
    for packet in packets[1:]:
        thread.offer(plain(packet), packet.number)
    wait(lambda: heard.ended == len(packets) + 1)
    assert len(heard.failed) == 1
    assert heard.ready == [0, *range(8, 24)], 'the decoder begins again'
    thread.stop()
