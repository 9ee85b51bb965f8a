"""Boxes as (N, 4) xyxy arrays in pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.floating]


def areas(boxes: Boxes) -> Boxes:
    """Return the areas (N,)."""
    return np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1)


def intersections(a: Boxes, b: Boxes) -> Boxes:
    """Return the areas (N, M) shared by every pair."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.clip(high - low, 0, None).prod(axis=2)


def ious(a: Boxes, b: Boxes) -> Boxes:
    """Return the intersection over union (N, M); 0 where both boxes are empty."""
    shared = intersections(a, b)
    union = areas(a)[:, None] + areas(b)[None] - shared
    return shared / np.maximum(union, 1e-9)


def centres(boxes: Boxes) -> Boxes:
    """Return the centres (N, 2)."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def sides(boxes: Boxes) -> Boxes:
    """Return the geometric mean of width and height (N,), at least one pixel."""
    return np.sqrt(np.maximum(areas(boxes), 1.0))
