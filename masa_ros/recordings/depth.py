# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Depth that was recorded beside images: a topic of their bag, or a folder."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import cv2
import numpy as np
from rosbags.highlevel import AnyReader

from masa_ros.errors import ImageError, SourceError
from masa_ros.recordings.bags import COMPRESSED_TYPE, IMAGE_TYPE, typestore
from masa_ros.recordings.sources import BagSource, Beside, FolderSource, Source, stamp_ns_of
from masa_ros.space.cameras import Camera
from masa_ros.space.depth import (
    Depth,
    depth_from_compressed,
    depth_from_image,
    in_metres,
    nearest,
)
from masa_ros.space.frames import Matrix

T = TypeVar('T')

_INFO_TYPE = 'sensor_msgs/msg/CameraInfo'
_FILES = {'.png', '.tif', '.tiff', '.npy'}
_KEPT = 30  # messages of depth; more than any camera is behind


class Seen(NamedTuple):
    """The depth beside an image.

    Attributes
    ----------
    depth: (H, W) metres.
    frame_id: of the sensor; '' where the recording does not tell.
    stamp_ns: nanoseconds, of the image where the recording does not tell.

    """

    depth: Depth
    frame_id: str
    stamp_ns: int


@dataclasses.dataclass(frozen=True, eq=False)
class Sensor:
    """A depth camera that is not the camera of the images.

    Attributes
    ----------
    camera: its calibration.
    to_image: (4, 4) from its optical frame to that of the images, None where transforms tell.

    """

    camera: Camera
    to_image: Matrix | None = None


class RecordedDepth(Protocol):
    """Depth of the images of a recording, asked for in their order.

    Attributes
    ----------
    camera: of the images.
    sensor: of the depth; None: it is registered to the images.

    """

    camera: Camera
    sensor: Sensor | None

    def at(self, index: int, name: str, stamp_ns: int) -> Seen | None:
        """Return the depth of an image, None where there is none; raises ImageError."""
        ...


@dataclasses.dataclass(frozen=True)
class DepthFiles:
    """Where the depth of a recording is.

    Attributes
    ----------
    where: folder of depth images, or a topic of the bag that the recording is.
    camera: file of the calibration of the images; None for that of the bag.
    sensor: the same of a depth camera of its own. With ``to_image``, 4 x 4 numbers row by row,
        in the file it also says where that stands.
    registered: the depth has the pixels of the images; there is no other camera.

    """

    where: str
    camera: Path | None = None
    sensor: Path | None = None
    registered: bool = True


def open_depth(source: Source, files: DepthFiles, slop_ns: int, scale: float) -> RecordedDepth:
    """Open the depth of a recording.

    Parameters
    ----------
    source: the recording of the images.
    files: where it is.
    slop_ns: nanoseconds by which the stamps in a bag may differ.
    scale: metres a unit, 0: millimetres in 16 bits, metres in floats.

    Raises
    ------
    SourceError
        When one of them is not there, or says nothing that can be used.

    """
    known = read_camera(files.camera) if files.camera is not None else None
    sensor = read_sensor(files.sensor) if files.sensor is not None else None
    where = files.where
    if Path(where).is_dir():
        if known is None:
            raise SourceError(f'{where}: a folder of depth needs --camera-info')
        if sensor is None and not files.registered:
            raise SourceError(
                f'{where}: a folder of depth that is not registered needs --depth-info'
            )
        names = [file.name for file in source.files] if isinstance(source, FolderSource) else []
        return FolderDepth(Path(where), known, names, scale, sensor)
    if not isinstance(source, BagSource):
        raise SourceError(f'{where} is no folder of depth, and the recording is no bag')
    cameras = _cameras_in(source, where, known, sensor, files.registered)
    return BagDepth(source.path, where, *cameras, slop_ns, scale)


def read_camera(path: Path) -> Camera:
    """Read the fields of a sensor_msgs/CameraInfo from JSON; raises SourceError."""
    return _read(path, _camera_of)


def read_sensor(path: Path) -> Sensor:
    """Read the same of a depth camera, and ``to_image`` where it is there; raises SourceError."""

    def sensor_of(given: Any) -> Sensor:
        to_image = given.get('to_image')
        if to_image is not None:
            to_image = np.array(to_image, np.float64).reshape(4, 4)
            if not np.isfinite(to_image).all():
                raise ValueError('to_image has numbers that are not finite')
        return Sensor(_camera_of(given), to_image)

    return _read(path, sensor_of)


def _camera_of(given: Any) -> Camera:
    shape = (int(given['height']), int(given['width']))
    matrix = np.array(given['k'], np.float64).reshape(3, 3)
    distortion = np.array(given.get('d', ()), np.float64)
    return Camera(shape, matrix, distortion, str(given.get('distortion_model', 'plumb_bob')))


def _read(path: Path, made_of: Callable[[Any], T]) -> T:
    try:
        return made_of(json.loads(path.read_text()))
    except OSError as error:
        raise SourceError(f'{path} cannot be read: {error.strerror}') from error
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise SourceError(f'{path} is no camera_info (height, width, k, d): {error}') from error


class FolderDepth:
    """A folder of depth images: by the names of the images, or in their order.

    Parameters
    ----------
    path: of the folder: PNG or TIFF of 16 bits or floats, NPY.
    camera: of the images.
    names: of the images; where no depth has one of them, the order counts.
    scale: as for ``open_depth``.
    sensor: of the depth; None: it is registered to the images.

    """

    def __init__(
        self,
        path: Path,
        camera: Camera,
        names: Iterable[str] = (),
        scale: float = 0.0,
        sensor: Sensor | None = None,
    ) -> None:
        self.camera, self.sensor = camera, sensor
        self._scale = scale
        files = (p for p in path.iterdir() if p.suffix.lower() in _FILES)
        self._files = Beside(files, names, lambda name: Path(name).stem)
        if not len(self._files):
            raise SourceError(f'{path} holds no depth ({", ".join(sorted(_FILES))})')

    def at(self, index: int, name: str, stamp_ns: int) -> Seen | None:
        """Return the depth of an image, None where there is none; raises ImageError."""
        file = self._files.of(index, name)
        if file is None:
            return None
        try:
            if file.suffix == '.npy':
                pixels: Any = np.load(file, allow_pickle=False)
            else:
                pixels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        except (OSError, ValueError, cv2.error) as error:
            raise ImageError(f'{file.name} cannot be read: {error}', 'data') from error
        if pixels is None or pixels.ndim != 2 or pixels.dtype.kind not in 'uf':
            raise ImageError(f'{file.name} is no depth: one channel of 16 bits or floats', 'data')
        return Seen(in_metres(pixels, self._scale), '', stamp_ns)


class BagDepth:
    """A topic of a bag: sensor_msgs/Image, or CompressedImage of compressedDepth."""

    def __init__(
        self,
        path: Path,
        topic: str,
        camera: Camera,
        sensor: Sensor | None,
        slop_ns: int,
        scale: float,
    ) -> None:
        self.path, self.topic = path, topic
        self.camera, self.sensor = camera, sensor
        self._slop_ns, self._scale = slop_ns, scale
        self._messages = self._read()
        self._near: collections.deque[tuple[int, Any]] = collections.deque(maxlen=_KEPT)

    def _read(self) -> Iterator[tuple[int, Any]]:
        with AnyReader([self.path], default_typestore=typestore()) as reader:
            connections = [c for c in reader.connections if c.topic == self.topic]
            for connection, _, raw in reader.messages(connections):
                message: Any = reader.deserialize(raw, connection.msgtype)
                yield stamp_ns_of(message), message

    def at(self, index: int, name: str, stamp_ns: int) -> Seen | None:
        """Return the depth of an image, None where there is none; raises ImageError."""
        while not self._near or self._near[-1][0] < stamp_ns:
            following = self._next()
            if following is None:
                break
            self._near.append(following)
        found = nearest(self._near, stamp_ns, self._slop_ns)
        if found is None:
            return None
        read = depth_from_image if hasattr(found, 'encoding') else depth_from_compressed
        header = found.header
        return Seen(read(found, self._scale), header.frame_id, stamp_ns_of(found))

    def _next(self) -> tuple[int, Any] | None:
        try:
            return next(self._messages, None)
        except Exception as error:  # damaged bytes make the reader raise anything
            raise ImageError(f'{self.topic} breaks off: {error}', 'data') from error


def _cameras_in(
    source: BagSource, topic: str, known: Camera | None, sensor: Sensor | None, registered: bool
) -> tuple[Camera, Sensor | None]:
    """Return the cameras of a bag, as far as no file describes them; raises SourceError."""
    try:
        with AnyReader([source.path], default_typestore=typestore()) as reader:
            kinds = {c.topic: c.msgtype for c in reader.connections}
            known = known or _camera_in(reader, source.topic, '--camera-info')
            if kinds.get(topic) not in (IMAGE_TYPE, COMPRESSED_TYPE):
                raise SourceError(
                    f'{source.path} has no depth topic {topic}, and there is no such folder'
                )
            if sensor is None and not registered:
                sensor = Sensor(_camera_in(reader, topic, '--depth-info'))
    except SourceError:
        raise
    except ImageError as error:
        raise SourceError(f'{source.path}: {error}') from error
    except Exception as error:  # garbage makes the reader raise anything
        raise SourceError(f'{source.path} is not a readable bag: {error}') from error
    return known, sensor


def _camera_in(reader: AnyReader, topic: str, instead: str) -> Camera:
    """Return the calibration beside a topic of images; raises ImageError."""
    folder, _, last = topic.rstrip('/').rpartition('/')
    topics = {f'{folder}/camera_info', f'{folder.rpartition("/")[0]}/camera_info'}
    connections = [c for c in reader.connections if c.msgtype == _INFO_TYPE and c.topic in topics]
    for connection, _, raw in reader.messages(connections):
        info: Any = reader.deserialize(raw, connection.msgtype)
        try:
            return Camera.of_info(info, rectified='rect' in last)  # as image_proc names them
        except ValueError as error:
            raise ImageError(f'{connection.topic}: {error}') from error
    raise ImageError(f'there is no camera_info beside {topic}: see {instead}')
