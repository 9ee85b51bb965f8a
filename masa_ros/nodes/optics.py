# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Between pixels of an image and directions in front of its camera, by the calibration."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo

_MODELS: dict[str, Any] = {
    'plumb_bob': cv2,
    'rational_polynomial': cv2,
    'equidistant': cv2.fisheye,
}
_TOLERANCE = 5.0  # pixels between a point and where the ray that was found for it is seen


def rays(
    points: NDArray[np.floating], info: CameraInfo, rectified: bool = False
) -> NDArray[np.float64]:
    """Return where the rays through points of an image meet the plane one metre ahead.

    Parameters
    ----------
    points: (N, 2) x, y in pixels, (0, 0) the outer corner of the top-left pixel.
    info: calibration of the camera.
    rectified: whether the image is: P describes it then; else K and the distortion.

    Returns
    -------
    (N, 2) x to the right, y down (REP 103), metres in the optical frame; NaN for a point that no
    ray is seen at, for example outside the circle of a fisheye lens.

    Raises
    ------
    ValueError
        When the camera is not calibrated, or distorts in a way that is not known here.

    """
    matrix = _matrix(info, rectified)
    # In calibrations (0, 0) is the centre of the top-left pixel.
    pixels = np.asarray(points, np.float64).reshape(-1, 1, 2) - 0.5
    plain = (pixels[:, 0] - matrix[:2, 2]) / (matrix[0, 0], matrix[1, 1])
    if rectified or not np.any(info.d) or not len(pixels):
        return plain
    try:
        found = _model(info).undistortPoints(pixels, matrix, np.asarray(info.d)).reshape(-1, 2)
    except cv2.error as error:
        raise _wrong(info) from error
    seen = _projected(np.insert(found, 2, 1.0, axis=1), info, matrix)
    # Where there is no solution, the iteration ends somewhere.
    with np.errstate(invalid='ignore'):
        wrong = ~(np.abs(seen - pixels[:, 0]).max(axis=1) < _TOLERANCE)
    found[wrong] = np.nan
    return np.asarray(found)


def seen_at(
    points: NDArray[np.floating], info: CameraInfo, rectified: bool = False
) -> NDArray[np.float64]:
    """Return where points in front of a camera are in its image.

    Parameters
    ----------
    points: (N, 3) x to the right, y down, z forward, metres in the optical frame, z > 0.
    info, rectified: as for ``rays``.

    Returns
    -------
    (N, 2) x, y in pixels, (0, 0) the outer corner of the top-left pixel.

    Raises
    ------
    ValueError
        As ``rays``.

    """
    matrix = _matrix(info, rectified)
    points = np.asarray(points, dtype=np.float64)
    if rectified or not np.any(info.d):
        plain = points[:, :2] / points[:, 2:]
        return plain * (matrix[0, 0], matrix[1, 1]) + matrix[:2, 2] + 0.5
    return _projected(points, info, matrix) + 0.5


def _matrix(info: CameraInfo, rectified: bool) -> NDArray[np.float64]:
    matrix = np.reshape(info.p, (3, 4))[:, :3] if rectified else np.reshape(info.k, (3, 3))
    if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise ValueError('camera_info says that the camera is not calibrated')
    return matrix


def _model(info: CameraInfo) -> Any:
    model = _MODELS.get(info.distortion_model)
    if model is None:
        raise ValueError(f"the distortion_model '{info.distortion_model}' is not known here")
    return model


def _projected(
    points: NDArray[np.floating], info: CameraInfo, matrix: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return where points (N, 3) are seen (N, 2); (0, 0) is the centre of the top-left pixel."""
    zero = np.zeros(3)
    try:
        seen, _ = _model(info).projectPoints(
            points[:, None], zero, zero, matrix, np.asarray(info.d)
        )
    except cv2.error as error:
        raise _wrong(info) from error
    return np.asarray(seen.reshape(-1, 2))


def _wrong(info: CameraInfo) -> ValueError:
    return ValueError(f'camera_info has a distortion of {len(info.d)} numbers')
