# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""SAM-PT: the prompts, the filter of points, windows and where the next one begins."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from masa_ros.methods.sam_pt import points as query
from masa_ros.methods.sam_pt.following import Follower, Found, Moment, Rules, Wanted
from masa_ros.methods.sam_pt.prompting import Answer, Asked, Passes, draw, gather
from masa_ros.methods.sam_pt.reinit import Variant
from masa_ros.methods.sam_pt.visibility import Filter, Judge, likeness, patches
from masa_ros.point_trackers.protocol import Points, Seen
from masa_ros.types import Frame, Mask
from parity_checks.pips import compare_pips
from parity_checks.report import Array, Fixtures, Report
from parity_checks.sam_pt_points import (
    INERTIA,
    PIXELS,
    compare_points,
    introselect,
    poorer,
    shuffle,
)

_VARIANTS = {
    'reinit-on-horizon-and-sync-masks': Variant.HORIZON,
    'reinit-at-median-of-area-diff': Variant.MEDIAN,
    'reinit-on-similar-mask-area': Variant.SIMILAR,
    'reinit-on-similar-mask-area-and-sync-masks': Variant.SIMILAR_ALL,
}
_NONE = Mask(0, 0, np.zeros((0, 0), np.bool_))


def compare_sam_pt(report: Report, fixtures: Fixtures) -> None:
    """Compare everything in the folder."""
    print('-- sam_pt')
    ours, query.central = query.central, introselect
    try:
        _compare_rules(report, fixtures)
    finally:
        query.central = ours
    compare_pips(report, fixtures)


def _compare_rules(report: Report, fixtures: Fixtures) -> None:
    compare_points(report, fixtures.arrays('points.npz'))
    fake = _load_fake(fixtures)
    arrays = fixtures.arrays('prompting.npz')
    for name in arrays['case_names'].tolist():
        Case(report, fake, arrays, str(name)).compare()


def _load_fake(fixtures: Fixtures) -> ModuleType:
    """Import the stand-ins for SAM and the tracker."""
    spec = importlib.util.spec_from_file_location(
        'fake_predictor', fixtures.folder / 'fake_predictor.py'
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class FakePicture:
    """Answers as the stand-in for SAM does, and keeps what it was asked."""

    def __init__(self, fake: ModuleType, shape: tuple[int, int], number: int) -> None:
        self.fake, self.shape, self.number = fake, shape, number
        rows, columns = fake.resized_hw(*shape)
        self.scale = (columns / shape[1], rows / shape[0])
        self.calls: list[dict[str, Any]] = []

    def ask(self, points: Points, positive: Array, box: Array | None, low: Any) -> Answer:
        """See ``Picture``."""
        full, score, more = self.fake.fake_predict(
            *self.shape, points, positive.astype(int), box, low
        )
        self.calls.append(
            {
                'frame': self.number,
                'num_points': len(points),
                'coords_concat': points,
                'labels_concat': positive.astype(np.int8),
                'box': np.full(4, np.nan) if box is None else box,
                'mask_input_sum': np.nan if low is None else float(low.sum(dtype=np.float64)),
                'mask_input_positive_pixels': -1 if low is None else int((low > 0).sum()),
                'answer_iou_area': (float(score), float((full > 0).sum())),
            }
        )
        return Answer(full, float(score), more)


class FakeDrawer:
    """Draws by the passes of the paper; see ``Drawer``."""

    def __init__(self, fake: ModuleType, passes: Passes) -> None:
        self.fake, self.passes = fake, passes
        self.calls: list[dict[str, Any]] = []
        self.pictures = 0
        self.logits: dict[tuple[int, int], Array] = {}

    def draw(self, moment: Moment, objects: Sequence[Wanted]) -> list[tuple[Mask, float]]:
        """See ``Drawer``."""
        shape = moment.frame.shape
        picture = FakePicture(self.fake, shape, self.pictures)
        self.pictures += 1
        seen = [Asked(each.points[each.visible], each.positive[each.visible]) for each in objects]
        answers = []
        for i, each in enumerate(objects):
            asked = gather(seen, i, self.passes, _choose)
            logits, score = draw(picture, asked, self.passes)
            if logits is None:
                logits = np.full(shape, -np.inf, np.float32)
            self.logits[moment.frame.stamp_ns, each.track_id] = logits
            answers.append((Mask(0, 0, logits > 0), score))
        self.calls += picture.calls
        return answers


def _choose(count: int, most: int) -> Any:
    return np.random.choice(count, most, replace=False)


class FakeTracker:
    """Points that move as the stand-in's do; see ``PointTracker``."""

    late = patch = 0

    def __init__(self, fake: ModuleType) -> None:
        self.fake = fake
        self.chains: list[FakeChain] = []

    def begin(self, encoded: Any, points: Points) -> FakeChain:
        """See ``PointTracker``."""
        self.chains.append(FakeChain(self.fake, points))
        return self.chains[-1]

    def encode(self, frames: Sequence[Frame]) -> list[None]:
        """See ``PointTracker``."""
        return [None for _ in frames]

    def facts(self) -> dict[str, Any]:
        """See ``PointTracker``."""
        return {}


class FakeChain:
    """See ``Chain``."""

    def __init__(self, fake: ModuleType, points: Points) -> None:
        self.fake, self.points, self.frames = fake, points, 1

    def step(self, encoded: Any) -> list[Seen]:
        """See ``Chain``."""
        self.frames += 1
        queries = np.pad(self.points, ((0, 0), (1, 0)))
        points, visible = self.fake.linear_tracker(self.frames, queries)
        return [Seen(points[-1], visible[-1])]

    def rest(self) -> list[Seen]:
        """No frame is ever open."""
        return []

    def keep(self, index: Array) -> None:
        """Never asked for by the released rules."""
        raise AssertionError('keep')


class Recording(Follower):
    """Keeps which points were chosen.

    Where k-medoids are others of the same quality, it goes on with the stored ones.
    """

    case: Case

    def choose(self, masks: Sequence[Any], numbers: Sequence[int]) -> list[Points]:
        """See ``Follower``."""
        made = np.stack(super().choose(masks, numbers))
        chosen = self.case.chosen
        stored = self.case.stored.get(f'extract.{len(chosen)}.query_points_txy')
        if self.rules.positive == 'kmedoids' and stored is not None:
            theirs = stored[..., 1:]
            own = slice(self.rules.positives)
            if made.shape == theirs.shape and all(
                poorer('kmedoids', mask, ours[own], other[own]) <= INERTIA
                for mask, ours, other in zip(masks, made, theirs)
            ):
                made[:, own] = theirs[:, own]
        chosen.append(made)
        return list(made)


class Case:
    """One case of the fixtures.

    Parameters
    ----------
    report: where the lines go.
    fake: the stand-ins.
    arrays: of the fixtures.
    name: of the case.

    """

    def __init__(
        self, report: Report, fake: ModuleType, arrays: dict[str, Array], name: str
    ) -> None:
        self.report, self.fake, self.name = report, fake, name
        start = f'{name}.'
        self.stored = {k[len(start) :]: v for k, v in arrays.items() if k.startswith(start)}
        self.config = config = json.loads(str(self.stored['config_json']))
        self.frames = self.stored['frames_rgb']
        self.negatives = config['negative_points_per_mask']
        self.filter = Filter(
            config['patch_similarity_threshold'] if config['use_patch_matching_filtering'] else 0,
            config['patch_size'],
            released=True,
        )
        passes = Passes(
            config['iterative_refinement_iterations'],
            config['sam_iou_threshold'],
            config['add_other_objects_positive_points_as_negative_points'],
            config['max_other_objects_positive_points'],
            self.negatives > 0,
            released=True,
        )
        self.drawer = FakeDrawer(fake, passes)
        self.tracker = FakeTracker(fake)
        self.chosen: list[Array] = []
        self.alike: list[Array] = []

    @property
    def rules(self) -> Rules:
        """Rules of following."""
        config = self.config
        return Rules(
            config['positive_point_selection_method'],
            config['positive_points_per_mask'],
            config['negative_point_selection_method'],
            self.negatives,
            filter=self.filter,
            variant=_VARIANTS[config['reinit_variant']] if config['use_point_reinit'] else None,
            horizon=config['reinit_horizon'],
            ahead=config['reinit_point_tracker_horizon'],
            released=True,
        )

    def compare(self) -> None:
        """Run it, and compare what was asked on the way and what came of it."""
        torch.manual_seed(72)
        np.random.seed(72)
        if 'in.trajectories' in self.stored:
            made = self.fixed(self.stored['in.query_points_txy'])
        else:
            queries = self.queries()
            made = self.windows(queries) if self.rules.variant else self.fixed(queries)
        self._compare_calls()
        self._compare_windows()
        self._compare_made(made)

    def queries(self) -> Array:
        """Choose the first points (N, P, 3), t x y."""
        follower = self._follower(self.frames)
        times = self.stored['in.query_timesteps'].astype(int)
        chosen = follower.choose(list(self.stored['in.query_masks'] > 0), times.tolist())
        whole = np.repeat(times[:, None, None], len(chosen[0]), 1)
        return np.concatenate((whole, np.stack(chosen)), 2).astype(np.float32)

    def _follower(self, frames: Array) -> Recording:
        follower = Recording(self.tracker, self.drawer, self.rules, shuffle)
        follower.case = self
        for t, image in enumerate(frames):
            follower.take(Moment(Frame(image, t), None, None))
        return follower

    def fixed(self, queries: Array) -> dict[str, Array]:
        """Draw all masks of points that were followed through all frames."""
        count, (objects, size) = len(self.frames), queries.shape[:2]
        if 'in.trajectories' in self.stored:
            paths, seen = self.stored['in.trajectories'], self.stored['in.visibilities']
        else:
            paths, seen = self.fake.linear_tracker(count, queries.reshape(-1, 3))
            paths, seen = paths.reshape(count, -1, size, 2), seen.reshape(count, -1, size)
        codes = np.zeros((count, objects, size), np.float32)
        for i in range(objects):
            codes[:, i] = self._codes(queries[i], paths[:, i], seen[:, i])
        scores = np.full((count, objects), -np.inf, np.float32)
        signs = np.arange(size) < size - self.negatives
        before = Found(np.zeros((0, 2), np.float32), np.zeros(0, np.int8), _NONE, 0, 0)
        for t, image in enumerate(self.frames):
            wanted = [
                Wanted(i, paths[t, i], codes[t, i] == 1, signs, before) for i in range(objects)
            ]
            drawn = self.drawer.draw(Moment(Frame(image, t), None, None), wanted)
            scores[t] = [score for _, score in drawn]
        return {
            'trajectories': paths,
            'visibilities': codes,
            'scores_per_frame': scores,
            'scores': scores.mean(0),
            'logits': self._logits(objects, range(count)),
        }

    def _codes(self, queries: Array, points: Array, seen: Array) -> Array:
        """Judge the points of one object, forward and backward from the frame of its mask."""
        start = int(queries[0, 0])
        codes = np.zeros(seen.shape, np.int8)
        for frames in (range(start, len(seen)), range(start, -1, -1)):
            judge = Judge(self.filter, self.frames[start], queries[:, 1:])
            for t in frames:
                if t == start:
                    codes[t] = judge.first(self.frames[t], points[t])
                else:
                    codes[t] = judge.codes(self.frames[t], Seen(points[t], seen[t]))
        if 'patch_similarities' in self.stored:
            self._likeness(queries, points)
        return codes

    def _likeness(self, queries: Array, points: Array) -> None:
        start = int(queries[0, 0])
        first = patches(self.frames[start], queries[:, 1:], self.filter)
        ours = np.stack(
            [
                likeness(first, patches(image, points[t], self.filter), self.filter)
                for t, image in enumerate(self.frames)
            ]
        )
        self.alike.append(ours)

    def _logits(self, objects: int, stamps: Sequence[int]) -> Array:
        shape = self.frames.shape[1:3]
        none = np.full(shape, np.nan, np.float32)
        every = [[self.drawer.logits.get((t, i), none) for t in stamps] for i in range(objects)]
        return np.array(every, np.float32)

    def windows(self, queries: Array) -> dict[str, Array]:
        """Follow objects forward, then backward, window by window."""
        forward = self._one_way(self.frames, queries)
        back = queries.copy()
        back[..., 0] = len(self.frames) - 1 - queries[..., 0]
        backward = self._one_way(self.frames[::-1], back)
        made = {key: value.copy() for key, value in forward.items()}
        for i, start in enumerate(queries[:, 0, 0].astype(int)):
            for key in ('trajectories', 'visibilities'):
                made[key][:start, i] = backward[key][::-1][:start, i]
            made['logits'][i, :start] = backward['logits'][i, ::-1][:start]
            # The released code forgets to turn these.
            made['scores_per_frame'][:start, i] = backward['scores_per_frame'][:start, i]
        made['scores'] = np.nanmean(made['scores_per_frame'], 0)
        return made

    def _one_way(self, frames: Array, queries: Array) -> dict[str, Array]:
        self.drawer.logits.clear()
        objects, size = queries.shape[:2]
        follower = Recording(self.tracker, self.drawer, self.rules, shuffle)
        follower.case = self
        for t, image in enumerate(frames):
            follower.take(Moment(Frame(image, t), None, None))
            for i in np.flatnonzero(queries[:, 0, 0] == t).tolist():
                codes = np.ones(size, np.int8)
                follower.begin(
                    t, {i: Found(queries[i, :, 1:], codes, _NONE, 0, size - self.negatives)}
                )
            follower.advance()
        follower.advance(end=True)
        made = {
            'trajectories': np.full((len(frames), objects, size, 2), np.nan, np.float32),
            'visibilities': np.zeros((len(frames), objects, size), np.float32),
            'scores_per_frame': np.full((len(frames), objects), np.nan, np.float32),
            'logits': self._logits(objects, range(len(frames))),
        }
        for t in range(len(frames)):
            for i, found in follower.found(t).items():
                made['trajectories'][t, i] = found.points
                made['visibilities'][t, i] = found.codes
                made['scores_per_frame'][t, i] = found.score
        return made

    def _compare_calls(self) -> None:
        """Compare what SAM was asked, question by question."""
        worst = {}
        joined = ('coords_concat', 'labels_concat')
        for key in [key for key in self.stored if key.startswith('calls.')]:
            short = key.split('.')[1]
            if not self.drawer.calls or short not in self.drawer.calls[0]:
                continue  # flags that are always the same
            values = [call[short] for call in self.drawer.calls]
            ours = np.concatenate(values) if short in joined else np.array(values)
            worst[short] = _apart(ours, self.stored[key])
        good = all(value <= PIXELS for value in worst.values()) and len(worst) >= 8
        largest = max(worst, key=lambda key: worst[key], default='none')
        self.report.line(
            f'sam_pt {self.name} calls',
            f'{worst.get(largest, np.inf):.1e}',
            largest[:10],
            f'{PIXELS:.0e}',
            good,
        )

    def _compare_windows(self) -> None:
        """Compare where windows began, with which points, and how long they were followed."""
        if self.rules.variant is None:
            return
        theirs = [self.stored[f'tracker.{k}.n_frames'] for k in range(self._count('tracker'))]
        ours = [chain.frames for chain in self.tracker.chains]
        self.report.same(f'sam_pt {self.name} windows', np.array(ours), np.array(theirs))
        worst = 0.0 if self._count('extract') == len(self.chosen) else np.inf
        for k, chosen in enumerate(self.chosen[: self._count('extract')]):
            points = self.stored[f'extract.{k}.query_points_txy'][..., 1:]
            worst = max(worst, _apart(chosen, points))
        text = f'sam_pt {self.name} chosen points'
        self.report.line(text, f'{worst:.1e}', '', f'{PIXELS:.0e}', worst <= PIXELS)

    def _count(self, start: str) -> int:
        return len({key.split('.')[1] for key in self.stored if key.startswith(f'{start}.')})

    def _compare_made(self, made: dict[str, Array]) -> None:
        """Compare the results."""
        logits = torch.from_numpy(made['logits'])
        shape = logits.shape[2:]
        size = tuple(self.stored['out.masks_shape'][2:].tolist())
        if size != tuple(shape):
            logits = F.interpolate(logits, size, mode='bilinear', align_corners=False)
        ratio = np.array(size) / shape  # in this order, which is as good where both are the same
        masks = (logits > 0).numpy()
        report, start = self.report, f'sam_pt {self.name}'
        theirs = np.unpackbits(self.stored['out.masks_packed'], axis=-1)[..., : size[1]] > 0
        other = float((masks != theirs).mean())
        report.line(f'{start} masks', f'{other:.1e}', '', '0', other == 0)
        worst = max(
            _apart(made['trajectories'] * ratio, self.stored['out.trajectories']),
            _apart(made['scores_per_frame'], self.stored['out.scores_per_frame']),
            _apart(made['scores'], self.stored['out.scores']),
        )
        report.line(f'{start} points, scores', f'{worst:.1e}', '', f'{PIXELS:.0e}', worst < 1e-3)
        report.same(f'{start} codes', made['visibilities'], self.stored['out.visibilities'])
        none: Array = np.asarray(np.isneginf(logits.numpy()).all((2, 3)))
        report.same(f'{start} no mask', none, self.stored['out.frames_all_minus_inf'])
        sums = logits.double().masked_fill(logits.isinf(), 0).sum((2, 3)).numpy()
        known = ~none
        off = _apart(sums[known], self.stored['out.logit_sums'][known]) / logits[0, 0].numel()
        report.line(f'{start} logits', f'{off:.1e}', '', '1e-04', off <= 1e-4)
        if 'patch_similarities' in self.stored:
            ours = np.stack(self.alike, 1)
            report.close(f'{start} likeness', ours, self.stored['patch_similarities'], 1e-4, False)


def _apart(ours: Array, theirs: Array) -> float:
    """Return the largest difference; what is no number must be none in both."""
    if ours.shape != theirs.shape:
        return float('inf')
    both = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    same = (both[0] == both[1]) | (np.isnan(both[0]) & np.isnan(both[1]))
    with np.errstate(invalid='ignore'):
        apart = np.where(same, 0, np.abs(both[0] - both[1]))
    return float(np.nan_to_num(apart, nan=np.inf).max(initial=0))
