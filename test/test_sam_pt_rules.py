# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""SAM-PT's rules: which points and prompts, which are used, when points are chosen anew."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import scene
from test_prompted import SAM_FRAME, sam  # noqa: F401

from masa_ros.methods.sam_pt import SamPt, SamPtConfig
from masa_ros.methods.sam_pt.drawers import SamPicture
from masa_ros.methods.sam_pt.points import KINDS, select
from masa_ros.methods.sam_pt.prompting import Answer, Asked, Passes, draw, gather
from masa_ros.methods.sam_pt.reinit import Variant, next_frames
from masa_ros.methods.sam_pt.visibility import Code, Filter, Judge
from masa_ros.point_trackers.lucas_kanade import LucasKanade, LucasKanadeConfig
from masa_ros.point_trackers.protocol import Seen
from masa_ros.streams.stream import Stream
from masa_ros.types import Frame, Mask, Prompt

SHARED = Path(os.environ.get('MASA_ROS_SHARED', Path(__file__).parents[2] / 'shared'))
TOOLS = Path(__file__).parents[1] / 'tools'
FIXTURES = SHARED / 'parity' / 'sam_pt'


def disc(size=(240, 320)):
    y, x = np.mgrid[: size[0], : size[1]]
    return (x - 70) ** 2 + (y - 80) ** 2 <= 34**2


# Query points


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('count', [1, 8, 16])
def test_points_lie_on_the_mask(kind, count):
    shuffle = np.random.default_rng(0).permutation
    mask = disc()
    (points,) = select(kind, [mask], [scene()], count, shuffle, patch=21)
    assert points.shape == (count, 2) and points.dtype == np.float32
    x, y = np.rint(points).astype(int).T
    assert mask[y, x].all()
    assert len(np.unique(points, axis=0)) == count


@pytest.mark.parametrize('kind', KINDS)
def test_points_of_masks_of_next_to_nothing(kind):
    shuffle = np.random.default_rng(0).permutation
    none, few = np.zeros((2, 40, 50), bool)
    few[7, 9:12] = True
    image = scene(size=(40, 50))
    empty, repeated = select(kind, [none, few], [image, image], 8, shuffle)
    assert not empty.any()
    assert {tuple(point) for point in repeated.tolist()} <= {(9, 7), (10, 7), (11, 7)}


def test_medoids_are_spread_and_in_the_middle():
    mask = np.zeros((60, 100), bool)
    mask[10:30, 5:25] = mask[10:30, 60:80] = True
    shuffle = np.random.default_rng(0).permutation
    (points,) = select('kmedoids', [mask], [scene(size=(60, 100))], 2, shuffle)
    points = points[points[:, 0].argsort()]
    assert np.abs(points - ((14.5, 19.5), (69.5, 19.5))).max() <= 2


def test_corners_are_what_lucas_kanade_can_follow():
    shuffle = np.random.default_rng(0).permutation
    tracker = LucasKanade(LucasKanadeConfig(window=11))
    before, after = tracker.encode([Frame(scene(), 0), Frame(scene(2), 1)])
    followed = {}
    for kind in ('kmedoids', 'corners'):
        (points,) = select(kind, [disc()], [scene()], 8, shuffle, patch=tracker.patch)
        (seen,) = tracker.begin(before, points).step(after)
        followed[kind] = int(seen.visible.sum())
        assert np.abs(seen.points - points - (2, 0))[seen.visible].max(initial=0) < 0.5
    assert followed['corners'] >= 4
    assert followed['kmedoids'] == 0, 'the disc is plain inside'


# Prompts


class Canvas:
    """Answers with a square around the last point, and keeps what it was asked."""

    scale = (2.0, 2.0)

    def __init__(self, score=0.9):
        self.calls, self.score = [], score

    def ask(self, points, positive, box, low):
        self.calls.append((points, positive, box, low))
        logits = np.full((60, 80), -1, np.float32)
        logits[10:21, 30:51] = 1
        return Answer(logits, self.score, len(self.calls))


ASKED = Asked(np.float32([(40, 15), (5, 5)]), np.array([True, False]))


def test_passes_are_those_of_the_paper_and_the_box_is_in_the_decoders_pixels():
    canvas = Canvas()
    logits, score = draw(canvas, ASKED, Passes(refinements=2))
    points, signs, boxes, low = zip(*canvas.calls)
    assert [len(each) for each in points] == [1, 2, 2, 2]
    assert signs[0].tolist() == [True] and signs[1].tolist() == [True, False]
    assert (points[1] == ASKED.points * 2).all()
    assert low == (None, 1, 2, 3)
    assert boxes[0] is None and boxes[1] is None
    assert boxes[2].tolist() == boxes[3].tolist() == [60, 20, 100, 40]
    assert score == 0.9 and (logits > 0).sum() == 11 * 21
    released = Canvas()
    draw(released, ASKED, Passes(refinements=1, released=True))
    assert released.calls[-1][2].tolist() == [30, 10, 50, 20]


def test_a_poor_mask_is_none_and_nothing_is_asked_without_a_point_on_the_object():
    assert draw(Canvas(0.6), ASKED, Passes()) == (None, 0.6)
    beside, canvas = Asked(ASKED.points[1:], ASKED.positive[1:]), Canvas()
    assert draw(canvas, beside, Passes()) == (None, -np.inf) and not canvas.calls
    draw(canvas, beside, Passes(released=True))
    assert len(canvas.calls[0][0]) == 0, 'released: asked with no point at all'


def test_points_of_other_objects_say_where_this_one_is_not():
    other = Asked(np.float32([(9, 9), (8, 8)]), np.array([True, False]))
    asked = gather([ASKED, other], 0, Passes())
    assert asked.points.tolist() == [[40, 15], [5, 5], [9, 9]]
    assert asked.positive.tolist() == [True, False, False]
    assert gather([ASKED, other], 0, Passes(others=False)) is ASKED
    some = gather([ASKED, other, other], 0, Passes(most_others=1), lambda n, k: np.arange(k))
    assert len(some.points) == 3


def test_sams_decoder_is_asked_as_its_own_predictor_does(sam):  # noqa: F811
    segmenter, predictor = sam
    (encoded,) = segmenter.detector.encode([SAM_FRAME.image])
    picture = SamPicture(segmenter.detector, encoded)
    predictor.set_image(SAM_FRAME.image)
    points, signs = np.float32([(100, 80), (31, 7)]), np.array([True, False])
    box = np.float32((20, 30, 180, 140))
    low = None
    for given in (None, box):
        with torch.inference_mode():
            answer = picture.ask(points, signs, given, low)
        masks, quality, logits = predictor.predict(
            points, signs, given, None if low is None else low[None].numpy(), False, True
        )
        assert np.abs(answer.logits - masks[0]).max() < 1e-3
        assert answer.score == pytest.approx(float(quality[0]), abs=1e-4)
        assert np.abs(answer.low.numpy() - logits[0]).max() < 1e-3
        low = answer.low


def test_with_sam_masks_are_its_own(sam):  # noqa: F811
    segmenter, _ = sam
    config = SamPtConfig(device='cpu', least_score=0.0, refinements=1)
    stream = Stream(SamPt(segmenter.detector, segmenter, LucasKanade(), config))
    stream.track(SAM_FRAME)
    body = Mask(36, 46, np.ones((69, 69), bool))
    stream.ask(Prompt(0, mask=body))
    moved = Frame(scene(2, (192, 256)), 1)
    (result,) = stream.track(moved)
    found = stream._session._follower.found(1)[1]
    assert found.score != 1.0 and found.visible.any(), 'the decoder was asked'
    assert len(result.tracks) == (found.mask.width > 0)


# Which points are used


def test_points_at_the_border_and_unlike_ones_are_left_out():
    image = scene()
    points = np.float32([(36, 80), (100, 80), (1, 100)])
    judge = Judge(Filter(0.5, 5), image, points)
    assert judge.first(image, points).tolist() == [Code.VISIBLE, Code.VISIBLE, Code.OUTSIDE]
    moved = points + np.float32([(0, 0), (3, 40), (20, 0)])
    seen = Seen(moved, np.array([True, True, True]))
    assert judge.codes(image, seen)[:2].tolist() == [Code.VISIBLE, Code.UNLIKE]
    back = Seen(points, np.array([False, True, True]))
    assert judge.codes(image, back)[:2].tolist() == [Code.HIDDEN, Code.REJECTED]
    judge.keep(np.array([1]))
    assert judge.codes(image, Seen(points[1:2], np.array([True]))).tolist() == [Code.REJECTED]


def test_the_next_window_begins_where_the_variant_says():
    areas = np.array([[100, 90, 140, 20, 120, 101, 60, 70], [50, 50, 0, 60, 52, 40, 55, 70]])
    for variant, expected in (
        (Variant.HORIZON, [7, 7]),
        (Variant.MEDIAN, [7, 6]),
        (Variant.SIMILAR, [5, 4]),
    ):
        assert next_frames(areas, variant, 8).tolist() == expected, variant
    assert len(set(next_frames(areas, Variant.SIMILAR_ALL, 8).tolist())) == 1
    assert next_frames(areas, Variant.HORIZON, 8, [3]).tolist() == [3, 3]
    assert next_frames(areas, Variant.SIMILAR_ALL, 8, [4]).tolist() == [4, 4]


def test_numbers_of_the_original(monkeypatch):
    if not (FIXTURES / 'prompting.npz').is_file():
        pytest.skip(f'the numbers of the original code are not at {FIXTURES}')
    monkeypatch.syspath_prepend(str(TOOLS))
    from parity_checks import report
    from parity_checks import sam_pt as checks

    monkeypatch.setattr(checks.query, 'central', checks.introselect)
    lines, fixtures = report.Report(), report.Fixtures(FIXTURES, None)
    checks.compare_points(lines, fixtures.arrays('points.npz'))
    arrays = fixtures.arrays('prompting.npz')
    fake = checks._load_fake(fixtures)
    for name in ('refinement_3_no_others', 'patch_filter_on_0_2', 'reinit_A_kmedoids'):
        checks.Case(lines, fake, arrays, name).compare()
    assert lines.lines > 40 and not lines.failed
