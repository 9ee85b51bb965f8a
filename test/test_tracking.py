# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa_ros.errors import ConfigError
from masa_ros.tracking import ReleasedConfig, Tracker, TrackerConfig, make_tracker
from masa_ros.tracking.assignment import first_come, greedy, optimal
from masa_ros.tracking.geometry import ious
from masa_ros.tracking.similarity import bisoftmax, bisoftmax_of, masa_similarity
from masa_ros.types import Instances, Mask, TrackState

SECOND = 1_000_000_000
FRAME = SECOND // 10
LOOKS = np.linalg.qr(np.random.default_rng(0).normal(size=(32, 32)))[0] / np.sqrt(0.07)


def seen(*objects, score=0.8):
    """Instances from (look, x, y) or (look, x, y, score); boxes are 40 pixels wide."""
    rows = [(*o, score)[:4] for o in objects]
    xy = np.array([r[1:3] for r in rows], np.float32).reshape(-1, 2)
    noise = np.random.default_rng(len(rows)).normal(0, 0.05, (len(rows), 32))
    return Instances(
        boxes=np.hstack((xy - 20, xy + 20)),
        scores=np.array([r[3] for r in rows], np.float32),
        embeddings=(LOOKS[[r[0] for r in rows]].reshape(-1, 32) + noise).astype(np.float32),
        masks=tuple(Mask(0, 0, np.ones((1, 1), bool)) for _ in rows),
    )


def run(frames, config=None, step=FRAME):
    """Ids of each frame in the order of the objects given, 0 for an object without a track."""
    tracker = Tracker(config or TrackerConfig(publish_tentative=True))
    ids = []
    for t, objects in enumerate(frames):
        found = seen(*objects)
        tracks = tracker.update(found, t * step)
        row = []
        for box in found.boxes:
            same = np.flatnonzero((tracks.boxes == box).all(axis=1))
            row.append(int(tracks.track_ids[same[0]]) if len(same) else 0)
        ids.append(row)
    return ids


def test_ids_stay_while_objects_move():
    frames = [[(0, 100 + 8 * t, 100), (1, 300 - 8 * t, 200)] for t in range(20)]
    assert all(ids == [1, 2] for ids in run(frames))


def test_ids_survive_a_crossing():
    frames = [[(0, 100 + 10 * t, 100), (1, 300 - 10 * t, 104)] for t in range(20)]
    assert all(ids == [1, 2] for ids in run(frames))


def test_identical_twins_are_told_apart_by_their_place():
    frames = [[(0, 100 - 5 * t, 100), (0, 160 + 5 * t, 100)] for t in range(15)]
    assert all(ids == [1, 2] for ids in run(frames))


def test_an_object_keeps_its_id_through_an_occlusion():
    frames = [[(0, 100 + 5 * t, 100)] if not 5 <= t < 15 else [] for t in range(25)]
    assert {i for ids in run(frames) for i in ids} == {1}


def test_an_object_that_comes_back_elsewhere_is_known_by_its_looks():
    frames = [[(0, 100, 100), (1, 400, 400)]] * 5 + [[(1, 400, 400)]] * 10
    frames += [[(0, 700, 300), (1, 400, 400)]] * 5
    assert all(ids == [1, 2] for ids in run(frames)[15:])


def test_another_object_at_the_same_place_is_another_track():
    frames = [[(0, 100, 100), (2, 300, 300)]] * 5 + [[(2, 300, 300)]] * 12
    frames += [[(1, 100, 100), (2, 300, 300)]] * 3
    assert run(frames)[-1] == [3, 2]


def test_an_object_unseen_for_longer_than_the_memory_is_new():
    frames = [[(0, 100, 100)]] * 3 + [[]] * 40 + [[(0, 100, 100)]]
    assert run(frames, TrackerConfig(memory_seconds=3.0, publish_tentative=True))[-1] == [2]
    assert run(frames, TrackerConfig(memory_seconds=9.0, publish_tentative=True))[-1] == [1]
    short = TrackerConfig(memory_seconds=9.0, memory_frames=20, publish_tentative=True)
    assert run(frames, short)[-1] == [2]


def test_memory_counts_seconds_whatever_the_frame_rate():
    frames = [[(0, 100, 100)]] * 3 + [[]] * 5 + [[(0, 100, 100)]]
    config = TrackerConfig(memory_seconds=3.0, publish_tentative=True)
    assert run(frames, config, step=FRAME)[-1] == [1]
    assert run(frames, config, step=SECOND)[-1] == [2]


def test_a_weak_detection_continues_a_track_but_starts_none():
    frames = [[(0, 100, 100, 0.8)]] * 3 + [[(0, 102, 100, 0.35), (1, 300, 300, 0.35)]]
    assert run(frames)[-1] == [1, 0]


def test_a_single_sighting_is_not_published():
    tracker = Tracker(TrackerConfig(confirm_frames=2, confirm_score=0.95))
    assert len(tracker.update(seen((0, 100, 100)), 0)) == 0
    confirmed = tracker.update(seen((0, 100, 100)), FRAME)
    assert confirmed.track_ids.tolist() == [1]
    assert confirmed.first_seen_ns.tolist() == [0]


def test_a_sure_detection_is_trusted_at_once():
    tracker = Tracker(TrackerConfig(confirm_score=0.9))
    tracks = tracker.update(seen((0, 100, 100, 0.97)), 0)
    assert tracks.states.tolist() == [TrackState.TRACKED]


def test_lost_tracks_are_published_last_with_their_age():
    tracker = Tracker(TrackerConfig(publish_lost=True))
    for t in range(3):
        tracker.update(seen((0, 100, 100), (1, 300, 300)), t * FRAME)
    for t in range(3, 6):
        tracks = tracker.update(seen((1, 300, 300)), t * FRAME)
    assert tracks.track_ids.tolist() == [2, 1]
    assert tracks.states.tolist() == [TrackState.TRACKED, TrackState.LOST]
    assert tracks.frames_since_seen.tolist() == [0, 3]
    np.testing.assert_array_equal(tracks.boxes[1], [80, 80, 120, 120])
    assert len(tracks.masks) == 2


def test_duplicates_start_no_second_track():
    frames = [[(0, 100, 100, 0.9), (0, 103, 100, 0.45)]] * 4
    assert [ids[0] for ids in run(frames)] == [1] * 4
    assert {ids[1] for ids in run(frames)} == {0}


def test_reset_forgets_but_never_reuses_ids():
    tracker = Tracker(TrackerConfig(publish_tentative=True))
    assert tracker.update(seen((0, 100, 100)), 0).track_ids.tolist() == [1]
    tracker.reset()
    assert len(tracker) == 0
    assert tracker.update(seen((0, 100, 100)), FRAME).track_ids.tolist() == [2]


def test_stamps_may_stand_still_or_jump_back():
    tracker = Tracker(TrackerConfig(publish_tentative=True))
    for stamp in (SECOND, SECOND, 0, 2 * SECOND):
        tracks = tracker.update(seen((0, 100, 100)), stamp)
        assert tracks.track_ids.tolist() == [1]
        assert np.isfinite(tracks.boxes).all()


def test_nobody_becomes_immortal_when_the_clock_is_set_back():
    tracker = Tracker(TrackerConfig(confirm_frames=1, publish_lost=True, memory_seconds=1.0))
    for t in range(3):
        tracker.update(seen((0, 100, 100)), 100 * SECOND + t * FRAME)
    ages = [len(tracker.update(seen(), 50 * SECOND + t * FRAME)) for t in range(20)]
    assert ages == [1] * 11 + [0] * 9, 'no time passes by the jump, and then it does'


def test_tracks_go_on_in_images_of_another_size():
    tracker = Tracker(TrackerConfig(confirm_frames=1, publish_lost=True))
    for t in range(3):
        tracker.update(seen((0, 100, 100), (1, 300, 200)), t * FRAME)
    tracker.rescale(2.0, 0.5)
    tracks = tracker.update(seen((0, 200, 50)), 3 * FRAME)
    assert tracks.track_ids.tolist() == [1, 2]
    np.testing.assert_array_equal(tracks.boxes[1], [560, 90, 640, 110])
    mask = tracks.masks[1]
    before = seen((1, 300, 200)).masks[0]
    assert mask == before.scaled(2.0, 0.5)


@pytest.mark.parametrize('config', [TrackerConfig(), ReleasedConfig(init_score_thr=0.5)])
def test_a_track_that_is_removed_is_forgotten(config):
    tracker = make_tracker(config)
    for t in range(3):
        tracker.update(seen((0, 100, 100), (1, 300, 300)), t * FRAME)
    assert tracker.remove(1) and not tracker.remove(1) and not tracker.remove(77)
    for t in range(3, 6):
        tracks = tracker.update(seen((0, 100, 100), (1, 300, 300)), t * FRAME)
    assert sorted(tracks.track_ids.tolist()) == [2, 3]


def test_numbers_that_are_not_finite_are_refused_and_counted():
    tracker = Tracker(TrackerConfig(publish_tentative=True))
    found = seen((0, 100, 100), (1, 200, 200), (2, 300, 300))
    found.boxes[1, 0] = np.nan
    found.embeddings[2, 5] = np.inf
    assert len(tracker.update(found, 0)) == 1
    assert tracker.rejected == 2


def test_empty_frames_are_frames():
    tracker = Tracker()
    for t in range(5):
        assert len(tracker.update(Instances.empty(32), t * FRAME)) == 0


def test_an_empty_frame_without_embeddings_forgets_nothing():
    tracker = Tracker(TrackerConfig(publish_tentative=True))
    tracker.update(seen((0, 100, 100)), 0)
    tracker.update(Instances.empty(), FRAME)
    assert tracker.update(seen((0, 100, 100)), 2 * FRAME).track_ids.tolist() == [1]


def test_the_order_of_detections_does_not_matter():
    objects = [(i, 60 * i + 30, 100, 0.6 + 0.03 * i) for i in range(10)]
    forward, backward = Tracker(TrackerConfig(publish_tentative=True)), None
    backward = Tracker(TrackerConfig(publish_tentative=True))
    for t in range(5):
        found = seen(*objects)
        a = forward.update(found, t * FRAME)
        b = backward.update(found[np.arange(10)[::-1]], t * FRAME)
        np.testing.assert_array_equal(a.boxes, b.boxes)
        np.testing.assert_array_equal(a.track_ids, b.track_ids)


def test_ids_are_unique_in_every_frame_of_a_crowd():
    rng = np.random.default_rng(0)
    tracker = Tracker(TrackerConfig(publish_tentative=True, publish_lost=True))
    for t in range(60):
        count = int(rng.integers(0, 30))
        objects = [
            (int(rng.integers(32)), *rng.uniform(0, 600, 2), rng.random()) for _ in range(count)
        ]
        ids = tracker.update(seen(*objects), t * FRAME).track_ids
        assert len(set(ids.tolist())) == len(ids)
        assert (ids > 0).all()


def test_a_jolt_of_the_camera_does_not_confuse_twins():
    # It carries one of them to where the other was, who is gone; three bystanders give it away.
    still = [(0, 100, 100), (1, 300, 100), (2, 100, 300), (3, 400, 300), (3, 460, 300)]
    frames = [still] * 4 + [[(look, x + 60, y + 8) for look, x, y in still[:4]]] * 2
    config = TrackerConfig(publish_tentative=True)
    assert run(frames, config)[-1] == [1, 2, 3, 4]
    assert run(frames, dataclasses.replace(config, camera_motion=False))[-1] == [1, 2, 3, 5]


def test_fast_twins_in_a_row_are_told_apart_by_their_motion():
    # They speed up until each lands nearer to where the one ahead was than to its own last place.
    gone = np.cumsum(np.minimum(5 * np.arange(20), 60)).tolist()
    frames = [[(0, 100 + 80 * i + x, 100) for i in range(4)] for x in gone]
    config = TrackerConfig(publish_tentative=True, camera_motion=False)
    assert run(frames, config)[-1] == [1, 2, 3, 4]
    assert run(frames, dataclasses.replace(config, predict_motion=False))[-1] != [1, 2, 3, 4]


def test_the_gallery_knows_an_object_by_an_earlier_aspect():
    aspects = [[(0, 100, 100), (9, 400, 400)]] * 4 + [[(1, 100, 100), (9, 400, 400)]] * 6
    frames = aspects + [[(9, 400, 400)]] * 10 + [[(0, 700, 200), (9, 400, 400)]] * 2
    config = TrackerConfig(publish_tentative=True, memo_momentum=1.0, match_score_thr=0.2)
    assert run(frames, config)[-1] == [1, 2]
    assert run(frames, dataclasses.replace(config, gallery_size=1))[-1] == [3, 2]


def probe_that_sees(*objects):
    """Answers with the nearest of the objects, whatever box is asked about."""
    there = seen(*objects)

    def probe(boxes):
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        own = (there.boxes[:, :2] + there.boxes[:, 2:]) / 2
        return there[np.linalg.norm(centres[:, None] - own[None], axis=2).argmin(axis=1)]

    return probe


def coasting(probe, config=None, frames=3):
    """States and boxes of track 1 in the frames after it was last detected."""
    tracker = Tracker(config or TrackerConfig(confirm_frames=1, publish_lost=True))
    for t in range(-6, 4):
        tracker.update(seen((0, 100 + 4 * t, 100)), t * FRAME)
    after = [tracker.update(seen(), t * FRAME, probe) for t in range(4, 4 + frames)]
    return tracker, after


def test_a_track_coasts_while_it_is_found_where_it_should_be():
    tracker, after = coasting(probe_that_sees((0, 117, 100, 0.35)))
    assert [t.states.tolist() for t in after] == [[TrackState.COASTED]] * 3
    assert [t.frames_since_seen.tolist() for t in after] == [[1], [2], [3]]
    np.testing.assert_array_equal(after[0].boxes, [[97, 80, 137, 120]])
    assert after[0].scores.tolist() == pytest.approx([0.35])
    assert after[0].present.all()
    back = tracker.update(seen((0, 120, 100)), 7 * FRAME)
    assert (back.track_ids.tolist(), back.states.tolist()) == ([1], [TrackState.TRACKED])


@pytest.mark.parametrize(
    'what, there',
    [('looks like another thing', (5, 117, 100, 0.9)), ('hardly an object', (0, 117, 100, 0.1))],
)
def test_a_track_does_not_coast_on(what, there):
    _, after = coasting(probe_that_sees(there))
    assert [t.states.tolist() for t in after] == [[TrackState.LOST]] * 3


def test_coasted_tracks_stand_where_their_score_belongs():
    tracker = Tracker(TrackerConfig(confirm_frames=1, publish_lost=True))
    for t in range(-6, 4):
        tracker.update(seen((0, 100, 100), (1, 300, 300), (2, 500, 500)), t * FRAME)
    probe = probe_that_sees((0, 100, 100, 0.8), (9, 500, 500, 0.1))
    tracks = tracker.update(seen((1, 300, 300, 0.6)), 4 * FRAME, probe)
    assert tracks.track_ids.tolist() == [1, 2, 3]
    assert tracks.states.tolist() == [TrackState.COASTED, TrackState.TRACKED, TrackState.LOST]


def test_coasting_ends_in_time_and_can_be_switched_off():
    probe = probe_that_sees((0, 117, 100, 0.35))
    _, after = coasting(probe, frames=8)
    states = [t.states.tolist()[0] for t in after]
    assert states == [TrackState.COASTED] * 3 + [TrackState.LOST] * 5
    off = TrackerConfig(confirm_frames=1, coast_seconds=0.0, publish_lost=True)
    assert coasting(probe, off)[1][0].states.tolist() == [TrackState.LOST]


def test_a_track_does_not_coast_on_what_is_detected_as_another():
    tracker = Tracker(TrackerConfig(confirm_frames=1))
    for t in range(4):
        tracker.update(seen((0, 100, 100), (0, 160, 100)), t * FRAME)
    # One of two alike is hidden; the probe of its place answers with the other.
    tracks = tracker.update(seen((0, 160, 100)), 4 * FRAME, probe_that_sees((0, 160, 100)))
    assert tracks.track_ids.tolist() == [2]


def test_labels_are_voted_on():
    def labelled(label, score):
        return dataclasses.replace(seen((0, 100, 100, score)), labels=np.array([label], np.int32))

    tracker = Tracker(TrackerConfig(confirm_frames=1))
    last = Tracker(TrackerConfig(confirm_frames=1, vote_labels=False))
    votes = ((7, 0.9), (7, 0.8), (3, 0.95), (-1, 0.99))
    labels = [tracker.update(labelled(*v), t * FRAME).labels[0] for t, v in enumerate(votes)]
    assert labels == [7, 7, 7, 7]
    labels = [last.update(labelled(*v), t * FRAME).labels[0] for t, v in enumerate(votes)]
    assert labels == [7, 7, 3, -1]


@pytest.mark.parametrize('vote, label', [(True, 7), (False, 3)])
def test_a_lost_track_keeps_its_label(vote, label):
    config = TrackerConfig(confirm_frames=1, vote_labels=vote, publish_lost=True)
    tracker = Tracker(config)
    for t, known in enumerate((7, 7, 3)):
        labels = np.array([known], np.int32)
        tracker.update(dataclasses.replace(seen((0, 100, 100)), labels=labels), t * FRAME)
    lost = tracker.update(seen(), 3 * FRAME)
    assert (lost.states.tolist(), lost.labels.tolist()) == ([TrackState.LOST], [label])


def test_a_weak_detection_takes_no_track_from_a_sure_one():
    frames = [[(0, 100, 100)]] * 3 + [[(0, 112, 100, 0.6), (0, 96, 100, 0.45)]]
    config = TrackerConfig(publish_tentative=True, distractor_nms_thr=0.9)
    assert run(frames, config)[-1] == [1, 0]
    assert run(frames, dataclasses.replace(config, two_stage=False))[-1] == [2, 1]


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6), st.floats(0, 1))
@settings(max_examples=150)
def test_the_assignment_is_the_best_there_is(seed, rows, columns, share):
    rng = np.random.default_rng(seed)
    score, allowed = rng.random((rows, columns)), rng.random((rows, columns)) < share
    chosen = list(zip(*(index.tolist() for index in optimal(score, allowed))))
    assert all(allowed[pair] for pair in chosen)
    assert len({i for i, _ in chosen}) == len({j for _, j in chosen}) == len(chosen)

    def best(row, free):
        if row == rows:
            return 0, 0.0
        options = [best(row + 1, free)]
        for column in free:
            if allowed[row, column]:
                count, total = best(row + 1, free - {column})
                options.append((count + 1, total + score[row, column]))
        return max(options)

    count, total = best(0, frozenset(range(columns)))
    assert len(chosen) == count
    assert sum(score[pair] for pair in chosen) == pytest.approx(total)


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 8), st.floats(0, 1))
@settings(max_examples=100)
def test_who_comes_first_chooses_as_the_released_rules_do(seed, rows, columns, share):
    rng = np.random.default_rng(seed)
    # Few different scores, so that some are equal.
    score = np.ceil(rng.random((rows, columns)) * 5) / 5 * (rng.random((rows, columns)) < share)
    i, j = np.nonzero(score)
    chosen = first_come(i, j, score[i, j])
    everybody = np.ones(columns, bool), 0.0, np.ones(rows, bool)
    best, value = greedy(score.copy(), *everybody)
    expected = {(row, int(best[row])) for row in np.flatnonzero(value > 0).tolist()}
    assert set(zip(i[chosen].tolist(), j[chosen].tolist())) == expected


@pytest.mark.parametrize('scale', [1, 10, 100, 1000])
def test_bisoftmax_is_right_however_far_apart_the_dots_are(scale):
    dots = np.random.default_rng(scale).normal(0, scale, (6, 9)).astype(np.float32)
    powers = np.exp(dots.astype(np.longdouble))
    expected = (powers / powers.sum(axis=0) + powers / powers.sum(axis=1, keepdims=True)) / 2
    np.testing.assert_allclose(bisoftmax_of(dots), expected.astype(float), atol=1e-4)


def test_bisoftmax_of_a_hand_computed_case():
    # dot products [[ln 3, 0]]: over tracks 3/4 and 1/4, over the only detection 1 and 1.
    detections, tracks = np.array([[1.0, 0.0]]), np.array([[np.log(3), 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(bisoftmax(detections, tracks), [[7 / 8, 5 / 8]])
    np.testing.assert_allclose(masa_similarity(detections, tracks), [[15 / 16, 5 / 16]])
    assert bisoftmax(np.zeros((0, 4)), np.zeros((3, 4))).shape == (0, 3)


def test_iou_of_hand_computed_boxes():
    a = np.array([[0, 0, 10, 10], [5, 5, 5, 5.0]])
    b = np.array([[5, 0, 15, 10], [0, 0, 10, 10.0]])
    np.testing.assert_allclose(ious(a, b), [[1 / 3, 1], [0, 0]])


@pytest.mark.parametrize(
    'field, value', [('match_score_thr', 1.5), ('memory_seconds', -1), ('motion_weight', np.nan)]
)
def test_senseless_options_are_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=field):
        TrackerConfig(**{field: value})
