# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How many of the objects are found: by proposals in single images, by masks over time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from masa_ros.masks import coco_rle
from masa_ros.recordings.tracks_file import TrackedFrame
from masa_ros.types import Instances

_THRESHOLDS = np.linspace(0.5, 0.95, 10)
SIZES = (32.0, 96.0)
"""Sides of a square of the area that parts small, medium and large objects, as COCO has them."""


@dataclasses.dataclass(frozen=True)
class Recall:
    """Shares in 0..1 of ``count`` objects.

    Attributes
    ----------
    ar: mean over the overlaps 0.5, 0.55, ... 0.95 of the share found so well (Lin et al. 2014).
    r50, r70: share found with an overlap of 0.5, of 0.7.
    top20: share found with 0.5 among the twenty best scored of the image.

    """

    count: int
    ar: float
    r50: float
    r70: float
    top20: float


class Found:
    """Collects, over images, how well each object of the truth was found.

    Parameters
    ----------
    most: proposals of an image that are looked at, best first.

    """

    def __init__(self, most: int = 100) -> None:
        self.most = most
        self._rows: list[tuple[float, float, float, float]] = []  # overlaps of four kinds
        self._sides: list[float] = []
        self._masks: list[bool] = []

    def add(self, found: Instances, truth: Instances, shape: tuple[int, int]) -> None:
        """Compare one image of (height, width); ``found`` is sorted by score."""
        found = found[: self.most]
        boxes = _box_overlaps(truth.boxes, found.boxes)
        masks = np.zeros_like(boxes)
        known = truth.masks is not None and found.masks is not None
        if known:
            masks = _mask_overlaps(truth, found, shape)
        sides = np.sqrt(np.prod(truth.boxes[:, 2:] - truth.boxes[:, :2], axis=1))
        for i, side in enumerate(sides.tolist()):
            self._rows.append(
                (_best(boxes[i]), _best(boxes[i, :20]), _best(masks[i]), _best(masks[i, :20]))
            )
            self._sides.append(side)
            self._masks.append(known)

    def boxes(self, low: float = 0.0, high: float = np.inf) -> Recall:
        """Recall of boxes of objects with a side (root of the area) in low..high pixels."""
        return self._recall(0, np.ones(len(self._rows), bool), low, high)

    def masks(self, low: float = 0.0, high: float = np.inf) -> Recall:
        """Recall of masks, of the objects whose masks are known."""
        return self._recall(2, np.array(self._masks, bool), low, high)

    def _recall(self, column: int, known: NDArray[np.bool_], low: float, high: float) -> Recall:
        sides = np.array(self._sides)
        rows = np.array(self._rows).reshape(-1, 4)[known & (sides >= low) & (sides < high)]
        if not len(rows):
            return Recall(0, 0.0, 0.0, 0.0, 0.0)
        best, of_twenty = rows[:, column], rows[:, column + 1]
        return Recall(
            len(rows),
            float(np.mean([(best >= threshold).mean() for threshold in _THRESHOLDS])),
            float((best >= 0.5).mean()),
            float((best >= 0.7).mean()),
            float((of_twenty >= 0.5).mean()),
        )


@dataclasses.dataclass(frozen=True)
class Presence:
    """How steadily objects have a published mask.

    Attributes
    ----------
    count: how often an object is in a frame that is labelled and was tracked.
    flicker: share of them in which no published mask lies on the object.
    gaps: the same share of those between the first and the last with one.

    """

    count: int
    flicker: float
    gaps: float


def presence(
    found: Sequence[TrackedFrame], truth: Sequence[TrackedFrame], least: float = 0.5
) -> Presence:
    """Tell in how many frames an object that is there has no published mask.

    Parameters
    ----------
    found: tracks; only those that are said to be in the image, and have a mask, count.
    truth: what is there. Where it has no masks, its boxes are compared with those of the masks.
    least: IoU from which on a mask lies on an object.

    """
    by_index = {frame.index: frame.instances for frame in found}
    seen: dict[int, list[bool]] = {}
    for frame in sorted(truth, key=lambda frame: frame.index):
        if frame.index in by_index:
            objects = frame.instances[frame.instances.present]
            overlaps = _published(objects, by_index[frame.index], (frame.height, frame.width))
            for track_id, row in zip(objects.track_ids.tolist(), overlaps):
                seen.setdefault(track_id, []).append(_best(row) >= least)
    every = [covered for row in seen.values() for covered in row]
    between = [covered for row in seen.values() for covered in _between(row)]
    return Presence(len(every), _share_without(every), _share_without(between))


def _between(row: list[bool]) -> list[bool]:
    """Return what lies between the first and the last True, these included."""
    ends = np.flatnonzero(row)
    return row[ends[0] : ends[-1] + 1] if len(ends) else []


def _share_without(row: list[bool]) -> float:
    return 1 - sum(row) / len(row) if row else 0.0


def _published(truth: Instances, tracks: Instances, shape: tuple[int, int]) -> NDArray[np.float64]:
    """IoU (N, M) of objects with the masks of tracks, by boxes where objects have no masks."""
    masks = [m for m, there in zip(tracks.masks or (), tracks.present) if m and there and m.width]
    boxes = np.array([mask.box for mask in masks], np.float32).reshape(-1, 4)
    if truth.masks is None or None in truth.masks:
        return _box_overlaps(truth.boxes, boxes)
    return _mask_overlaps(truth, Instances(boxes, masks=tuple(masks)), shape)


def _best(overlaps: NDArray[np.float64]) -> float:
    return float(overlaps.max(initial=0.0))


def _box_overlaps(truth: NDArray[np.float32], found: NDArray[np.float32]) -> NDArray[np.float64]:
    """IoU (N, M) of boxes xyxy."""
    ours, theirs = (
        np.hstack((boxes[:, :2], boxes[:, 2:] - boxes[:, :2])).astype(np.float64)
        for boxes in (truth, found)
    )
    if not len(ours) or not len(theirs):
        return np.zeros((len(ours), len(theirs)))
    return np.asarray(coco.iou(ours, theirs, [0] * len(theirs)))


def _mask_overlaps(
    truth: Instances, found: Instances, shape: tuple[int, int]
) -> NDArray[np.float64]:
    """IoU (N, M) of masks; no mask overlaps nothing."""
    sides = []
    for side in (truth, found):
        assert side.masks is not None
        rles = [coco_rle(mask, *shape) if mask is not None else None for mask in side.masks]
        sides.append(rles)
    overlaps = np.zeros((len(sides[0]), len(sides[1])))
    rows, columns = ([i for i, rle in enumerate(side) if rle is not None] for side in sides)
    if rows and columns:
        a, b = (_bytes([s[i] for i in kept]) for s, kept in zip(sides, (rows, columns)))
        overlaps[np.ix_(rows, columns)] = coco.iou(a, b, [0] * len(b))
    return overlaps


def _bytes(rles: Sequence[dict[str, object] | None]) -> list[dict[str, object]]:
    """Run lengths as pycocotools compares them: bytes, which JSON carries as text."""
    return [{**rle, 'counts': str(rle['counts']).encode()} for rle in rles if rle is not None]
