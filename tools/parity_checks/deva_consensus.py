# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""DEVA: consensus, merging and deletion, decision by decision, without the network."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision

from masa_ros.masks import crop
from masa_ros.methods.deva.consensus import choose, collect, support
from masa_ros.methods.deva.detections import segments as prepared
from masa_ros.methods.deva.merging import Rules, Table
from masa_ros.methods.deva.segments import Segment, Votes, areas_of, cut, paint, split
from masa_ros.types import Instances, Mask
from parity_checks.report import Array, Fixtures, Report

_EMPTY = Mask(0, 0, np.zeros((0, 0), np.bool_))


def compare_consensus(report: Report, fixtures: Fixtures) -> None:
    """Compare consensus, merging, deletion and the preparation of masks."""
    print('-- deva: consensus and merging')
    told = json.loads((fixtures.folder / 'consensus.json').read_text())
    arrays = fixtures.arrays('consensus.npz')
    for i, case in enumerate(told['consensus']):
        compare_vote(report, f'cons{i}', case, arrays)
    for i, case in enumerate(told['merging']):
        compare_merging(report, f'merge{i}', case, arrays)
    compare_table(report, told['deletion'])
    for i, case in enumerate(told['auto_masks']):
        compare_automatic(report, f'auto{i}', case, arrays)
    for i, case in enumerate(told['text_masks']):
        compare_text(report, f'text{i}', case, arrays)


class Checks:
    """Comparisons that make one line: all must hold."""

    def __init__(self, report: Report, name: str) -> None:
        self._report, self._name = report, name
        self._count, self._wrong = 0, ''

    def same(self, what: str, ours: Any, theirs: Any) -> None:
        """Compare arrays or lists, which must be equal."""
        mine, other = np.asarray(ours), np.asarray(theirs)
        good = mine.shape == other.shape and bool((mine == other).all())
        self._count += 1
        self._wrong = self._wrong or ('' if good else what)

    def votes(self, what: str, ours: Iterable[Votes], theirs: Sequence[dict[str, Any]]) -> None:
        """Compare what was said of objects: every vote, the class, and the score to 1e-6."""
        said = list(ours)
        self.same(f'{what} count', len(said), len(theirs))
        for mine, other in zip(said, theirs):
            labels = [label for label in other['category_ids'] if label is not None]
            label, score = other['voted_category'], other['voted_score']
            self.same(f'{what} labels', mine.labels == collections.Counter(labels), True)
            self.same(f'{what} label', mine.label, -1 if label is None else label)
            close = abs(mine.score - (1 if score is None else score)) < 1e-6
            self.same(f'{what} score', close, True)

    def finish(self) -> None:
        """Print the line."""
        verdict = self._wrong or '0'
        self._report.line(self._name, verdict, f'{self._count}', 'equal', not self._wrong)


def segments_of(labels: Array, listed: Sequence[dict[str, Any]]) -> list[Segment]:
    """Return the listed segments of a label map (H, W)."""
    return [Segment(crop(labels == each['id']), votes_of(each)) for each in listed]


def votes_of(told: dict[str, Any]) -> Votes:
    """Return what a fixture says of a segment."""
    label, score = told['category_id'], told['score']
    votes = Votes() if score is None else Votes.of(-1, score)
    if label is not None:
        votes.labels[label] += 1
    votes.thing = told['isthing']
    return votes


def compare_vote(
    report: Report, name: str, case: dict[str, Any], arrays: dict[str, Array]
) -> None:
    """Compare a consensus; where several choices are best, go on with the stored one."""
    checks = Checks(report, f'deva {name} {case["name"]}')
    maps = arrays[f'{name}.masks']
    frames = [segments_of(m, listed) for m, listed in zip(maps, case['segments'])]
    iou = support(frames)
    chosen = choose(iou)
    if f'{name}.selected' in arrays:
        checks.same('iou', iou, arrays[f'{name}.pairwise_iou'])
        checks.same('conflict', iou > 0, arrays[f'{name}.conflict'])
        stored = arrays[f'{name}.selected']
        if case['n_optimal'] > 1:
            ours = (1 + np.flatnonzero(chosen)).tolist()
            checks.same('one of the best', ours in case['optimal_sets'], True)
            chosen = stored
        checks.same('chosen', chosen, stored)
    agreed = collect(frames, iou, chosen)
    ids = 1 + np.flatnonzero(chosen)
    painted = paint(cut([segment.mask for segment in agreed], maps.shape[1:]), maps.shape[1:])
    checks.same('ids', ids, arrays[f'{name}.output_ids'])
    checks.same('mask', np.array([0, *ids])[painted], arrays[f'{name}.output_mask'])
    checks.votes('votes', (segment.votes for segment in agreed), case.get('output', []))
    checks.finish()


class ReleasedIds:
    """Draws ids as the released code does, for objects whose ids here are 1, 2, ..."""

    def __init__(self, long: bool, seed: int) -> None:
        self._range = (256, 256**3) if long else (1, 256)
        self._least = 256 if long else 1
        self._random = np.random.RandomState(seed)
        self.history: set[int] = set()
        self._released: dict[int, int] = {}

    def of(self, table: Table, found: Sequence[Segment], proposed: Sequence[int]) -> list[int]:
        """Return the released ids of all objects; new ones began with the detections found."""
        for each in table.objects:
            if each.track_id not in self._released:
                origin = next(i for i, segment in enumerate(found) if segment.votes is each.votes)
                drawn = int(proposed[origin])
                while drawn in self.history or drawn < self._least:
                    drawn = int(self._random.randint(*self._range))
                self.history.add(drawn)
                self._released[each.track_id] = drawn
        return [self._released[each.track_id] for each in table.objects]

    def own(self, released: int) -> int:
        """Return our id of a released one."""
        return next(own for own, other in self._released.items() if other == released)


def compare_merging(
    report: Report, name: str, case: dict[str, Any], arrays: dict[str, Array]
) -> None:
    """Compare every step of a sequence of detections and propagated masks."""
    rules = Rules(case['max_missed_detection_count'], case['incremental'])
    table, most = Table(), case['max_num_objects']
    numbers = ReleasedIds(case['use_long_id'], case['np_random_seed'])
    for t, step in enumerate(case['steps']):
        stored = f'{name}.{t}'
        checks = Checks(report, f'deva {stored} {case["name"]}')
        forward = arrays[f'{stored}.forward'].astype(np.int32)
        found = segments_of(arrays[f'{stored}.detection'], step['segments'])
        if most > 0 and len(table) + len(found) > most:
            found = []  # the released rule; here the best ones that there is room for stay
        masks = table.merge(split(forward, len(table)), found, forward.shape, rules)
        proposed = [each['id'] for each in step['segments']]
        checks.same('merged ids', numbers.of(table, found, proposed), step['ids_merged'])
        checks.same('merged', paint(masks, forward.shape), arrays[f'{stored}.merged'])
        checks.same('missed', [each.missed for each in table.objects], step['poke'])
        gone = table.missed(rules)
        places = [i for i, each in enumerate(table.objects) if each.track_id not in gone]
        table.remove(gone)
        left = paint([masks[i] for i in places], forward.shape)
        checks.same('purged', bool(gone), step['purged'])
        checks.same('kept', [1 + i for i in places], step['tmp_kept'])
        checks.same('ids', numbers.of(table, [], []), step['ids_after'])
        checks.same('after', left, arrays[f'{stored}.after_purge'])
        lists = zip(step['category_ids'], step['voted'], step['score'])
        names = ('category_ids', 'voted_category', 'voted_score')
        votes = [each.votes for each in table.objects]
        checks.votes('votes', votes, [dict(zip(names, values)) for values in lists])
        checks.same('kinds', [each.thing for each in votes], step['isthing'])
        checks.finish()


def compare_table(report: Report, told: dict[str, Any]) -> None:
    """Compare the ids of objects that are added and deleted one after the other."""
    checks = Checks(report, 'deva deletion')
    table, numbers = Table(), ReleasedIds(False, told['np_random_seed'])
    for step in told['actions']:
        verb, rest = step['action'].split(' ', 1)
        ids = json.loads(rest.split(' (')[0])
        ids = ids if isinstance(ids, list) else [ids]
        if verb == 'add':
            found = [Segment(_EMPTY, Votes()) for _ in ids]
            table.merge([_EMPTY] * len(table), found, (1, 1), Rules())
            now = numbers.of(table, found, ids)
        else:
            table.remove([numbers.own(each) for each in ids])
            now = numbers.of(table, [], [])
        checks.same('ids', now, step['ids'])
        order = {str(each): place for place, each in enumerate(now, 1)}
        checks.same('order', order == step['tmp'], True)
        checks.same('history', sorted(numbers.history), step['history'])
    checks.finish()


def compare_automatic(
    report: Report, name: str, case: dict[str, Any], arrays: dict[str, Array]
) -> None:
    """Compare SAM's automatic masks as one map, where they keep their size, as they do here."""
    masks = arrays[f'{name}.masks']
    if len(masks) and (case['min_side'] > 0 or case['suppress_small']):
        report.missing(f'deva {name} (masks resized before they are made one map)')
        return
    checks = Checks(report, f'deva {name}')
    shape = arrays[f'{name}.output_mask'].shape
    found = _prepared([crop(mask) for mask in masks], arrays[f'{name}.scores'], shape)
    checks.same('map', paint([each.mask for each in found], shape), arrays[f'{name}.output_mask'])
    # The released numbers of segments go on where a mask has no pixel, those of the map do not.
    visible = [each.votes.score for each in found if each.mask.width]
    checks.same('count', len(visible), len(arrays[f'{name}.segment_ids']))
    checks.finish()


def compare_text(
    report: Report, name: str, case: dict[str, Any], arrays: dict[str, Array]
) -> None:
    """Compare masks in boxes as one map; NMS, choice and resizing are a detector's business."""
    checks = Checks(report, f'deva {name}')
    boxes, confidence = arrays[f'{name}.boxes'], arrays[f'{name}.confidence']
    kept = torchvision.ops.nms(
        torch.from_numpy(boxes), torch.from_numpy(confidence), case['nms']
    ).numpy()
    best = arrays[f'{name}.candidate_scores'].argmax(1)
    masks = arrays[f'{name}.candidate_masks'][np.arange(len(boxes)), best][kept]
    shape = arrays[f'{name}.output_mask'].shape
    soft = F.interpolate(torch.from_numpy(masks)[None].float(), shape, mode='bilinear')[0]
    sized = [crop(mask) for mask in (soft > 0.5).numpy()]
    by_area = np.argsort([mask.sum() for mask in masks])[::-1]
    order = [i for i in by_area.tolist() if sized[i].width]
    left = cut([sized[i] for i in order], shape, range(len(order)))
    checks.same('map', paint(left, shape), arrays[f'{name}.output_mask'])
    rows = kept[order]
    checks.same('labels', arrays[f'{name}.class_id'][rows], arrays[f'{name}.segment_class'])
    checks.same('scores', confidence[rows], arrays[f'{name}.segment_score'])
    checks.finish()
    ours = _prepared([sized[i] for i in order], confidence[rows], shape)
    distinct = len(set(areas_of([sized[i] for i in order]).tolist())) == len(order)
    if distinct and case['min_side'] < 0:
        report.same(
            f'{name} as prepared', paint([s.mask for s in ours], shape), paint(left, shape)
        )


def _prepared(masks: Sequence[Mask], scores: Array, shape: tuple[int, int]) -> list[Segment]:
    """Return detections with these masks as the method takes them."""
    found = Instances(np.zeros((len(masks), 4), np.float32), scores, masks=tuple(masks))
    return prepared(found, shape, False)
