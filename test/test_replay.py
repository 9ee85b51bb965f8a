# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import scene
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer

from masa_ros import cli, overlay
from masa_ros.errors import ImageError, SourceError
from masa_ros.evaluation.metrics import evaluate
from masa_ros.masks import mask_from_msg
from masa_ros.recordings.bags import COMPRESSED_TYPE, IMAGE_TYPE, BagWriter, typestore
from masa_ros.recordings.detections import read_detections
from masa_ros.recordings.recorder import Recorder
from masa_ros.recordings.sources import open_source
from masa_ros.recordings.tracks_file import TrackedFrame, read_tracks, write_tracks
from masa_ros.types import Frame, Instances, Mask, Result, TrackState

COUNT = 6
_DEVA = ('--method', 'deva', '--max-objects', '10')
METHODS = ((), _DEVA, (*_DEVA, '--clip-frames', '3'))


@pytest.fixture(scope='module')
def recordings(tmp_path_factory):
    """The same six pictures as a folder, a bag and a video."""
    root = tmp_path_factory.mktemp('recordings')
    folder = root / 'frames'
    folder.mkdir()
    pictures = [scene(shift=4 * i) for i in range(COUNT)]
    for i, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f'{i + 8}.png'), picture[:, :, ::-1])  # 8, 9, 10, ...
    with BagWriter(root / 'bag.mcap', '/camera/image_raw', IMAGE_TYPE) as bag:
        for i, picture in enumerate(pictures):
            bag.write_image(picture, (i + 1) * 10**8, 'camera')
    with av.open(str(root / 'video.mp4'), 'w') as container:
        stream = container.add_stream('libx264', rate=10)
        stream.height, stream.width, stream.pix_fmt = 240, 320, 'yuv420p'
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format='rgb24')))
        container.mux(stream.encode(None))
    return root


@pytest.mark.parametrize('name', ['frames', 'bag.mcap', 'video.mp4'])
def test_every_kind_of_recording_gives_its_frames(recordings, name):
    source = open_source(recordings / name)
    items = list(source)
    assert len(source) == len(items) == COUNT
    stamps = np.array([item.frame.stamp_ns for item in items])
    assert (np.diff(stamps) == 10**8).all()
    for i, item in enumerate(items):
        difference = np.abs(item.frame.image.astype(int) - scene(shift=4 * i)).mean()
        assert difference == 0 if name != 'video.mp4' else difference < 3


@pytest.mark.parametrize('plugin', [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_rosbag2_folders_of_both_kinds_with_compressed_images(tmp_path, plugin):
    store = typestore()
    types = store.types
    with Writer(tmp_path / 'bag', version=9, storage_plugin=plugin) as bag:
        connection = bag.add_connection('/cam/compressed', COMPRESSED_TYPE, typestore=store)
        for i in range(3):
            stamp = types['builtin_interfaces/msg/Time'](sec=i, nanosec=5)
            message = types[COMPRESSED_TYPE](
                header=types['std_msgs/msg/Header'](stamp=stamp, frame_id='cam'),
                format='png',
                data=cv2.imencode('.png', scene(i)[:, :, ::-1])[1].reshape(-1),
            )
            bag.write(connection, i, store.serialize_cdr(message, COMPRESSED_TYPE))
    items = list(open_source(tmp_path / 'bag'))
    assert [item.frame.stamp_ns for item in items] == [5, 10**9 + 5, 2 * 10**9 + 5]
    for i, item in enumerate(items):
        np.testing.assert_array_equal(item.frame.image, scene(i))


def test_a_folder_knows_its_rate(recordings, tmp_path):
    for i in range(3):
        cv2.imwrite(str(tmp_path / f'{i}.jpg'), scene())
    (tmp_path / 'meta.json').write_text('{"fps": 25}')
    assert [item.frame.stamp_ns for item in open_source(tmp_path)] == [0, 4 * 10**7, 8 * 10**7]
    assert [i.frame.stamp_ns for i in open_source(tmp_path, fps=5)] == [0, 2 * 10**8, 4 * 10**8]


def test_a_broken_image_is_an_item_too(tmp_path):
    cv2.imwrite(str(tmp_path / '0.png'), scene())
    (tmp_path / '1.png').write_bytes(b'broken')
    items = list(open_source(tmp_path))
    assert isinstance(items[1].frame, ImageError)


@pytest.mark.parametrize(
    'make, words',
    [
        (lambda p: p / 'nothing', 'does not exist'),
        (lambda p: p, 'holds no images'),
        (lambda p: written(p / 'a.mcap', b'rubbish'), 'not a readable bag'),
        (lambda p: written(p / 'a.db3', b'rubbish'), 'not a readable bag'),
        (lambda p: written(p / 'a.mp4', b'rubbish'), 'readable video'),
    ],
)
def test_what_is_no_recording_says_so(tmp_path, make, words):
    with pytest.raises(SourceError, match=words):
        open_source(make(tmp_path))


def written(path, data):
    path.write_bytes(data)
    return path


def test_a_topic_that_is_not_there_names_those_that_are(recordings):
    with pytest.raises(SourceError, match='/camera/image_raw'):
        open_source(recordings / 'bag.mcap', topic='/lidar')


def replay(source, output, weights, *options):
    if '--method' not in options:
        options += ('--init-score-thr', '0')
    options = ('--input-size', '192', '--score-threshold', '0', *options)
    paths = (str(source), '--output', str(output), '--weights', str(weights))
    return cli.main(['replay', *paths, '--device', 'cpu', *options])


@pytest.mark.parametrize('method', METHODS, ids=' '.join)
def test_replay_writes_everything_and_the_same_again(recordings, seeded_weights, tmp_path, method):
    for name in ('a', 'b'):
        assert replay(recordings / 'bag.mcap', tmp_path / name, seeded_weights, *method) == 0
    first, second = ((tmp_path / n / 'tracks.json').read_text() for n in 'ab')
    assert first == second
    document = json.loads(first)
    assert document['format'] == 'masa_ros.tracks/1'
    assert [f['index'] for f in document['frames']] == list(range(COUNT))
    frames = read_tracks(tmp_path / 'a' / 'tracks.json')
    assert sum(len(f.instances) for f in frames) > 0

    with AnyReader([tmp_path / 'a' / 'tracks.mcap'], default_typestore=typestore()) as reader:
        (connection,) = reader.connections
        assert connection.msgtype == 'masa_ros/msg/TrackedInstanceArray'
        recorded = [reader.deserialize(raw, connection.msgtype) for _, _, raw in reader.messages()]
    for message, frame in zip(recorded, frames, strict=True):
        assert [i.track_id for i in message.instances] == frame.instances.track_ids.tolist()
        for instance, mask in zip(message.instances, frame.instances.masks):
            sent = mask_from_msg(instance)
            assert (sent is None) == (mask is None)
            if mask is not None:
                np.testing.assert_array_equal(sent.full(240, 320), mask.full(240, 320))

    with av.open(str(tmp_path / 'a' / 'overlay.mp4')) as container:
        assert sum(1 for _ in container.decode(video=0)) == COUNT
    summary = json.loads((tmp_path / 'a' / 'summary.json').read_text())
    assert summary['frames_tracked'] == COUNT
    assert summary['latency_ms_p99'] >= summary['latency_ms_p50'] > 0


@pytest.mark.parametrize('method', ['masa', 'deva', 'sam_track'])
def test_replay_of_what_somebody_points_at_and_names(recordings, tmp_path, capsys, method):
    """With the shipped networks; what they take the shapes for is found out first."""
    pointed = {'frame': 0, 'points': [[215, 150]], 'name': 'square'}
    prompts = {'format': 'masa_ros.prompts/1', 'prompts': [pointed]}
    (tmp_path / 'prompts.json').write_text(json.dumps(prompts))
    paths = ['replay', str(recordings / 'frames'), '--method', method, '--no-overlay', '--output']

    def tracked(name, *arguments):
        assert cli.main([*paths, str(tmp_path / name), *map(str, arguments)]) == 0
        return read_tracks(tmp_path / name / 'tracks.json')

    only = tracked('only', '--prompts', tmp_path / 'prompts.json', '--find', 'nothing')
    (answer,) = json.loads((tmp_path / 'only' / 'summary.json').read_text())['prompts']
    for frame in only:
        assert frame.instances.track_ids.tolist() == [answer['track_id']]
        assert frame.instances.names == ('square',)
    every = tracked('every', '--find', 'everything')
    label = int(every[-1].instances.labels[0])
    named = tracked('named', '--text', f'{every[-1].class_names[label]}:0.01. not hot dog.')
    assert {label} == {int(each) for frame in named for each in frame.instances.labels}
    wrong = [*paths, str(tmp_path / 'wrong'), '--text']
    for text, words in (('unicorn.', "no class 'unicorn'"), ('', 'words is empty')):
        assert cli.main([*wrong, text]) == 2
        assert words in capsys.readouterr().err


def test_replay_scores_against_the_truth(recordings, seeded_weights, tmp_path, capsys):
    pytest.importorskip('trackeval')
    replay(recordings / 'frames', tmp_path / 'a', seeded_weights)
    truth = str(tmp_path / 'a' / 'tracks.json')
    replay(recordings / 'frames', tmp_path / 'b', seeded_weights, '--ground-truth', truth)
    assert json.loads((tmp_path / 'b' / 'summary.json').read_text())['hota'] == 1.0
    assert cli.main(['evaluate', truth, '--ground-truth', truth]) == 0
    assert 'idf1            1.000' in capsys.readouterr().out


@pytest.mark.ros
def test_prompts_go_through_a_real_node_too(recordings, tmp_path, capsys):
    prompts = [
        {'frame': 0, 'points': [[215, 150]], 'name': 'square'},
        {'frame': 1, 'points': [[900, 900]]},
    ]
    text = json.dumps({'format': 'masa_ros.prompts/1', 'prompts': prompts})
    (tmp_path / 'prompts.json').write_text(text)
    arguments = ['replay', recordings / 'bag.mcap', '--ros', '--method', 'sam_track', '--output']
    arguments += [tmp_path / 'out', '--prompts', tmp_path / 'prompts.json']
    assert cli.main(list(map(str, arguments))) == 0
    assert 'prompt 1: ' in capsys.readouterr().out
    rows = json.loads((tmp_path / 'out' / 'summary.json').read_text())['prompts']
    assert rows[0]['track_id'] == 1 and 'outside' in rows[1]['problem']
    later = read_tracks(tmp_path / 'out' / 'tracks.json')[1:]
    assert later and all(frame.instances.names == ('square',) for frame in later)


@pytest.mark.ros
@pytest.mark.parametrize('method', METHODS[::2], ids=' '.join)
def test_replay_through_a_real_node(recordings, seeded_weights, tmp_path, method):
    assert replay(recordings / 'bag.mcap', tmp_path, seeded_weights, '--ros', *method) == 0
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert summary['frames_in'] == COUNT
    assert summary['frames_tracked'] + summary['frames_skipped'] == COUNT
    assert summary['frames_tracked'] >= 1
    assert summary['device'] == 'cpu'
    answered = [frame.index for frame in read_tracks(tmp_path / 'tracks.json')]
    assert answered[-1] == COUNT - 1, 'what awaits later images is answered at the end'


def test_errors_are_one_line_and_exit_code_two(tmp_path, capsys):
    assert replay(tmp_path / 'nothing', tmp_path / 'out', 'w') == 2
    assert 'does not exist' in capsys.readouterr().err


@pytest.mark.parametrize(
    'text, words',
    [
        ('', 'not a tracks file'),
        ('[]', 'not a tracks file'),
        ('{"format": "other/9"}', "expected 'masa_ros.tracks/1'"),
        ('{"format": "masa_ros.tracks/1", "frames": [{}]}', 'not a tracks file'),
    ],
)
def test_a_file_that_is_no_tracks_file(tmp_path, text, words):
    path = tmp_path / 'tracks.json'
    path.write_text(text)
    with pytest.raises(SourceError, match=words):
        read_tracks(path)


def boxes(ids, xs, states=None):
    """Objects of 20 x 20 pixels at y = 20, with masks."""
    count = len(ids)
    return Instances(
        boxes=np.array([(x, 20, x + 20, 40) for x in xs], np.float32).reshape(-1, 4),
        masks=tuple(Mask(x, 20, np.ones((20, 20), bool)) for x in xs),
        track_ids=np.array(ids, np.int64),
        states=np.array(states or [TrackState.TRACKED] * count, np.uint8),
    )


def frames(*instances):
    return [TrackedFrame(t, str(t), t, 60, 200, i) for t, i in enumerate(instances)]


def test_figures_of_hand_computed_cases():
    truth = frames(*[boxes([1, 2], [10, 100])] * 4)
    perfect = evaluate(frames(*[boxes([7, 9], [10, 100])] * 4), truth)
    assert (perfect.hota, perfect.idf1, perfect.mota) == (1, 1, 1)
    # One of two objects found, always: DetA 1/2, AssA 1, IDF1 = 2 * 4 / (8 + 4).
    half = evaluate(frames(*[boxes([7], [10])] * 4), truth)
    assert half.deta == pytest.approx(0.5)
    assert half.assa == pytest.approx(1.0)
    assert half.idf1 == pytest.approx(2 / 3)
    # Ids swap in the middle: found everything, associated half.
    swapped = frames(*[boxes([7, 9], [10, 100])] * 2, *[boxes([9, 7], [10, 100])] * 2)
    scores = evaluate(swapped, truth)
    assert scores.id_switches == 2
    assert scores.idf1 == pytest.approx(0.5)
    assert scores.assa == pytest.approx(1 / 3)


def test_tentative_and_lost_tracks_claim_nothing():
    truth = frames(boxes([1], [10]))
    found = frames(
        boxes(
            [1, 2, 3], [10, 60, 120], [TrackState.TRACKED, TrackState.TENTATIVE, TrackState.LOST]
        )
    )
    assert evaluate(found, truth).hota == 1


def test_frames_in_common_are_needed():
    with pytest.raises(SourceError, match='no frame in common'):
        evaluate(frames(boxes([1], [10])), [])


def test_tracks_survive_the_file(tmp_path):
    states = [TrackState.TRACKED, TrackState.LOST]
    two = dataclasses.replace(
        boxes([3, 4], [10, 50], states),
        scores=np.array([0.75, 0.5], np.float32),
        labels=np.array([2, -1], np.int32),
    )
    written_frames = [
        dataclasses.replace(frame, class_names={2: 'cup'} if len(frame.instances) else {})
        for frame in frames(two, boxes([], []))
    ]
    write_tracks(tmp_path / 't.json', 'masa_nano', written_frames)
    assert read_tracks(tmp_path / 't.json') == written_frames


@pytest.mark.parametrize('method', METHODS, ids=' '.join)
def test_names_of_given_detections_go_through_to_the_end(
    recordings, seeded_weights, tmp_path, method
):
    items = [
        {'image_id': f'{i + 8}.png', 'bbox': [30 + 4 * i, 40, 80, 80], 'score': 0.97}
        | {'category_id': 5}
        for i in range(COUNT)
    ]
    document = {
        'images': [{'id': f'{i + 8}.png', 'file_name': f'{i + 8}.png'} for i in range(COUNT)],
        'annotations': items,
        'categories': [{'id': 5, 'name': 'red ball'}],
    }
    (tmp_path / 'boxes.json').write_text(json.dumps(document))
    options = ('--detections', str(tmp_path / 'boxes.json'), *method)
    assert replay(recordings / 'frames', tmp_path / 'out', seeded_weights, *options) == 0
    names = json.loads((tmp_path / 'out/tracks.json').read_text())['frames']
    assert {i['class_name'] for f in names for i in f['instances']} == {'red ball'}
    with AnyReader([tmp_path / 'out/tracks.mcap'], default_typestore=typestore()) as reader:
        (connection,) = reader.connections
        sent = [reader.deserialize(raw, connection.msgtype) for _, _, raw in reader.messages()]
    assert {i.class_name for m in sent for i in m.instances} == {'red ball'}
    plain, named = (
        overlay.draw(scene(), boxes([1], [60]), names) for names in ({}, {-1: 'red ball'})
    )
    assert (plain != named).any(), 'the overlay shows the name'


@pytest.mark.parametrize(
    'change',
    [
        *({'bbox': value} for value in ([1, 1, 5], [1, 1, 0, 5], [1, 1, 1e99, 5], 'abc', None)),
        *({'score': value} for value in (2, float('nan'), 'x', None)),
        *({'category_id': value} for value in ('x', 1e300, float('nan'), 1 << 40)),
        *({'image_id': value} for value in ([], {}, None, 1.5)),
        {'segmentation': {'size': [4, 4], 'counts': [3]}},
        {'segmentation': {'size': [-4, 4], 'counts': 'ab'}},
        {'segmentation': {'size': 7, 'counts': None}},
        {'segmentation': {}},
    ],
    ids=str,
)
def test_damaged_detections_are_named(tmp_path, change):
    good = {'image_id': 0, 'bbox': [1, 1, 5, 5], 'score': 0.5}
    path = tmp_path / 'boxes.json'
    path.write_text(json.dumps([good, good | change]))
    with pytest.raises(SourceError, match='annotation 1'):
        read_detections(path)


def test_what_a_recorder_remembers_does_not_grow_with_the_recording(tmp_path):
    tracks, still = boxes([1], [30]), scene()

    def remembered(frames):
        with Recorder(tmp_path / str(frames), 'test', 10.0, video=False) as recorder:
            tracemalloc.start()
            for i in range(frames):
                recorder.add(i, f'{i}', Result(Frame(still, i * 10**8), tracks))
                recorder.refuse(f'x{i}', 'late')
                recorder.took(1.0)
            size = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
        assert len(read_tracks(tmp_path / str(frames) / 'tracks.json')) == frames
        return size

    few, many = remembered(1500), remembered(4500)
    assert many - few < 3000 * 60, 'bytes: a frame costs a number and its place in a chunk'


def test_tracks_are_on_disk_before_the_recording_ends(tmp_path):
    with Recorder(tmp_path, 'test', 10.0, video=False) as recorder:
        for i in range(200):
            recorder.add(i, f'{i}', Result(Frame(scene(), i * 10**8), boxes([1], [30])))
        assert (tmp_path / 'tracks.tmp').stat().st_size > 10_000
        assert not (tmp_path / 'tracks.json').exists()
    assert len(read_tracks(tmp_path / 'tracks.json')) == 200


@pytest.mark.parametrize('size', [(240, 320), (1080, 1920), (16, 16)])
def test_the_overlay_colours_the_object_and_leaves_the_rest(size):
    image = np.full((*size, 3), 100, np.uint8)
    tracks = boxes([1], [0]) if size[0] < 50 else boxes([1], [60])
    if size[0] < 50:
        tracks = tracks[[]]
    drawn = overlay.draw(image, tracks)
    assert drawn.shape == image.shape
    assert (image == 100).all(), 'the input is not drawn on'
    if len(tracks):
        assert (drawn[25:35, 65:75] != 100).any(axis=2).all()
        assert (drawn[100:, 200:] == 100).all()


def test_the_overlay_draws_whatever_it_is_given():
    wild = Instances(
        np.array([(-1e30, 5, 1e30, 9), (np.nan, 1, 2, 3), (5, 5, 900, 900)], np.float32),
        masks=(None, None, Mask(30, 30, np.ones((60, 60), bool))),
        track_ids=np.array([1, 2, 3]),
        states=np.full(3, TrackState.TRACKED, np.uint8),
    )
    assert overlay.draw(np.zeros((40, 50, 3), np.uint8), wild).shape == (40, 50, 3)


def test_help_needs_neither_torch_nor_ros():
    code = (
        'import sys; from masa_ros import cli\n'
        'try: cli.main(["--help"])\n'
        'except SystemExit: pass\n'
        'assert not {"torch", "rclpy", "cv2"} & set(sys.modules), "imported too much"'
    )
    subprocess.run([sys.executable, '-c', code], check=True, cwd='/', stdout=subprocess.DEVNULL)


@pytest.mark.parametrize('command', ['node', 'demo'])
def test_without_ros_there_is_one_line(command, tmp_path):
    code = (
        'import sys\n'
        'class NoRos:\n'
        '    def find_spec(self, name, path=None, target=None):\n'
        '        if name == "rclpy": raise ModuleNotFoundError("no rclpy", name=name)\n'
        'sys.meta_path.insert(0, NoRos())\n'
        'from masa_ros import cli\n'
        f'sys.exit(cli.main([{command!r}]))'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert f'masa_ros {command}: needs ROS 2' in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_core_needs_no_ros():
    code = (
        'import sys, masa_ros.methods, masa_ros.replay.command, masa_ros.training.train\n'
        'assert not any(m.split(".")[0] == "rclpy" for m in sys.modules)'
    )
    subprocess.run([sys.executable, '-c', code], check=True, cwd='/')
    assert Path(cli.__file__).is_file()


def killed_while_recording(path, frames):
    """Record tracks in a process that is killed, without any chance to close the file."""
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import scene
from masa_ros.recordings.bags import IMAGE_TYPE, BagWriter
from pathlib import Path
writer = BagWriter(Path({str(path)!r}), '/camera/image_raw', IMAGE_TYPE)
for number in range({frames}):
    writer.write_image(scene(number), (number + 1) * 10**8, 'camera')
os.kill(os.getpid(), signal.SIGKILL)
"""
    result = subprocess.run([sys.executable, '-c', code], cwd='/', timeout=500)
    assert result.returncode == -signal.SIGKILL


def test_a_recording_that_was_killed_is_read_up_to_its_last_chunk(tmp_path, capsys):
    path = tmp_path / 'tracks.mcap'
    killed_while_recording(path, 7)
    source = open_source(path)
    items = list(source)
    assert len(source) == len(items) == 6, 'two images fill a chunk; the seventh was in memory'
    for number, item in enumerate(items):
        np.testing.assert_array_equal(item.frame.image, scene(number))
    with path.open('r+b') as file:
        file.truncate(path.stat().st_size - 1000)
    assert len(list(open_source(path))) == 4, 'a chunk that is cut off is left out'
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(SourceError, match='not a readable bag'):
        open_source(path)


def test_an_interrupted_replay_leaves_what_it_has(tmp_path):
    tracks = boxes([1], [30])
    frame = Frame(scene(), 10**9, 'camera')
    with (
        contextlib.suppress(KeyboardInterrupt),
        Recorder(tmp_path, 'test', 10.0, video=False) as recorder,
    ):
        recorder.add(0, 'first', Result(frame, tracks))
        raise KeyboardInterrupt
    with AnyReader([tmp_path / 'tracks.mcap'], default_typestore=typestore()) as reader:
        assert len(list(reader.messages())) == 1
    assert len(read_tracks(tmp_path / 'tracks.json')) == 1


def test_damaged_messages_cost_themselves_only(tmp_path):
    path = tmp_path / 'bag.mcap'
    with BagWriter(path, '/camera/image_raw', IMAGE_TYPE) as writer:
        writer.write_image(scene(), 10**8, 'camera')
        writer._writer.add_message(writer._channel, 2 * 10**8, b'\0\1\0\0garbage', 2 * 10**8)
        writer.write_image(scene(), 3 * 10**8, 'camera')
    good, bad, last = (item.frame for item in open_source(path))
    assert isinstance(bad, ImageError) and 'cannot be read' in str(bad)
    assert good.stamp_ns == 10**8 and last.stamp_ns == 3 * 10**8


def test_a_full_disk_is_one_line(tmp_path):
    cv2.imwrite(str(tmp_path / '0.png'), scene())
    code = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from masa_ros import cli
import masa_ros.replay.command, trackeval, torch
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
sys.exit(cli.main(['replay', {str(tmp_path)!r}, '--output', {str(tmp_path / 'out')!r}]))
"""
    result = subprocess.run(
        [sys.executable, '-c', code], cwd='/', timeout=500, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert 'File too large' in result.stderr
    assert 'Traceback' not in result.stderr
