# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pointing at things over real DDS: services of the node, clicks of viewers, names in messages."""

import contextlib
import functools

import numpy as np
import pytest
from conftest import scene
from geometry_msgs.msg import Point, PointStamped
from masa_ros.srv import AddObject, CorrectObject, KeepOnly, RemoveObject, SetMode, SetWords
from rclpy.qos import QoSProfile
from ros_harness import PATIENCE, SECOND, Harness, call
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header
from toy import Toy

from masa_ros.methods import METHODS
from masa_ros.nodes.messages import ns_to_stamp
from masa_ros.types import Mask

pytestmark = pytest.mark.ros
TOY = {'method': 'toy', 'tolerance': 30, 'red': False}
RED, BLUE, YELLOW = (70, 80), (215, 150), (90, 180)  # places in ``scene()``


@pytest.fixture
def harness(request, monkeypatch):
    """A node with the method of the tests that has tracked three images."""
    monkeypatch.setitem(METHODS, 'toy', Toy)
    with contextlib.closing(Harness(TOY | getattr(request, 'param', {}))) as made:
        made.wait_until_tracking()
        for _ in range(3):
            show(made)
        yield made


def show(harness, shift=0, camera=0):
    """Let the node track an image; returns its header."""
    statistics = harness.cameras[camera].statistics
    before = statistics.processed
    message = harness.image(scene(shift))
    harness.images.publish(message)
    assert harness.until(lambda: statistics.processed > before)
    return message.header


def ask(harness, kind, service, /, **fields):
    return call(harness, kind, f'/masa_tracker/{service}', kind.Request(**fields))


def add(harness, **fields):
    return ask(harness, AddObject, 'add_object', **fields)


def seen(harness):
    """Ids and names in the newest message, after one more image of which it is."""
    show(harness)
    show(harness)
    assert harness.until(
        lambda: len(harness.tracks) == harness.cameras[0].statistics.processed - 1
    )
    return {i.track_id: i.name for i in harness.tracks[-1].instances}


def test_what_is_pointed_at_becomes_a_track_with_the_name_that_was_given(harness):
    last = show(harness)
    answer = add(harness, points=[float(v) for v in RED], name='ball')
    assert answer.success and answer.message == '' and answer.header == last
    (ball,) = answer.instances
    assert (ball.track_id, ball.name, ball.mask_encoding) == (1, 'ball', 1)
    assert ball.x_min <= RED[0] <= ball.x_max and sum(ball.mask_counts) > 0
    box = add(harness, box=[180.0, 110.0, 251.0, 191.0]).instances[0]
    stroke = [v for x in range(70, 110, 10) for v in (float(x), 180.0)]
    answer = add(harness, points=stroke, positive=[True] * 4)
    assert (box.track_id, answer.instances[0].track_id) == (2, 3)
    assert seen(harness) == {1: 'ball', 2: '', 3: ''}
    assert harness.until(lambda: harness.report('prompts') == '3')


def test_a_track_is_corrected_renamed_and_removed(harness):
    assert add(harness, points=[float(v) for v in RED], name='ball').success
    answer = ask(
        harness,
        *(CorrectObject, 'correct_object'),
        **{'track_id': 1, 'points': [float(v) for v in BLUE], 'name': 'crate'},
    )
    assert answer.success and answer.instances[0].x_min == 180
    assert seen(harness) == {1: 'crate'}
    assert ask(harness, RemoveObject, 'remove_object', track_id=1).success
    gone = ask(harness, RemoveObject, 'remove_object', track_id=1)
    assert not gone.success and gone.message == 'no track has the id 1'
    assert seen(harness) == {}
    assert add(harness, points=[float(v) for v in RED]).instances[0].track_id == 2


def test_all_but_some_are_forgotten(harness):
    for place in (RED, BLUE, YELLOW):
        assert add(harness, points=[float(v) for v in place]).success
    unknown = ask(harness, KeepOnly, 'keep_only', track_ids=[1, 9])
    assert not unknown.success and unknown.message == 'no track has the id 9'
    answer = ask(harness, KeepOnly, 'keep_only', track_ids=[2])
    assert answer.success and list(answer.removed) == [1, 3]
    assert set(seen(harness)) == {2}


def test_a_click_means_the_image_that_was_looked_at(harness):
    shown = [show(harness, shift) for shift in (0, 20, 40)]
    was = add(harness, points=[float(v) for v in RED], stamp=shown[0].stamp)
    assert was.header == shown[0] and was.instances[0].x_min < RED[0] - 30
    between = ns_to_stamp(shown[1].stamp.sec * SECOND + shown[1].stamp.nanosec + SECOND // 50)
    assert add(harness, points=[BLUE[0] + 20.0, BLUE[1]], stamp=between).header == shown[1]
    later = Header(stamp=ns_to_stamp(10_000 * SECOND))
    assert add(harness, points=[40.0 + YELLOW[0], YELLOW[1]], stamp=later.stamp).header == shown[2]
    gone = add(harness, points=[40.0, 40.0], stamp=ns_to_stamp(SECOND))
    assert not gone.success and gone.message.startswith('the image is gone: its stamp is 99.')
    assert '6 that are held (held_frames: 30)' in gone.message


WRONG = {
    'nothing': ({}, 'nothing is pointed at: give points, a box, a mask or a text'),
    'half a point': ({'points': [1.0]}, 'points has 1 numbers; they are x1, y1, x2, y2, ...'),
    'not finite': ({'points': [np.nan, 1.0]}, 'points holds numbers that are not finite'),
    'signs': ({'points': [1.0, 1.0], 'positive': [True] * 2}, '1 points have 2 signs in positive'),
    'box': ({'box': [1.0] * 3}, 'box has 3 numbers; they are x_min, y_min, x_max, y_max'),
    'outside': ({'points': [-4.0, 4.0]}, '(-4, 4) is outside the image'),
    'runs': (
        {'mask_encoding': 1, 'mask_width': 9, 'mask_height': 9, 'mask_counts': [3]},
        'mask run lengths add up to 3, the window has 9 x 9 pixels',
    ),
    'encoding': ({'mask_encoding': 7}, 'mask_encoding 7 is not known here'),
    'kind': (
        {'text': 'cup'},
        'the method toy does not understand text; it takes: box, point',
    ),
    'camera': (
        {'camera': 'left', 'points': [1.0, 1.0]},
        "there is no camera 'left'; the only one has no name",
    ),
    'name': (
        {'points': [1.0, 1.0], 'name': 'a' * 201},
        'the name has 201 letters; at most 200',
    ),
}


@pytest.mark.parametrize('fields, text', WRONG.values(), ids=WRONG)
def test_a_wrong_prompt_is_answered_by_what_is_wrong_with_it(harness, fields, text):
    answer = add(harness, **fields)
    assert (answer.success, answer.message, list(answer.instances)) == (False, text, [])
    assert seen(harness) == {}


def test_nobody_is_left_without_an_answer(harness):
    harness.node.trigger_deactivate()
    point = [float(v) for v in RED]
    assert add(harness, points=point).message == 'the node is not active'
    assert ask(harness, RemoveObject, 'remove_object').message == 'the node is not active'
    harness.node.trigger_activate()
    assert ask(harness, CorrectObject, 'correct_object').message == 'track_id 0 names no track'
    for kind, name in ((SetMode, 'set_mode'), (SetWords, 'set_words')):
        assert 'the method toy has no parameter' in ask(harness, kind, name).message


def test_a_flood_of_prompts_is_answered_and_images_go_on(harness, monkeypatch):
    many = QoSProfile(depth=100)
    client = harness.peer.create_client(AddObject, '/masa_tracker/add_object', qos_profile=many)
    assert client.wait_for_service(PATIENCE)
    (camera,) = harness.cameras
    ready, slow = [], functools.partial(harness.until, lambda: bool(ready))
    answered = camera.ask
    monkeypatch.setattr(camera, 'ask', lambda job: slow() and answered(job))
    request = AddObject.Request(points=[float(v) for v in RED])
    futures = [client.call_async(request) for _ in range(50)]
    assert harness.until(lambda: sum(f.done() for f in futures) >= 17)
    refused = [f.result() for f in futures if f.done()]
    assert {r.message for r in refused} == {'32 prompts wait already: ask again later'}
    ready.append(True)
    before = camera.statistics.processed
    harness.images.publish(harness.image(scene()))
    assert harness.until(lambda: all(f.done() for f in futures))
    assert sum(f.result().success for f in futures) == 50 - len(refused)
    assert harness.until(lambda: camera.statistics.processed > before)
    assert harness.until(lambda: int(harness.report('event_prompt_refused') or 0) >= 17)


def test_a_mistake_in_following_a_prompt_is_contained(harness, monkeypatch):
    (camera,) = harness.cameras
    for error, key in ((KeyError('oh'), 'mistakes'), (RuntimeError('oh'), 'event_prompt_failed')):

        def fail(prompt, error=error):
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(camera.stream, 'ask', fail)
            answer = add(harness, points=[1.0, 1.0])
        assert not answer.success and type(error).__name__ in answer.message
        assert harness.until(lambda key=key: harness.report(key) == '1')
    assert add(harness, points=[float(v) for v in RED]).success


def test_a_request_names_its_camera(monkeypatch):
    monkeypatch.setitem(METHODS, 'toy', Toy)
    with contextlib.closing(Harness(TOY | {'cameras': ['left', 'right']})) as harness:
        assert harness.until(lambda: harness.node._work is not None and harness.node._work.active)
        point = [float(v) for v in RED]
        assert 'there are: left, right' in add(harness, points=point).message
        answer = add(harness, camera='right', points=point)
        assert answer.message == 'no image has been tracked yet'


def test_clicks_of_viewers_are_followed(harness, capfd):
    clicks = harness.peer.create_publisher(PointStamped, 'click', 10)
    infos = harness.peer.create_publisher(CameraInfo, 'camera_info', 10)
    assert harness.until(
        lambda: clicks.get_subscription_count() and infos.get_subscription_count()
    )

    def click(x, y, z=0.0, frame='camera_optical_frame'):
        header = Header(frame_id=frame)
        clicks.publish(PointStamped(header=header, point=Point(x=float(x), y=float(y), z=z)))

    def told(text):
        return harness.until(lambda: text in harness.report('last_problem'))

    click(*RED)
    assert harness.until(lambda: harness.cameras[0].statistics.prompts == 1)
    click(0.0, 0.0, 1.0)
    assert told('a click in metres needs the camera_info of the images')
    info = CameraInfo(width=320, height=240, distortion_model='plumb_bob')
    info.header.frame_id = 'camera_optical_frame'
    info.k = [200.0, 0.0, 160.0, 0.0, 200.0, 120.0, 0.0, 0.0, 1.0]
    infos.publish(info)
    assert harness.until(lambda: harness.cameras[0].inputs.info is not None)
    # Two metres away, where the blue body is seen.
    click((BLUE[0] - 160.5) / 100, (BLUE[1] - 120.5) / 100, 2.0)
    assert harness.until(lambda: harness.cameras[0].statistics.prompts == 2)
    click(0.0, 0.0, 1.0, 'map')
    assert told("the click is in the frame 'map', the images are in 'camera_optical_frame'")
    click(5000, 5000)
    assert told('a prompt is refused: (5000, 5000) is outside the image')
    assert set(seen(harness)) == {1, 2}
    assert harness.until(lambda: harness.report('event_prompt_refused') == '3')


def test_the_shipped_networks_follow_what_is_clicked_boxed_and_drawn():
    """Method sam_track as it is installed; the parameter find, by its services."""
    with contextlib.closing(Harness({'method': 'sam_track', 'device': 'cpu'})) as harness:
        harness.wait_until_tracking()
        for shift in range(3):
            show(harness, shift)
        clicked = add(harness, points=[float(v) for v in RED], name='ball')
        assert clicked.success, clicked.message
        x0, y0, x1, y1 = 178.0, 108.0, 254.0, 194.0
        boxed = add(harness, box=[x0, y0, x1, y1])
        pixels = np.ones((20, 60), bool)
        mask = Mask(62, 170, pixels)
        drawn = add(
            harness,
            **{'mask_encoding': 1, 'mask_x': 62, 'mask_y': 170, 'mask_width': 60},
            **{'mask_height': 20, 'mask_counts': mask.counts},
        )
        assert [a.instances[0].track_id for a in (clicked, boxed, drawn)] == [1, 2, 3]
        show(harness, 3)
        assert harness.until(lambda: len(harness.tracks[-1].instances) == 3)
        assert sorted(i.name for i in harness.tracks[-1].instances) == ['', '', 'ball']
        assert ask(harness, SetMode, 'set_mode', find='everything').success
        assert harness.node.get_parameter('find').value == 'everything'
        assert not ask(harness, SetMode, 'set_mode', find='all').success
        assert ask(harness, SetWords, 'set_words', words='person. dog.').success
        assert harness.node.get_parameter('words').value == 'person. dog.'
        assert list(ask(harness, KeepOnly, 'keep_only', track_ids=[2]).removed) == [1, 3]
        assert harness.node.get_parameter('find').value == 'nothing'
