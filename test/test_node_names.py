# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Names of classes, and pictures for viewers, over real DDS."""

import contextlib
import json
import re

import cv2
import numpy as np
import pytest
import rclpy
import yaml
from conftest import scene
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import qos_profile_sensor_data
from ros_harness import tracking
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from masa_ros import overlay
from masa_ros.nodes import messages
from masa_ros.nodes.messages import tracks_from_msg
from masa_ros.nodes.optics import rays
from masa_ros.nodes.outputs import Outputs
from masa_ros.nodes.qos import profile
from masa_ros.share import share_path
from masa_ros.types import Frame, Instances, Mask, Result, TrackState

pytestmark = pytest.mark.ros
vision = pytest.importorskip('vision_msgs.msg')
foxglove = pytest.importorskip('foxglove_msgs.msg')


@pytest.fixture
def harness(request, seeded_weights):
    """A tracking node; parametrise indirectly with parameter overrides."""
    with contextlib.closing(tracking(seeded_weights, **getattr(request, 'param', {}))) as made:
        yield made


@pytest.fixture
def given(seeded_weights):
    """A node that tracks the boxes it is given, and what publishes them."""
    with contextlib.closing(tracking(seeded_weights, given_detections=True)) as made:
        publisher = made.peer.create_publisher(
            vision.Detection2DArray, 'detections', profile('reliable', 10)
        )
        assert made.until(publisher.get_subscription_count)
        yield made, publisher


def listen(harness, kind, topic, qos=qos_profile_sensor_data):
    """What comes on a topic of the node, which knows that somebody listens."""
    came = []
    name = f'/masa_tracker/{topic}'
    harness.peer.create_subscription(kind, name, came.append, qos)
    (publisher,) = (p for p in harness.cameras[0].outputs._all if p.topic_name == name)
    assert harness.until(publisher.get_subscription_count)
    return came


def show(given, *classes):
    """The tracks of an image with a given box of each class."""
    harness, publisher = given
    image = harness.image(scene())
    message = vision.Detection2DArray(header=image.header)
    for i, class_id in enumerate(classes):
        box = vision.Detection2D(header=image.header)
        box.bbox.center.position.x, box.bbox.center.position.y = 40.0 + 60 * i, 100.0
        box.bbox.size_x = box.bbox.size_y = 50.0
        result = vision.ObjectHypothesisWithPose()
        result.hypothesis.class_id, result.hypothesis.score = class_id, 0.9
        box.results.append(result)
        message.detections.append(box)
    publisher.publish(message)
    return harness.exchange(image)


def by_place(items, x):
    return [text for _, text in sorted((x(item), text) for item, text in items)]


def named(message):
    return {c.class_id: c.class_name for c in message.class_map}


def test_names_of_given_detections_are_the_same_everywhere(given):
    harness, _ = given
    boxes = listen(harness, vision.Detection2DArray, 'detections', 10)
    drawn = listen(harness, foxglove.ImageAnnotations, 'annotations')
    answer = show(given, 'cup', '3', '', 'plate')
    assert by_place([(i, i.class_name) for i in answer.instances], lambda i: i.x_min) == [
        *('cup', '3', '', 'plate')
    ]
    assert {i.class_name: i.class_id for i in answer.instances} == {
        **{'cup': 0, '3': 3, '': -1, 'plate': 1}
    }
    assert harness.until(lambda: boxes and drawn)
    pairs = [(d, d.results[0].hypothesis.class_id) for d in boxes[0].detections]
    assert by_place(pairs, lambda d: d.bbox.center.position.x) == ['cup', '3', '', 'plate']
    texts = by_place([(t, t.text) for t in drawn[0].texts], lambda t: t.position.x)
    ids = by_place([(i, i.track_id) for i in answer.instances], lambda i: i.x_min)
    middle = [' cup', ' class 3', '', ' plate']
    assert texts == [f'{number}{name} 0.90' for number, name in zip(ids, middle)]


def test_label_info_grows_and_waits_for_who_comes_late(given):
    harness, _ = given
    (publisher,) = (p for p in harness.cameras[0].outputs._all if 'label_info' in p.topic_name)
    show(given, '3')  # no name
    first = listen(harness, vision.LabelInfo, 'label_info', profile('transient_local', 10))
    show(given, 'cup')
    assert harness.until(lambda: len(first) == 1)
    assert named(first[0]) == {0: 'cup'}
    show(given, 'cup', '3')
    show(given, 'cup', 'plate')
    assert harness.until(lambda: len(first) == 2), 'again only when there are new names'
    late = listen(harness, vision.LabelInfo, 'label_info', profile('transient_local', 1))
    assert harness.until(lambda: late)
    assert [named(message) for message in late] == [{0: 'cup', 1: 'plate'}] == [named(first[1])]
    assert len(first) == 2
    assert publisher.get_subscription_count() == 2


def test_names_met_while_the_node_was_inactive_are_not_lost(given):
    harness, _ = given
    outputs = harness.cameras[0].outputs
    came = listen(harness, vision.LabelInfo, 'label_info', profile('transient_local', 1))
    outputs._label_info.on_deactivate(None)
    show(given, 'cup')
    outputs._label_info.on_activate(None)
    show(given, 'cup')
    assert harness.until(lambda: came)
    assert named(came[0]) == {0: 'cup'}


def test_label_info_has_the_numbers_that_it_can_hold():
    names = {-5: 'below', 0: 'cup', 65534: 'last', 65535: 'unlabelled', 1 << 20: 'beyond'}
    message = messages.names_to_label_info(names, Header())
    assert named(message) == {0: 'cup', 65534: 'last'}


def test_annotations_are_the_outlines_of_the_masks(harness):
    assert harness.exchange(harness.image(scene()))
    drawn = listen(harness, foxglove.ImageAnnotations, 'annotations')
    pixels = np.zeros((80, 100), np.uint8)
    cv2.ellipse(pixels, (50, 40), (48, 38), 0, 0, 360, 1, -1)
    tracks = Instances(
        np.array([(30, 0, 130, 80), (200, 150, 260, 210)], np.float32),
        masks=(Mask(30, 0, pixels.astype(bool)), None),
        track_ids=np.array([4, 5]),
        states=np.array([TrackState.TRACKED, TrackState.LOST], np.uint8),
    )
    frame = Frame(scene(), 7_000_000_000, 'camera')
    harness.cameras[0].outputs.publish(Result(frame, tracks), 'any', False, None)
    assert harness.until(lambda: drawn)
    assert len(drawn) == 1, 'nothing of before'
    (message,) = drawn
    expected = [(i, o) for i in range(len(tracks)) for o in overlay.outlines(tracks, i)]
    assert [len(outline) > 4 for _, outline in expected] == [True, False]
    assert len(message.points) == len(expected)
    assert len(message.texts) == len(tracks)
    for annotation, (i, outline) in zip(message.points, expected):
        assert annotation.type == annotation.LINE_LOOP
        assert annotation.timestamp.sec == 7
        np.testing.assert_allclose([(p.x, p.y) for p in annotation.points], outline, atol=1e-4)
        colour = annotation.outline_color
        rgb = np.multiply((colour.r, colour.g, colour.b), 255)
        np.testing.assert_allclose(rgb, overlay.colour_in(tracks, i), atol=1e-4)
    for text in message.texts:
        assert text.position.y >= text.font_size, 'it stays in the picture'


# For RViz


def calibration(d=(), model='plumb_bob', focal=250.0, centre=(159.5, 119.5)):
    """Calibration of images of 320 x 240 pixels; P is another than K."""
    cx, cy = centre
    return CameraInfo(
        **{'height': 240, 'width': 320, 'distortion_model': model, 'd': [float(v) for v in d]},
        k=[focal, 0.0, cx, 0.0, focal, cy, 0.0, 0.0, 1.0],
        p=[200.0, 0.0, 150.0, 0.0, 0.0, 200.0, 110.0, 0.0, 0.0, 0.0, 1.0, 0.0],
    )


def test_the_principal_point_lies_on_the_optical_axis():
    info = calibration(centre=(170.0, 100.0))
    # One focal length to the right of it is a metre to the right, a metre ahead.
    points = np.array([(170.5, 100.5), (420.5, 100.5), (170.5, -149.5)])
    np.testing.assert_allclose(rays(points, info), [(0, 0), (1, 0), (0, -1)], atol=1e-9)
    rectified = np.array([(150.5, 110.5), (350.5, 110.5)])
    np.testing.assert_allclose(rays(rectified, info, True), [(0, 0), (1, 0)], atol=1e-9)


DISTORTIONS = {
    'plumb_bob': (-0.28, 0.09, 0.001, -0.0005, -0.01),
    'rational_polynomial': (0.3, 0.05, 0.0005, -0.001, 0.01, 0.5, 0.1, 0.02),
    'equidistant': (0.02, -0.01, 0.003, 0.0),
}


@pytest.mark.parametrize('model', DISTORTIONS)
def test_distortion_is_taken_out(model):
    info = calibration(DISTORTIONS[model], model)
    places = np.stack(np.meshgrid(np.linspace(-0.6, 0.6, 9), np.linspace(-0.45, 0.45, 7)), -1)
    places = places.reshape(-1, 2)
    project = cv2.fisheye.projectPoints if model == 'equidistant' else cv2.projectPoints
    matrix, zero = np.reshape(info.k, (3, 3)), np.zeros(3)
    seen, _ = project(np.insert(places, 2, 1, 1)[:, None], zero, zero, matrix, np.array(info.d))
    np.testing.assert_allclose(rays(seen.reshape(-1, 2) + 0.5, info), places, atol=2e-3)
    plain = calibration()
    assert np.abs(rays(seen.reshape(-1, 2) + 0.5, plain) - places).max() > 0.02, 'it distorts'


def test_a_point_that_no_ray_is_seen_at_has_none():
    info = calibration(DISTORTIONS['equidistant'], 'equidistant', focal=60.0)
    found = rays(np.array([(160.0, 120.0), (1.0, 1.0)]), info)  # straight ahead; behind
    assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()


@pytest.mark.parametrize(
    'info, words',
    [
        (CameraInfo(), 'not calibrated'),
        (calibration((0.1,) * 5, 'thin_prism'), "'thin_prism' is not known"),
        (calibration((0.1,) * 7), '7 numbers'),
        (calibration((0.1,) * 5, 'equidistant'), '5 numbers'),
    ],
)
def test_what_cannot_be_used_says_why(info, words):
    with pytest.raises(ValueError, match=words):
        rays(np.zeros((1, 2)), info)
    assert rays(np.zeros((0, 2)), calibration()).shape == (0, 2)


def test_markers_for_rviz_lie_where_the_camera_sees_the_tracks(harness):
    came = listen(harness, MarkerArray, 'marker_array', 10)
    outputs = harness.cameras[0].outputs
    for _ in range(2):
        assert harness.exchange(harness.image(scene()))
    assert harness.until(lambda: harness.report('event_no_camera_info') == '1'), 'said once'
    assert not came
    info = calibration(DISTORTIONS['plumb_bob'])
    publisher = harness.peer.create_publisher(CameraInfo, 'camera_info', qos_profile_sensor_data)
    assert harness.until(publisher.get_subscription_count)
    publisher.publish(info)
    assert harness.until(lambda: harness.cameras[0].inputs.info is not None)
    answer = harness.exchange(harness.image(scene()))
    assert harness.until(lambda: came)
    assert not outputs.rectified
    tracks = tracks_from_msg(answer)
    none, lines, *texts = came[0].markers
    assert none.action == Marker.DELETEALL
    assert lines.type == Marker.LINE_LIST and len(lines.points) == len(lines.colors)
    for marker in (lines, *texts):
        assert marker.header == answer.header
        assert marker.action == Marker.ADD and marker.lifetime.sec == 2
    assert len(texts) == len(tracks) == len({text.id for text in texts})
    names = {each.class_id: each.class_name for each in answer.instances}
    assert texts[0].text == overlay.caption(tracks, 0, names)
    expected = np.concatenate([o for i in range(len(tracks)) for o in overlay.outlines(tracks, i)])
    ahead = np.array([(p.x, p.y, p.z) for p in lines.points])
    assert (ahead[:, 2] == 1).all()
    matrix, zero = np.reshape(info.k, (3, 3)), np.zeros(3)
    seen, _ = cv2.projectPoints(ahead[:, None], zero, zero, matrix, np.array(info.d))
    np.testing.assert_allclose(seen[::2, 0] + 0.5, expected, atol=0.5)


def test_what_nobody_looks_at_is_not_made(harness, monkeypatch):
    def wrong(*arguments):
        raise AssertionError('nobody listens')

    for name in ('tracks_to_annotations', 'tracks_to_marker_array'):
        monkeypatch.setattr(messages, name, wrong)
    outputs = harness.cameras[0].outputs
    result = Result(Frame(scene(), 7_000_000_000, 'camera'), Instances.empty())
    outputs.publish(result, 'any', False, calibration())
    drawn = listen(harness, foxglove.ImageAnnotations, 'annotations')
    with pytest.raises(AssertionError, match='nobody listens'):
        outputs.publish(result, 'any', False, calibration())
    assert not drawn


@pytest.mark.parametrize(
    'topic, rectified',
    [('/rect/image_raw', False), ('/camera/image_rect_color', True), ('/image_rect', True)],
)
def test_the_name_of_the_topic_says_whether_images_are_rectified(topic, rectified):
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    try:
        arguments = ['--ros-args', '-r', f'image_raw:={topic}']
        node = LifecycleNode('tracker', context=context, cli_args=arguments)
        outputs = Outputs(node, '', 'sensor_data', lambda *words: None)
        assert outputs.rectified == rectified
        outputs.destroy()
        node.destroy_node()
    finally:
        rclpy.shutdown(context=context)


def test_an_image_without_tracks_clears_the_picture():
    message = messages.tracks_to_marker_array(
        Instances.empty(), Header(), calibration(), False, {}
    )
    (none,) = message.markers
    assert none.action == Marker.DELETEALL


def test_viewers_are_set_up_for_topics_that_there_are(harness):
    rviz = yaml.safe_load(share_path('config/masa_ros.rviz').read_text())
    displays = rviz['Visualization Manager']['Displays']
    wanted = {
        (each['Topic']['Value'], each['Class'].rpartition('/')[2])
        for each in displays
        if each['Topic']['Reliability Policy'] == 'Reliable'
    }
    assert len(wanted) == len(displays) == 4
    wanted.remove(
        ('/masa_tracker/marker_array_3d', 'MarkerArray')
    )  # with space.depth: test_node_space
    there = {
        (name, kind.rpartition('/')[2])
        for name, kinds in harness.node.get_publisher_names_and_types_by_node('masa_tracker', '/')
        for kind in kinds
    }
    assert wanted <= there
    text = share_path('config/foxglove_layout.json').read_text()
    assert json.loads(text)
    topics = set(re.findall(r'/masa_tracker/\w+', text))
    assert '/masa_tracker/annotations' in topics
    assert topics <= {name for name, _ in there}
