# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Query points: which points of a mask are followed (SAM-PT paper, section 3.2, step 1).

What the paper does not say is as in the released code: how k-medoids begins and of how many
pixels, the erosion for Shi-Tomasi and what it is filled up with, the shares of ``mixed``.
``corners`` are ours: what Lucas-Kanade can follow, which sees nothing inside a plain body.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

KINDS = ('kmedoids', 'shi-tomasi', 'random', 'mixed', 'corners')
PIXELS = 1800
"""Pixels of a mask that k-medoids are chosen of, where nobody says otherwise."""

_EROSIONS = (0.06, 0.02, 0.01)  # of the diameter, tried in turn
_ENOUGH = 10  # pixels that have to be left
_MOST_ROUNDS = 300  # of k-medoids
_FILL = 200  # more pixels for k-medoids that fill corners up
_SEEN = 0.01  # share of the best corner that others are worth, where a patch is compared

Mask = NDArray[np.bool_]
Points = NDArray[np.float32]
Shuffle = Callable[[int], NDArray[np.int64]]
"""Gives the numbers below N in a random order."""


def select(
    kind: str,
    masks: Sequence[Mask],
    images: Sequence[NDArray[np.uint8]],
    count: int,
    shuffle: Shuffle,
    pixels: int = PIXELS,
    patch: int = 3,
) -> list[Points]:
    """Choose points of masks.

    Parameters
    ----------
    kind: of ``KINDS``.
    masks: (H, W) each. An empty one has all its points at 0, 0.
    images: (H, W, 3) RGB of each mask; only looked at for corners.
    count: points of each mask.
    shuffle: what chance decides.
    pixels: of a mask, at most, that k-medoids are chosen of.
    patch: side of what must not be plain around ``corners``, pixels.

    Returns
    -------
    (count, 2) x y of every mask.

    """
    if kind == 'mixed':
        parts = [('kmedoids', count // 4), ('shi-tomasi', count // 3)]
        parts.append(('random', count - count // 4 - count // 3))
        # One kind after the other for all masks, as chance decides in this order.
        chosen = [
            select(part, masks, images, number, shuffle, pixels)
            for part, number in parts
            if number
        ]
        return [np.concatenate(every) for every in zip(*chosen)]
    if kind == 'kmedoids':
        return [_medoids_of(mask, count, shuffle, pixels) for mask in masks]
    if kind in ('shi-tomasi', 'corners'):
        block = patch if kind == 'corners' else 0
        return [
            _corners(image, mask, count, shuffle, pixels, block)
            for image, mask in zip(images, masks)
        ]
    return [_random(mask, count, shuffle) for mask in masks]


def _listed(mask: Mask) -> NDArray[np.float32]:
    """Return the pixels (P, 2) x y of a mask, row by row."""
    rows, columns = np.nonzero(mask)
    return np.stack((columns, rows), 1).astype(np.float32)


def _few(pixels: Points, count: int) -> Points | None:
    """Return points where there are fewer pixels than those: repeated, or at 0, 0."""
    if not len(pixels):
        return np.zeros((count, 2), np.float32)
    if len(pixels) < count:
        return np.tile(pixels, (count // len(pixels) + 1, 1))[:count]
    return None


def _random(mask: Mask, count: int, shuffle: Shuffle) -> Points:
    pixels = _listed(mask)
    few = _few(pixels, count)
    return pixels[shuffle(len(pixels))[:count]] if few is None else few


def _medoids_of(mask: Mask, count: int, shuffle: Shuffle, most: int) -> Points:
    pixels = _listed(mask)
    few = _few(pixels, count)
    if few is not None:
        return few
    some = pixels[shuffle(len(pixels))[:most]]
    return some[medoids(some, count)]


def central(cost: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Return the indices of the points that k-medoids begin with, in no certain order."""
    return np.argpartition(cost, count - 1)[:count]


def medoids(points: Points, count: int) -> NDArray[np.intp]:
    """Return the indices (count,) of the k-medoids of points (P, 2) with whole coordinates.

    Alternately every point is given to its nearest medoid, and every medoid is moved to the middle
    of its points; the first ones are in the middle of all. Which of equal ones is taken depends on
    the order of the points.
    """
    x, y = points.astype(np.int32).T
    dx, dy = x[:, None] - x, y[:, None] - y
    # Sums of single precision would decide between equal ones in another way than the original.
    distance = np.sqrt((dx * dx + dy * dy).astype(np.float64))
    chosen = central(distance.sum(1), count)
    for _ in range(_MOST_ROUNDS):
        before = chosen.copy()
        nearest = distance[chosen].argmin(0)
        for k in range(count):
            own = np.flatnonzero(nearest == k)
            if not len(own):  # another medoid lies at the same place
                continue
            cost = distance[own, own[:, None]].sum(1)
            best = int(cost.argmin())
            if cost[best] < cost[int((own == chosen[k]).argmax())]:
                chosen[k] = own[best]
        if (before == chosen).all():
            break
    return chosen


def inertia(points: Points, chosen: NDArray[np.intp]) -> float:
    """Return the sum of the distances of points to their nearest medoids."""
    apart = points[chosen][:, None].astype(np.float64) - points[None]
    return float(np.sqrt((apart**2).sum(2)).min(0).sum())


def _diameter(mask: Mask) -> float:
    """Return the diagonal of the window around the pixels of a mask."""
    pixels = _listed(mask)
    return float(np.linalg.norm(pixels.max(0) - pixels.min(0)))


def eroded(mask: Mask, share: float) -> Mask:
    """Take a rim off a mask: a share of its diameter."""
    # OpenCV takes a kernel of no side for one of three pixels.
    side = int(_diameter(mask) * share) or 3
    return cv2.erode(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0


def _corners(
    image: NDArray[np.uint8], mask: Mask, count: int, shuffle: Shuffle, most: int, block: int
) -> Points:
    """Return corners inside a mask, k-medoids of it for those that are missing.

    ``block``: side of the patch that makes a corner; 0: Shi-Tomasi as released, without the rim.
    """
    if not mask.any():
        return np.zeros((count, 2), np.float32)
    gray = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    if block:  # a body may be as bright as what lies behind it
        gray = max(
            cv2.split(np.ascontiguousarray(image)),
            key=lambda colour: cv2.cornerMinEigenVal(colour, block)[mask].max(),
        )
    tried = (eroded(mask, share) for share in ((0.0,) if block else _EROSIONS))
    inside = next((each for each in tried if each.sum() >= _ENOUGH), mask)
    found = cv2.goodFeaturesToTrack(
        gray,
        count,
        _SEEN if block else 0.001,
        _diameter(inside) / count,
        mask=inside.astype(np.uint8),
        blockSize=block or 3,
        gradientSize=3,
    )
    corners = np.zeros((0, 2), np.float32) if found is None else found.reshape(-1, 2)
    if len(corners) < count:
        fill = _medoids_of(mask, count - len(corners), shuffle, most + _FILL)
        corners = np.concatenate((corners, fill))
    return corners.astype(np.float32)
