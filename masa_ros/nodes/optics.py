# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Between pixels of an image and directions in front of its camera, by its camera_info."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo

from masa_ros.space.cameras import Camera


def rays(
    points: NDArray[np.floating], info: CameraInfo, rectified: bool = False
) -> NDArray[np.float64]:
    """Return where the rays through points of an image meet the plane one metre ahead.

    As ``Camera.rays``, and ``Camera.of_info`` for what is raised.
    """
    return Camera.of_info(info, rectified).rays(points)


def seen_at(
    points: NDArray[np.floating], info: CameraInfo, rectified: bool = False
) -> NDArray[np.float64]:
    """Return where points in front of a camera are in its image.

    As ``Camera.seen_at``, and ``Camera.of_info`` for what is raised.
    """
    return Camera.of_info(info, rectified).seen_at(points)
