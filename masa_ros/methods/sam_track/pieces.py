# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Masks cut out, cut apart and painted by the ids of objects."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from masa_ros.types import Mask

_RIM = 0.2  # of the largest piece of a mask; smaller ones go with what is taken away
NOTHING = Mask(0, 0, np.zeros((0, 0), np.bool_))


def mask_of(pixels: NDArray[np.bool_]) -> Mask:
    """Return the smallest window around pixels (H, W)."""
    rows, columns = (np.flatnonzero(pixels.any(axis)) for axis in (1, 0))
    if not len(rows):
        return NOTHING
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    return Mask(int(left), int(top), pixels[top:bottom, left:right].copy())


def shared(full: NDArray[np.bool_], mask: Mask) -> int:
    """Return the pixels that a mask shares with one of the whole image, (H, W)."""
    window = full[mask.y : mask.y + mask.height, mask.x : mask.x + mask.width]
    return int(np.count_nonzero(window & mask.pixels))


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
    inside = mask_of(pixels)
    return Mask(mask.x + inside.x, mask.y + inside.y, inside.pixels) if inside.width else inside


def large(mask: Mask) -> Mask:
    """Return a mask without its small pieces: the rim of what was taken away."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.pixels.astype(np.uint8))
    areas = stats[:, cv2.CC_STAT_AREA]
    small = [i for i in range(1, count) if areas[i] < _RIM * areas[1:].max()]
    inside = mask_of(mask.pixels & ~np.isin(labels, small))
    return Mask(mask.x + inside.x, mask.y + inside.y, inside.pixels)


def painted(seen: Mapping[int, Mask], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Return (H, W) of the ids of masks that do not overlap."""
    labels = np.zeros(shape, np.int32)
    for track_id, mask in seen.items():
        window = labels[mask.y : mask.y + mask.height, mask.x : mask.x + mask.width]
        window[mask.pixels] = track_id
    return labels
