# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where the camera of a recording was: by transforms in its bag, or by a trajectory beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rosbags.highlevel import AnyReader

from masa_ros.errors import SourceError
from masa_ros.recordings.bags import typestore
from masa_ros.recordings.sources import Beside, FolderSource, Source, stamp_ns_of
from masa_ros.space.frames import Frames, Matrix, matrix_from, matrix_of
from masa_ros.types import Frame

_AHEAD_NS = 2_000_000_000  # by which some transforms are dated ahead, or recorded late
_BEHIND_NS = 10_000_000_000  # as long as tf2 remembers
_SUFFIXES = ('.txt', '.csv', '.npy')
_LONGEST_GAP_NS = 1_000_000_000  # of a trajectory that is interpolated


class Poses(Protocol):
    """Where the camera is."""

    def at(self, index: int, name: str, frame: Frame) -> Matrix:
        """Return the matrix from the optical frame of an image to a frame that stands still.

        Raises
        ------
        LookupError
            Where it is not known.

        """
        ...


class Still:
    """A camera that stands still."""

    def at(self, index: int, name: str, frame: Frame) -> Matrix:
        """Return the matrix that changes nothing."""
        return np.eye(4)


class Trajectory:
    """A file of lines 'seconds x y z qx qy qz qw', as TUM's benchmark of RGB-D has them.

    The pose of the camera's optical frame in a frame that stands still, by the stamps of images;
    interpolated between lines that are at most a second apart. '#' begins a comment.
    """

    def __init__(self, path: Path) -> None:
        self._frames = Frames()
        self._stamps: list[int] = []
        try:
            rows = np.loadtxt(path, np.longdouble, ndmin=2)  # seconds to the nanosecond
        except (OSError, ValueError) as error:
            raise SourceError(f'{path} is no trajectory: {error}') from error
        if rows.shape[1:] != (8,) or not np.isfinite(rows).all():
            raise SourceError(f'{path} is no trajectory: seconds x y z qx qy qz qw on every line')
        for stamp, *numbers in rows[np.argsort(rows[:, 0], kind='stable')]:
            values = np.array(numbers, np.float64)
            self._stamps.append(round(stamp * 10**9))
            try:
                pose = matrix_from(values[:3], values[3:])
            except LookupError as error:
                raise SourceError(f'{path}, at {float(stamp):.3f}: {error}') from error
            self._frames.add('', 'camera', self._stamps[-1], pose)

    def at(self, index: int, name: str, frame: Frame) -> Matrix:
        """Return the pose at the stamp of an image; raises LookupError."""
        after = int(np.searchsorted(self._stamps, frame.stamp_ns))
        around = self._stamps[max(after - 1, 0) : after + 1]
        if len(around) == 2 and around[1] - around[0] > _LONGEST_GAP_NS:
            raise LookupError(f'the trajectory has a gap of {(around[1] - around[0]) / 1e9:.1f} s')
        return self._frames.between('camera', '', frame.stamp_ns)


class FolderPoses:
    """A folder with a file for every image: a matrix of 4 x 4, as text or NPY.

    The pose of the camera's optical frame in a frame that stands still, as 7-Scenes and ScanNet
    have them. Files go by the names of images ('7.png': '7.txt', '7.pose.txt') or, where none has
    one, by their order.
    """

    def __init__(self, path: Path, names: Iterable[str] = ()) -> None:
        self._files = Beside((p for p in path.iterdir() if p.suffix in _SUFFIXES), names, _plain)
        if not len(self._files):
            raise SourceError(f'{path} holds no poses ({", ".join(_SUFFIXES)})')

    def at(self, index: int, name: str, frame: Frame) -> Matrix:
        """Return the pose of an image; raises LookupError."""
        file = self._files.of(index, name)
        if file is None:
            raise LookupError(f'{name} has no pose')
        try:
            if file.suffix == '.npy':
                pose = np.load(file, allow_pickle=False)
            else:
                pose = np.loadtxt(file, delimiter=',' if file.suffix == '.csv' else None)
        except (OSError, ValueError) as error:
            raise LookupError(f'{file.name} cannot be read: {error}') from error
        if pose.shape != (4, 4) or not np.isfinite(pose).all():
            raise LookupError(f'{file.name} is no matrix of 4 x 4 finite numbers')
        turn = pose[:3, :3]
        if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-3):
            raise LookupError(f'{file.name} is no rotation and shift')
        return np.asarray(pose, np.float64)


def _plain(name: str) -> str:
    """Return the name of a file up to its first dot."""
    return Path(name).name.partition('.')[0]


class BagTransforms:
    """The transforms of a bag, ``/tf`` and ``/tf_static``, asked for as time goes on."""

    def __init__(self, path: Path) -> None:
        self._path, self._frames = path, Frames()
        try:
            with AnyReader([path], default_typestore=typestore()) as reader:
                topics = {c.topic for c in reader.connections}
                for message in _transforms(reader, '/tf_static'):
                    self._take(message, fixed=True)
        except Exception as error:  # garbage makes the reader raise anything
            raise SourceError(f'{path} is not a readable bag: {error}') from error
        if not topics & {'/tf', '/tf_static'}:
            raise SourceError(f'{path} has no transforms (/tf, /tf_static)')
        self._messages = self._read()
        self._read_ns = 0

    def _read(self) -> Iterator[Any]:
        with AnyReader([self._path], default_typestore=typestore()) as reader:
            yield from _transforms(reader, '/tf')

    def _take(self, message: Any, fixed: bool = False) -> None:
        stamps = [0]
        for each in message.transforms:
            stamps.append(stamp_ns_of(each))
            try:
                pose = matrix_of(each.transform)
            except LookupError:
                continue  # one that is none, among good ones; who asks for it learns of it
            parent, child = (
                name.lstrip('/') for name in (each.header.frame_id, each.child_frame_id)
            )
            self._frames.add(parent, child, stamps[-1], pose, fixed)
        self._read_ns = max(stamps)

    def between(self, source: str, target: str, stamp_ns: int) -> Matrix:
        """Return the matrix from one frame to another; stamps never go back by much.

        Raises
        ------
        LookupError
            When the bag does not tell of it, at that time.

        """
        try:
            while self._read_ns <= stamp_ns + _AHEAD_NS:
                message = next(self._messages, None)
                if message is None:
                    break
                self._take(message)
        except Exception as error:  # damaged bytes make the reader raise anything
            raise LookupError(f'/tf breaks off: {error}') from error
        self._frames.forget(stamp_ns - _BEHIND_NS)
        return self._frames.between(source.lstrip('/'), target.lstrip('/'), stamp_ns)


def _transforms(reader: AnyReader, topic: str) -> Iterator[Any]:
    connections = [c for c in reader.connections if c.topic == topic]
    if connections:  # none would mean all
        for connection, _, raw in reader.messages(connections):
            yield reader.deserialize(raw, connection.msgtype)


class BagPoses:
    """Where the camera of a bag was, in one of the frames of its transforms."""

    def __init__(self, transforms: BagTransforms, target: str) -> None:
        self._transforms, self._target = transforms, target

    def at(self, index: int, name: str, frame: Frame) -> Matrix:
        """Return the matrix from the frame of an image; raises LookupError."""
        return self._transforms.between(frame.frame_id, self._target, frame.stamp_ns)


def open_poses(
    source: Source, where: Path | None, transforms: BagTransforms | None, target: str
) -> Poses:
    """Open what tells where the camera was.

    Parameters
    ----------
    source: the recording.
    where: a trajectory, or a folder of matrices; None for the transforms of the bag.
    transforms: of the bag.
    target: frame of these that stands still; '' without ``where``: the camera stands still.

    Raises
    ------
    SourceError
        When it is not there, or says nothing that can be used.

    """
    if where is not None:
        if where.is_dir():
            names = (
                [file.name for file in source.files] if isinstance(source, FolderSource) else []
            )
            return FolderPoses(where, names)
        return Trajectory(where)
    if target and transforms is not None:
        return BagPoses(transforms, target)
    return Still()
