# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Positions in space over real DDS: depth in, positions out, and what goes wrong with depth.

tf2 is not among the wheels of the package index: where a test needs it, a module of that name
stands in, which answers as tf2_ros does.
"""

import array
import contextlib
import struct
import sys
import types
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from masa_ros.msg import TrackedInstance3D
from ros_harness import SECOND, Harness
from sensor_msgs.msg import CameraInfo, CompressedImage, PointCloud2, PointField
from space_kit import BEHIND, FOCAL, NEAR, WHERE, FollowingSession, load, metres, scene, space
from visualization_msgs.msg import MarkerArray

from masa_ros.errors import ConfigError
from masa_ros.nodes import messages, space_messages
from masa_ros.nodes.parameters import NodeConfig
from masa_ros.options import build
from masa_ros.streams.depth import DepthMatcher

pytestmark = pytest.mark.ros
K = [FOCAL, 0.0, 159.5, 0.0, FOCAL, 119.5, 0.0, 0.0, 1.0]


def where(instance):
    return np.array([instance.position.x, instance.position.y, instance.position.z])


def only(answer):
    (instance,) = answer.instances
    return instance


def is_measured(answer, tolerance=0.02):
    instance = only(answer)
    assert instance.position_source == TrackedInstance3D.POSITION_MEASURED
    np.testing.assert_allclose(where(instance), WHERE, atol=tolerance)
    return instance


def test_depth_is_off_by_default_and_costs_nothing():
    assert build(NodeConfig, {}).space.depth == 'off'
    with pytest.raises(ConfigError, match='near'):
        build(NodeConfig, {'space.near': 3.0, 'space.far': 2.0})


@pytest.mark.parametrize('encoding', ['32FC1', '16UC1'])
def test_a_track_has_its_position_in_metres_under_the_header_of_the_image(encoding):
    pixels = metres() if encoding == '32FC1' else (metres() * 1000).astype(np.uint16)
    with space() as node:
        answer = node.place(pixels=pixels, encoding=encoding)
        found = is_measured(answer)
        assert node.until(lambda: node.tracks)
        assert answer.header == node.tracks[-1].header
        assert answer.depth_stamp == answer.header.stamp
        assert answer.target_frame == 'camera_optical_frame'
        (track,) = node.tracks[-1].instances
        assert (found.track_id, found.state) == (track.track_id, track.state)
        assert found.reason == found.REASON_NONE and 2500 < found.depth_points < 4000
        width = 68 / FOCAL * NEAR
        np.testing.assert_allclose((found.box_size.x, found.box_size.y), width, rtol=0.05)
        assert found.box_size.z < 0.02
        np.testing.assert_allclose(found.box_center.z, NEAR, atol=0.01)
        covariance = np.reshape(found.position_covariance, (3, 3))
        assert 0 < covariance[2, 2] < 0.05**2


def test_compressed_depth_is_read():
    with space(**{'space.depth': 'compressedDepth'}) as node:
        message = node.image(scene())
        data = struct.pack('<iff', 0, 0, 0)
        data += cv2.imencode('.png', (metres() * 1000).astype(np.uint16))[1].tobytes()
        depth = CompressedImage(header=message.header, format='16UC1; compressedDepth png')
        depth.data = array.array('B', data)
        node.compressed_depth.publish(depth)
        node.images.publish(message)
        assert node.until(lambda: node.places)
        is_measured(node.places[-1])


def test_velocity_and_prediction_while_depth_is_missing():
    with space(**{'space.wait': 0}) as node:
        speed = 3 / FOCAL * NEAR * 10  # three pixels in a tenth of a second
        for i in range(15):
            answer = node.place(shift=3 * i)
            moving = only(answer)
        assert moving.has_motion and moving.velocity.x == pytest.approx(speed, rel=0.15)
        assert abs(moving.velocity.z) < 0.05
        predicted = only(node.place(depth=False, shift=45))
        assert predicted.position_source == predicted.POSITION_PREDICTED
        assert predicted.reason == predicted.REASON_NO_DEPTH
        assert predicted.position.x == pytest.approx(WHERE[0] + 45 / FOCAL * NEAR, abs=0.03)
        assert predicted.seconds_since_measured == pytest.approx(0.1, abs=0.001)
        assert predicted.depth_points == 0
        wider = np.reshape(predicted.position_covariance, (3, 3))
        assert wider[0, 0] > np.reshape(moving.position_covariance, (3, 3))[0, 0]
        assert node.until(lambda: node.report('event_space_no_depth') == '1')


def info(frame='depth_frame', focal=FOCAL):
    made = CameraInfo(height=240, width=320, distortion_model='plumb_bob', d=[0.0] * 5)
    made.k = [focal, *K[1:4], focal, *K[5:]]
    made.header.frame_id = frame
    return made


class Tf2(types.ModuleType):
    """As much of tf2_ros as the node uses; knows transforms by (target, source)."""

    class TransformException(Exception):  # noqa: N818  as tf2_ros calls it
        pass

    def __init__(self):
        super().__init__('tf2_ros')
        self.known, self.sent = {}, []
        module = self

        class Buffer:
            def __init__(self, cache_time=None):
                pass

            def lookup_transform(self, target, source, time, timeout=None):
                if (target, source) not in module.known:
                    raise module.TransformException(f'"{source}" does not exist')
                made = TransformStamped()
                shift, turn = module.known[target, source]
                moved = made.transform.translation
                moved.x, moved.y, moved.z = shift
                turned = made.transform.rotation
                turned.x, turned.y, turned.z, turned.w = turn
                return made

        self.Buffer = Buffer
        self.TransformListener = lambda buffer, node: SimpleNamespace(unregister=lambda: None)
        self.TransformBroadcaster = lambda node: SimpleNamespace(
            sendTransform=lambda made: module.sent.extend(made)
        )


@pytest.fixture
def tf2(monkeypatch):
    made = Tf2()
    monkeypatch.setitem(sys.modules, 'tf2_ros', made)
    return made


def test_depth_of_another_camera_is_seen_from_ours(tf2):
    # Theirs stands 8 cm to the right of ours.
    tf2.known['camera_optical_frame', 'depth_frame'] = ((0.08, 0, 0), (0, 0, 0, 1))
    rows, columns = np.indices((240, 320))
    middle = 70 - 0.08 / NEAR * FOCAL
    pixels = np.where((columns - middle) ** 2 + (rows - 80) ** 2 <= 34**2, NEAR, BEHIND)
    with space(**{'space.registered': False}) as node:
        assert node.until(node.depth_info.get_subscription_count)
        node.depth_info.publish(info())
        (camera,) = node.cameras
        assert node.until(lambda: camera.space._depth_info is not None)
        answer = node.place(pixels=pixels.astype(np.float32), frame='depth_frame')
        is_measured(answer)


def test_positions_in_a_frame_that_stands_still_and_objects_sent_to_tf2(tf2):
    # The optical frame looks along x of the map, from (1, 2, 3).
    tf2.known['map', 'camera_optical_frame'] = ((1, 2, 3), (-0.5, 0.5, -0.5, 0.5))
    with space(**{'space.target_frame': 'map', 'space.tf_objects': ['1', 'cup']}) as node:
        found = is_measured(node.place())
        assert node.places[-1].target_frame == 'map'
        at = found.target_position
        expected = (1 + WHERE[2], 2 - WHERE[0], 3 - WHERE[1])
        np.testing.assert_allclose((at.x, at.y, at.z), expected, atol=0.02)
        turned = np.reshape(found.target_position_covariance, (3, 3))
        before = np.reshape(found.position_covariance, (3, 3))
        ratio = (turned[0, 0] / before[2, 2], turned[1, 1] / before[0, 0])
        np.testing.assert_allclose(ratio, 2, rtol=0.01)  # the first time: filter and measurement
        assert node.until(lambda: tf2.sent)
        (sent, *_) = tf2.sent
        assert sent.child_frame_id == 'masa_tracker/1'
        assert sent.header.frame_id == 'camera_optical_frame'
        assert sent.transform.translation.z == pytest.approx(NEAR, abs=0.01)


def test_tracks_are_looked_for_where_they_must_be_seen_from_where_the_camera_is_now(
    tf2, monkeypatch
):
    told = []
    monkeypatch.setattr(
        *(FollowingSession, 'expect', lambda self, expected: told.append(expected)), raising=False
    )
    tf2.known['map', 'camera_optical_frame'] = ((1, 2, 3), (0, 0, 0, 1))
    with space(**{'space.target_frame': 'map'}) as node:
        is_measured(node.place())
        tf2.known['map', 'camera_optical_frame'] = ((1.1, 2, 3), (0, 0, 0, 1))
        seen = node.place(shift=-15)
        (track,) = node.tracks[-1].instances
        left = track.x_min
        assert told[-1].track_ids.tolist() == [only(seen).track_id]
        assert told[-1].boxes[0, 0] == pytest.approx(left, abs=1.5), '0.1 m are 15 pixels there'
        assert node.until(lambda: node.report('space_place_known') == str(len(told)))
        tf2.known.clear()  # that costs the image nothing
        node.place(shift=-15)
        assert node.until(lambda: node.report('space_place_unknown') == '1')
    count = len(told)
    tf2.known['map', 'camera_optical_frame'] = ((1, 2, 3), (0, 0, 0, 1))
    with space(**{'space.target_frame': 'map', 'space.place_3d': False}) as node:
        is_measured(node.place())
        node.place()
    assert len(told) == count


def test_without_a_transform_there_is_a_position_but_no_motion(tf2):
    with space(**{'space.target_frame': 'map'}) as node:
        found = is_measured(node.place())
        assert not found.has_motion
        assert node.until(lambda: node.report('event_space_transform') == '1')
        assert 'map' in node.report('last_problem')


def test_without_tf2_two_frames_are_one_only_where_that_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, 'tf2_ros', None)
    for identity in (False, True):
        parameters = {'space.registered': False, 'space.identity': identity}
        with space(**parameters) as node:
            assert node.until(node.depth_info.get_subscription_count)
            node.depth_info.publish(info())
            (camera,) = node.cameras
            assert node.until(lambda camera=camera: camera.space._depth_info is not None)
            answer = node.place(frame='depth_frame')
            if identity:
                is_measured(answer)
            else:
                assert only(answer).reason == TrackedInstance3D.REASON_NO_TRANSFORM
                assert only(answer).position_source == TrackedInstance3D.POSITION_NONE


def cloud_of(points, header, frame):
    fields = [
        PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
        for i, name in enumerate('xyz')
    ]
    height, width = points.shape[:2]
    made = PointCloud2(header=header, height=height, width=width, fields=fields, point_step=12)
    made.row_step = 12 * width
    made.data = array.array('B', points.astype('<f4').tobytes())
    made.header.frame_id = frame
    return made


@pytest.mark.parametrize('organised', [True, False])
def test_a_cloud_is_depth_too(tf2, organised):
    # A scanner looks along x; z is up.
    tf2.known['camera_optical_frame', 'laser'] = ((0, 0, 0), (0.5, -0.5, 0.5, 0.5))
    rows, columns = np.indices((240, 320))
    z = metres()
    points = np.dstack(((columns - 159.5) / FOCAL * z, (rows - 119.5) / FOCAL * z, z))
    frame = 'camera_optical_frame'
    if not organised:
        frame = 'laser'
        points = points[::4, ::4].reshape(1, -1, 3)[..., [2, 0, 1]] * (1, -1, -1)
    with space(**{'space.depth': 'points'}) as node:
        message = node.image(scene())
        node.cloud.publish(
            cloud_of(points, node.header(messages.stamp_to_ns(message.header.stamp)), frame)
        )
        node.images.publish(message)
        assert node.until(lambda: node.places)
        found = is_measured(node.places[-1], 0.03)
        assert (found.depth_points > 2000) == organised


def test_views_and_detections_are_made_for_who_listens(monkeypatch):
    made = []
    build_markers = space_messages.places_to_markers
    monkeypatch.setattr(
        space_messages,
        'places_to_markers',
        lambda *a: made.append(build_markers(*a)) or made[-1],
    )
    with space() as node:
        assert node.place()
        assert not made, 'nobody listens'
        came = {'markers': [], 'cloud': [], 'detections': []}
        topics = [
            (MarkerArray, 'marker_array_3d', 'markers'),
            (PointCloud2, 'object_points', 'cloud'),
        ]
        if messages.VISION is not None:
            topics.append((messages.VISION.Detection3DArray, 'detections_3d', 'detections'))
        for kind, topic, name in topics:
            node.peer.create_subscription(kind, f'/masa_tracker/{topic}', came[name].append, 10)
        (camera,) = node.cameras
        outputs = [p for p in camera.space._all if 'tracks_3d' not in p.topic_name]
        assert node.until(lambda: all(p.get_subscription_count() for p in outputs))
        answer = node.place()
        assert node.until(lambda: all(came[name] for _, _, name in topics))
        nothing, box, text = came['markers'][0].markers
        assert nothing.action == nothing.DELETEALL and box.header == answer.header
        assert text.text.endswith(f'{np.linalg.norm(WHERE):.2f} m') and 'disc' not in box.text
        assert box.scale.x == pytest.approx(68 / FOCAL * NEAR, rel=0.05) and box.scale.z > 0
        (cloud,) = came['cloud'][:1]
        assert 0 < cloud.width <= 600 and len(cloud.data) == 16 * cloud.width
        values = np.frombuffer(bytes(cloud.data), '<f4').reshape(-1, 4)
        np.testing.assert_allclose(values[:, 2], NEAR, atol=0.01)
        if messages.VISION is not None:
            (detection,) = came['detections'][0].detections
            assert detection.id == str(only(answer).track_id)
            assert detection.bbox.center.position.z == pytest.approx(NEAR, abs=0.01)
            pose = detection.results[0].pose
            assert pose.covariance[0] == only(answer).position_covariance[0]


def test_every_camera_has_topics_of_its_own_and_a_node_starts_again():
    parameters = {'cameras': ['front', 'rear'], 'space.depth': 'compressedDepth', 'device': 'cpu'}
    with contextlib.closing(Harness(parameters, load)) as node:
        assert node.until(lambda: node.node._state_machine.current_state[1] == 'active')
        for name, camera in zip(('front', 'rear'), node.cameras):
            assert camera.space.topic == f'/{name}/depth/image_raw/compressedDepth'
            assert camera.space._tracks.topic_name == f'/masa_tracker/{name}/tracks_3d'
    with space() as node:
        is_measured(node.place())
        (camera,) = node.cameras
        for transition in (node.node.trigger_deactivate, node.node.trigger_activate):
            transition()
        assert node.until(node.depth.get_subscription_count)
        node.calibrate()
        assert node.until(lambda: node.images.get_subscription_count())
        is_measured(node.place())


# What goes wrong


def goes_on(node, reason, event):
    """2D is untouched, the position has a reason, the event is counted."""
    answer = node.place()
    assert node.until(lambda: len(node.tracks) == len(node.places))
    assert only(answer).reason == reason
    assert only(answer).position_source == TrackedInstance3D.POSITION_NONE
    assert len(node.tracks[-1].instances) == 1
    assert node.until(lambda: int(node.report(f'event_{event}') or 0) > 0)


@pytest.mark.parametrize(
    'fields, words',
    [
        ({'width': 640}, '640'),
        ({'k': [float('nan'), *K[1:]]}, 'finite'),
        ({'k': [0.0] * 9}, 'not calibrated'),
        ({'distortion_model': 'mirror', 'd': [0.1]}, 'mirror'),
        ({'d': [0.1] * 3}, 'distortion of 3'),
    ],
)
def test_a_calibration_that_cannot_be_used(fields, words):
    with space() as node:
        node.calibrate(**fields)
        (camera,) = node.cameras
        seen = camera.inputs.info
        assert node.until(
            lambda: all(
                np.array_equal(getattr(camera.inputs.info, n), v, equal_nan=True)
                if n in 'kd'
                else getattr(camera.inputs.info, n) == v
                for n, v in fields.items()
            )
        ), seen
        goes_on(node, TrackedInstance3D.REASON_NO_CALIBRATION, 'space_calibration')
        assert words in str([s.values for m in node.diagnostics[-2:] for s in m.status])


@pytest.mark.parametrize(
    'pixels, encoding, reason',
    [
        (metres() * 1000, '32FC1', TrackedInstance3D.REASON_OUT_OF_RANGE),
        (np.full((240, 320), np.nan, np.float32), '32FC1', TrackedInstance3D.REASON_FEW_POINTS),
        (np.zeros((240, 320), np.uint16), '16UC1', TrackedInstance3D.REASON_FEW_POINTS),
        (np.zeros((240, 320, 3), np.uint8), 'rgb8', TrackedInstance3D.REASON_NO_DEPTH),
        (np.zeros((24, 320), np.uint16), '16UC1', TrackedInstance3D.REASON_NO_DEPTH),
    ],
)
def test_depth_that_cannot_be_used(pixels, encoding, reason):
    with space() as node:
        instance = only(node.place(pixels=pixels, encoding=encoding))
        assert instance.reason == reason and instance.position_source == 0
        assert node.until(lambda: node.tracks)
        is_measured(node.place())


def test_depth_in_other_units_is_right_with_its_scale():
    with space(**{'space.scale': 0.0001}) as node:
        is_measured(node.place(pixels=(metres() * 10000).astype(np.uint16), encoding='16UC1'))


def test_depth_that_is_out_of_step_or_stops_delays_nothing():
    with space(**{'space.wait': 2}) as node:
        is_measured(node.place())
        for _ in range(4):
            message = node.image(scene())
            late = messages.ns_to_stamp(messages.stamp_to_ns(message.header.stamp) - SECOND // 20)
            depth = node.depth_image(metres(), node.header(0))
            depth.header.stamp = late
            node.depth.publish(depth)
            assert node.exchange(message), 'tracks wait for no depth'
        assert node.until(lambda: len(node.places) == 4), 'the last waits for nearer depth'
        for _ in range(2):
            assert node.exchange(node.image(scene()))
        assert node.until(lambda: len(node.places) == 5), 'two may wait, not three'
        assert {only(each).reason for each in node.places[1:]} == {1}
        # The depth of an image that was given up.
        depth = node.depth_image(metres(), node.places[1].header)
        node.depth.publish(depth)
        assert node.until(lambda: node.report('space_late') == '1')


def test_one_scan_serves_all_images_near_it_in_their_order():
    with space(**{'space.slop': 0.5, 'space.wait': 10}) as node:
        is_measured(node.place())
        for _ in range(4):
            message = node.image(scene())
            assert node.exchange(message)
        assert len(node.places) == 1, 'nearer depth may come'
        node.depth.publish(node.depth_image(metres(), message.header))
        assert node.until(lambda: len(node.places) == 5)
        assert [each.header.stamp for each in node.places] == [
            each.header.stamp for each in node.tracks
        ]
        for answer in node.places[1:]:
            is_measured(answer)
        assert node.report('event_space_behind') == ''


def test_a_mistake_in_space_costs_no_image(monkeypatch):
    with space() as node:
        assert node.place()
        (camera,) = node.cameras

        def broken(*_):
            raise ZeroDivisionError('made for this test')

        monkeypatch.setattr(camera.space._locator, 'locate', broken)
        for _ in range(3):
            assert node.exchange(node.image(scene()))
            node.depth.publish(node.depth_image(metres(), node.tracks[-1].header))
        assert node.until(lambda: int(node.report('mistakes') or 0) >= 1)
        assert node.report('failed') == '0'
        monkeypatch.undo()
        is_measured(node.place())


# Matching, without ROS


def test_every_image_gets_the_nearest_depth_in_its_order():
    matcher = DepthMatcher(10, 3)
    assert matcher.add_image(100, 'a') == []
    assert matcher.add_depth(95, 'A') == [], 'a nearer one may come'
    assert matcher.add_depth(102, 'B') == [('a', 'B')]
    assert matcher.add_image(101, 'b') == [('b', 'B')], 'depth serves several images'
    assert matcher.add_image(150, 'c') == [] and matcher.add_image(200, 'd') == []
    assert matcher.add_depth(199, 'D') == [('c', None)]
    assert len(matcher) == 1 and matcher.add_depth(230, 'E') == [('d', 'D')]


def test_an_image_waits_no_longer_than_others_may_and_late_depth_is_counted():
    matcher = DepthMatcher(10, 2)
    assert [matcher.add_image(100 * i, i) for i in range(4)] == [[], [], [(0, None)], [(1, None)]]
    assert matcher.add_depth(105, 'A') == [] and matcher.late == 1
    assert matcher.add_depth(106, 'B') == [] and matcher.late == 1
    assert matcher.add_depth(200, 'C') == [(2, 'C')]


def test_a_recording_that_begins_again_has_depth_again():
    matcher = DepthMatcher(10, 2)
    second = 1_000_000_000
    assert matcher.add_depth(9 * second, 'A') == []
    assert matcher.add_image(9 * second, 'a') == [('a', 'A')]
    assert matcher.add_depth(second, 'B') == []
    assert matcher.add_image(second, 'b') == [('b', 'B')]
