# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Segments: masks with what was said of them; how they overlap, how they are painted."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from masa_ros.types import Mask

Shape = tuple[int, int]
"""Height and width of an image, pixels."""

NOTHING = Mask(0, 0, np.zeros((0, 0), np.bool_))

APART = 0.1
"""Masks that share more than this part of the smaller one overlap."""


@dataclasses.dataclass
class Votes:
    """What detections have said of one object; grows with the number of classes, not with time.

    Attributes
    ----------
    labels: how often it was given each class.
    total, count: sum and number of its scores.
    thing: True for a thing, False for stuff, None where nobody says; only segments of one kind
        are compared.

    """

    labels: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    total: float = 0.0
    count: int = 0
    thing: bool | None = None

    @classmethod
    def of(cls, label: int, score: float) -> Votes:
        """Begin with one detection; the label -1 votes for no class."""
        return cls(collections.Counter([label] if label >= 0 else []), score, 1)

    def plus(self, others: Sequence[Votes]) -> Votes:
        """Return these votes and those of others; the kind stays."""
        labels = sum((other.labels for other in others), start=self.labels.copy())
        total = self.total + sum(other.total for other in others)
        return Votes(labels, total, self.count + sum(other.count for other in others), self.thing)

    @property
    def label(self) -> int:
        """The class with most votes, of equals the smallest; -1 without any."""
        return min(self.labels, key=lambda label: (-self.labels[label], label), default=-1)

    @property
    def score(self) -> float:
        """The mean score; 1 without any."""
        return self.total / self.count if self.count else 1.0


class Segment(NamedTuple):
    """A mask, which may be empty, and what was said of it."""

    mask: Mask
    votes: Votes


def areas_of(masks: Sequence[Mask]) -> NDArray[np.int64]:
    """Return the areas (N,) of masks, pixels."""
    return np.array([np.count_nonzero(mask.pixels) for mask in masks], np.int64)


def intersections(ours: Sequence[Mask], theirs: Sequence[Mask]) -> NDArray[np.int64]:
    """Return the pixels (N, M) that each of ours shares with each of theirs."""
    shared = np.zeros((len(ours), len(theirs)), np.int64)
    low, high = (_windows(masks) for masks in (ours, theirs))
    begin = np.maximum(low[:, None, :2], high[None, :, :2])
    end = np.minimum(low[:, None, 2:], high[None, :, 2:])
    for i, j in np.argwhere((begin < end).all(2)):
        (left, top), (right, bottom) = begin[i, j], end[i, j]
        parts = [
            mask.pixels[top - mask.y : bottom - mask.y, left - mask.x : right - mask.x]
            for mask in (ours[i], theirs[j])
        ]
        shared[i, j] = np.count_nonzero(parts[0] & parts[1])
    return shared


def _windows(masks: Sequence[Mask]) -> NDArray[np.int64]:
    return np.array([mask.box for mask in masks], np.int64).reshape(-1, 4)


def joined(one: Mask, other: Mask) -> Mask:
    """Return the union of two masks."""
    if not (one.width and other.width):
        return one if one.width else other
    x, y = min(one.x, other.x), min(one.y, other.y)
    width = max(one.x + one.width, other.x + other.width) - x
    height = max(one.y + one.height, other.y + other.height) - y
    pixels = np.zeros((height, width), np.bool_)
    for mask in (one, other):
        top, left = mask.y - y, mask.x - x
        pixels[top : top + mask.height, left : left + mask.width] |= mask.pixels
    return Mask(x, y, pixels)


def paint(masks: Sequence[Mask], shape: Shape) -> NDArray[np.int32]:
    """Paint masks that lie in the image one after the other: (H, W), 0 or 1 + index."""
    labels = np.zeros(shape, np.int32)
    for value, mask in enumerate(masks, start=1):
        window = labels[mask.y : mask.y + mask.height, mask.x : mask.x + mask.width]
        window[mask.pixels] = value
    return labels


def split(labels: NDArray[np.int32], count: int) -> list[Mask]:
    """Return the masks of the values 1 .. count of a label map (H, W), in tight windows."""
    masks = []
    for value, window in enumerate(ndimage.find_objects(labels, count), start=1):
        if window is None:
            masks.append(NOTHING)
        else:
            rows, columns = window
            masks.append(Mask(columns.start, rows.start, labels[window] == value))
    return masks


def stacked(masks: Sequence[Mask], shape: Shape, device: str) -> Tensor:
    """Return masks that do not overlap as a memory takes them: (1 + N, H, W), background first."""
    labels = torch.from_numpy(paint(masks, shape)).to(device)
    values = torch.arange(1 + len(masks), device=labels.device)
    return (labels == values[:, None, None]).float()


def most_probable(masks: Tensor, ids: Sequence[int]) -> dict[int, Mask]:
    """Return what is most probable in (1 + N, H, W), background first, by the ids of N objects."""
    # On a CPU much faster than argmax, which goes pixel by pixel.
    labels = masks.max(0).indices.to(torch.int32).cpu().numpy()
    return dict(zip(ids, split(labels, len(ids))))


def by_area(masks: Sequence[Mask]) -> list[int]:
    """Return the indices of masks, largest first, equals in their order (section 3.2.1)."""
    return np.argsort(-areas_of(masks), kind='stable').tolist()


def cut(masks: Sequence[Mask], shape: Shape, order: Sequence[int] | None = None) -> list[Mask]:
    """Paint masks over each other and return what is left of each, in their order.

    ``order``: indices, those in front last; by default larger masks lie behind smaller ones, which
    they would displace (section 3.2.1), and of equal ones the first lies behind.
    """
    order = by_area(masks) if order is None else order
    visible = split(paint([masks[i] for i in order], shape), len(masks))
    left = dict(zip(order, visible))
    return [left[i] for i in range(len(masks))]


def free_layer(mask: Mask, layers: Sequence[Sequence[Mask]]) -> int:
    """Return the first of some layers of masks in which a mask overlaps none, else the last."""
    area = areas_of([mask])[0]
    for number, masks in enumerate(layers[:-1]):
        limit = APART * np.minimum(area, areas_of(masks))
        if (intersections([mask], masks)[0] <= limit).all():
            return number
    return len(layers) - 1
