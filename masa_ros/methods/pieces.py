# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Masks of which something is taken away."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from masa_ros.methods.deva.segments import split
from masa_ros.types import Mask

_RIM = 0.2  # of the largest piece of a mask; smaller ones go with what is taken away


def _tight(mask: Mask, pixels: NDArray[np.bool_]) -> Mask:
    """Return other pixels of a mask's window, in the smallest window around them."""
    (inside,) = split(pixels.astype(np.int32), 1)
    return Mask(mask.x + inside.x, mask.y + inside.y, inside.pixels) if inside.width else inside


def without(mask: Mask, other: Mask) -> Mask:
    """Return what is left of a mask behind another one."""
    left, top = max(mask.x, other.x), max(mask.y, other.y)
    right = min(mask.x + mask.width, other.x + other.width)
    bottom = min(mask.y + mask.height, other.y + other.height)
    if left >= right or top >= bottom:
        return mask
    pixels = mask.pixels.copy()
    hidden = other.pixels[top - other.y : bottom - other.y, left - other.x : right - other.x]
    pixels[top - mask.y : bottom - mask.y, left - mask.x : right - mask.x] &= ~hidden
    return _tight(mask, pixels)


def large(mask: Mask) -> Mask:
    """Return a mask without its small pieces: the rim of what was taken away."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.pixels.astype(np.uint8))
    areas = stats[:, cv2.CC_STAT_AREA]
    small = [i for i in range(1, count) if areas[i] < _RIM * areas[1:].max()]
    return _tight(mask, mask.pixels & ~np.isin(labels, small))
