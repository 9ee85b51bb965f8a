# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Transforms between frames: by tf2 where it is installed, else between a frame and itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from geometry_msgs.msg import TransformStamped
from numpy.typing import NDArray
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.time import Time
from scipy.spatial.transform import Rotation

_PATIENCE = Duration(seconds=0.1)  # transforms of a moving robot come a little after its images
_MEMORY = Duration(seconds=10)


class Transforms:
    """Where frames stand to each other.

    Parameters
    ----------
    node: that listens.

    """

    def __init__(self, node: LifecycleNode) -> None:
        self._buffer: Any = None
        self._broadcaster: Any = None
        self._listener: Any = None
        self._found = True
        self._node = node
        try:
            import tf2_ros
        except ImportError:  # the wheels of the package index have none
            self._tf2: Any = None
        else:
            self._tf2 = tf2_ros

    def listen(self) -> None:
        """Begin to hear of transforms."""
        if self._tf2 is not None and self._listener is None:
            self._buffer = self._tf2.Buffer(_MEMORY)
            self._listener = self._tf2.TransformListener(self._buffer, self._node)

    def close(self) -> None:
        """Hear no more."""
        listener, self._listener, self._buffer = self._listener, None, None
        if listener is not None and hasattr(listener, 'unregister'):
            listener.unregister()

    def between(self, source: str, target: str, stamp_ns: int) -> NDArray[np.float64]:
        """Return the matrix (4, 4) that takes points from one frame to another.

        Waits for a tenth of a second at most, and only when the last one was found.

        Raises
        ------
        LookupError
            When it is not known, at that time.

        """
        if source == target:
            return np.eye(4)
        if self._buffer is None:
            why = 'tf2_ros is not installed' if self._tf2 is None else 'the node is not active'
            raise LookupError(f'no transform from {source} to {target}: {why}')
        patience = _PATIENCE if self._found else Duration()
        try:
            found = self._buffer.lookup_transform(
                target, source, Time(nanoseconds=stamp_ns), timeout=patience
            )
        except self._tf2.TransformException as error:
            self._found = False
            raise LookupError(f'no transform from {source} to {target}: {error}') from error
        self._found = True
        return matrix_of(found.transform)

    def send(self, transforms: list[TransformStamped]) -> bool:
        """Tell others of transforms; False where tf2 is not installed."""
        if self._tf2 is None:
            return False
        if self._broadcaster is None:
            self._broadcaster = self._tf2.TransformBroadcaster(self._node)
        self._broadcaster.sendTransform(transforms)
        return True


def matrix_of(transform: Any) -> NDArray[np.float64]:
    """Return a geometry_msgs/Transform as a matrix (4, 4); raises LookupError when it is none."""
    shift, turn = transform.translation, transform.rotation
    matrix = np.eye(4)
    try:
        matrix[:3, :3] = Rotation.from_quat((turn.x, turn.y, turn.z, turn.w)).as_matrix()
    except ValueError as error:  # a quaternion of zeros
        raise LookupError(f'a transform is no rotation: {error}') from error
    matrix[:3, 3] = shift.x, shift.y, shift.z
    if not np.isfinite(matrix).all():
        raise LookupError('a transform is not finite')
    return matrix
