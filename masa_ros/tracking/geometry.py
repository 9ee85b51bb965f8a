# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Boxes as (N, 4) xyxy arrays in pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.floating]


def areas(boxes: Boxes) -> Boxes:
    """Return the areas (N,)."""
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return np.maximum(width, 0) * np.maximum(height, 0)


def intersections(a: Boxes, b: Boxes) -> Boxes:
    """Return the areas (N, M) shared by every pair."""
    # One axis after the other: arrays whose last axis is short are slow.
    shared = _overlaps(a[:, 0::2], b[:, 0::2])
    shared *= _overlaps(a[:, 1::2], b[:, 1::2])
    return shared


def _overlaps(a: Boxes, b: Boxes) -> Boxes:
    """Return the lengths (N, M) shared by intervals (N, 2) and (M, 2)."""
    length = np.minimum(a[:, 1, None], b[:, 1])
    length -= np.maximum(a[:, 0, None], b[:, 0])
    return np.maximum(length, 0, out=length)


def ious(a: Boxes, b: Boxes) -> Boxes:
    """Return the intersection over union (N, M); 0 where both boxes are empty."""
    shared = intersections(a, b)
    union = areas(a)[:, None] + areas(b)
    union -= shared
    shared /= np.maximum(union, 1e-9, out=union)
    return shared


def overlaps_with_better(boxes: Boxes) -> Boxes:
    """Return the largest IoU (N,) of each box with any that comes before it; 0 for the first."""
    return np.asarray(np.tril(ious(boxes, boxes), k=-1).max(axis=1, initial=0))


def centres(boxes: Boxes) -> Boxes:
    """Return the centres (N, 2)."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def sides(boxes: Boxes) -> Boxes:
    """Return the geometric mean of width and height (N,), at least one pixel."""
    return np.sqrt(np.maximum(areas(boxes), 1.0))


def median(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the median along the first axis, as numpy does, in a tenth of the time for few."""
    middle = len(values) // 2
    ordered = np.sort(values, axis=0)
    return (ordered[middle] + ordered[-1 - middle]) / 2
