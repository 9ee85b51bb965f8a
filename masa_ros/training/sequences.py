# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Generated recordings with exact masks, for networks that carry masks on.

Composites whose objects move and hide each other, have twins, leave and come back elsewhere, while
the light may change; and photographs under changing views, the usual pre-training on still images.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from masa_ros.training.composites import PIXELS, Array, Composites, Item, seen
from masa_ros.training.views import Seen, photometric

_SMALLEST = 80  # pixels of an object that is to be followed
_KEPT = 0.6  # of the frames go into the memory, beside the first


class Shown(NamedTuple):
    """A short recording.

    Attributes
    ----------
    images: (T, 3, H, W) uint8 RGB.
    masks: (T, N, H, W) bool, the objects of the first frame wherever they are visible.
    first: (N, H, W) bool, what is said of them in the first frame, perhaps roughly.
    kept: whether a frame goes into the memory, T of them; the first one does.

    """

    images: Tensor
    masks: Tensor
    first: Tensor
    kept: tuple[bool, ...]


class Sequences(Composites):
    """Short recordings by number, see ``Composites``."""

    def shown(self, index: int, frames: int, objects: int) -> Shown:
        """Make recording number ``index``, of at least one and up to so many objects."""
        rng = np.random.default_rng((self.seed, 5, index))
        while True:
            views = self._still(rng, frames) if rng.random() < 0.2 else self._moving(rng, frames)
            visible = views[0].masks.sum((1, 2)) >= _SMALLEST
            ids = rng.permutation(views[0].ids[visible])[:objects]
            if len(ids):
                break
        masks = np.stack([_of(view, ids) for view in views])
        style = rng.random()
        first = np.stack([_roughly(mask, style, rng) for mask in masks[0]])
        kept = (True, *(bool(x) for x in rng.random(frames - 1) < _KEPT))
        images = np.stack([view.image for view in views]).transpose(0, 3, 1, 2)
        tensors = [torch.from_numpy(np.ascontiguousarray(x)) for x in (images, masks, first)]
        return Shown(tensors[0], tensors[1], tensors[2], kept)

    def _still(self, rng: np.random.Generator, frames: int) -> list[Seen]:
        """Show one photograph again and again, from elsewhere each time."""
        return self._real(rng, frames)

    def _moving(self, rng: np.random.Generator, frames: int) -> list[Seen]:
        """Show a scene on part of its way, or in no order."""
        scene = self._arrange(rng)
        twins = [item for item in scene.objects if rng.random() < 0.25]
        scene.objects.extend(_elsewhere(item, rng) for item in twins)
        length = rng.uniform(0.2, 1) ** 2  # mostly as slow as frames of a camera are
        times = rng.uniform(0, 1 - length) + rng.uniform(0, length, frames)
        if rng.random() < 0.85:
            times.sort()
        shadows, light = (int(rng.integers(1 << 62)) for _ in range(2))
        flickers = rng.random() < 0.2
        away = _away(rng, frames, len(scene.objects))
        views = []
        for number, time in enumerate(times):
            back = away[max(number - 1, 0)] & ~away[number]
            for i in np.flatnonzero(back & (rng.random(len(back)) < 0.5)):
                scene.objects[i] = _elsewhere(scene.objects[i], rng)
            order = np.flatnonzero(~away[number])
            if rng.random() < 0.1:
                order = rng.permutation(order)
            drawn = self._render(scene, float(time), order, np.random.default_rng(shadows))
            image, ids, whole = drawn
            visible = [i for i in whole if (ids == i).sum() >= PIXELS]
            chance = rng if flickers else np.random.default_rng(light)
            nothing = np.zeros(ids.shape, bool)
            views.append(seen(photometric(image, chance), ids, visible, nothing))
        return views


def _elsewhere(item: Item, rng: np.random.Generator) -> Item:
    """Return an object somewhere else in both views, moving as it does."""
    poses = item.poses.copy()
    poses[:, :2] = (poses[:, :2] + rng.normal(0, 0.25, 2)) % 1
    return item._replace(poses=poses)


def _away(rng: np.random.Generator, frames: int, count: int) -> Array:
    """Tell which objects are not there, (frames, count): all of them are in the first frame.

    Some are away once, for as long as may be, any in a single frame.
    """
    away = rng.random((frames, count)) < 0.05
    left = rng.integers(1, frames, count)
    gone = rng.integers(1, frames, count) * (rng.random(count) < 0.25)
    numbers = np.arange(frames)[:, None]
    away |= (left <= numbers) & (numbers < left + gone)
    away[0] = False
    return away


def _of(view: Seen, ids: Array) -> Array:
    """Return the masks of some objects of a view, empty for those that are not in it."""
    masks = np.zeros((len(ids), *view.image.shape[:2]), bool)
    where = {int(each): row for row, each in enumerate(view.ids)}
    for row, each in enumerate(ids):
        if int(each) in where:
            masks[row] = view.masks[where[int(each)]]
    return masks


def _roughly(mask: Array, style: float, rng: np.random.Generator) -> Array:
    """Return a mask as a detector or a hand might give it: an ellipse, wider, narrower, exact."""
    rough = mask.astype(np.uint8)
    if style < 0.15:
        x, y, width, height = cv2.boundingRect(rough)
        rough = np.zeros_like(rough)
        middle, axes = (x + width // 2, y + height // 2), (max(width // 2, 1), max(height // 2, 1))
        cv2.ellipse(rough, middle, axes, 0, 0, 360, 1, -1)
    elif style < 0.4:
        side = int(rng.integers(2, 6))
        change = cv2.dilate if rng.random() < 0.5 else cv2.erode
        changed = change(rough, np.ones((side, side), np.uint8))
        rough = changed if changed.sum() >= PIXELS else rough
    return rough.astype(bool)
