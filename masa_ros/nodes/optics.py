# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Between pixels of an image and directions in front of its camera, by its camera_info."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo

from masa_ros.space.cameras import Camera


def camera_of(info: CameraInfo, rectified: bool = False) -> Camera:
    """Return the camera that a message describes.

    Parameters
    ----------
    info: calibration of the camera.
    rectified: whether the image is: P describes it then; else K and the distortion.

    Raises
    ------
    ValueError
        When the camera is not calibrated, or distorts in a way that is not known here.

    """
    shape = (int(info.height), int(info.width))
    if rectified:
        return Camera(shape, np.reshape(info.p, (3, 4))[:, :3])
    matrix = np.reshape(info.k, (3, 3)).astype(np.float64)
    return Camera(shape, matrix, np.asarray(info.d, np.float64), info.distortion_model)


def rays(
    points: NDArray[np.floating], info: CameraInfo, rectified: bool = False
) -> NDArray[np.float64]:
    """Return where the rays through points of an image meet the plane one metre ahead.

    As ``Camera.rays``, and ``camera_of`` for what is raised.
    """
    return camera_of(info, rectified).rays(points)


def seen_at(
    points: NDArray[np.floating], info: CameraInfo, rectified: bool = False
) -> NDArray[np.float64]:
    """Return where points in front of a camera are in its image.

    As ``Camera.seen_at``, and ``camera_of`` for what is raised.
    """
    return camera_of(info, rectified).seen_at(points)
