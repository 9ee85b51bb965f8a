# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Transforms between frames, as ``/tf`` and ``/tf_static`` tell of them (REP 105).

For recordings, which are read without ROS; the node asks tf2.
"""

from __future__ import annotations

import bisect
import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

Matrix = NDArray[np.float64]
"""(4, 4): takes points of one frame to another."""


@dataclasses.dataclass
class _Joint:
    """How a frame stands to its parent over time, stamps rising; a fixed one has one stamp."""

    parent: str
    fixed: bool
    stamps: list[int] = dataclasses.field(default_factory=list)
    to_parent: list[Matrix] = dataclasses.field(default_factory=list)


class Frames:
    """A tree of frames that move."""

    def __init__(self) -> None:
        self._joints: dict[str, _Joint] = {}

    def add(
        self, parent: str, child: str, stamp_ns: int, to_parent: Matrix, fixed: bool = False
    ) -> None:
        """Take how a frame stands to its parent at a time, or, ``fixed``, always.

        A frame that is told of with another parent has that one from now on.
        """
        joint = self._joints.get(child)
        if joint is None or joint.parent != parent or joint.fixed or fixed:
            joint = self._joints[child] = _Joint(parent, fixed)
        at = bisect.bisect_left(joint.stamps, stamp_ns)
        known = at < len(joint.stamps) and joint.stamps[at] == stamp_ns
        joint.stamps[at : at + known] = [stamp_ns]
        joint.to_parent[at : at + known] = [to_parent]

    def forget(self, before_ns: int) -> None:
        """Drop what is not needed for times from this one on."""
        for joint in self._joints.values():
            old = max(bisect.bisect_right(joint.stamps, before_ns) - 1, 0)
            if not joint.fixed:
                del joint.stamps[:old], joint.to_parent[:old]

    def between(self, source: str, target: str, stamp_ns: int) -> Matrix:
        """Return the matrix that takes points of one frame to another, at a time.

        Between two times that are known it is interpolated: along a line, and about one axis.

        Raises
        ------
        LookupError
            When the frames are not connected, or not at that time.

        """
        ours, theirs = self._upwards(source), self._upwards(target)
        common = next((frame for frame in ours if frame in theirs), None)
        if common is None:
            raise LookupError(f'no transform from {source} to {target}: nothing connects them')
        down = np.linalg.inv(self._climbed(theirs, common, stamp_ns))
        return np.asarray(down @ self._climbed(ours, common, stamp_ns))

    def _upwards(self, frame: str) -> list[str]:
        """Return a frame and all above it."""
        found = [frame]
        while found[-1] in self._joints:
            parent = self._joints[found[-1]].parent
            if parent in found:
                raise LookupError(f'the frames go round in a circle at {parent}')
            found.append(parent)
        return found

    def _climbed(self, frames: list[str], top: str, stamp_ns: int) -> Matrix:
        """Return the matrix from the first of these frames to one above it."""
        matrix = np.eye(4)
        for frame in frames[: frames.index(top)]:
            matrix = self._at(frame, stamp_ns) @ matrix
        return matrix

    def _at(self, frame: str, stamp_ns: int) -> Matrix:
        joint = self._joints[frame]
        stamps, known = joint.stamps, joint.to_parent
        if joint.fixed:
            return known[0]
        after = bisect.bisect_left(stamps, stamp_ns)
        if after < len(stamps) and stamps[after] == stamp_ns:
            return known[after]
        if not 0 < after < len(stamps):
            off = stamps[0] - stamp_ns if after == 0 else stamp_ns - stamps[-1]
            what = 'before the first' if after == 0 else 'after the last'
            raise LookupError(f'{off * 1e-9:.3g} s {what} transform of {frame}')
        share = (stamp_ns - stamps[after - 1]) / (stamps[after] - stamps[after - 1])
        first, second = known[after - 1], known[after]
        matrix = np.eye(4)
        turns = Rotation.from_matrix(np.stack((first[:3, :3], second[:3, :3])))
        matrix[:3, :3] = Slerp((0, 1), turns)(share).as_matrix()
        matrix[:3, 3] = first[:3, 3] + share * (second[:3, 3] - first[:3, 3])
        return matrix


def matrix_of(transform: Any) -> Matrix:
    """Return a ``geometry_msgs/Transform`` as a matrix; raises LookupError when it is none."""
    shift, turn = transform.translation, transform.rotation
    return matrix_from((shift.x, shift.y, shift.z), (turn.x, turn.y, turn.z, turn.w))


def matrix_from(shift: Any, turn: Any) -> Matrix:
    """Return a matrix of a shift x y z, metres, and a quaternion x y z w.

    Raises
    ------
    LookupError
        When they are no transform.

    """
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    try:
        matrix[:3, :3] = Rotation.from_quat(turn).as_matrix()
    except ValueError as error:  # a quaternion of zeros
        raise LookupError(f'a transform is no rotation: {error}') from error
    if not np.isfinite(matrix).all():
        raise LookupError('a transform is not finite')
    return matrix
