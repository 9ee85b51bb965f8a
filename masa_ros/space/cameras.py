# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A calibrated camera: between pixels of its image and directions in front of it."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_MODELS: dict[str, Any] = {
    'plumb_bob': cv2,
    'rational_polynomial': cv2,
    'equidistant': cv2.fisheye,
}
_TOLERANCE = 5.0  # pixels between a point and where the ray that was found for it is seen


@dataclasses.dataclass(frozen=True, eq=False)
class Camera:
    """What ``sensor_msgs/CameraInfo`` says of a camera.

    Attributes
    ----------
    shape: height and width of its images, pixels.
    matrix: (3, 3) fx 0 cx, 0 fy cy, 0 0 1 in pixels; (0, 0) is the centre of the first pixel.
    distortion: coefficients of the model; none, or all zero: a pinhole.
    model: 'plumb_bob', 'rational_polynomial' or 'equidistant'.

    Raises
    ------
    ValueError
        When the numbers are those of no camera.

    """

    shape: tuple[int, int]
    matrix: NDArray[np.float64]
    distortion: NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.zeros(0))
    model: str = 'plumb_bob'

    @classmethod
    def of_info(cls, info: Any, rectified: bool = False) -> Camera:
        """Return the camera that a message describes.

        Parameters
        ----------
        info: anything with the fields of ``sensor_msgs/CameraInfo``.
        rectified: whether the images are: P describes them then; else K and the distortion.

        Raises
        ------
        ValueError
            When the camera is not calibrated, or distorts in a way that is not known here.

        """
        shape = (int(info.height), int(info.width))
        if rectified:
            return cls(shape, np.reshape(info.p, (3, 4))[:, :3].astype(np.float64))
        matrix = np.reshape(info.k, (3, 3)).astype(np.float64)
        return cls(shape, matrix, np.asarray(info.d, np.float64), info.distortion_model)

    def __post_init__(self) -> None:
        """Refuse what is no calibration."""
        if not (np.isfinite(self.matrix).all() and np.isfinite(self.distortion).all()):
            raise ValueError('the calibration has numbers that are not finite')
        if self.matrix[0, 0] <= 0 or self.matrix[1, 1] <= 0:
            raise ValueError('camera_info says that the camera is not calibrated')
        if self._distorts and self.model not in _MODELS:
            raise ValueError(f"the distortion_model '{self.model}' is not known here")

    @property
    def _distorts(self) -> bool:
        return bool(np.any(self.distortion))

    @property
    def focal(self) -> float:
        """Focal length in pixels, the mean of both."""
        return float(self.matrix[0, 0] + self.matrix[1, 1]) / 2

    def rays(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return where the rays through points of the image meet the plane one metre ahead.

        Parameters
        ----------
        points: (N, 2) x, y in pixels, (0, 0) the outer corner of the top-left pixel.

        Returns
        -------
        (N, 2) x to the right, y down (REP 103), metres in the optical frame; NaN for a point that
        no ray is seen at, for example outside the circle of a fisheye lens.

        Raises
        ------
        ValueError
            When the distortion has a number of coefficients that the model does not know.

        """
        pixels = np.asarray(points, np.float64).reshape(-1, 1, 2) - 0.5
        matrix = self.matrix
        plain = (pixels[:, 0] - matrix[:2, 2]) / (matrix[0, 0], matrix[1, 1])
        if not self._distorts or not len(pixels):
            return plain
        try:
            found = _MODELS[self.model].undistortPoints(pixels, matrix, self.distortion)
        except cv2.error as error:
            raise self._wrong() from error
        found = found.reshape(-1, 2)
        seen = self._projected(np.insert(found, 2, 1.0, axis=1))
        # Where there is no solution, the iteration ends somewhere.
        with np.errstate(invalid='ignore'):
            wrong = ~(np.abs(seen - pixels[:, 0]).max(axis=1) < _TOLERANCE)
        found[wrong] = np.nan
        return np.asarray(found)

    def seen_at(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return where points in front of the camera are in its image.

        Parameters
        ----------
        points: (N, 3) x to the right, y down, z forward, metres in the optical frame, z > 0.

        Returns
        -------
        (N, 2) x, y in pixels, (0, 0) the outer corner of the top-left pixel.

        Raises
        ------
        ValueError
            As ``rays``.

        """
        points = np.asarray(points, np.float64)
        if self._distorts:
            return self._projected(points) + 0.5
        plain = points[:, :2] / points[:, 2:]
        return plain * (self.matrix[0, 0], self.matrix[1, 1]) + self.matrix[:2, 2] + 0.5

    @functools.cached_property
    def grid(self) -> NDArray[np.float32]:
        """The rays through the centres of all pixels, (H, W, 2): computed once."""
        height, width = self.shape
        columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        found = self.rays(np.stack((columns, rows), axis=-1).reshape(-1, 2))
        return found.reshape(height, width, 2).astype(np.float32)

    def in_view(self, points: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Tell (N,) of which points (N, 3) the polynomial of a distortion says something.

        What lies far outside would be folded into the image by it.
        """
        with np.errstate(invalid='ignore', divide='ignore'):
            slope = np.abs(points[:, :2] / points[:, 2:])
            return np.asarray((points[:, 2] > 0) & (slope < self._widest).all(axis=1))

    @functools.cached_property
    def _widest(self) -> float:
        """How far from its axis the camera sees, in the plane one metre ahead."""
        known = self.grid[np.isfinite(self.grid)]
        return float(np.abs(known).max()) * 1.05 if len(known) else 0.0

    def _projected(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return where points (N, 3) are seen; (0, 0) is the centre of the top-left pixel."""
        if not len(points):
            return np.zeros((0, 2))
        zero = np.zeros(3)
        try:
            seen, _ = _MODELS[self.model].projectPoints(
                points[:, None], zero, zero, self.matrix, self.distortion
            )
        except cv2.error as error:
            raise self._wrong() from error
        return np.asarray(seen.reshape(-1, 2))

    def _wrong(self) -> ValueError:
        return ValueError(f'camera_info has a distortion of {len(self.distortion)} numbers')
