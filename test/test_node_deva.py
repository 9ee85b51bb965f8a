# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The method deva in a node over real DDS: late answers, live options, bad input."""

import contextlib
import importlib.util

import pytest
from conftest import scene
from moving import DEVA, STILL
from ros_harness import SECOND, call, set_parameter, tracking, warned
from std_srvs.srv import Trigger

from masa_ros.propagators import PROPAGATORS

pytestmark = pytest.mark.ros
WITH_VISION = importlib.util.find_spec('vision_msgs') is not None
CLIPS = {**DEVA, 'clip_frames': 3, 'max_objects': 20}
clips = pytest.mark.parametrize('harness', [CLIPS], indirect=True, ids=['clips'])


@pytest.fixture
def harness(request, seeded_weights, monkeypatch):
    """A tracking node; parametrise indirectly with parameter overrides."""
    monkeypatch.setitem(PROPAGATORS, 'still', STILL)
    with contextlib.closing(tracking(seeded_weights, **getattr(request, 'param', DEVA))) as made:
        yield made


def send(harness, count=1, pixels=None):
    """Publish images, each when the one before was taken; returns their headers."""
    (camera,) = harness.cameras
    headers = []
    for _ in range(count):
        before = camera.statistics.processed
        message = harness.image(scene() if pixels is None else pixels)
        harness.images.publish(message)
        assert harness.until(lambda before=before: camera.statistics.processed > before)
        headers.append(message.header)
    return headers


def answered(harness, headers):
    """Wait until these images are answered and no others."""
    return harness.until(lambda: [t.header for t in harness.tracks] == headers)


def figures(harness, **least):
    """Wait until diagnostics tell these figures, or more."""

    def told():
        return all(float(harness.report(key) or -1) >= value for key, value in least.items())

    return harness.until(told)


@clips
def test_late_answers_come_under_the_headers_of_their_images(harness):
    first = send(harness, 2)
    assert figures(harness, frames_open=2, processed=2) and not harness.tracks
    sent = first + send(harness)
    assert answered(harness, sent), 'three frames agree on what is there'
    sent += send(harness, 2)
    assert answered(harness, sent), 'between two clips every image is answered at once'
    assert all(t.instances for t in harness.tracks)
    assert figures(harness, memory_frames=1, memory_bytes=1, tracks_in_memory=1)
    ids = [{i.track_id for i in t.instances} for t in harness.tracks]
    assert ids[1:] == ids[:-1]


@clips
@pytest.mark.parametrize('end', ['deactivate', 'shutdown'])
def test_nothing_is_left_open_when_the_node_is_stopped(harness, end):
    (camera,) = harness.cameras
    sent = send(harness, 7)
    assert answered(harness, sent[:5])
    getattr(harness.node, f'trigger_{end}')()
    assert answered(harness, sent)
    assert camera.statistics.processed == 7 and camera.stream.figures()['frames_open'] == 0


@clips
def test_a_reset_answers_what_is_open(harness):
    sent = send(harness, 7)
    before = {i.track_id for t in harness.tracks for i in t.instances}
    assert call(harness, Trigger, '/masa_tracker/reset', Trigger.Request()).success
    sent += send(harness)
    assert answered(harness, sent[:7]), 'with the next image'
    sent += send(harness, 2)
    assert answered(harness, sent)
    assert before.isdisjoint(i.track_id for i in harness.tracks[-1].instances)


@clips
def test_open_images_of_another_size_or_time_are_answered_first(harness):
    sent = send(harness, 2)
    sent += send(harness, 1, scene(size=(480, 640)))
    assert answered(harness, sent)
    sizes = [(t.image_height, t.image_width) for t in harness.tracks]
    assert sizes == [(240, 320), (240, 320), (480, 640)]
    sent += send(harness, 4, scene(size=(480, 640)))  # two of which are open
    harness._stamp = 5 * SECOND
    sent += send(harness, 3, scene(size=(480, 640)))
    assert answered(harness, sent)
    assert figures(harness, event_time_jump=1, event_size_change=1)
    assert harness.report('failed') == '0'


def test_options_change_at_run_time_or_say_why_not(harness):
    def rejected(name, value):
        answer = set_parameter(harness, name, value)
        assert not answer.successful
        return answer.reason

    (camera,) = harness.cameras
    detector, asked = camera.stream.method.detector, []
    detect = detector.detect

    def counted(frames, words):
        asked.append(len(frames))
        return detect(frames, words)

    detector.detect = counted
    send(harness, 3)
    assert len(asked) == 1
    assert set_parameter(harness, 'detection_every', 1).successful
    send(harness, 3)
    assert len(asked) == 4
    for name, value in (('clip_frames', 2), ('incremental', True), ('keep_overlaps', True)):
        assert set_parameter(harness, name, value).successful
    assert set_parameter(harness, 'score_threshold', 1.0).successful, 'of the detector'
    assert set_parameter(harness, 'incremental', False).successful
    assert set_parameter(harness, 'max_missed', 0).successful
    send(harness, 4)
    assert harness.until(lambda: harness.tracks and not harness.tracks[-1].instances)
    assert figures(harness, objects_deleted=1)
    assert 'clean it up' in rejected('propagator', 'deva')
    assert 'clean it up' in rejected('detector', 'everything')
    rejected('detection_every', 0)  # by its range
    assert harness.report('mistakes') == '0'


@pytest.mark.skipif(not WITH_VISION, reason='vision_msgs is not installed')
@pytest.mark.parametrize(
    'harness',
    [{**DEVA, 'given_detections': True, 'masks': False, 'max_objects': 40}],
    indirect=True,
    ids=['given'],
)
def test_three_hundred_detections_at_once(harness):
    from vision_msgs import msg as vision

    boxes = harness.peer.create_publisher(vision.Detection2DArray, 'detections', 10)
    assert harness.until(boxes.get_subscription_count)

    def exchange(count):
        message = harness.image(scene())
        given = vision.Detection2DArray(header=message.header)
        for i in range(count):
            each = vision.Detection2D()
            each.bbox.center.position.x = 8.0 + 15 * (i % 20)
            each.bbox.center.position.y = 8.0 + 15 * (i // 20)
            each.bbox.size_x = each.bbox.size_y = 12.0
            given.detections.append(each)
        boxes.publish(given)
        return harness.exchange(message)

    answer = exchange(300)
    assert len(answer.instances) == 40 and figures(harness, detections_refused=260)
    ids = {i.track_id for i in answer.instances}
    for _ in range(29):  # what nobody confirms six times in a row is gone
        assert {i.track_id for i in exchange(0).instances} == ids
    assert not exchange(0).instances
    assert figures(harness, objects_deleted=40)
    assert harness.report('memory_bytes') == '0' and harness.report('tracks_in_memory') == '0'
    assert len(exchange(0).instances) == 0


@pytest.mark.parametrize(
    'error, counted',
    [(IndexError('of a programmer'), 'mistakes'), (RuntimeError('CUDA error'), 'event_finish')],
    ids=['mistake', 'model'],
)
@clips
def test_what_fails_at_the_end_costs_no_image_twice(harness, capfd, error, counted):
    (camera,) = harness.cameras
    send(harness, 7)

    def wrong():
        raise error

    camera.stream._session.finish = wrong
    harness.node.trigger_deactivate()
    report = camera.statistics.report
    assert report()[counted] == 1 and report()['failed'] == 0
    assert report()['received'] == report()['processed'] == 7
    assert len(warned(capfd, 'open images are not published')) == 1
