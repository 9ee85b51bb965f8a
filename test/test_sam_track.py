# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""SAM-Track's decisions by themselves: what is new in a key frame, and which id it gets."""

import os
from pathlib import Path

import numpy as np
import pytest

from masa_ros.methods.sam_track.rules import Ids, Rules, added, merge, new_objects

SHARED = Path(os.environ.get('MASA_ROS_SHARED', Path(__file__).parents[2] / 'shared'))
TOOLS = Path(__file__).parents[1] / 'tools'
SIZE = (40, 60)
SMALL = Rules(min_area=20)


def blocks(*placed, shape=SIZE):
    """A label map of (value, x, y, width, height), later ones over earlier ones."""
    labels = np.zeros(shape, np.int32)
    for value, x, y, width, height in placed:
        labels[y : y + height, x : x + width] = value
    return labels


def block(x, y, width, height):
    return blocks((1, x, y, width, height)) > 0


def areas(labels):
    return {int(v): int(n) for v, n in zip(*np.unique(labels, return_counts=True)) if v}


# Everything


def test_later_masks_lie_over_earlier_ones():
    masks = [block(0, 0, 20, 20), block(10, 10, 10, 10), block(40, 0, 5, 4), block(30, 0, 5, 5)]
    painted = merge(masks, SIZE, SMALL)
    assert painted.dtype == np.int32
    assert areas(painted) == {1: 300, 2: 100, 3: 25}, 'one of 20 pixels is too small'
    assert (painted[10:20, 10:20] == 2).all()


def test_what_is_painted_over_is_left_out_and_numbers_have_no_gaps():
    masks = [block(0, 0, 10, 10), block(0, 0, 10, 8), block(30, 0, 9, 9), block(0, 8, 10, 1)]
    # Of the first 10 pixels are left; the last is too small from the start.
    masks = [*masks[:3], block(0, 8, 30, 1)]
    painted = merge(masks, SIZE, SMALL)
    assert areas(painted) == {1: 80, 2: 81, 3: 30}
    assert areas(merge(masks, SIZE, Rules(min_area=20, max_objects=2))) == {1: 80, 2: 81}
    assert areas(merge([block(0, 0, 9, 9)] * 3, SIZE, Rules(min_area=0))) == {1: 81}


@pytest.mark.parametrize('released', [True, False])
def test_no_masks_at_all_are_no_objects(released):
    rules = Rules(released=released)
    nothing = merge([], SIZE, rules)
    assert nothing.shape == SIZE and not nothing.any()
    assert not new_objects(blocks((1, 0, 0, 9, 9)), nothing, 1, 1, rules).any()


# New objects


@pytest.mark.parametrize('released', [True, False])
@pytest.mark.parametrize(
    'covered, expected', [(0, {9: 100}), (2, {9: 80}), (3, {})], ids=['all', 'four fifths', 'less']
)
def test_new_is_what_lies_mostly_where_nothing_is_tracked(covered, expected, released):
    tracked = blocks((4, 0, 0, 10, covered))
    found = blocks((1, 0, 0, 10, 10))
    rules = Rules(min_area=20, released=released)
    new = new_objects(tracked, found, 9, 1, rules)
    assert areas(new) == expected and not (new[tracked > 0]).any()


def test_exactly_the_least_share_is_enough_for_every_size():
    for height in range(5, 40, 5):
        tracked, found = blocks((1, 0, 0, 20, height // 5)), blocks((1, 0, 0, 20, height))
        for released in (True, False):
            rules = Rules(min_area=1, released=released)
            assert areas(new_objects(tracked, found, 2, 1, rules)) == {2: 16 * height}


def test_new_objects_are_large_enough():
    found = blocks((1, 0, 0, 5, 4), (2, 10, 0, 19, 1))
    assert areas(new_objects(blocks(), found, 3, 0, SMALL)) == {3: 20}


def test_masks_are_not_taken_for_each_other():
    """The new id of the first is the number of the second, as in the released code's accident."""
    found = blocks((1, 0, 0, 10, 10), (2, 20, 0, 10, 10), (3, 40, 0, 10, 10))
    assert areas(new_objects(blocks(), found, 2, 0, SMALL)) == {2: 100, 3: 100, 4: 100}
    released = Rules(min_area=20, released=True)
    assert areas(new_objects(blocks(), found, 2, 0, released)) == {4: 300}


def test_the_numbers_of_masks_say_nothing_of_ids():
    found = blocks((1, 0, 0, 10, 10), (2, 20, 0, 10, 10), (3, 40, 0, 10, 10))
    other = np.array([0, 30, 1, 7])[found].astype(np.int32)
    new = new_objects(blocks(), other, 5, 0, SMALL)
    assert areas(new) == {5: 100, 6: 100, 7: 100}


def test_no_more_than_so_many_are_followed():
    found = blocks((1, 0, 0, 10, 10), (2, 20, 0, 10, 10), (3, 40, 0, 10, 10))
    rules = Rules(min_area=20, max_objects=4)
    assert areas(new_objects(blocks(), found, 900, 2, rules)) == {900: 100, 901: 100}
    assert areas(new_objects(blocks(), found, 900, 5, rules)) == {}
    released = Rules(min_area=20, max_objects=4, released=True)
    assert areas(new_objects(blocks(), found, 4, 0, released)) == {4: 100}, 'the largest id'


def test_what_was_pointed_at_lies_over_everything():
    assert areas(added(blocks((1, 0, 0, 10, 10)), block(5, 0, 10, 10), 8)) == {1: 50, 8: 100}


# Ids


def test_ids_are_never_given_twice():
    ids = Ids(Rules())
    assert ids.next == 1
    ids.given(blocks((3, 0, 0, 5, 5)))
    ids.given(blocks((2, 0, 0, 5, 5)))
    ids.given(blocks())
    assert (ids.largest, ids.next) == (3, 4)


def test_released_ids_join_the_last_object():
    ids = Ids(Rules(released=True))
    assert ids.next == 1
    ids.given(blocks())
    assert ids.next == 0, 'the first object after a frame without any is lost'
    ids.given(blocks((3, 0, 0, 5, 5)))
    assert ids.next == 3


def test_random_frames_keep_the_promises():
    draw = np.random.default_rng(0)
    for _ in range(50):
        tracked, found = (
            blocks(*((k, *draw.integers(0, (50, 30)), *draw.integers(1, 25, 2)) for k in range(8)))
            for _ in range(2)
        )
        known = int(draw.integers(0, 12))
        rules = Rules(min_area=int(draw.integers(0, 90)), max_objects=int(draw.integers(1, 15)))
        new = new_objects(tracked, found, 20, known, rules)
        given = areas(new)
        assert list(given) == list(range(20, 20 + len(given)))
        assert len(given) <= max(rules.max_objects - known, 0)
        for each, area in given.items():
            (source,) = np.unique(found[new == each])
            assert area == np.count_nonzero((found == source) & (tracked == 0))
            assert area >= rules.min_area and area >= 0.8 * np.count_nonzero(found == source)
        assert not new[tracked > 0].any()


def test_numbers_of_the_original(monkeypatch):
    folder = SHARED / 'parity' / 'sam_track'
    if not (folder / 'new_objects.npz').is_file():
        pytest.skip(f'the numbers of the original code are not at {folder}')
    monkeypatch.syspath_prepend(str(TOOLS))
    from parity_checks import report, sam_track

    lines = report.Report()
    sam_track.compare_rules(lines, report.Fixtures(folder, None).arrays('new_objects.npz'))
    assert lines.lines > 20 and not lines.failed
