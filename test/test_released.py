# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The released trackers: against their recorded decisions, and as the pipeline uses them."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_models import SHARED

from masa_ros.errors import ConfigError
from masa_ros.tracking import ReleasedConfig, ReleasedTracker, make_tracker
from masa_ros.tracking.assignment import greedy
from masa_ros.types import Instances, TrackState


def sequences():
    path = SHARED / 'parity/tracker/sequences.json'
    return json.loads(path.read_text())['sequences'] if path.is_file() else []


def seen(*objects, score=0.9):
    """Instances from (look, x, y) or (look, x, y, score); looks are orthogonal."""
    rows = [(*o, score)[:4] for o in objects]
    xy = np.array([r[1:3] for r in rows], np.float32).reshape(-1, 2)
    looks = np.eye(8, dtype=np.float32) * 4
    return Instances(
        boxes=np.hstack((xy - 20, xy + 20)),
        scores=np.array([r[3] for r in rows], np.float32),
        labels=np.zeros(len(rows), np.int32),
        embeddings=looks[[r[0] for r in rows]].reshape(-1, 8),
    )


@pytest.mark.skipif(not sequences(), reason='needs the recorded sequences of shared/parity')
@pytest.mark.parametrize('sequence', sequences(), ids=lambda s: s['name'])
def test_every_decision_of_the_released_code_is_reproduced(sequence):
    rules = {'MasaTaoTracker': 'tao', 'MasaBDDTracker': 'bdd'}[sequence['tracker']]
    with np.load(SHARED / f'parity/tracker/{sequence["name"]}.npz') as file:
        arrays = dict(file)
    tracker = ReleasedTracker(ReleasedConfig(rules=rules, **sequence['params']))
    index, ids, live = [], [], []
    for frame, end in enumerate(np.cumsum(arrays['counts'])):
        if arrays['reset'][frame]:
            tracker.reset()
        here = slice(end - arrays['counts'][frame], end)
        found = [arrays[key][here] for key in ('boxes', 'scores', 'labels', 'embeddings')]
        rows, chosen = tracker.track(*found, int(arrays['frame_ids'][frame]))
        index.extend(rows[chosen > -1])
        ids.extend(chosen[chosen > -1])
        live.append(len(tracker))
    np.testing.assert_array_equal(index, arrays['out_index'])
    np.testing.assert_array_equal(ids, arrays['out_ids'])
    np.testing.assert_array_equal(live, arrays['live_tracks'])
    np.testing.assert_allclose(tracker.memory.embeddings, arrays['final_embeddings'], atol=1e-5)


@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.integers(1, 8), st.booleans())
@settings(max_examples=200)
def test_greedy_equals_a_loop_over_the_rows(seed, rows, columns, coarse):
    rng = np.random.default_rng(seed)
    similarity = rng.random((rows, columns)).astype(np.float32)
    if coarse:  # many ties
        similarity = np.round(similarity, 1)
    takable, able = rng.random(columns) < 0.8, rng.random(rows) < 0.8
    looped, expected = similarity.copy(), []
    for i in range(rows):
        column = int(looped[i].argmax())
        value = looped[i, column]
        expected.append((column, value))
        if value > 0.5 and takable[column] and able[i]:
            looped[:i, column] = 0
            looped[i + 1 :, column] = 0
    best, value = greedy(similarity, takable, 0.5, able)
    assert list(zip(best.tolist(), value.tolist())) == expected


@pytest.mark.parametrize('rules', ['tao', 'bdd'])
def test_ids_count_from_one_and_are_never_given_twice(rules):
    tracker = make_tracker(ReleasedConfig(rules=rules))
    first = tracker.update(seen((0, 100, 100), (1, 300, 300)), 7)
    assert first.track_ids.tolist() == [1, 2]
    assert first.states.tolist() == [TrackState.TRACKED] * 2
    again = tracker.update(seen((1, 300, 300), (0, 100, 100), (2, 500, 500)), 8)
    assert sorted(again.track_ids.tolist()) == [1, 2, 3]
    assert again.first_seen_ns[np.argsort(again.track_ids)].tolist() == [7, 7, 8]
    tracker.reset()
    assert len(tracker) == 0
    assert tracker.update(seen((0, 100, 100)), 9).track_ids.tolist() == [4]


def test_an_empty_frame_and_broken_numbers_are_survived():
    tracker = make_tracker(ReleasedConfig())
    assert len(tracker.update(Instances.empty(8), 0)) == 0
    found = seen((0, 100, 100), (1, 300, 300))
    found.embeddings[1, 0] = np.nan
    assert tracker.update(found, 1).track_ids.tolist() == [1]
    assert tracker.rejected == 1


def test_a_track_forgotten_at_once_began_now():
    tracker = make_tracker(ReleasedConfig(memo_tracklet_frames=0))
    for stamp in range(3):
        tracks = tracker.update(seen((0, 100, 100)), stamp)
        assert tracks.track_ids.tolist() == [stamp + 1]
        assert tracks.first_seen_ns.tolist() == [stamp]


@pytest.mark.parametrize(
    'option',
    [{'rules': 'kitti'}, {'match_metric': 'l2'}, {'max_distance': -2}, {'fps': 0}],
)
def test_senseless_options_are_refused_by_name(option):
    with pytest.raises(ConfigError, match=next(iter(option))):
        ReleasedConfig(**option)
