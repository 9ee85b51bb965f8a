# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""DEVA's decisions by themselves: masks, votes, consensus, merging and deletion."""

import itertools
import os
import time
from pathlib import Path

import numpy as np
import pytest

from masa_ros.masks import crop
from masa_ros.methods.deva.consensus import ALPHA, choose, consensus, support
from masa_ros.methods.deva.merging import Rules, Table
from masa_ros.methods.deva.segments import Segment, Votes, cut, intersections, joined, paint, split

SHARED = Path(os.environ.get('MASA_ROS_SHARED', Path(__file__).parents[2] / 'shared'))
TOOLS = Path(__file__).parents[1] / 'tools'
SIZE = (60, 80)


def block(x, y, width, height, shape=SIZE):
    full = np.zeros(shape, bool)
    full[y : y + height, max(x, 0) : max(x + width, 0)] = True
    return crop(full)


def segment(mask, label=0, score=0.8, thing=None):
    votes = Votes.of(label, score)
    votes.thing = thing
    return Segment(mask, votes)


def full(masks, shape=SIZE):
    return np.array([mask.full(*shape) for mask in masks], bool).reshape(-1, *shape)


def random_mask(draw, shape=SIZE):
    height, width = draw.integers(1, (20, 30))
    y, x = draw.integers(0, (shape[0] - height, shape[1] - width))
    pixels = np.zeros(shape, bool)
    pixels[y : y + height, x : x + width] = draw.random((height, width)) < 0.7
    return crop(pixels)


# Masks


def test_masks_in_windows_are_as_those_of_the_whole_image():
    draw = np.random.default_rng(0)
    for _ in range(20):
        ours, theirs = ([random_mask(draw) for _ in range(n)] for n in draw.integers(0, 9, 2))
        shared = (full(ours)[:, None] & full(theirs)[None]).sum((2, 3))
        np.testing.assert_array_equal(intersections(ours, theirs), shared)
        for one, other in zip(ours, theirs):
            both = joined(one, other)
            np.testing.assert_array_equal(both.full(*SIZE), one.full(*SIZE) | other.full(*SIZE))
        labels = paint(ours, SIZE)
        for k, mask in enumerate(split(labels, len(ours)), 1):
            np.testing.assert_array_equal(mask.full(*SIZE), labels == k)


def test_the_smaller_mask_lies_in_front():
    large, small, same = block(5, 5, 30, 30), block(10, 10, 8, 8), block(30, 10, 8, 8)
    left = cut([small, large, same], SIZE)
    assert [mask.pixels.sum() for mask in left] == [64, 900 - 64 - 5 * 8, 64]
    both = cut([small, block(12, 10, 8, 8)], SIZE)
    assert [mask.pixels.sum() for mask in both] == [16, 64], 'of equal ones the later'


# Votes and consensus


def test_votes():
    votes = Votes.of(3, 0.5).plus([Votes.of(1, 0.7), Votes.of(1, 0.9), Votes.of(3, 0.5)])
    assert (votes.label, votes.score) == (1, pytest.approx(0.65)), 'of equals the smallest'
    assert votes.plus([Votes.of(3, 0.5)]).label == 3
    assert (Votes().label, Votes().score) == (-1, 1.0)
    assert Votes.of(-1, 0.4).plus([Votes.of(-1, 0.6)]).label == -1
    many = Votes()
    for i in range(1000):
        many = many.plus([Votes.of(i % 3, 0.5)])
    assert len(many.labels) == 3, 'does not grow with time'


def random_support(draw, frames, each, share):
    """Symmetric IoUs of segments of which those of one frame do not overlap."""
    origin = np.repeat(np.arange(frames), each)
    iou = np.zeros((len(origin),) * 2, np.float32)
    for i, j in itertools.combinations(range(len(origin)), 2):
        free = not iou[i, origin == origin[j]].any() and not iou[j, origin == origin[i]].any()
        if origin[i] != origin[j] and free and draw.random() < share:
            iou[i, j] = iou[j, i] = draw.uniform(0.5001, 1)
    return iou


def worth_of(iou, chosen):
    return float((iou.sum(0, dtype=np.float64) - ALPHA)[chosen].sum())


def test_the_choice_is_the_best_there_is():
    """Against a solver of integer programs."""
    optimize = pytest.importorskip('scipy.optimize')
    if not hasattr(optimize, 'milp'):
        pytest.skip('this SciPy has no milp')
    draw = np.random.default_rng(1)
    for frames, each, share in [(3, 9, 0.2), (3, 25, 0.3), (4, 8, 0.2), (5, 6, 0.2)] * 5:
        iou = random_support(draw, frames, each, share)
        chosen = choose(iou)
        pairs = np.argwhere(np.triu(iou > 0))
        assert not (chosen[pairs].all(1)).any(), 'what is chosen does not overlap'
        table = np.zeros((len(pairs), len(iou)))
        table[np.arange(len(pairs))[:, None], pairs] = 1
        solved = optimize.milp(
            ALPHA - iou.sum(0, dtype=np.float64),
            integrality=np.ones(len(iou)),
            bounds=optimize.Bounds(0, 1),
            constraints=optimize.LinearConstraint(table, ub=1),
            options={'mip_rel_gap': 0},
        )
        assert worth_of(iou, chosen) == pytest.approx(-solved.fun, abs=1e-5)


def test_of_several_best_choices_the_first_is_taken():
    draw = np.random.default_rng(2)
    for _ in range(40):
        iou = random_support(draw, 3, 3, 0.5)
        iou[iou > 0] = np.where(iou[iou > 0] > 0.75, 1, 0.75)  # so that many are equal
        every = np.array(list(itertools.product([True, False], repeat=len(iou))))
        allowed = [c for c in every if not (iou[np.ix_(c, c)] > 0).any()]
        worth = np.array([worth_of(iou, c) for c in allowed])
        first = allowed[int(np.argmax(worth > worth.max() - 1e-6))]
        np.testing.assert_array_equal(choose(iou), first)


def test_a_long_chain_is_solved_at_once():
    count = 120
    iou = np.zeros((count, count), np.float32)
    for i in range(count - 1):
        iou[i, i + 1] = iou[i + 1, i] = 0.6
    chosen = choose(iou)
    assert chosen.sum() >= count // 2 - 1 and worth_of(iou, chosen) > 40


def test_a_tangle_is_given_up_in_time():
    iou = random_support(np.random.default_rng(3), 9, 20, 0.5)
    begin = time.process_time()
    chosen = choose(iou)
    assert time.process_time() - begin < 5
    assert not (iou[np.ix_(chosen, chosen)] > 0).any()
    assert worth_of(iou, chosen) > 0.9 * worth_of(iou, greedy(iou))


def greedy(iou):
    chosen, free = np.zeros(len(iou), bool), iou.any(0)
    while free.any():
        chosen[np.argmax(np.where(free, iou.sum(0), -1))] = True
        free &= ~chosen & ~(iou[chosen] > 0).any(0)
    return chosen


def test_support_needs_more_than_half_another_frame_and_the_same_kind():
    one, half, more = block(0, 0, 30, 10), block(10, 0, 30, 10), block(9, 0, 30, 10)
    assert not support([[segment(one)], [segment(half)]]).any(), 'exactly half is not enough'
    assert support([[segment(one)], [segment(more)]]).any()
    assert not support([[segment(one), segment(more)], []]).any()
    assert not support([[segment(one, thing=True)], [segment(more, thing=False)]]).any()


def test_consensus_drops_what_a_single_frame_says_and_counts_all_votes():
    cup, hat, junk = block(5, 5, 20, 20), block(40, 30, 20, 20), block(60, 0, 9, 9)
    near = block(6, 5, 20, 20)
    frames = [
        [segment(cup, 0, 0.9), segment(junk, 1, 1.0)],
        [segment(hat, 1, 0.5), segment(near, 2, 0.6)],
        [segment(hat, 1, 0.7), segment(near, 2, 0.6)],
    ]
    found = consensus(frames)
    assert [each.mask for each in found] == [hat, near], 'two equal ones support each other most'
    assert found[1].votes.label == 2 and found[1].votes.score == pytest.approx(0.7)
    assert consensus([]) == [] == consensus([[], []])
    assert consensus(frames[:1]) == frames[0], 'of one frame everything'


# Merging


def merged(table, propagated, found, **rules):
    return table.merge(propagated, found, SIZE, Rules(**rules), 7)


def test_new_objects_begin_and_matches_grow():
    table, left, right = Table(), block(5, 5, 20, 20), block(40, 5, 20, 30)
    seen = merged(table, [], [segment(left, 4), segment(right, 5)])
    assert [each.track_id for each in table.objects] == [1, 2]
    assert [each.votes.label for each in table.objects] == [5, 4], 'the largest first'
    assert seen == [right, left] and table.objects[0].first_seen_ns == 7
    seen = merged(table, seen, [segment(block(7, 5, 20, 20), 4)])
    assert seen[1] == block(5, 5, 22, 20), 'the union'
    assert [each.missed for each in table.objects] == [1, 0]


@pytest.mark.parametrize('incremental', [False, True])
def test_what_is_missed_too_often_is_deleted(incremental):
    table, mask, nothing = Table(), block(5, 5, 9, 9), block(0, 0, 0, 0)
    rules = Rules(max_missed=2, incremental=incremental)
    merged(table, [], [segment(mask)])
    for t in range(5):
        merged(table, [mask], [], incremental=incremental)
        assert table.missed(rules) == ([1] if t >= 2 and not incremental else [])
    merged(table, [mask], [segment(mask)])
    assert not table.missed(rules), 'one detection is enough'
    for _ in range(3):
        merged(table, [nothing], [], incremental=incremental)
    assert table.missed(rules) == [1]
    assert table.remove([1]) and not table.remove([1])
    merged(table, [], [segment(mask)])
    assert table.objects[0].track_id == 2


def test_only_segments_of_one_kind_match_and_things_lie_in_front():
    table, ground, thing = Table(), block(0, 0, 60, 50), block(0, 0, 60, 40)
    merged(table, [], [segment(ground, thing=False)])
    seen = merged(table, [ground], [segment(thing, thing=True)])
    assert len(table) == 2 and seen[1] == thing
    assert seen[0].pixels.sum() == 60 * 10


def test_behind_the_limit_the_best_begin_and_what_is_there_stays():
    table = Table()
    found = [segment(block(8 * i, 5, 6, 6), score=0.1 + 0.1 * i) for i in range(8)]
    seen = merged(table, [], found, max_objects=3)
    assert sorted(each.votes.score for each in table.objects) == pytest.approx([0.6, 0.7, 0.8])
    merged(table, seen, found, max_objects=3)
    assert (len(table), table.refused) == (3, 10)
    assert all(each.missed == 0 and each.votes.count == 2 for each in table.objects)


def test_layers_keep_overlapping_objects_apart():
    body, head, far = block(5, 5, 20, 40), block(8, 5, 12, 12), block(50, 5, 9, 9)
    table = Table()
    seen = merged(table, [], [segment(head), segment(body), segment(far)], layers=3)
    assert [each.layer for each in table.objects] == [0, 1, 0]
    assert seen == [body, head, far]
    seen = merged(table, seen, [segment(block(5, 5, 20, 20))], layers=3)
    assert table.objects[3].layer == 2
    # What is apart stays apart when nothing new is to be.
    assert merged(table, seen, [segment(block(50, 30, 9, 9))])[:4] == seen
    seen = merged(table, [*seen, block(50, 30, 9, 9)], [], layers=3)
    # A new one that is larger goes behind none of them either.
    merged(table, seen, [segment(block(0, 0, 70, 60))], layers=3)
    assert table.objects[5].layer == 2, 'the last layer takes all that have no other'


def test_numbers_of_the_original(monkeypatch):
    folder = SHARED / 'parity' / 'deva'
    if not (folder / 'consensus.npz').is_file():
        pytest.skip(f'the numbers of the original code are not at {folder}')
    monkeypatch.syspath_prepend(str(TOOLS))
    from parity_checks import deva_consensus, report

    lines = report.Report()
    deva_consensus.compare_consensus(lines, report.Fixtures(folder, None))
    assert lines.lines > 80 and not lines.failed
