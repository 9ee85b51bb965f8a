# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Nothing ends the node, nothing is lost uncounted, nothing changes behind the user's back."""

import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import scene
from diagnostic_msgs.msg import DiagnosticStatus
from engine_kit import Pretended
from rcl_interfaces.msg import Log
from rclpy.parameter import Parameter
from ros_harness import PATIENCE, SECOND, Harness, logs
from rosgraph_msgs.msg import Clock

from masa_ros import cli, methods
from masa_ros.engines import runtimes
from masa_ros.errors import ConfigError
from masa_ros.nodes import detections, work
from masa_ros.nodes.diagnostics import Statistics
from masa_ros.nodes.messages import ns_to_stamp, stamp_to_ns, tracks_from_msg
from masa_ros.nodes.worker import NewestWorker
from masa_ros.recordings.bags import IMAGE_TYPE, BagWriter
from masa_ros.recordings.sources import open_source
from masa_ros.recordings.tracks_file import read_tracks

pytestmark = pytest.mark.ros


@pytest.fixture
def parameters(seeded_weights):
    return {
        **{'weights': str(seeded_weights), 'device': 'cpu', 'input_size': 192},
        **{'score_threshold': 0.0, 'init_score_thr': 0.0, 'obj_score_thr': 0.0},
        'publish_tentative': True,
    }


@pytest.fixture
def made():
    """Make nodes that are closed in the end."""
    harnesses = []

    def make(*arguments):
        harnesses.append(Harness(*arguments))
        return harnesses[-1]

    yield make
    for harness in harnesses:
        harness.close()


def settle(harness, message):
    """Hand an image over and wait until something became of it."""
    before = harness.account()[0]
    harness.node.offer(message)
    assert harness.until(lambda: harness.account() == (before + 1, before + 1))


# The same rules as in replay


def test_a_difficult_recording_gives_the_same_tracks_through_the_node_and_through_replay(
    parameters, made, tmp_path
):
    """Late images, missing stamps, a change of size in the middle, and it loops."""
    bag = tmp_path / 'bag.mcap'
    with BagWriter(bag, '/camera/image_raw', IMAGE_TYPE) as writer:
        arrived_ns = 1000 * SECOND
        for turn in range(2):
            for i in range(10):
                stamp_ns = 50 * SECOND + i * SECOND // 10
                arrived_ns += SECOND // 10
                if i == 3:
                    stamp_ns -= 150_000_000
                if i in (5, 8):
                    stamp_ns = 0
                picture = scene(3 * i) if i < 7 else scene(3 * i, size=(480, 640))
                writer.write_image(picture, stamp_ns, 'camera', arrived_ns + turn)

    options = {k.replace('_', '-'): v for k, v in parameters.items()}
    options.pop('publish-tentative')
    arguments = [f'--{name}={value}' for name, value in options.items()]
    paths = [str(bag), '--output', str(tmp_path / 'out'), '--no-overlay', '--publish-tentative']
    assert cli.main(['replay', *paths, *arguments]) == 0
    replayed = [frame.instances for frame in read_tracks(tmp_path / 'out/tracks.json')]

    harness = made(parameters | {'use_sim_time': True})
    clock = harness.peer.create_publisher(Clock, '/clock', 10)
    harness.wait_until_tracking()
    assert harness.until(lambda: clock.get_subscription_count())
    for item in open_source(bag):
        stamp = ns_to_stamp(item.arrived_ns)
        assert harness.until(
            lambda now=item.arrived_ns, stamp=stamp: (
                clock.publish(Clock(clock=stamp))
                or harness.node.get_clock().now().nanoseconds == now
            )
        )
        message = harness.image(item.frame.image, stamp_ns=item.frame.stamp_ns)
        before = harness.account()[1]
        answers = len(harness.tracks)
        harness.images.publish(message)
        assert harness.until(lambda before=before: harness.account()[1] == before + 1)
        late = harness.cameras[0].statistics.rejected['late']
        if harness.account()[1] - late > answers:
            assert harness.until(lambda answers=answers: len(harness.tracks) > answers)
            assert harness.tracks[-1].header == message.header
    live = [tracks_from_msg(message) for message in harness.tracks]

    events = harness.cameras[0].statistics.events
    assert harness.cameras[0].statistics.rejected == {'late': 2}
    assert (events['no_stamp'], events['time_jump'], events['size_change']) == (4, 1, 3)
    assert len(live) == len(replayed) == 18
    for ours, theirs in zip(live, replayed):
        assert ours.track_ids.tolist() == theirs.track_ids.tolist()
        assert ours.states.tolist() == theirs.states.tolist()
        np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=0.006)
        assert ours.masks == theirs.masks
    first, second = ({i for t in half for i in t.track_ids} for half in (live[:9], live[9:]))
    assert first and second and first.isdisjoint(second)


def test_a_new_resolution_keeps_the_ids(parameters, made):
    harness = made(parameters)
    harness.wait_until_tracking()
    small, large = scene(), np.repeat(np.repeat(scene(), 2, 0), 2, 1)
    for _ in range(3):
        before = tracks_from_msg(harness.exchange(harness.image(small)))
    after = tracks_from_msg(harness.exchange(harness.image(large)))
    kept = set(before.track_ids) & set(after.track_ids)
    assert len(kept) >= 0.8 * len(before), f'{len(kept)} of {len(before)}'


def test_ids_go_on_after_the_node_was_configured_again(parameters, made):
    harness = made(parameters)
    harness.wait_until_tracking()
    node, seen = harness.node, []
    for turn in range(3):
        seen.append({i.track_id for i in harness.exchange(harness.image(scene())).instances})
        if turn == 1:
            node.set_parameters([Parameter('common_ids', value=True)])
        for transition in ('deactivate', 'cleanup', 'configure', 'activate'):
            getattr(node, f'trigger_{transition}')()
        harness.wait_until_tracking()
    assert all(seen)
    assert max(seen[0]) < min(seen[1]) and max(seen[1]) < min(seen[2])


# Detections of somebody else


def boxes(stamp_ns, *corners):
    """What vision_msgs/Detection2DArray looks like, of boxes x0 y0 x1 y1."""
    found = []
    for x0, y0, x1, y1 in corners:
        centre = SimpleNamespace(x=(x0 + x1) / 2, y=(y0 + y1) / 2, theta=0.0)
        bbox = SimpleNamespace(center=centre, size_x=x1 - x0, size_y=y1 - y0)
        hypothesis = SimpleNamespace(class_id='thing', score=0.95)
        results = [SimpleNamespace(hypothesis=hypothesis)]
        found.append(SimpleNamespace(bbox=bbox, results=results))
    header = SimpleNamespace(stamp=ns_to_stamp(stamp_ns))
    return SimpleNamespace(header=header, detections=found)


@pytest.fixture
def given(parameters, made, monkeypatch):
    """A node that waits for detections; any message type stands for the one that is missing."""
    monkeypatch.setattr(detections, 'message_type', lambda: Log)
    harness = made(parameters | {'given_detections': True, 'detections_queue': 4})
    assert harness.until(lambda: harness.cameras and harness.node._work.active)
    return harness


def test_huge_and_hopeless_boxes_are_cut_or_counted(given):
    harness, camera = given, given.cameras[0]
    harness.peer.create_subscription(
        type(harness.image(scene())), '/masa_tracker/overlay', lambda m: None, 10
    )
    assert harness.until(lambda: camera.outputs._overlay.get_subscription_count() == 1)
    message = harness.image(scene())
    stamp_ns = stamp_to_ns(message.header.stamp)
    harness.node.offer(message)
    camera.inputs._on_detections(
        boxes(
            stamp_ns,
            *((-1e30, 20, 1e30, 100), (10, 10, 60, 60), (900, 10, 950, 20), (0, 0, 1e300, 9)),
            *((float('nan'), 0, 5, 5), (0, 0, float('inf'), 5)),
        )
    )
    assert harness.until(lambda: harness.tracks)
    found = tracks_from_msg(harness.tracks[0])
    assert sorted(found.boxes.tolist()) == [[0, 20, 320, 100], [10, 10, 60, 60]]
    assert camera.statistics.events['bad_detections'] == 4
    assert harness.tracks[0].instances[0].class_name == 'thing'
    assert harness.until(lambda: harness.account() == (1, 1))


def test_offered_images_wait_for_their_detections_too(given):
    harness, camera = given, given.cameras[0]
    messages = [harness.image(scene(i)) for i in range(8)]
    for message in messages:
        harness.node.offer(message)
    assert camera.inputs.waiting == 4
    assert camera.statistics.rejected == {'without_detections': 4}
    stamp_ns = stamp_to_ns(messages[6].header.stamp)
    camera.inputs._on_detections(boxes(stamp_ns, (10, 10, 60, 60)))
    assert harness.until(lambda: harness.tracks)
    assert harness.tracks[0].header == messages[6].header
    assert camera.statistics.rejected == {'without_detections': 6}
    camera.inputs._on_detections(boxes(5))
    harness.node.trigger_deactivate()
    assert harness.account() == (8, 8)
    assert camera.statistics.skipped == 1


def test_given_detections_without_vision_msgs_say_so(parameters, made, capfd, monkeypatch):
    for name in ('vision_msgs', 'vision_msgs.msg'):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr('masa_ros.nodes.messages.VISION', None)
    harness = made(parameters | {'given_detections': True})
    assert logs(harness, capfd, 'ros-$ROS_DISTRO-vision-msgs')


# What fails


def test_a_gpu_that_is_gone_takes_no_camera_with_it(parameters, made, monkeypatch):
    """Two cameras, a batch that fails, and memory that cannot be freed any more."""

    def gone(*arguments):
        raise RuntimeError('CUDA error: device unavailable')

    monkeypatch.setattr(work, 'free_memory', gone)
    loaded = []

    def load(name, config, log):
        method = methods.load(name, config, log)
        loaded.append(method)
        if len(loaded) == 1:
            method.encode = gone
        return method

    harness = made(parameters | {'cameras': ['front', 'rear']}, load)
    assert harness.until(lambda: len(harness.cameras) == 2 and harness.node._work.active)
    closed = []
    loaded[0].close = lambda: closed.append(True)
    harness.node.set_parameters([Parameter('score_threshold', value=0.9)])
    front, rear = harness.cameras
    with harness.node._work._worker._condition:  # they come together
        for name in ('front', 'rear'):
            harness.node.offer(harness.image(scene()), name)
    assert harness.until(lambda: len(loaded) == 2 and front.stream.method is loaded[1])
    for camera in (front, rear):
        assert harness.until(lambda camera=camera: camera.statistics.failed == 1)
        harness.node.offer(harness.image(scene()), camera.name)
        assert harness.until(lambda camera=camera: camera.statistics.processed == 1)
        assert camera.statistics.mistakes == 0
    assert closed == [True], 'what was given up is closed'
    assert loaded[1].config.network.score_threshold == 0.9, 'live changes are not lost'


def test_a_mistake_in_the_node_itself_is_contained(parameters, made, monkeypatch):
    harness = made(parameters)
    harness.wait_until_tracking()
    camera = harness.cameras[0]

    def wrong(*arguments):
        raise KeyError('of a programmer')

    for target, name in ((camera, 'read'), (camera.outputs, 'publish')):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, wrong)
            settle(harness, harness.image(scene()))
    with monkeypatch.context() as patch:
        patch.setattr(harness.node._work, '_encode', wrong)
        harness.node.offer(harness.image(scene()))
        assert harness.until(lambda: camera.statistics.mistakes == 3)
    with monkeypatch.context() as patch:
        patch.setattr(camera, 'report', wrong)
        assert harness.until(lambda: camera.statistics.mistakes >= 4)
        patch.setattr(harness.node._work, 'configure', wrong)
        (result,) = harness.node.set_parameters([Parameter('masks', value=False)])
        assert not result.successful and 'of a programmer' in result.reason
    assert harness.exchange(harness.image(scene())), 'the node goes on'


def test_a_change_that_the_method_refuses_changes_nothing(parameters, made, monkeypatch):
    harness = made(parameters)
    harness.wait_until_tracking()

    def refuse(options):
        raise ConfigError('input_size is 100; this model takes only 192')

    with monkeypatch.context() as patch:
        patch.setattr(harness.node._work.method, 'configure', refuse)
        (result,) = harness.node.set_parameters([Parameter('input_size', value=100)])
    assert not result.successful and 'takes only' in result.reason
    assert harness.node.get_parameter('input_size').value == 192
    assert harness.exchange(harness.image(scene()))


class NeverReady(Pretended):
    """A runtime whose engines take for ever."""

    name, keeps = 'compile', False

    def __init__(self):
        self.building, self.go_on = threading.Event(), threading.Event()

    def build(self, stage, inputs):
        self.building.set()
        self.go_on.wait(60)
        return b''


@pytest.mark.parametrize('ends', ['deactivate', 'destroy'])
def test_stopping_does_not_wait_for_engines(parameters, made, monkeypatch, ends):
    runtime = NeverReady()
    monkeypatch.setitem(runtimes.RUNTIMES, 'compile', runtime)
    harness = made(parameters | {'runtime': 'compile', 'warm_start': False})
    harness.wait_until_tracking()
    try:
        harness.images.publish(harness.image(scene()))
        assert runtime.building.wait(20)
        assert not harness.tracks, 'the image waits for its engines'
        start = time.monotonic()
        harness.node.trigger_deactivate()
        if ends == 'destroy':
            harness.node.trigger_cleanup()
        assert time.monotonic() - start < PATIENCE
        if ends == 'deactivate':
            assert harness.until(lambda: harness.tracks), 'it was answered eagerly'
    finally:
        runtime.go_on.set()


# Parameters of what is chosen


def test_only_the_parameters_of_what_is_chosen_are_there(parameters, made):
    harness = made(parameters | {'autostart': False, 'released.fps': 25.0})
    node = harness.node
    assert node.has_parameter('motion_weight') and not node.has_parameter('released.fps')
    node.set_parameters([Parameter('association', value='tao')])
    node.trigger_configure()
    assert node.get_parameter('released.fps').value == 25.0
    assert not node.has_parameter('motion_weight')
    assert harness.cameras[0].stream.method.config.tracker.fps == 25.0
    node.trigger_cleanup()
    node.set_parameters([Parameter('association', value='robot')])
    node.trigger_configure()
    assert node.has_parameter('motion_weight') and not node.has_parameter('released.fps')


# Counters


def levels(statistics, *steps):
    """Diagnostic levels after each step."""
    found = []
    for step in steps:
        step(statistics)
        found.append(statistics.level(1000.0, True)[0])
    return found


def good(statistics):
    statistics.receive()
    statistics.finish(1.0)


def bad(statistics):
    statistics.receive()
    statistics.fail('broken')


def test_images_that_all_fail_are_an_error_also_after_good_ones():
    ok, warn, error = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
    steps = (good, bad, bad, lambda s: (good(s), bad(s)), good, lambda s: s.mistake('oops'), good)
    assert levels(Statistics(), *steps) == [ok, error, error, warn, ok, error, ok]


def test_the_rate_falls_to_nothing_in_silence(monkeypatch):
    now = [100.0]
    monkeypatch.setattr('masa_ros.nodes.diagnostics.time.monotonic', lambda: now[0])
    statistics = Statistics()
    for _ in range(100):
        now[0] += 0.1
        good(statistics)
    assert statistics.report()['rate_hz'] == pytest.approx(10, abs=0.2)
    now[0] += 2
    assert 5 < statistics.report()['rate_hz'] < 7
    now[0] += 3
    assert statistics.report()['rate_hz'] == 0


def test_what_is_offered_to_a_worker_that_has_stopped_is_dropped():
    worker = NewestWorker(lambda items: None, lambda error: None)
    assert worker.offer('a', 1)
    worker.stop()
    assert not worker.offer('a', 2)


def test_a_worker_goes_on_after_a_mistake():
    mistakes, done = [], threading.Event()

    def work_(items):
        if items['a'] == 1:
            raise ValueError('oops')
        done.set()

    worker = NewestWorker(work_, mistakes.append)
    worker.offer('a', 1)
    while not mistakes:
        time.sleep(0.001)
    worker.offer('a', 2)
    assert done.wait(5) and worker.stop() == []
    assert [str(m) for m in mistakes] == ['oops']


def test_torch_errors_are_no_mistakes_of_the_program(parameters, made):
    harness = made(parameters)
    harness.wait_until_tracking()
    camera = harness.cameras[0]
    for error in (RuntimeError('a'), torch.cuda.OutOfMemoryError('b'), ConfigError('c')):
        camera.fail(error)
    assert camera.statistics.mistakes == 0
    camera.fail(TypeError('d'))
    assert camera.statistics.mistakes == 1
