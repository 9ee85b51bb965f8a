# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Frames that move, and where tracks must be seen by a camera that has moved."""

from functools import partial

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from masa_ros.masks import crop
from masa_ros.methods.masa import Masa, MasaConfig
from masa_ros.space.cameras import Camera
from masa_ros.space.config import RecordedSpaceConfig
from masa_ros.space.frames import Frames, matrix_from
from masa_ros.space.locate import Locator, View
from masa_ros.streams.numbering import Numbering
from masa_ros.streams.stream import Stream
from masa_ros.tracking import Tracker, TrackerConfig
from masa_ros.types import Expected, Frame, Instances, TrackState

SECOND = 10**9
SHAPE, FOCAL = (240, 320), 300.0
MATRIX = np.array([[FOCAL, 0, 159.5], [0, FOCAL, 119.5], [0, 0, 1]])
CAMERA = Camera(SHAPE, MATRIX)


def pose(shift=(0, 0, 0), turn=(0, 0, 0)):
    made = np.eye(4)
    made[:3, :3] = Rotation.from_euler('xyz', turn).as_matrix()
    made[:3, 3] = shift
    return made


# Frames


def test_points_go_from_any_frame_of_a_tree_to_any_other():
    frames = Frames()
    base = pose((1, 2, 0), (0, 0, 0.5))
    camera = pose((0.2, 0, 0.3), (-np.pi / 2, 0, -np.pi / 2))
    laser = pose((-0.1, 0, 0.5), (0, 0, np.pi))
    frames.add('odom', 'base', SECOND, base)
    frames.add('base', 'camera', 0, camera, fixed=True)
    frames.add('base', 'laser', 0, laser, fixed=True)
    np.testing.assert_allclose(frames.between('camera', 'odom', SECOND), base @ camera)
    np.testing.assert_allclose(
        frames.between('laser', 'camera', SECOND), np.linalg.inv(camera) @ laser
    )
    for frame in ('camera', 'unheard of'):
        np.testing.assert_array_equal(frames.between(frame, frame, 5), np.eye(4))
    with pytest.raises(LookupError, match='nothing connects'):
        frames.between('camera', 'map', SECOND)


def test_between_two_times_a_frame_goes_straight_and_turns_evenly():
    frames = Frames()
    for second, shift, yaw in ((3, 3, 0.6), (1, 1, 0.2), (2, 2, 0.4)):  # in any order
        frames.add('odom', 'base', second * SECOND, pose((shift, 0, 0), (0, 0, yaw)))
    found = frames.between('base', 'odom', 5 * SECOND // 2)
    np.testing.assert_allclose(found, pose((2.5, 0, 0), (0, 0, 0.5)), atol=1e-12)
    for at, words in ((SECOND // 2, '0.5 s before'), (4 * SECOND, '1 s after')):
        with pytest.raises(LookupError, match=words):
            frames.between('base', 'odom', at)
    frames.forget(5 * SECOND // 2)
    np.testing.assert_allclose(frames.between('base', 'odom', 5 * SECOND // 2), found)
    with pytest.raises(LookupError, match='before'):
        frames.between('base', 'odom', SECOND)


def test_a_frame_told_of_anew_and_frames_in_a_circle():
    frames = Frames()
    frames.add('odom', 'base', 0, pose((1, 0, 0)))
    frames.add('odom', 'base', 0, pose((2, 0, 0)))
    assert frames.between('base', 'odom', 0)[0, 3] == 2
    frames.add('map', 'base', 0, pose((5, 0, 0)))
    assert frames.between('base', 'map', 0)[0, 3] == 5
    frames.add('base', 'map', 0, np.eye(4))
    with pytest.raises(LookupError, match='circle'):
        frames.between('base', 'map', 0)


def test_what_is_no_transform_is_refused():
    np.testing.assert_allclose(matrix_from((1, 2, 3), (0, 0, 0, 1)), pose((1, 2, 3)))
    for shift, turn in (((0, 0, 0), (0, 0, 0, 0)), ((np.nan, 0, 0), (0, 0, 0, 1))):
        with pytest.raises(LookupError, match='transform'):
            matrix_from(shift, turn)


# Where tracks should be seen


class Balls:
    """Discs of a size in metres at places, seen from anywhere, with their depth."""

    def __init__(self, *places, radius=0.15, camera=CAMERA):
        self.places, self.radius, self.camera = np.array(places, float), radius, camera
        self.locator = Locator(RecordedSpaceConfig())

    def seen(self, where, behind=6.0):
        """Return the tracks of those in view, and the depth."""
        rows, columns = np.indices(SHAPE)
        depth = np.full(SHAPE, behind, np.float32)
        masks, ids = [], []
        local = (self.places - where[:3, 3]) @ where[:3, :3]
        for i, point in enumerate(local):
            if point[2] < 0.1:
                continue
            x, y = self.camera.seen_at(point[None])[0] - 0.5
            disc = (columns - x) ** 2 + (rows - y) ** 2 <= (self.radius * FOCAL / point[2]) ** 2
            if disc.sum() > 50:
                depth[disc] = point[2]
                masks.append(crop(disc))
                ids.append(i + 1)
        boxes = np.array([mask.box for mask in masks], np.float32).reshape(-1, 4)
        states = np.full(len(ids), TrackState.TRACKED, np.uint8)
        tracks = Instances(boxes, track_ids=np.array(ids), states=states, masks=tuple(masks))
        return tracks, depth

    def look(self, seconds, where):
        tracks, depth = self.seen(where)
        view = View(depth, self.camera)
        self.locator.locate(tracks, round(seconds * SECOND), view, where)
        return tracks

    def expected(self, seconds, where):
        made = self.locator.foresight.at(round(seconds * SECOND), self.camera, where)
        return dict(zip(made.track_ids.tolist(), made.boxes))


def walk(seconds):
    return pose((0.1 * seconds, 0, 0.3 * seconds), (0.02, 0.25 - 0.25 * seconds, 0.1 * seconds))


@pytest.mark.parametrize(
    'camera', [CAMERA, Camera(SHAPE, MATRIX, np.array([0.1, -0.05, 0.001, -0.002, 0.01]))]
)
def test_boxes_follow_a_camera_that_turns_and_walks(camera):
    balls = Balls((-0.4, 0.1, 2.5), (0.5, -0.2, 3.5), camera=camera)
    for i in range(10):
        balls.look(i / 10, walk(i / 10))
    expected = balls.expected(1.5, walk(1.5))
    tracks, _ = balls.seen(walk(1.5))
    before, _ = balls.seen(walk(0.9))
    assert len(tracks) == 2
    for track_id, box, old in zip(tracks.track_ids.tolist(), tracks.boxes, before.boxes):
        assert np.abs(box - old).max() > 30, 'it has moved far in the image'
        np.testing.assert_allclose(expected[track_id], box, atol=4)


def test_an_object_that_moves_is_expected_further_on():
    balls = Balls((-0.5, 0, 2.5))
    for i in range(15):
        balls.places = np.array([(-0.5 + 0.06 * i, 0, 2.5)])
        balls.look(i / 10, np.eye(4))
    last, _ = balls.seen(np.eye(4))
    (box,) = balls.expected(1.6, np.eye(4)).values()
    centre, old = (b[:2].mean() + b[2:].mean() for b in (box, last.boxes[0]))
    assert centre - old == pytest.approx(2 * 0.12 / 2.5 * FOCAL / 2, rel=0.2)
    much_later = balls.expected(30, np.eye(4))[1]
    assert much_later[0] - last.boxes[0, 0] < 0.6 * 0.5 / 2.5 * FOCAL * 1.2, 'half a second counts'


def test_what_leaves_the_image_stays_where_it_was_seen_whole():
    balls = Balls((0.6, 0, 2.0))
    turned = [0.02 * i for i in range(30)]
    for i, yaw in enumerate(turned):
        balls.look(i / 20, pose(turn=(0, -yaw, 0)))  # it slips out at the right edge
    assert not len(balls.seen(pose(turn=(0, -turned[-1], 0)))[0])
    (gone,) = balls.expected(1.5, pose(turn=(0, -turned[-1], 0))).values()
    assert gone[0] > SHAPE[1]
    back = pose(turn=(0, -0.05, 0))
    (box,) = balls.expected(2, back).values()
    np.testing.assert_allclose(box, balls.seen(back)[0].boxes[0], atol=3)
    # Half of it shows: the box is cut as that of a detection is.
    half = pose(turn=(0, -0.19, 0))
    (box,) = balls.expected(2, half).values()
    np.testing.assert_allclose(box, balls.seen(half)[0].boxes[0], atol=3)
    assert box[2] == SHAPE[1]


def test_what_is_behind_the_camera_is_expected_in_no_image():
    balls = Balls((0, 0, 2.0))
    assert balls.locator.foresight.at(0, CAMERA, np.eye(4)) is None
    balls.look(0, np.eye(4))
    (box,) = balls.expected(0.1, pose(turn=(0, np.pi, 0))).values()
    assert (box > 1000).all()
    balls.look(-5, np.eye(4))  # time jumps back
    assert list(balls.expected(-4.9, np.eye(4))) == [1]


# Association


def found(tracks, looks):
    return Instances(
        tracks.boxes,
        np.full(len(tracks), 0.8, np.float32),
        embeddings=looks[tracks.track_ids - 1].astype(np.float32),
        masks=tracks.masks,
    )


@pytest.mark.parametrize('placed', [False, True])
def test_twins_keep_their_ids_while_the_camera_looks_away(placed):
    balls = Balls((-0.4, 0, 2.0), (0.0, 0.1, 2.0), (0.4, 0, 2.0))
    looks = np.ones((3, 16)) + np.random.default_rng(0).normal(0, 0.01, (3, 16))
    tracker = Tracker(TrackerConfig(confirm_frames=1))
    answers = []
    # To the left until only the first is left, and back from further right.
    turns = [*np.linspace(0, -0.55, 12), *np.linspace(-0.55, 0.3, 6)]
    for i, yaw in enumerate(turns):
        where, stamp_ns = pose(turn=(0, yaw, 0)), i * SECOND // 10
        seen, depth = balls.seen(where)
        places = balls.locator.foresight.at(stamp_ns, CAMERA, where) if placed else None
        tracks = tracker.update(found(seen, looks), stamp_ns, places=places)
        balls.locator.locate(tracks, stamp_ns, View(depth, CAMERA), where)
        by_place = tracks.boxes[:, 0].argsort()
        answers.append(tracks.track_ids[by_place].tolist())
    assert len(answers[0]) == 3 and len(answers[11]) < 3
    same = answers[-1] == answers[0]
    assert same == placed, answers


@pytest.mark.parametrize('told', [False, True])
def test_masa_looks_for_its_tracks_where_it_is_told(told):
    method = Masa.load(MasaConfig(), print)
    stream = Stream(method, numbering=Numbering(first=11))
    image = np.full((*SHAPE, 3), 127, np.uint8)
    boxes = np.array([[x, 100, x + 40, 140] for x in (20, 90, 160)], np.float32)
    ids = []
    for i, shift in enumerate((0, 0, 70)):  # the camera turns: each is where its neighbour was
        frame = stream.admit(Frame(image, (i + 1) * SECOND // 10, 'camera'))
        (encoded,) = method.encode([frame])
        seen = Instances(boxes + np.float32([shift, 0, shift, 0]))
        places = Expected(np.array(ids[-1]), seen.boxes.astype(float)) if told and ids else None
        (result,) = stream.update(frame, encoded, seen, partial(lambda said: said, places))
        order = result.tracks.boxes[:, 0].argsort()
        ids.append(result.tracks.track_ids[order].tolist())
    assert ids[0] == ids[1] and min(ids[0]) == 11
    assert (ids[2] == ids[1]) == told
