# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which followed points are used: not at the border, and where wanted alike what they were.

The filter by the likeness of patches is an ablation of the paper (table 2d), which was best
without it. That points within 1 % of the border are left out is in the released code, not in the
paper.
"""

from __future__ import annotations

import dataclasses
import enum

import numpy as np
from numpy.typing import NDArray

from masa_ros.point_trackers.protocol import Points, Seen

Codes = NDArray[np.int8]
_BORDER = 0.01  # of the sides of the image
_MATRIX = np.array(  # linear sRGB to CIE XYZ
    (
        (0.412453, 0.357580, 0.180423),
        (0.212671, 0.715160, 0.072169),
        (0.019334, 0.119193, 0.950227),
    )
)
_WHITE = np.array((0.95047, 1.0, 1.08883))  # D65


class Code(enum.IntEnum):
    """What is said of a point in a frame; only ``VISIBLE`` ones are used."""

    VISIBLE = 1
    HIDDEN = 0
    FAILED = -1
    OUTSIDE = -2
    UNLIKE = -3
    REJECTED = -4


@dataclasses.dataclass(frozen=True)
class Filter:
    """How the likeness of patches is judged.

    Attributes
    ----------
    least: likeness, 0..1, that a patch must exceed; 0: no filter.
    size: side of the patches, odd, pixels.
    released: colours are read in the wrong order, as in the released code.

    """

    least: float = 0.0
    size: int = 3
    released: bool = False


class Judge:
    """Judges points of one frame in those that follow, one after the other.

    Parameters
    ----------
    rules: see there.
    image: (H, W, 3) RGB that the points were chosen in.
    points: (N, 2) of it.

    """

    def __init__(self, rules: Filter, image: NDArray[np.uint8], points: Points) -> None:
        self.rules = rules
        self._patches = patches(image, points, rules) if rules.least else None
        self._rejected = np.zeros(len(points), np.bool_)

    def first(self, image: NDArray[np.uint8], points: Points) -> Codes:
        """Judge the points where they were chosen; nothing is rejected for it."""
        seen = Seen(points, np.ones(len(points), np.bool_))
        codes = self.codes(image, seen)
        self._rejected[:] = False
        return codes

    def codes(self, image: NDArray[np.uint8], seen: Seen) -> Codes:
        """Judge the points in the next frame: (N,) of ``Code``."""
        codes = seen.visible.astype(np.int8)
        if self._patches is not None:
            alike = likeness(self._patches, patches(image, seen.points, self.rules), self.rules)
            codes[seen.visible & ~(alike > self.rules.least)] = Code.UNLIKE
            codes[self._rejected] = Code.REJECTED
            self._rejected |= codes == Code.UNLIKE
        share = seen.points / np.array(image.shape[1::-1], np.float32)
        inside = ((share >= np.float32(_BORDER)) & (share <= np.float32(1 - _BORDER))).all(1)
        codes[~inside] = Code.OUTSIDE
        return codes

    def keep(self, index: NDArray[np.intp]) -> None:
        """Judge only these points from now on."""
        self._rejected = self._rejected[index]
        if self._patches is not None:
            self._patches = self._patches[index]


def patches(image: NDArray[np.uint8], points: Points, rules: Filter) -> NDArray[np.float32]:
    """Return the colours (N, size, size, 3), CIE L*a*b*, of patches around points (N, 2).

    Between pixels they are interpolated; outside of the image they are 0.
    """
    height, width = image.shape[:2]
    reach = rules.size // 2
    side = np.arange(-reach, reach + 2)
    safe = np.clip(np.nan_to_num(points), -2 * rules.size, max(height, width) + 2 * rules.size)
    low = np.floor(safe)
    (dx, dy), (x, y) = (safe - low).T, low.T.astype(np.int64)[..., None] + side
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None]
    rows, columns = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    pixels = image[rows[:, :, None], columns[:, None]]
    colours = lab(pixels[..., ::-1] if rules.released else pixels) * inside[..., None]
    dx, dy = dx[:, None, None, None], dy[:, None, None, None]
    between = (1 - dx) * colours[:, :, :-1] + dx * colours[:, :, 1:]
    return ((1 - dy) * between[:, :-1] + dy * between[:, 1:]).astype(np.float32)


def likeness(
    ours: NDArray[np.float32], theirs: NDArray[np.float32], rules: Filter
) -> NDArray[np.float32]:
    """Return how alike patches (N, size, size, 3) are: (N,) 0..1."""
    apart = np.linalg.norm((ours - theirs).reshape(len(ours), -1), axis=1)
    return np.exp(-apart / (2 * rules.size**2)).astype(np.float32)


def lab(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return sRGB colours (..., 3) as CIE L*a*b* (D65, 2 degrees)."""
    value = pixels / 255.0
    linear = np.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)
    xyz = linear @ _MATRIX.T / _WHITE
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), -1).astype(np.float32)
