# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Interfaces of other packages, over real DDS: detections in and out, statistics, components."""

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import scene
from rcl_interfaces.srv import GetParameters
from rclpy.parameter import Parameter
from ros_harness import Peer, tracking, warned

pytestmark = pytest.mark.ros
ROOT = Path(__file__).resolve().parents[1]

vision = pytest.importorskip('vision_msgs.msg', reason='vision_msgs is not installed')
statistics = pytest.importorskip('statistics_msgs.msg', reason='statistics_msgs is not installed')
composition = pytest.importorskip(
    'composition_interfaces.srv', reason='composition_interfaces is not installed'
)


@pytest.fixture
def harness(request, seeded_weights):
    """A tracking node; parametrise indirectly with parameter overrides."""
    with contextlib.closing(tracking(seeded_weights, **getattr(request, 'param', {}))) as made:
        yield made


# Detections of another node


def detection(x, y, width, height, *hypotheses, theta=0.0):
    """A box by its centre, with (class, score) pairs."""
    made = vision.Detection2D()
    centre = made.bbox.center
    at = getattr(centre, 'position', centre)  # before vision_msgs 4 a plain Pose2D
    at.x, at.y, centre.theta = float(x), float(y), theta
    made.bbox.size_x, made.bbox.size_y = float(width), float(height)
    for name, score in hypotheses:
        result = vision.ObjectHypothesisWithPose()
        result.hypothesis.class_id, result.hypothesis.score = name, score
        made.results.append(result)
    return made


def box_of(instance):
    return [instance.x_min, instance.y_min, instance.x_max, instance.y_max]


class Detector:
    """Sends boxes made on images to a node that is given them."""

    def __init__(self, harness):
        self.harness = harness
        self.publisher = harness.peer.create_publisher(vision.Detection2DArray, 'detections', 10)
        assert harness.until(self.publisher.get_subscription_count)

    def send(self, header, *detections):
        self.publisher.publish(vision.Detection2DArray(header=header, detections=detections))

    def answer(self, *detections, shift=0, detections_first=False):
        """Publish an image and the boxes made on it; return the tracks."""
        message, before = self.harness.image(scene(shift)), len(self.harness.tracks)
        if detections_first:
            self.send(message.header, *detections)
        self.harness.images.publish(message)
        if not detections_first:
            self.send(message.header, *detections)
        assert self.harness.until(lambda: len(self.harness.tracks) > before)
        answer = self.harness.tracks[-1]
        assert answer.header == message.header
        return answer.instances


GIVEN = pytest.mark.parametrize('harness', [{'given_detections': True}], indirect=True)


@GIVEN
def test_given_boxes_are_tracked_under_their_names(harness):
    detector, ids = Detector(harness), []
    for turn in range(4):
        x = 70 + 4 * turn
        found = detector.answer(
            detection(x, 80, 68, 68, ('mug', 0.3), ('ball', 0.9)),
            detection(x + 145, 150, 80, 70, ('crate', 0.8)),
            shift=4 * turn,
            detections_first=turn % 2 == 1,
        )
        by_name = {each.class_name: each for each in found}
        assert by_name.keys() == {'ball', 'crate'}
        assert by_name['ball'].score == pytest.approx(0.9)
        np.testing.assert_allclose(box_of(by_name['ball']), [x - 34, 46, x + 34, 114], atol=0.01)
        ids.append({name: each.track_id for name, each in by_name.items()})
    assert ids == 4 * [ids[0]]
    assert len(set(ids[0].values())) == 2


@GIVEN
def test_boxes_may_be_rotated_numbered_or_nameless(harness):
    detector = Detector(harness)
    turned, bare = detector.answer(
        detection(215, 150, 80, 40, ('7', 0.8), theta=math.pi / 2), detection(70, 80, 60, 60)
    )
    if turned.class_id == -1:
        turned, bare = bare, turned
    np.testing.assert_allclose(box_of(turned), [195, 110, 235, 190], atol=0.01)
    assert (turned.class_id, turned.class_name) == (7, '7')
    assert (bare.class_id, bare.class_name, bare.score) == (-1, '', 1.0)


@GIVEN
def test_images_and_detections_that_stay_alone_are_counted_and_reported(harness, capfd):
    detector = Detector(harness)
    ball = detection(70, 80, 68, 68, ('ball', 0.9))
    alone = harness.image(scene())
    harness.images.publish(alone)
    assert harness.until(lambda: harness.report('waiting') == '1')
    # Older than any image that still waits: what was sent before a pair stays alone.
    detector.send(harness.header(), ball)
    assert len(detector.answer(ball)) == 1
    assert harness.until(lambda: harness.report('rejected_without_detections') == '1')
    assert harness.until(lambda: harness.report('event_without_image') == '1')
    log = capfd.readouterr().err.splitlines()
    assert len([line for line in log if 'an image that got no detections is dropped' in line]) == 1
    assert (
        len([line for line in log if '1 messages of detections belong to no image' in line]) == 1
    )
    assert [harness.report(name) for name in ('received', 'processed')] == ['2', '1']


@GIVEN
def test_boxes_that_cannot_be_are_dropped_and_counted(harness, capfd):
    detector = Detector(harness)
    nan, inf = math.nan, math.inf
    found = detector.answer(
        detection(nan, 80, 68, 68, ('ball', 0.9)),
        detection(70, 80, inf, 68, ('ball', 0.9)),
        detection(70, 80, 68, 68, ('ball', nan)),
        detection(1000, 80, 68, 68, ('ball', 0.9)),
        detection(70, 80, 68, 68, ('ball', 0.9)),
    )
    assert [each.class_name for each in found] == ['ball']
    np.testing.assert_allclose(box_of(found[0]), [36, 46, 104, 114], atol=0.01)
    assert harness.until(lambda: harness.report('event_bad_detections') == '4')
    assert len(warned(capfd, '4 given detections have no finite box with an area inside')) == 1
    (again,) = detector.answer(detection(70, 80, 68, 68, ('ball', 0.9)))
    assert again.track_id == found[0].track_id


# What the node publishes for others


def test_tracks_are_published_as_detections_too(harness):
    heard = []
    harness.peer.create_subscription(
        vision.Detection2DArray, '/masa_tracker/detections', heard.append, 10
    )
    assert harness.until(lambda: harness.exchange(harness.image(scene())) and heard)
    answer = next(each for each in harness.tracks if each.header == heard[0].header)
    assert answer.instances
    for theirs, ours in zip(heard[0].detections, answer.instances, strict=True):
        assert (theirs.header, theirs.id) == (answer.header, str(ours.track_id))
        centre = theirs.bbox.center
        at = getattr(centre, 'position', centre)
        half_x, half_y = theirs.bbox.size_x / 2, theirs.bbox.size_y / 2
        box = [at.x - half_x, at.y - half_y, at.x + half_x, at.y + half_y]
        np.testing.assert_allclose(box, box_of(ours), atol=1e-3)
        (result,) = theirs.results
        assert result.hypothesis.score == pytest.approx(ours.score)
        assert result.hypothesis.class_id == ours.class_name


@GIVEN
def test_the_published_detections_keep_names_and_numbers(harness):
    heard = []
    harness.peer.create_subscription(
        vision.Detection2DArray, '/masa_tracker/detections', heard.append, 10
    )
    detector = Detector(harness)
    given = detection(70, 80, 68, 68, ('ball', 0.9)), detection(215, 150, 80, 70, ('7', 0.8))
    assert harness.until(lambda: detector.answer(*given) and heard)
    names = {each.results[0].hypothesis.class_id for each in heard[0].detections}
    assert names == {'ball', '7'}


def test_statistics_tell_how_old_the_images_were(harness):
    heard = []
    harness.peer.create_subscription(statistics.MetricsMessage, '/statistics', heard.append, 100)
    assert harness.until(lambda: harness.peer.count_publishers('/statistics') == 1)
    kinds = statistics.StatisticDataType
    counts = 0

    def values(message):
        return {point.data_type: point.data for point in message.statistics}

    def sent():
        return sum(values(m)[kinds.STATISTICS_DATA_TYPE_SAMPLE_COUNT] for m in heard)

    started = time.monotonic()
    while sent() < 1:
        assert time.monotonic() - started < 60
        now = harness.node.get_clock().now().nanoseconds
        counts += harness.exchange(harness.image(scene(), stamp_ns=now)) is not None
    assert harness.until(lambda: sent() == counts), f'{sent()} of {counts}'
    for message in heard:
        assert message.measurement_source_name == '/masa_tracker: /image_raw'
        assert (message.metrics_source, message.unit) == ('message_age', 'ms')
        start, stop = ((t.sec, t.nanosec) for t in (message.window_start, message.window_stop))
        assert start < stop
        found = values(message)
        average, least, most, spread = (
            found[getattr(kinds, f'STATISTICS_DATA_TYPE_{name}')]
            for name in ('AVERAGE', 'MINIMUM', 'MAXIMUM', 'STDDEV')
        )
        assert 0 < least <= average <= most < (time.monotonic() - started) * 1e3
        assert 0 <= spread <= most - least


# The container, a process with services


@pytest.fixture
def run(tmp_path):
    """Start container processes; each ends cleanly by SIGINT with the test."""
    running = []
    log = tmp_path / 'container.log'

    def start(*arguments, **variables):
        with log.open('w') as file:
            process = subprocess.Popen(
                [sys.executable, ROOT / 'scripts' / 'component_container', *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd='/',
                env=os.environ | variables,
            )
        running.append(process)
        return process

    yield start
    try:
        for process in running:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0, log.read_text()
        assert 'Traceback' not in log.read_text(), log.read_text()
    finally:
        for process in running:
            process.kill()


class Manager:
    """What ``ros2 component`` and LoadComposableNodes ask of a container."""

    def __init__(self, peer, container='/component_container'):
        self.peer, self.clients = peer, {}
        for kind, name in (
            (composition.LoadNode, 'load_node'),
            (composition.UnloadNode, 'unload_node'),
            (composition.ListNodes, 'list_nodes'),
        ):
            self.clients[kind] = peer.node.create_client(kind, f'{container}/_container/{name}')

    def ask(self, kind, **fields):
        client = self.clients[kind]
        assert self.peer.until(client.service_is_ready), 'the container is not there'
        future = client.call_async(kind.Request(**fields))
        assert self.peer.until(future.done), 'the container does not answer'
        return future.result()

    def load(self, plugin, parameters=None, extra_arguments=None, **fields):
        package = plugin.partition('::')[0]
        given, extra = (
            [
                Parameter(name, value=value).to_parameter_msg()
                for name, value in (some or {}).items()
            ]
            for some in (parameters, extra_arguments)
        )
        named = {'package_name': package, 'plugin_name': plugin, 'parameters': given}
        return self.ask(composition.LoadNode, **named, extra_arguments=extra, **fields)

    def unload(self, number):
        return self.ask(composition.UnloadNode, unique_id=number)

    def list(self):
        answer = self.ask(composition.ListNodes)
        return dict(zip(answer.unique_ids, answer.full_node_names, strict=True))


@pytest.fixture
def peer():
    with contextlib.closing(Peer('front')) as made:
        yield made


SAMPLES = """
import atexit
import rclpy.node

atexit.register(print, 'the farewell of samples')

class Plain(rclpy.node.Node):
    def __init__(self, **options):
        super().__init__(options.pop('node_name', 'plain'), **options)
        self.declare_parameter('colour', 'white')

class Faulty(rclpy.node.Node):
    def __init__(self, **options):
        raise KeyError('of the component')

class Clinging(Plain):
    def destroy_node(self):
        raise RuntimeError('I stay')
"""
ENTRIES = """
[rclpy_components]
samples::Plain = samples:Plain
samples::Faulty = samples:Faulty
samples::Broken = broken:Node
samples::Clinging = samples:Clinging
"""


@pytest.fixture
def samples(tmp_path):
    """A package of somebody else with components; returns the PYTHONPATH that offers it."""
    (tmp_path / 'samples.py').write_text(SAMPLES)
    (tmp_path / 'broken.py').write_text('1 / 0\n')
    about = tmp_path / 'samples-1.0.dist-info'
    about.mkdir()
    (about / 'METADATA').write_text('Metadata-Version: 2.1\nName: samples\nVersion: 1.0\n')
    (about / 'entry_points.txt').write_text(ENTRIES)
    return os.pathsep.join(filter(None, (str(tmp_path), os.environ.get('PYTHONPATH'))))


def test_a_tracker_is_loaded_tracks_and_is_unloaded(run, peer, seeded_weights):
    run()
    manager = Manager(peer)
    assert manager.list() == {}
    loaded = manager.load(
        'masa_ros::TrackerNode',
        {'weights': str(seeded_weights), 'device': 'cpu', 'input_size': 192},
        node_namespace='/front',
        remap_rules=['image_raw:=/camera/image'],
    )
    assert loaded.success, loaded.error_message
    assert loaded.full_node_name == '/front/masa_tracker'
    assert manager.list() == {loaded.unique_id: '/front/masa_tracker'}
    images = peer.node.create_publisher(type(peer.image(scene())), '/camera/image', 10)
    assert peer.until(images.get_subscription_count)
    message = peer.image(scene())
    for _ in range(20):  # one alone may come before the node's side has found the publisher
        images.publish(message)
        if peer.until(lambda: peer.tracks):
            break
    assert peer.tracks[0].header == message.header
    assert manager.unload(loaded.unique_id).success
    assert manager.list() == {}
    again = manager.unload(loaded.unique_id)
    assert (again.success, again.error_message) == (False, 'no node has the number 1')


def test_components_of_other_packages_are_loaded_as_they_are_asked_for(run, peer, samples):
    run('--ros-args', '-r', '__node:=box', '-r', '__ns:=/robot', PYTHONPATH=samples)
    manager = Manager(peer, '/robot/box')
    first = manager.load('samples::Plain')
    second = manager.load(
        'samples::Plain',
        {'colour': 'red'},
        {'use_intra_process_comms': True},
        node_name='eye',
        node_namespace='left',
        log_level=20,
    )
    assert first.success and second.success
    assert first.unique_id != second.unique_id
    assert manager.list() == {first.unique_id: '/plain', second.unique_id: '/left/eye'}
    for name, colour in (('/plain', 'white'), ('/left/eye', 'red')):
        client = peer.node.create_client(GetParameters, f'{name}/get_parameters')
        assert peer.until(client.service_is_ready)
        future = client.call_async(GetParameters.Request(names=['colour']))
        assert peer.until(future.done)
        assert future.result().values[0].string_value == colour
    assert manager.unload(first.unique_id).success
    names = peer.node.get_node_names_and_namespaces
    assert peer.until(lambda: ('plain', '/') not in names())
    assert manager.list() == {second.unique_id: '/left/eye'}


def test_what_cannot_be_loaded_is_said_and_the_container_goes_on(run, peer, samples):
    run(PYTHONPATH=samples)
    manager = Manager(peer)
    for plugin, fields, words in (
        ('nobody::Nothing', {}, "no component is called 'nobody::Nothing'"),
        ('samples::Faulty', {}, 'of the component'),
        ('samples::Broken', {}, 'division by zero'),
        ('samples::Plain', {'remap_rules': ['no rule']}, 'no rule'),
        ('samples::Plain', {'node_name': 'no name'}, 'no name'),
        ('samples::Plain', {'log_level': 7}, 'log_level is 7'),
    ):
        answer = manager.load(plugin, **fields)
        assert not answer.success
        assert words in answer.error_message, answer.error_message
    unset = Parameter('colour').to_parameter_msg()
    unset.value.type = 99
    wrong = manager.ask(composition.LoadNode, plugin_name='samples::Plain', parameters=[unset])
    assert not wrong.success and 'colour' in wrong.error_message
    assert manager.list() == {}
    clinging = manager.load('samples::Clinging')
    unloaded = manager.unload(clinging.unique_id)
    assert (unloaded.success, unloaded.error_message) == (
        False,
        '/plain does not end cleanly: I stay',
    )
    assert manager.list() == {}
    for plugin in ('samples::Plain', 'samples::Clinging', 'samples::Plain'):
        assert manager.load(plugin).success
    assert len(manager.list()) == 3


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_the_container_and_its_nodes_end_cleanly(run, peer, samples, number, tmp_path):
    process = run(PYTHONPATH=samples)
    assert Manager(peer).load('samples::Plain').success
    process.send_signal(number)
    assert process.wait(60) == 0
    assert 'the farewell of samples' in (tmp_path / 'container.log').read_text()
    names = peer.node.get_node_names
    assert peer.until(lambda: not {'plain', 'component_container'} & set(names()))
