# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Two strongly augmented views of a labelled photograph, with exact correspondence.

The self-supervision of MASA (paper section 3.2.1, supplement J): random affine, large-scale
jitter, crop, flip, colour, and MixUp that keeps the pairing, so that a region of one view is known
in the other.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

_GREY = (114, 114, 114)  # beside the image, as in the released configuration


class ViewPair(NamedTuple):
    """Two views of one scene.

    Attributes
    ----------
    images: (2, 3, H, W) uint8 RGB.
    boxes: per view (N, 4) float32 xyxy, tight around the visible pixels.
    masks: per view (N, H, W) bool, visible pixels.
    ids: per view (N,) int64, the same number is the same object.
    ignore: per view (H, W) bool, nothing is known about these pixels.
    kinds: per view (N,) uint8 of ``Known``: where a mask is not known its box is filled.
    generated: the scene is put together of pieces.

    """

    images: Tensor
    boxes: tuple[Tensor, Tensor]
    masks: tuple[Tensor, Tensor]
    ids: tuple[Tensor, Tensor]
    ignore: tuple[Tensor, Tensor]
    kinds: tuple[Tensor, Tensor]
    generated: bool = False


class Known(enum.IntEnum):
    """What is known of an instance: its mask, only its box, or not even that it is one."""

    MASK = 0
    BOX = 1
    DOUBTFUL = 2


class Labelled(NamedTuple):
    """A photograph and what is known of it.

    Attributes
    ----------
    image: (H, W, 3) uint8 RGB.
    masks: (N, H, W) bool; they may overlap.
    exhaustive: everything that is an object is among them, so that the rest is background.
    kinds: (N,) uint8 of ``Known``.
    ids: (N,) int64 from 0, of the objects; the same in two photographs that show the same.

    """

    image: Array
    masks: Array
    exhaustive: bool
    kinds: Array
    ids: Array


@dataclasses.dataclass(frozen=True)
class ViewConfig:
    """Ranges of the augmentation.

    Attributes
    ----------
    size: (height, width) of the views, pixels.
    scale: smallest and largest size of the photograph in views (large-scale jitter).
    rotation, shear: largest, degrees.
    shift: largest movement, share of the view.
    mixup: share of scenes that are two photographs blended.
    instances: at most so many are kept.
    smallest: instances with fewer visible pixels, or with less than ``visible`` of themselves
        inside the view, are not asked for.
    visible: see there.

    """

    size: tuple[int, int] = (320, 320)
    scale: tuple[float, float] = (0.3, 2.0)
    rotation: float = 10.0
    shear: float = 2.0
    shift: float = 0.1
    mixup: float = 0.2
    instances: int = 256
    smallest: int = 40
    visible: float = 0.3


class Seen(NamedTuple):
    """One view: image, masks (N, H, W) bool, ids, unknown pixels, kinds (N,) of ``Known``."""

    image: Array
    masks: Array
    ids: Array
    ignore: Array
    kinds: Array


Twice = tuple[Labelled, Labelled]
"""What is in the first view and in the second: a photograph, or two that show the same objects."""


def make_pair(scenes: Sequence[Twice], config: ViewConfig, rng: np.random.Generator) -> ViewPair:
    """Make two views of the first scene, or of both blended."""
    scenes = scenes[:2] if rng.random() < config.mixup else scenes[:1]
    views = []
    for view in range(2):
        parts, first = [], 1
        for scene in scenes:
            parts.append(_view(scene[view], first, config, rng))
            first += max(int(part.ids.max(initial=-1)) + 1 for part in scene)
        views.append(photometric_view(_blend(parts), config, rng))
    return pack(views)


def photometric_view(view: Seen, config: ViewConfig, rng: np.random.Generator) -> Seen:
    """Change colours; keep at most the allowed number of instances."""
    chosen = rng.permutation(len(view.ids))[: config.instances]
    chosen.sort()
    image = photometric(view.image, rng)
    return Seen(image, view.masks[chosen], view.ids[chosen], view.ignore, view.kinds[chosen])


def _view(scene: Labelled, first: int, config: ViewConfig, rng: np.random.Generator) -> Seen:
    height, width = config.size
    rows, columns = scene.image.shape[:2]
    fit = min(height / rows, width / columns)
    low, high = np.log(config.scale)
    scale = fit * float(np.exp(rng.uniform(low, high)))
    turn, shear = (float(np.deg2rad(rng.uniform(-x, x))) for x in (config.rotation, config.shear))
    if (scene.kinds != Known.MASK).any():  # a box that is turned is no box
        turn = shear = 0.0
    linear = affine(scale, turn, shear)
    if rng.random() < 0.5:
        linear = linear @ np.diag([-1.0, 1.0])
    # Where the photograph is larger than the view any part of it may be seen.
    free = np.maximum(np.array([columns, rows]) * scale - (width, height), 0) / 2
    move = rng.uniform(-1, 1, 2) * (free + config.shift * np.array([width, height]))
    target = np.array([width, height]) / 2 + move
    matrix = np.column_stack((linear, target - linear @ (columns / 2, rows / 2)))
    flags = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    source, drawn = scene.image, matrix
    while scale < 0.5:  # shrinking by warping alone would alias
        source, scale = cv2.pyrDown(source), scale * 2
        drawn = drawn @ np.diag([2.0, 2.0, 1.0])
    image = cv2.warpAffine(source, drawn, (width, height), flags=flags, borderValue=_GREY)
    known = cv2.warpAffine(
        np.ones((rows, columns), np.uint8), matrix, (width, height), flags=cv2.INTER_NEAREST
    )
    masks, chosen = [], []
    grown = abs(float(np.linalg.det(linear)))
    for number, mask in enumerate(scene.masks):
        seen = cv2.warpAffine(
            mask.astype(np.uint8), matrix, (width, height), flags=cv2.INTER_NEAREST
        ).astype(bool)
        area = seen.sum()
        if area >= config.smallest and area >= config.visible * mask.sum() * grown:
            masks.append(seen)
            chosen.append(number)
    shown = np.array(masks).reshape(-1, height, width)
    if scene.exhaustive:
        ignore = np.zeros((height, width), bool)
    else:
        ignore = (known > 0) & ~shown.any(0) if len(shown) else known > 0
    index = np.array(chosen, np.intp)
    return Seen(image, shown.astype(bool), scene.ids[index] + first, ignore, scene.kinds[index])


def _blend(parts: Sequence[Seen]) -> Seen:
    """MixUp: the mean of the images, the labels of both."""
    if len(parts) == 1:
        return parts[0]
    a, b = parts
    image = cv2.addWeighted(a.image, 0.5, b.image, 0.5, 0)
    masks, ids = np.concatenate((a.masks, b.masks)), np.concatenate((a.ids, b.ids))
    kinds = np.concatenate((a.kinds, b.kinds))
    return Seen(image, masks, ids, (a.ignore | b.ignore) & ~masks.any(0), kinds)


def affine(scale: float, angle: float, shear: float = 0.0) -> NDArray[np.float64]:
    """Linear part (2, 2) of a similarity with some shear; angle in radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]]) @ np.array([[1, shear], [0, 1]]) * scale


def photometric(image: Array, rng: np.random.Generator) -> Array:
    """Change exposure, contrast, colour, focus, noise and compression as cameras do."""
    gain = rng.uniform(0.75, 1.3) * rng.uniform(0.9, 1.1, 3)
    bias = rng.uniform(-25, 25) + rng.uniform(-6, 6, 3)
    gamma = np.exp(rng.uniform(-0.35, 0.35))
    ramp = 255 * (np.arange(256) / 255) ** gamma
    table = np.clip(ramp[:, None] * gain + bias, 0, 255).astype(np.uint8)
    image = cv2.LUT(image, table[None])
    if rng.random() < 0.5:
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        amount = rng.uniform(0.3, 1.3)
        image = cv2.addWeighted(image, amount, grey, 1 - amount, 0)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.5))
    if rng.random() < 0.5:
        noise = np.zeros(image.shape, np.int8)
        cv2.setRNGSeed(int(rng.integers(1 << 31)))
        cv2.randn(noise, 0, rng.uniform(1, 8))
        image = cv2.add(image, noise, dtype=cv2.CV_8U)
    if rng.random() < 0.5:
        quality = int(rng.integers(35, 95))
        _, data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return image


def pack(views: Sequence[Seen], generated: bool = False) -> ViewPair:
    """Make a pair of two views, of a generated scene or of a photograph."""
    boxes = []
    for view in views:
        tight = np.zeros((len(view.masks), 4), np.float32)
        for i, one in enumerate(view.masks):
            xs, ys = np.flatnonzero(one.any(0)), np.flatnonzero(one.any(1))
            tight[i] = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
        boxes.append(torch.from_numpy(tight))
    images = [np.ascontiguousarray(view.image) for view in views]
    return ViewPair(
        torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in images]),
        (boxes[0], boxes[1]),
        (torch.from_numpy(views[0].masks), torch.from_numpy(views[1].masks)),
        (torch.from_numpy(views[0].ids), torch.from_numpy(views[1].ids)),
        (torch.from_numpy(views[0].ignore), torch.from_numpy(views[1].ignore)),
        (torch.from_numpy(views[0].kinds), torch.from_numpy(views[1].kinds)),
        generated,
    )
