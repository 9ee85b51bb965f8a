# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Transforms between frames: by tf2 where it is installed, else between a frame and itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.time import Time

from masa_ros.space.frames import Matrix, matrix_of

_PATIENCE = Duration(seconds=0.1)  # transforms of a moving robot come a little after its images
_MEMORY = Duration(seconds=10)
_STALE_NS = 200_000_000  # older transforms do not say where a robot is now


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

    def between(self, source: str, target: str, stamp_ns: int) -> Matrix:
        """Return the matrix (4, 4) that takes points from one frame to another.

        Waits for a tenth of a second at most, and only when the last one was found.

        Raises
        ------
        LookupError
            When it is not known, at that time.

        """
        if source == target:
            return np.eye(4)
        patience = _PATIENCE if self._found else Duration()
        self._found = False
        found = self._looked_up(source, target, Time(nanoseconds=stamp_ns), patience)
        self._found = True
        return matrix_of(found.transform)

    def at_once(self, source: str, target: str, stamp_ns: int) -> Matrix:
        """Return the same without waiting: the newest, where none of that time has come yet.

        Raises
        ------
        LookupError
            When the newest is older than a fifth of a second.

        """
        if source == target:
            return np.eye(4)
        try:
            found = self._looked_up(source, target, Time(nanoseconds=stamp_ns), Duration())
        except LookupError:
            found = self._looked_up(source, target, Time(), Duration())
            stamp = found.header.stamp
            age_ns = stamp_ns - Time.from_msg(stamp).nanoseconds
            if abs(age_ns) > _STALE_NS:
                raise
        return matrix_of(found.transform)

    def _looked_up(
        self, source: str, target: str, time: Time, patience: Duration
    ) -> TransformStamped:
        """Ask tf2; raises LookupError."""
        buffer = self._buffer
        if buffer is None:
            why = 'tf2_ros is not installed' if self._tf2 is None else 'the node is not active'
            raise LookupError(f'no transform from {source} to {target}: {why}')
        try:
            return buffer.lookup_transform(target, source, time, timeout=patience)
        except self._tf2.TransformException as error:
            raise LookupError(f'no transform from {source} to {target}: {error}') from error

    def send(self, transforms: list[TransformStamped]) -> bool:
        """Tell others of transforms; False where tf2 is not installed."""
        if self._tf2 is None:
            return False
        if self._broadcaster is None:
            self._broadcaster = self._tf2.TransformBroadcaster(self._node)
        self._broadcaster.sendTransform(transforms)
        return True
