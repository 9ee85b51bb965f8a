# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The tracker node over real DDS: images in, answers out."""

import array
import contextlib
import time
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import scene
from moving import DEVA, STILL
from rclpy.qos import qos_profile_sensor_data
from ros_harness import ENDS, SECOND, Harness, call, jpeg, set_parameter, tracking, warned
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger
from visualization_msgs.msg import ImageMarker

from masa_ros import methods
from masa_ros.masks import mask_from_msg
from masa_ros.nodes.messages import tracks_from_msg
from masa_ros.propagators import PROPAGATORS
from masa_ros.share import share_path

pytestmark = pytest.mark.ros
of_every_method = pytest.mark.parametrize(
    'harness', [{}, DEVA], ids=['masa', 'deva'], indirect=True
)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(PROPAGATORS, 'still', STILL)


@pytest.fixture
def harness(request, seeded_weights):
    """A tracking node; parametrise indirectly with parameter overrides."""
    with contextlib.closing(tracking(seeded_weights, **getattr(request, 'param', {}))) as made:
        yield made


@of_every_method
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


@of_every_method
def test_ids_stay_on_a_still_picture(harness):
    first = tracks_from_msg(harness.exchange(harness.image(scene())))
    second = tracks_from_msg(harness.exchange(harness.image(scene())))
    assert first.track_ids.tolist() == second.track_ids.tolist()


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
    assert harness.until(lambda: harness.report(key) == '3'), harness.report('last_problem')
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
    harness.compressed.publish(corrupt)
    assert harness.until(lambda: harness.report('rejected_data') == '1')
    assert len(warned(capfd, '/image_raw/compressed: image refused')) == 1
    good.header = harness.header()
    assert harness.exchange(good, harness.compressed).header == good.header
    assert len(harness.tracks) == 2


@of_every_method
def test_the_size_may_change_in_the_stream(harness):
    for size in ((240, 320), (480, 640), (120, 160), (240, 320)):
        pixels = scene()[: size[0], : size[1]] if size[0] < 240 else scene(size=size)
        answer = harness.exchange(harness.image(pixels))
        assert (answer.image_height, answer.image_width) == pixels.shape[:2]
    assert harness.report('rejected') in ('', '0')


@of_every_method
def test_stamps_that_jump_back_start_new_tracks(harness, capfd):
    before = tracks_from_msg(harness.exchange(harness.image(scene())))
    after = tracks_from_msg(harness.exchange(harness.image(scene(), stamp_ns=5 * SECOND)))
    assert set(before.track_ids.tolist()).isdisjoint(after.track_ids.tolist())
    assert harness.until(lambda: harness.report('event_time_jump') == '1')
    assert len(warned(capfd, 'jump back')) == 1


@pytest.mark.parametrize(
    'harness',
    [{'on_time_jump': 'continue'}, {'on_time_jump': 'continue', **DEVA}],
    ids=['masa', 'deva'],
    indirect=True,
)
def test_or_continue_where_wanted(harness):
    before = tracks_from_msg(harness.exchange(harness.image(scene())))
    after = tracks_from_msg(harness.exchange(harness.image(scene(), stamp_ns=5 * SECOND)))
    assert before.track_ids.tolist() == after.track_ids.tolist()


def test_an_image_behind_a_newer_one_is_dropped(harness):
    message = harness.image(scene())
    assert harness.exchange(message)
    stamp = message.header.stamp.sec * SECOND + message.header.stamp.nanosec
    harness.images.publish(harness.image(scene(), stamp_ns=stamp - SECOND // 20))
    assert harness.until(lambda: harness.report('rejected_late') == '1')
    assert len(harness.tracks) == 1


def test_overload_is_counted_exactly(seeded_weights):
    def slow(*arguments):
        method = methods.load(*arguments)
        encode = method.encode

        def slowly(frames):
            time.sleep(0.15)
            return encode(frames)

        method.encode = slowly
        return method

    harness = Harness({'weights': str(seeded_weights), 'device': 'cpu', 'input_size': 192}, slow)
    harness.wait_until_tracking()
    for _ in range(40):
        harness.images.publish(harness.image(scene()))
        time.sleep(0.02)

    def at_rest():
        received, *ends = (int(harness.report(name) or 0) for name in ('received', *ENDS))
        return received > 20 and received == sum(ends)

    try:
        assert harness.until(at_rest)
        assert int(harness.report('skipped')) > 10
        assert int(harness.report('processed')) == len(harness.tracks)
    finally:
        harness.close()


def test_a_model_that_fails_does_not_take_the_node_with_it(seeded_weights, capfd):
    def fragile(*arguments):
        method = methods.load(*arguments)
        encode = method.encode

        def perhaps(frames):
            if frames[0].image.shape[0] == 100:
                raise RuntimeError('out of memory')
            return encode(frames)

        method.encode = perhaps
        return method

    harness = Harness(
        {'weights': str(seeded_weights), 'device': 'cpu', 'input_size': 192}, fragile
    )
    try:
        harness.wait_until_tracking()
        harness.images.publish(harness.image(scene()[:100]))
        assert harness.until(lambda: harness.report('failed') == '1')
        assert not harness.tracks
        assert len(warned(capfd, 'RuntimeError: out of memory')) == 1
        assert harness.exchange(harness.image(scene()))
    finally:
        harness.close()


@of_every_method
def test_pictures_are_drawn_only_for_listeners(harness):
    drawn, labels = [], []
    (camera,) = harness.cameras
    assert harness.exchange(harness.image(scene()))
    overlay = harness.peer.create_subscription(
        Image, '/masa_tracker/overlay', drawn.append, qos_profile_sensor_data
    )
    # RViz asks for reliability, other viewers do not.
    harness.peer.create_subscription(Image, '/masa_tracker/label_mask', labels.append, 10)
    assert harness.until(lambda: camera.outputs._overlay.get_subscription_count() == 1)
    assert harness.until(lambda: camera.outputs._label_mask.get_subscription_count() == 1)
    answer = harness.exchange(harness.image(scene()))
    assert harness.until(lambda: drawn and labels)
    assert drawn[0].header == answer.header
    assert drawn[0].encoding == 'rgb8'
    label_mask = np.frombuffer(labels[0].data, np.uint16).reshape(240, 320)
    ids = {i.track_id for i in answer.instances}
    assert set(np.unique(label_mask).tolist()) - {0} <= ids
    harness.peer.destroy_subscription(overlay)
    assert harness.until(lambda: camera.outputs._overlay.get_subscription_count() == 0)
    count = len(drawn)
    assert harness.exchange(harness.image(scene()))
    assert len(drawn) == count


@of_every_method
def test_reset_forgets_and_never_reuses_ids(harness):
    before = tracks_from_msg(harness.exchange(harness.image(scene())))
    assert call(harness, Trigger, '/masa_tracker/reset', Trigger.Request()).success
    after = tracks_from_msg(harness.exchange(harness.image(scene())))
    assert len(after)
    assert after.track_ids.min() > before.track_ids.max()


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


def test_silence_is_reported(harness):
    assert set_parameter(harness, 'silence_seconds', 0.5).successful
    assert harness.until(
        lambda: any('no image for' in s.message for d in harness.diagnostics for s in d.status), 5
    )


def test_a_node_in_the_same_process_hands_images_over(harness):
    message = harness.image(scene())
    heard = []

    def listen(camera, frame, tracks):
        heard.append((camera, frame.stamp_ns, tracks.track_ids.tolist()))
        raise ValueError('of the listener')

    harness.node.listeners.append(listen)
    before = len(harness.tracks)
    harness.node.offer(message)
    assert harness.until(lambda: len(harness.tracks) > before)
    answer = harness.tracks[-1]
    assert answer.header == message.header
    ids = [i.track_id for i in answer.instances]
    assert harness.until(lambda: heard == [('', harness._stamp, ids)])
    assert harness.exchange(harness.image(scene())), 'the node goes on'
    assert harness.until(lambda: harness.report('event_listener') == '2')


def test_viewers_get_outlines(harness):
    outlines = []
    harness.peer.create_subscription(
        ImageMarker, '/masa_tracker/markers', outlines.append, qos_profile_sensor_data
    )
    (camera,) = harness.cameras
    assert harness.until(lambda: camera.outputs._markers.get_subscription_count() == 1)
    answer = harness.exchange(harness.image(scene()))
    assert harness.until(lambda: outlines)
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
        assert harness.until(lambda names=names: names('masa_tracker', '/'))
        has = {name for name, _ in names('masa_tracker', '/')}
        assert has - set(allowed(kind, attribute)) == set()
