import array
import gc
import os
import signal
import subprocess
import sys
import time
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from conftest import scene
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.exceptions import InvalidParameterValueException
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from ros_harness import SECOND, Harness, Peer, jpeg
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger
from visualization_msgs.msg import ImageMarker

from masa_ros.engines import runtimes
from masa_ros.masks import mask_from_msg
from masa_ros.models.stages import Eager
from masa_ros.nodes.messages import tracks_from_msg
from masa_ros.pipeline import Pipeline
from masa_ros.share import share_path

pytestmark = pytest.mark.ros


@pytest.fixture
def harness(request, seeded_weights):
    """A tracking node; parametrise indirectly with parameter overrides."""
    overrides = {
        'weights': str(seeded_weights),
        'device': 'cpu',
        'input_size': 192,
        'score_threshold': 0.0,
        'init_score_thr': 0.0,
        'obj_score_thr': 0.0,
        'publish_tentative': True,
    }
    made = Harness(overrides | getattr(request, 'param', {}))
    if made.node.get_parameter('autostart').value:
        made.wait_until_tracking()
    yield made
    made.close()


def call(harness, kind, name, request):
    client = harness.peer.create_client(kind, name)
    assert client.wait_for_service(10)
    future = client.call_async(request)
    assert harness.until(future.done, 30)
    return future.result()


def test_the_answer_belongs_to_the_image(harness):
    message = harness.image(scene())
    answer = harness.exchange(message)
    assert answer.header == message.header
    assert (answer.image_height, answer.image_width) == (240, 320)
    assert answer.model == 'masa_nano'
    assert answer.instances, 'the seeded weights find boxes in this picture'
    tracks = tracks_from_msg(answer)
    assert (tracks.track_ids > 0).all()
    assert len(set(tracks.track_ids.tolist())) == len(tracks)
    assert (tracks.boxes >= 0).all()
    assert (tracks.boxes <= [320, 240, 320, 240]).all()
    for instance in answer.instances:
        mask = mask_from_msg(instance)
        assert mask is None or mask.full(240, 320).any()


def test_ids_stay_on_a_still_picture(harness):
    first = tracks_from_msg(harness.exchange(harness.image(scene())))
    second = tracks_from_msg(harness.exchange(harness.image(scene())))
    assert first.track_ids.tolist() == second.track_ids.tolist()


def warned(capfd, words):
    """Lines with these words that the node logged since the last call."""
    return [line for line in capfd.readouterr().err.splitlines() if words in line]


BAD = {
    'encoding': lambda h: Image(
        header=h.header(),
        height=4,
        width=4,
        encoding='yuv9000',
        step=4,
        data=array.array('B', 16 * [0]),
    ),
    'step': lambda h: with_fields(h.image(scene()), step=10),
    'size': lambda h: with_fields(h.image(scene()), height=0, width=0, data=array.array('B')),
    'data': lambda h: with_fields(h.image(scene()), data=array.array('B', 100 * [0])),
}


def with_fields(message, **fields):
    for name, value in fields.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize('cause', BAD)
def test_a_bad_image_costs_one_line_and_is_counted(harness, cause, capfd):
    assert harness.exchange(harness.image(scene()))
    for _ in range(3):
        harness.images.publish(BAD[cause](harness))
        time.sleep(0.1)
    key = f'rejected_{cause}'
    assert harness.until(lambda: harness.report(key) == '3', 5), harness.report('last_problem')
    lines = warned(capfd, 'image refused')
    assert len(lines) == 1, lines
    assert '/image_raw' in lines[0]
    assert harness.exchange(harness.image(scene())), 'the node goes on'


@pytest.mark.parametrize('harness', [{'image_transport': 'compressed'}], indirect=True)
def test_compressed_images_and_a_corrupt_one(harness, capfd):
    good = CompressedImage(header=harness.header(), format='jpeg')
    good.data = array.array('B', jpeg(scene()))
    assert harness.exchange(good, harness.compressed).instances
    corrupt = CompressedImage(header=harness.header(), format='jpeg')
    corrupt.data = array.array('B', jpeg(scene())[:40])
    assert harness.exchange(corrupt, harness.compressed) is None
    assert harness.until(lambda: harness.report('rejected_data') == '1', 5)
    assert len(warned(capfd, '/image_raw/compressed: image refused')) == 1
    good.header = harness.header()
    assert harness.exchange(good, harness.compressed)


def test_the_size_may_change_in_the_stream(harness):
    for size in ((240, 320), (480, 640), (120, 160), (240, 320)):
        pixels = scene()[: size[0], : size[1]] if size[0] < 240 else scene(size=size)
        answer = harness.exchange(harness.image(pixels))
        assert (answer.image_height, answer.image_width) == pixels.shape[:2]
    assert harness.report('rejected') in ('', '0')


def test_stamps_that_jump_back_start_new_tracks(harness, capfd):
    before = tracks_from_msg(harness.exchange(harness.image(scene())))
    after = tracks_from_msg(harness.exchange(harness.image(scene(), stamp_ns=5 * SECOND)))
    assert set(before.track_ids.tolist()).isdisjoint(after.track_ids.tolist())
    assert harness.until(lambda: harness.report('event_time_jump') == '1', 5)
    assert len(warned(capfd, 'jump back')) == 1


@pytest.mark.parametrize('harness', [{'on_time_jump': 'continue'}], indirect=True)
def test_or_continue_where_wanted(harness):
    before = tracks_from_msg(harness.exchange(harness.image(scene())))
    after = tracks_from_msg(harness.exchange(harness.image(scene(), stamp_ns=5 * SECOND)))
    assert before.track_ids.tolist() == after.track_ids.tolist()


def test_an_image_behind_a_newer_one_is_dropped(harness):
    message = harness.image(scene())
    assert harness.exchange(message)
    stamp = message.header.stamp.sec * SECOND + message.header.stamp.nanosec
    assert harness.exchange(harness.image(scene(), stamp_ns=stamp - SECOND // 20)) is None
    assert harness.until(lambda: harness.report('rejected_late') == '1', 5)


def test_overload_is_counted_exactly(seeded_weights):
    def slow(config, log):
        pipeline = Pipeline.build(config)

        class Slow:
            def __getattr__(self, name):
                return getattr(pipeline, name)

            def encode(self, frames):
                time.sleep(0.15)
                return pipeline.encode(frames)

        return Slow()

    harness = Harness({'weights': str(seeded_weights), 'device': 'cpu', 'input_size': 192}, slow)
    harness.wait_until_tracking()
    for _ in range(40):
        harness.images.publish(harness.image(scene()))
        time.sleep(0.02)

    def at_rest():
        names = ('received', 'processed', 'skipped', 'rejected', 'failed')
        received, *ends = (int(harness.report(name) or 0) for name in names)
        return received > 20 and received == sum(ends)

    try:
        assert harness.until(at_rest, 15)
        assert int(harness.report('skipped')) > 10
        assert int(harness.report('processed')) == len(harness.tracks)
    finally:
        harness.close()


def test_a_model_that_fails_does_not_take_the_node_with_it(seeded_weights, capfd):
    def fragile(config, log):
        pipeline = Pipeline.build(config)

        class Fragile:
            def __getattr__(self, name):
                return getattr(pipeline, name)

            def encode(self, frames):
                if frames[0].image.shape[0] == 100:
                    raise RuntimeError('out of memory')
                return pipeline.encode(frames)

        return Fragile()

    harness = Harness(
        {'weights': str(seeded_weights), 'device': 'cpu', 'input_size': 192}, fragile
    )
    try:
        harness.wait_until_tracking()
        assert harness.exchange(harness.image(scene()[:100])) is None
        assert harness.until(lambda: harness.report('failed') == '1', 5)
        assert len(warned(capfd, 'RuntimeError: out of memory')) == 1
        assert harness.exchange(harness.image(scene()))
    finally:
        harness.close()


def test_pictures_are_drawn_only_for_listeners(harness):
    drawn, labels = [], []
    (camera,) = harness.node._cameras
    assert harness.exchange(harness.image(scene()))
    overlay = harness.peer.create_subscription(
        Image, '/masa_tracker/overlay', drawn.append, qos_profile_sensor_data
    )
    # RViz asks for reliability, other viewers do not.
    harness.peer.create_subscription(Image, '/masa_tracker/label_mask', labels.append, 10)
    assert harness.until(lambda: camera._overlay.get_subscription_count() == 1)
    assert harness.until(lambda: camera._label_mask.get_subscription_count() == 1)
    answer = harness.exchange(harness.image(scene()))
    assert harness.until(lambda: drawn and labels, 5)
    assert drawn[0].header == answer.header
    assert drawn[0].encoding == 'rgb8'
    label_mask = np.frombuffer(labels[0].data, np.uint16).reshape(240, 320)
    ids = {i.track_id for i in answer.instances}
    assert set(np.unique(label_mask).tolist()) - {0} <= ids
    harness.peer.destroy_subscription(overlay)
    assert harness.until(lambda: camera._overlay.get_subscription_count() == 0)
    count = len(drawn)
    assert harness.exchange(harness.image(scene()))
    assert len(drawn) == count


def test_reset_forgets_and_never_reuses_ids(harness):
    before = tracks_from_msg(harness.exchange(harness.image(scene())))
    assert call(harness, Trigger, '/masa_tracker/reset', Trigger.Request()).success
    after = tracks_from_msg(harness.exchange(harness.image(scene())))
    assert len(after)
    assert after.track_ids.min() > before.track_ids.max()


def set_parameter(harness, name, value):
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    return call(harness, SetParameters, '/masa_tracker/set_parameters', request).results[0]


def test_parameters_change_at_run_time_or_say_why_not(harness):
    assert harness.exchange(harness.image(scene())).instances
    assert set_parameter(harness, 'score_threshold', 1.0).successful
    assert not harness.exchange(harness.image(scene())).instances
    too_high = set_parameter(harness, 'score_threshold', 3.0)
    assert not too_high.successful
    fixed = set_parameter(harness, 'device', 'cuda')
    assert not fixed.successful
    assert 'clean it up' in fixed.reason
    wrong = set_parameter(harness, 'on_time_jump', 'panic')
    assert not wrong.successful
    assert 'reset, continue' in wrong.reason
    assert set_parameter(harness, 'publish_embeddings', True).successful
    assert set_parameter(harness, 'score_threshold', 0.0).successful
    embedded = harness.exchange(harness.image(scene())).instances
    assert len(embedded[0].embedding) == 128


@pytest.mark.parametrize('harness', [{'max_rate': 2.0}], indirect=True)
def test_the_rate_is_limited(harness):
    for _ in range(20):
        harness.images.publish(harness.image(scene()))
        time.sleep(0.05)
    time.sleep(0.5)
    assert 1 <= len(harness.tracks) <= 4


@pytest.mark.parametrize('harness', [{'autostart': False}], indirect=True)
def test_lifecycle(harness, capfd):
    def change(transition):
        request = ChangeState.Request(transition=Transition(id=transition))
        return call(harness, ChangeState, '/masa_tracker/change_state', request).success

    def state():
        return call(
            harness, GetState, '/masa_tracker/get_state', GetState.Request()
        ).current_state.label

    assert state() == 'unconfigured'
    assert harness.images.get_subscription_count() == 0
    assert change(Transition.TRANSITION_CONFIGURE)
    assert state() == 'inactive'
    assert harness.images.get_subscription_count() == 0
    for _ in range(2):
        assert change(Transition.TRANSITION_ACTIVATE)
        harness.wait_until_tracking()
        assert harness.exchange(harness.image(scene()))
        assert change(Transition.TRANSITION_DEACTIVATE)
        assert harness.until(lambda: harness.images.get_subscription_count() == 0)
    assert change(Transition.TRANSITION_CLEANUP)
    assert state() == 'unconfigured'
    assert set_parameter(harness, 'weights', '/nowhere.safetensors').successful
    assert not change(Transition.TRANSITION_CONFIGURE)
    assert state() == 'unconfigured'
    assert len(warned(capfd, '/nowhere.safetensors')) == 1


@pytest.mark.parametrize('harness', [{'autostart': False}], indirect=True)
def test_transitions_out_of_turn_change_nothing(harness):
    def change(transition):
        request = ChangeState.Request(transition=Transition(id=transition))
        return call(harness, ChangeState, '/masa_tracker/change_state', request).success

    assert not change(Transition.TRANSITION_ACTIVATE)
    assert change(Transition.TRANSITION_CONFIGURE)
    assert not change(Transition.TRANSITION_CONFIGURE)
    assert change(Transition.TRANSITION_ACTIVATE)
    for wrong in (Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_CLEANUP):
        assert not change(wrong)
    harness.wait_until_tracking()
    assert harness.exchange(harness.image(scene()))


def test_parameters_are_read_again_when_the_node_is_configured(harness):
    def change(transition):
        request = ChangeState.Request(transition=Transition(id=transition))
        assert call(harness, ChangeState, '/masa_tracker/change_state', request).success

    assert harness.exchange(harness.image(scene()))
    change(Transition.TRANSITION_DEACTIVATE)
    change(Transition.TRANSITION_CLEANUP)
    assert harness.until(lambda: harness.images.get_subscription_count() == 0)
    assert set_parameter(harness, 'cameras', ['roof']).successful
    change(Transition.TRANSITION_CONFIGURE)
    change(Transition.TRANSITION_ACTIVATE)
    roof = Peer('roof', harness.context)
    try:
        assert roof.until(lambda: roof.images.get_subscription_count(), 20)
        message = roof.image(scene())
        assert roof.exchange(message).header == message.header
        assert harness.images.get_subscription_count() == 0
    finally:
        roof.close()


def test_a_node_that_is_destroyed_leaves_the_graph(seeded_weights):
    witness = Peer('witness')
    names = witness.node.get_node_names
    gc.disable()  # what only waits for it is not gone
    try:
        harness = Harness({'weights': str(seeded_weights), 'device': 'cpu'})
        harness.wait_until_tracking()
        assert witness.until(lambda: 'masa_tracker' in names(), 10)
        harness.close()
        assert witness.until(lambda: 'masa_tracker' not in names(), 2)
        with pytest.raises(InvalidParameterValueException):
            Harness({'memo_momentum': 7.0})
        assert witness.until(lambda: 'masa_tracker' not in names(), 2)
    finally:
        gc.enable()
        witness.close()


def test_silence_is_reported(harness):
    assert set_parameter(harness, 'silence_seconds', 0.5).successful
    assert harness.until(
        lambda: any('no image for' in s.message for d in harness.diagnostics for s in d.status), 5
    )


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_the_process_ends_cleanly_with_its_last_image_published(number, seeded_weights):
    options = {'device': 'cpu', 'weights': seeded_weights, 'input_size': 960}
    parameters = [word for k, v in options.items() for word in ('-p', f'{k}:={v}')]
    parameters += ['-r', '__ns:=/ending']
    process = subprocess.Popen(
        [*(sys.executable, '-m', 'masa_ros.cli', 'node', '--ros-args'), *parameters],
        cwd='/',
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {'RCUTILS_LOGGING_BUFFERED_STREAM': '0'},
    )
    peer = Peer('ending')
    try:
        seen = ''
        for line in process.stdout:
            seen += line
            if 'tracking /ending/image_raw' in line:
                break
        assert peer.until(lambda: peer.images.get_subscription_count(), 10)
        assert peer.until(peer.answer_to_an_image, 10)
        last = peer.image(scene())
        peer.images.publish(last)
        peer.until(lambda: False, 0.05)  # the network takes longer
        assert peer.tracks[-1].header != last.header
        start = time.monotonic()
        process.send_signal(number)
        assert process.wait(10) == 0, seen + process.stdout.read()
        assert time.monotonic() - start < 2.0
        assert peer.until(lambda: peer.tracks[-1].header == last.header, 2)
        assert 'Traceback' not in process.stdout.read()
        assert peer.until(lambda: 'masa_tracker' not in peer.node.get_node_names(), 2)
    finally:
        process.kill()
        peer.close()


def test_a_bad_parameter_is_one_line():
    result = subprocess.run(
        [sys.executable, '-m', 'masa_ros.cli', 'node', '--ros-args', '-p', 'memo_momentum:=7.0'],
        cwd='/',
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2
    assert 'memo_momentum' in result.stderr
    assert 'Traceback' not in result.stderr


class Slow:
    """A runtime whose engines take a while to build and are eager ones in the end."""

    name, keeps = 'compile', False

    def missing(self, device):
        return ''

    def version(self):
        return '1'

    def build(self, stage, inputs):
        time.sleep(0.8)
        return b''

    def load(self, stage, data, dtype, device):
        return Eager(stage, dtype)


@pytest.fixture
def slow_engines(monkeypatch, seeded_weights):
    monkeypatch.setitem(runtimes.RUNTIMES, 'compile', Slow())
    return {
        'weights': str(seeded_weights),
        'device': 'cpu',
        'input_size': 192,
        'runtime': 'compile',
        'camera_size': '320x240',
    }


def test_a_warm_start_tracks_while_engines_are_built(slow_engines):
    harness = Harness(slow_engines)
    try:
        harness.wait_until_tracking()
        assert harness.exchange(harness.image(scene()))
        assert harness.until(lambda: 'building' in harness.report('engines'), 10)
        assert harness.exchange(harness.image(scene()))
        assert harness.until(lambda: 'masks compile fp32' in harness.report('engines'), 30)
        assert harness.exchange(harness.image(scene()))
        assert harness.report('failed') == '0'
    finally:
        harness.close()


def test_without_a_warm_start_images_wait_for_the_engines(slow_engines):
    harness = Harness(slow_engines | {'warm_start': False})
    try:
        harness.wait_until_tracking()
        harness.images.publish(harness.image(scene()))
        assert harness.until(lambda: harness.tracks, 30)
        assert harness.until(lambda: 'masks compile fp32' in harness.report('engines'), 10)
    finally:
        harness.close()


def test_a_node_that_only_builds_ends_when_it_has_built(slow_engines, capfd):
    harness = Harness(slow_engines | {'build_only': True})
    try:
        assert harness.until(harness.node.finished.done, 30)
        assert harness.node.finished.result() == 0
        assert not harness.tracks and harness.images.get_subscription_count() == 0
        assert len(warned(capfd, 'build_only: image compile fp32')) == 1
    finally:
        harness.close()


def test_only_building_needs_to_know_for_what(seeded_weights):
    process = subprocess.run(
        [
            *(
                sys.executable,
                '-m',
                'masa_ros.cli',
                'node',
                '--ros-args',
                '-p',
                'build_only:=true',
            ),
            *('-p', f'weights:={seeded_weights}'),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        cwd='/',
    )
    assert process.returncode == 1
    assert 'build_only needs camera_size' in process.stdout + process.stderr


@pytest.fixture
def two_cameras(request, seeded_weights):
    """A node for a front and a rear camera, how many images it saw at once, and the cameras."""
    batches = []

    def build(config, log):
        pipeline = Pipeline.build(config)
        encode = pipeline.encode

        def counted(frames):
            batches.append(len(frames))
            return encode(frames)

        pipeline.encode = counted
        return pipeline

    overrides = {
        **{'weights': str(seeded_weights), 'device': 'cpu', 'input_size': 192},
        **{'score_threshold': 0.0, 'init_score_thr': 0.0, 'publish_tentative': True},
        'cameras': ['front', 'rear'],
    }
    harness = Harness(overrides | getattr(request, 'param', {}), build)
    cameras = {name: Peer(name, harness.context) for name in ('front', 'rear')}
    for camera in cameras.values():
        assert camera.until(lambda camera=camera: camera.images.get_subscription_count(), 20)
    yield harness, cameras, batches
    for camera in cameras.values():
        camera.close()
    harness.close()


def test_two_cameras_have_tracks_of_their_own(two_cameras):
    harness, cameras, batches = two_cameras
    ids = {}
    for name, camera in cameras.items():
        for shift in range(3):
            message = camera.image(scene(shift))
            answer = camera.exchange(message)
            assert answer.header == message.header
        ids[name] = {i.track_id for i in answer.instances}
        assert ids[name] and min(ids[name]) == 1, 'ids begin at 1 for every camera'
    for _ in range(20):  # what comes together is one batch
        for camera in cameras.values():
            camera.images.publish(camera.image(scene()))
        time.sleep(0.05)
    assert 2 in batches
    names = ('masa_tracker: front', 'masa_tracker: rear')
    seen = {s.name for d in harness.diagnostics for s in d.status}
    assert harness.until(
        lambda: (
            seen.update(s.name for d in harness.diagnostics for s in d.status)
            or seen >= set(names)
        ),
        3,
    )


@pytest.mark.parametrize('two_cameras', [{'common_ids': True}], indirect=True)
def test_ids_of_cameras_can_be_in_common(two_cameras):
    _, cameras, _ = two_cameras
    front, rear = (
        {i.track_id for i in camera.exchange(camera.image(scene())).instances}
        for camera in cameras.values()
    )
    assert front and rear and front.isdisjoint(rear)


def test_a_camera_that_floods_does_not_starve_the_other(two_cameras):
    harness, cameras, _ = two_cameras
    front, rear = cameras['front'], cameras['rear']
    offer = harness.node.offer  # a topic may lose images
    for _ in range(10):
        answered, turns = len(rear.tracks), len(front.tracks)
        offer(rear.image(scene()), 'rear')
        while len(rear.tracks) == answered:
            offer(front.image(scene()), 'front')
            front.until(lambda: False, 0.003)
            rear.until(lambda: False, 0.003)
            assert len(front.tracks) <= turns + 3, 'it is its turn after the image in work'


def test_a_batch_that_is_too_much_is_taken_apart_from_then_on(two_cameras):
    harness, cameras, batches = two_cameras
    pipeline = harness.node._pipeline
    encode = pipeline.encode

    def small(frames):
        if len(frames) > 1:
            batches.append(len(frames))
            raise torch.cuda.OutOfMemoryError('CUDA out of memory')
        return encode(frames)

    pipeline.encode = small
    for _ in range(20):
        for name, camera in cameras.items():  # two follow while the first one is in work
            harness.node.offer(camera.image(scene()), name)
        time.sleep(0.05)
    assert batches.count(2) == 1
    for name, camera in cameras.items():
        assert camera.until(lambda camera=camera: camera.tracks, 5)
        statistics = harness.node._statistics[name]
        assert statistics.events['batch'] == 1 and statistics.failed == 0


def test_cameras_must_have_names_of_topics(seeded_weights, capfd):
    for names, words in ((['front', 'front'], 'names one twice'), (['a b'], "'a b'")):
        harness = Harness({'weights': str(seeded_weights), 'cameras': names})
        try:
            assert harness.until(lambda words=words: warned(capfd, words), 10)
        finally:
            harness.close()


def test_a_node_in_the_same_process_hands_images_over(harness):
    message = harness.image(scene())
    heard = []

    def listen(camera, frame, tracks):
        heard.append((camera, frame.stamp_ns, tracks.track_ids.tolist()))
        raise ValueError('of the listener')

    harness.node.listeners.append(listen)
    before = len(harness.tracks)
    harness.node.offer(message)
    assert harness.until(lambda: len(harness.tracks) > before, 5)
    answer = harness.tracks[-1]
    assert answer.header == message.header
    ids = [i.track_id for i in answer.instances]
    assert harness.until(lambda: heard == [('', harness._stamp, ids)], 5)
    assert harness.exchange(harness.image(scene())), 'the node goes on'
    assert harness.until(lambda: harness.report('event_listener') == '2', 5)


def test_viewers_get_outlines(harness):
    outlines = []
    harness.peer.create_subscription(
        ImageMarker, '/masa_tracker/markers', outlines.append, qos_profile_sensor_data
    )
    (camera,) = harness.node._cameras
    assert harness.until(lambda: camera._markers.get_subscription_count() == 1)
    answer = harness.exchange(harness.image(scene()))
    assert harness.until(lambda: outlines, 5)
    (marker, *_) = outlines
    assert marker.header == answer.header
    assert len(marker.points) == 8 * len(answer.instances) == 2 * len(marker.outline_colors)
    first = answer.instances[0]
    assert (marker.points[0].x, marker.points[0].y) == (first.x_min, first.y_min)


def test_the_example_of_a_security_policy_names_all_that_the_node_has(harness):
    policy = ElementTree.parse(share_path('config/sros2_policy.xml'))

    def allowed(kind, attribute):
        for rules in policy.iter(kind):
            if rules.get(attribute) == 'ALLOW':
                for rule in rules:
                    yield rule.text.replace('~', '/masa_tracker').replace('/camera/', '/', 1)

    node = harness.node
    for kind, attribute, names in (
        ('topics', 'publish', node.get_publisher_names_and_types_by_node),
        ('topics', 'subscribe', node.get_subscriber_names_and_types_by_node),
        ('services', 'reply', node.get_service_names_and_types_by_node),
    ):
        assert harness.until(lambda names=names: names('masa_tracker', '/'), 10)
        has = {name for name, _ in names('masa_tracker', '/')}
        assert has - set(allowed(kind, attribute)) == set()
