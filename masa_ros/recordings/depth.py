# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Depth that was recorded beside images, registered to them: a topic of their bag, or a folder."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from rosbags.highlevel import AnyReader

from masa_ros.errors import ImageError, SourceError
from masa_ros.images import natural_order
from masa_ros.recordings.bags import COMPRESSED_TYPE, IMAGE_TYPE, typestore
from masa_ros.recordings.sources import BagSource, FolderSource, Source, stamp_ns_of
from masa_ros.space.cameras import Camera
from masa_ros.space.depth import (
    Depth,
    depth_from_compressed,
    depth_from_image,
    in_metres,
    nearest,
)

_INFO_TYPE = 'sensor_msgs/msg/CameraInfo'
_FILES = {'.png', '.tif', '.tiff', '.npy'}
_KEPT = 30  # messages of depth; more than any camera is behind


class RecordedDepth(Protocol):
    """Depth of the images of a recording, asked for in their order."""

    camera: Camera | None

    def at(self, index: int, name: str, stamp_ns: int) -> Depth | None:
        """Return the depth of an image, None where there is none; raises ImageError."""
        ...


def open_depth(
    source: Source, where: str, camera: Path | None, slop_ns: int, scale: float
) -> RecordedDepth:
    """Open the depth of a recording.

    Parameters
    ----------
    source: the recording of the images.
    where: folder of depth images, or a topic of the bag that the source is.
    camera: file of the calibration; None for that of the bag.
    slop_ns: nanoseconds by which the stamps in a bag may differ.
    scale: metres a unit, 0: millimetres in 16 bits, metres in floats.

    Raises
    ------
    SourceError
        When one of them is not there, or says nothing that can be used.

    """
    known = read_camera(camera) if camera is not None else None
    if Path(where).is_dir():
        if known is None:
            raise SourceError(f'{where}: a folder of depth needs --camera-info')
        files = source.files if isinstance(source, FolderSource) else ()
        return FolderDepth(Path(where), known, [file.name for file in files], scale)
    if not isinstance(source, BagSource):
        raise SourceError(f'{where} is no folder of depth, and the recording is no bag')
    return BagDepth(source.path, where, source.topic, known, slop_ns, scale)


def read_camera(path: Path) -> Camera:
    """Read the fields of a sensor_msgs/CameraInfo from JSON; raises SourceError."""
    try:
        given = json.loads(path.read_text())
        shape = (int(given['height']), int(given['width']))
        matrix = np.array(given['k'], np.float64).reshape(3, 3)
        distortion = np.array(given.get('d', ()), np.float64)
        return Camera(shape, matrix, distortion, str(given.get('distortion_model', 'plumb_bob')))
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

    """

    def __init__(
        self, path: Path, camera: Camera, names: Iterable[str] = (), scale: float = 0.0
    ) -> None:
        self.camera: Camera | None = camera
        self._scale = scale
        self._files = natural_order(p for p in path.iterdir() if p.suffix.lower() in _FILES)
        self._by_stem = {file.stem: file for file in self._files}
        self._named = any(Path(name).stem in self._by_stem for name in names)
        if not self._files:
            raise SourceError(f'{path} holds no depth ({", ".join(sorted(_FILES))})')

    def at(self, index: int, name: str, stamp_ns: int) -> Depth | None:
        """Return the depth of an image, None where there is none; raises ImageError."""
        if self._named:
            file = self._by_stem.get(Path(name).stem)
        else:
            file = self._files[index] if index < len(self._files) else None
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
        return in_metres(pixels, self._scale)


class BagDepth:
    """A topic of a bag: sensor_msgs/Image, or CompressedImage of compressedDepth."""

    def __init__(
        self,
        path: Path,
        topic: str,
        image_topic: str,
        camera: Camera | None,
        slop_ns: int,
        scale: float,
    ) -> None:
        self.path, self.topic = path, topic
        self._slop_ns, self._scale = slop_ns, scale
        self.camera = camera
        try:
            with AnyReader([path], default_typestore=typestore()) as reader:
                kinds = {c.topic: c.msgtype for c in reader.connections}
                if self.camera is None:
                    self.camera = _camera_in(reader, image_topic)
        except ImageError as error:
            raise SourceError(f'{path}: {error}') from error
        except Exception as error:  # garbage makes the reader raise anything
            raise SourceError(f'{path} is not a readable bag: {error}') from error
        if kinds.get(topic) not in (IMAGE_TYPE, COMPRESSED_TYPE):
            raise SourceError(f'{path} has no depth topic {topic}, and there is no such folder')
        self._messages = self._read()
        self._near: collections.deque[tuple[int, Any]] = collections.deque(maxlen=_KEPT)

    def _read(self) -> Iterator[tuple[int, Any]]:
        with AnyReader([self.path], default_typestore=typestore()) as reader:
            connections = [c for c in reader.connections if c.topic == self.topic]
            for connection, _, raw in reader.messages(connections):
                message: Any = reader.deserialize(raw, connection.msgtype)
                yield stamp_ns_of(message), message

    def at(self, index: int, name: str, stamp_ns: int) -> Depth | None:
        """Return the depth of an image, None where there is none; raises ImageError."""
        while not self._near or self._near[-1][0] < stamp_ns:
            following = self._next()
            if following is None:
                break
            self._near.append(following)
        found = nearest(self._near, stamp_ns, self._slop_ns)
        if found is None:
            return None
        if hasattr(found, 'encoding'):
            return depth_from_image(found, self._scale)
        return depth_from_compressed(found, self._scale)

    def _next(self) -> tuple[int, Any] | None:
        try:
            return next(self._messages, None)
        except Exception as error:  # damaged bytes make the reader raise anything
            raise ImageError(f'{self.topic} breaks off: {error}', 'data') from error


def _camera_in(reader: AnyReader, image_topic: str) -> Camera:
    """Return the calibration beside an image topic; raises ImageError."""
    folder, _, last = image_topic.rstrip('/').rpartition('/')
    topics = {f'{folder}/camera_info', f'{folder.rpartition("/")[0]}/camera_info'}
    connections = [c for c in reader.connections if c.msgtype == _INFO_TYPE and c.topic in topics]
    for connection, _, raw in reader.messages(connections):
        info: Any = reader.deserialize(raw, connection.msgtype)
        try:
            return Camera.of_info(info, rectified='rect' in last)  # as image_proc names them
        except ValueError as error:
            raise ImageError(f'{connection.topic}: {error}') from error
    raise ImageError(f'there is no camera_info beside {image_topic}: see --camera-info')
