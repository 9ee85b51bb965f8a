# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The position of one object from its mask and the depth behind it.

**What is the position?** The centre of the visible surface: the mean, over the pixels in which the
object is seen, of the points of its surface seen there. The hidden half is not guessed: the middle
of a ball of radius r is 2/3 r further away, that of a box half its depth. The size is that of the
same surface along the axes of the camera.

**How?** Depth behind a mask is that of the object, of what shows through at its edge, of what
stands in front, and of nothing. The depths of the inner mask fall into groups with gaps between
them: the one with more than half of the pixels is the object. All pixels of the mask whose depth
is of that group count, so that its edge counts too where it is the object's. Of a box without a
mask it is a nearer group with a quarter, since half of a box may be background.

**The covariance** adds what is known to go wrong: noise of the pixels (neighbours are wrong
together), a common error of the sensor, half a pixel of calibration, and the part of the
object that may be missing or too much: one pixel all around the mask, and the pixels without
depth.
"""

from __future__ import annotations

import dataclasses
import enum
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from masa_ros.space.cameras import Camera
from masa_ros.space.config import EstimateConfig
from masa_ros.space.depth import Depth
from masa_ros.types import Mask

_MOST = 600  # pixels of an object that are looked at
_BIN = 0.03  # width of a bin of depth, as a share of the depth; a gap is one bin
_FEW = 0.004  # a bin with less than this share of the pixels is empty
_NEARER = 0.5  # in a box, a nearer group of so many times the pixels of the largest is taken
_TOGETHER = 49  # pixels that are wrong together: windows of stereo matching are about 7 x 7
_LEAST_SHARE, _THIN_SHARE = 0.5, 0.75  # of the pixels with depth that the group must have
_MISSING, _MOST_MISSING = 0.25, 0.8  # share of the pixels without depth that is usual; too much
_INNER = np.ones((5, 5), np.uint8)  # erodes two pixels


class Reason(enum.IntEnum):
    """Why there is no measured position; the values are those of masa_ros/TrackedInstance3D."""

    NONE = 0
    NO_DEPTH = 1  # no depth of this image
    NO_CALIBRATION = 2
    NO_TRANSFORM = 3  # between depth and image
    FEW_POINTS = 4
    OUT_OF_RANGE = 5  # there is depth, but nearer or farther than it can be
    SCATTERED = 6  # the depth forms no group
    NOT_SEEN = 7  # the object is not in this image


@dataclasses.dataclass(frozen=True, eq=False)
class Estimate:
    """Where an object is.

    Attributes
    ----------
    position: (3,) metres in the optical frame of the camera: x right, y down, z forward.
    covariance: (3, 3) of the position, square metres.
    box: (2, 3) lower and upper corner of the box around the visible surface, along the same axes.
    points: number of depth values that it is made of.
    inliers: (N, 3) float32, at most 600 of these points.

    """

    position: NDArray[np.float64]
    covariance: NDArray[np.float64]
    box: NDArray[np.float64]
    points: int
    inliers: NDArray[np.float32]

    @property
    def size(self) -> NDArray[np.float64]:
        """Sides of the box (3,), metres."""
        return np.asarray(self.box[1] - self.box[0])


def mask_of_box(box: NDArray[np.floating]) -> Mask:
    """Return the inner half of a box as a mask, for objects that have none."""
    x0, y0, x1, y1 = (float(value) for value in box)
    left, right = round(x0 + (x1 - x0) / 4), round(x1 - (x1 - x0) / 4)
    top, bottom = round(y0 + (y1 - y0) / 4), round(y1 - (y1 - y0) / 4)
    return Mask(left, top, np.ones((max(bottom - top, 1), max(right - left, 1)), np.bool_))


def estimate(
    depth: Depth,
    camera: Camera,
    mask: Mask,
    config: EstimateConfig,
    loose: bool = False,
    sparse: bool = False,
) -> Estimate | Reason:
    """Return where the object of a mask is, or why that cannot be said.

    Parameters
    ----------
    depth: (H, W) metres, of the camera's image.
    camera: of the image.
    mask: of the object; it must lie in the image.
    config: thresholds.
    loose: whether the mask is one of ``mask_of_box``: it says less of where the object ends.
    sparse: whether most pixels have no depth, as of a laser scanner: that says nothing then.

    """
    pixels = mask.pixels
    # Of a large object not every row and column is looked at, unless its depth is sparse.
    stride = max(1, math.isqrt(pixels.size // (4 * _MOST)))
    valid, count = _valid(depth, mask, stride, config)
    if stride > 1 and count < _MOST:
        stride = 1
        valid, count = _valid(depth, mask, stride, config)
    each = stride * stride  # pixels that one stands for
    if count * each < config.least_points:
        return _reason(depth, mask, config)
    pixels = np.ascontiguousarray(pixels[::stride, ::stride])
    area = int(np.count_nonzero(pixels))
    # The window's own edge ends the mask too.
    kernel = _INNER if stride == 1 else _INNER[1:-1, 1:-1]
    inner = cv2.erode(
        pixels.view(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=(0,)
    )
    rim = 2 if stride == 1 else stride  # pixels that it is narrower by
    inner_area = int(np.count_nonzero(inner))
    at = valid.ravel().nonzero()[0]
    step = -(-count // _MOST)
    at = at[::step]
    each *= step
    y = at // valid.shape[1]
    place = (y * stride + mask.y) * depth.shape[1]
    place += (at - y * valid.shape[1]) * stride + mask.x
    z = depth.ravel().take(place)
    core = inner.take(at) > 0
    if np.count_nonzero(core) * each < config.least_points:
        # A thin object: all of it is edge, and must be of one depth.
        group = _group(z, _THIN_SHARE, 1.0, config)
    elif loose:
        group = _group(z[core], _LEAST_SHARE * _NEARER, _NEARER, config)
    else:
        group = _group(z[core], _LEAST_SHARE, 1.0, config)
    if group is None:
        return Reason.SCATTERED
    of_it = ((z > group[0]) & (z < group[1])).nonzero()[0]
    missing = 0.0 if sparse else max(0.0, 1 - len(of_it) * step / area)
    if len(of_it) * each < config.least_points or missing > _MOST_MISSING:
        return Reason.FEW_POINTS
    z = z[of_it]
    rays = camera.grid.reshape(-1, 2).take(place[of_it], axis=0)
    points = np.empty((len(z), 3), np.float32)
    points[:, :2], points[:, 2] = rays * z[:, None], z
    if not np.isfinite(rays).all():  # outside the circle of a lens
        points = points[np.isfinite(points).all(axis=1)]
        if len(points) * each < config.least_points:
            return Reason.FEW_POINTS
    # As a product: numpy's own mean over rows takes five times as long.
    position = (np.ones(len(points), np.float32) @ points).astype(np.float64) / len(points)
    # What of the object may be missing or too much: a pixel at the edge, and pixels without depth.
    edge = 0.5 if loose else (area - inner_area) / (rim * area)
    doubtful = (1.5 * edge + missing / (1 - missing)) / 2
    spread = points - position.astype(np.float32)
    # A share f lost on one side leaves an even spread of variance s^2, whose mean is off by
    # f / (1 - f) sqrt(3) s. Half of that: mostly something is lost on both sides.
    shape = 3 * doubtful**2 * (spread.T @ spread).astype(np.float64) / len(points)
    # Where much is missing, the rest does not say how wide the whole is; the mask does.
    gap = max(0.0, missing - _MISSING) / 2 * position[2] / camera.focal
    shape[0, 0] += (gap * mask.width) ** 2
    shape[1, 1] += (gap * mask.height) ** 2
    total = min(len(points) * each, count * stride * stride)
    return Estimate(
        position,
        shape + _noise(position, total, camera, config),
        _box(points, config.noise * position[2] ** 2),
        total,
        points,
    )


def _valid(
    depth: Depth, mask: Mask, stride: int, config: EstimateConfig
) -> tuple[NDArray[np.bool_], int]:
    """Return where a mask has depth in range, of every so many rows and columns, and how often."""
    y, x = mask.y, mask.x
    window = depth[y : y + mask.height : stride, x : x + mask.width : stride]
    valid = window > config.near
    valid &= window < config.far
    valid &= mask.pixels[::stride, ::stride]
    return valid, int(np.count_nonzero(valid))


def _reason(depth: Depth, mask: Mask, config: EstimateConfig) -> Reason:
    """Return why a mask has too little depth: none at all, or depth that cannot be."""
    window = depth[mask.y : mask.y + mask.height, mask.x : mask.x + mask.width]
    beyond = ((window > 0) & (window <= config.near)) | (window >= config.far)
    known = np.count_nonzero(beyond & mask.pixels & np.isfinite(window))
    return Reason.OUT_OF_RANGE if known >= config.least_points else Reason.FEW_POINTS


def _group(
    inside: NDArray[np.float32], least: float, nearer: float, config: EstimateConfig
) -> tuple[float, float] | None:
    """Return from where to where the depths of the object are.

    That is the nearest group with at least ``nearer`` times as many as the largest; None when it
    has no share of ``least`` of all.
    """
    low = float(inside.min())
    # Noise grows with the distance: a bin is as wide as two standard deviations at the middle.
    width = max(_BIN, 2 * config.noise * float(inside[len(inside) // 2]))
    bins = (np.log(inside / np.float32(low)) * np.float32(1 / width)).astype(np.int64)
    counts = np.bincount(bins)
    full = counts > max(1 if len(inside) >= 50 else 0, _FEW * len(inside))
    padded = np.zeros(len(full) + 2, np.bool_)
    padded[1:-1] = full
    edges = (padded[1:] != padded[:-1]).nonzero()[0]
    if not len(edges):
        return None
    begins, ends = edges[::2], edges[1::2]
    sums = np.concatenate(([0], np.cumsum(counts)))
    mass = sums[ends] - sums[begins]
    chosen = int(np.flatnonzero(mass >= nearer * mass.max())[0])
    if mass[chosen] < least * len(inside):
        return None
    # Half a bin more on either side: the emptier end of a surface.
    first, last = (begins[chosen] - 0.5) * width, (ends[chosen] + 0.5) * width
    return low * float(np.exp(first)), low * float(np.exp(last))


def _noise(
    position: NDArray[np.float64], count: int, camera: Camera, config: EstimateConfig
) -> NDArray[np.float64]:
    """Return the covariance (3, 3) that the sensors give the mean of ``count`` points."""
    far = position[2]
    noise = (config.noise * far**2) ** 2 * min(1.0, _TOGETHER / count)
    along = position / far
    sensor: NDArray[np.float64] = (noise + (config.bias * far) ** 2) * along[:, None] * along
    sensor.ravel()[::4] += (0.5 * far / camera.focal) ** 2  # its diagonal
    return sensor


def _box(points: NDArray[np.float32], noise: float) -> NDArray[np.float64]:
    """Return the corners (2, 3) of the box around points.

    Across the view without the outermost two in a thousand on each side, for pixels of others;
    along it without three in a hundred, and without what noise of this deviation adds.
    """
    count = len(points)
    few, more = 2 * count // 1000, 3 * count // 100
    across = np.partition(points[:, :2], (few, count - 1 - few), axis=0)
    along = np.partition(points[:, 2], (more, count - 1 - more))
    box = np.empty((2, 3))
    box[0, :2], box[1, :2] = across[few], across[count - 1 - few]
    near, far = float(along[more]), float(along[count - 1 - more])
    half = max((far - near) ** 2 - (3 * noise) ** 2, 0.0) ** 0.5 / 2
    box[:, 2] = (near + far) / 2 - half, (near + far) / 2 + half
    return box
