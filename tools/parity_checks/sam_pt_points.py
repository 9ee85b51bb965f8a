# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""SAM-PT: which points of a mask are followed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from masa_ros.methods.sam_pt import points as query
from masa_ros.methods.sam_pt.following import Follower, Moment, Rules
from masa_ros.point_trackers.protocol import Points
from masa_ros.types import Frame
from parity_checks.report import Array, Report

PIXELS = 1e-3  # of coordinates
INERTIA = 0.03  # k-medoids may be others of the same quality


def shuffle(count: int) -> Any:
    """Order as torch's generator has it."""
    return torch.randperm(count).numpy()


def introselect(cost: Array, count: int) -> Array:
    """Choose what k-medoids begin with in the order in which numpy 1.26 did, with the fixtures.

    Newer ones give the same points in another order, and k-medoids may then end with others.
    """
    order, k = list(range(len(cost))), count - 1

    def swap(i: int, j: int) -> None:
        order[i], order[j] = order[j], order[i]

    def less(i: int, j: int) -> bool:
        return bool(cost[order[i]] < cost[order[j]])

    if k < 3:
        for i in range(count):
            swap(i, min(range(i, len(order)), key=lambda j: (cost[order[j]], j)))
        return np.array(order[:count])
    if count == len(order):
        swap(k, max(range(count), key=lambda j: (cost[order[j]], j)))
        return np.array(order)
    low, high = 0, len(order) - 1
    while low + 1 < high:
        middle = low + (high - low) // 2
        for i, j in ((high, middle), (high, low), (low, middle)):
            if less(i, j):
                swap(i, j)
        swap(middle, low + 1)
        left, right = low + 1, high
        while True:
            left += 1
            while less(left, low):
                left += 1
            right -= 1
            while less(low, right):
                right -= 1
            if right < left:
                break
            swap(left, right)
        swap(low, right)
        if right >= k:
            high = right - 1
        if right <= k:
            low = left
    if high == low + 1 and less(high, low):
        swap(low, high)
    return np.array(order[:count])


def worth(mask: Array, points: Points) -> float:
    """Return the sum of the distances of the pixels of a mask to the nearest of some points."""
    pixels = np.argwhere(mask)[:, ::-1]
    return float(np.linalg.norm(pixels[:, None] - points[None], axis=2).min(1).sum())


def poorer(kind: str, mask: Array, ours: Points, theirs: Points) -> float:
    """Return how much worse points are than those of the original, as k-medoids may be others.

    0 where they are the same; infinite where points differ that have to be the same.
    """
    count = len(theirs)
    sure = {'random': count, 'mixed': count - count // 4 - count // 3}.get(kind, 0)
    if np.abs(ours - theirs).max(initial=0) <= PIXELS:
        return 0.0
    if ours.shape != theirs.shape or np.abs((ours - theirs)[count - sure :]).max(initial=0):
        return float('inf')
    return worth(mask, ours) / max(worth(mask, theirs), 1.0) - 1


def compare_points(report: Report, arrays: dict[str, Array]) -> None:
    """Compare query points, one by one; k-medoids by their quality where they are others."""
    same, worst = 0, 0.0
    cases = [key for key in arrays if key.startswith('points.') and key.count('.') == 4]
    for key in cases:
        _, image, mask, number, kind = key.split('.')
        inside = arrays[f'mask.{mask}'] > 0
        picture = arrays['images_rgb'][int(image[2:])]
        torch.manual_seed(72)
        (ours,) = query.select(kind, [inside], [picture], int(number[1:]), shuffle)
        same += bool(np.abs(ours - arrays[key]).max() <= PIXELS)
        worst = max(worst, poorer(kind, inside, ours, arrays[key]))
    count = f'{same}/{len(cases)}'
    report.line('sam_pt points', f'{worst:.1e}', count, f'{INERTIA}', worst <= INERTIA)
    for key in [key for key in arrays if key.startswith('eroded.')]:
        _, mask, share = key.split('.', 2)
        packed = np.packbits(query.eroded(arrays[f'mask.{mask}'] > 0, float(share)), axis=-1)
        report.same(f'sam_pt {key}', packed, arrays[key])
    _compare_medoids(report, arrays)
    _compare_extractions(report, arrays)


def _compare_medoids(report: Report, arrays: dict[str, Array]) -> None:
    pixels = arrays['kmedoids_direct.pixels_yx']
    for key in [key for key in arrays if key.endswith('medoid_indices') and '_direct' in key]:
        theirs = arrays[key]
        start, _, _ = key.rpartition('.')
        ours = query.medoids(pixels[:, ::-1], len(theirs))
        more = query.inertia(pixels, ours) / float(arrays[f'{start}.inertia_niter'][0]) - 1
        same = 'same' if set(ours.tolist()) == set(theirs.tolist()) else 'others'
        report.line(f'sam_pt {start}', f'{more:.1e}', same, f'{INERTIA}', more <= INERTIA)


def _compare_extractions(report: Report, arrays: dict[str, Array]) -> None:
    masks = arrays['extract.query_masks'] > 0
    times = arrays['extract.timesteps'].astype(int).tolist()
    for key in [key for key in arrays if key.startswith('extract.') and key.count('.') == 2]:
        kinds = [part.rpartition('_') for part in key.split('.')[1:]]
        (positive, _, positives), (negative, _, negatives) = kinds
        rules = Rules(positive, int(positives), negative, int(negatives), released=True)
        follower = Follower(_Nothing(), _Nothing(), rules, shuffle)
        for image in arrays['images_rgb']:
            follower.take(Moment(Frame(image, 0), None, None))
        torch.manual_seed(72)
        every = follower.choose(list(masks), times)
        cut, worst, same = int(positives), 0.0, 0
        for mask, ours, theirs in zip(masks, every, arrays[key][..., 1:]):
            worst = max(worst, poorer(positive, mask, ours[:cut], theirs[:cut]))
            worst = max(worst, poorer(negative, ~mask, ours[cut:], theirs[cut:]))
            same += int((np.abs(ours - theirs).max(1) <= PIXELS).sum())
        count = f'{same}/{arrays[key][..., 0].size}'
        report.line(f'sam_pt {key}', f'{worst:.1e}', count, f'{INERTIA}', worst <= INERTIA)


class _Nothing:
    """Stands for what is not asked."""

    patch = 0

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f'{name} was asked for')
