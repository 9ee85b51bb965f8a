"""Recordings as streams of frames: rosbag2, video files, folders of images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.highlevel import AnyReader, AnyReaderError

from masa_ros.errors import ImageError, SourceError
from masa_ros.images import natural_order, rgb_from_compressed, rgb_from_image
from masa_ros.replay.bags import COMPRESSED_TYPE, IMAGE_TYPE, typestore
from masa_ros.types import Frame

_IMAGES = {'.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff'}
_DEFAULT_FPS = 10.0


class Item(NamedTuple):
    """One image of a recording: its name there, and the frame or why there is none."""

    name: str
    frame: Frame | ImageError


class Source(Protocol):
    """A recording. Iterating twice gives the same frames."""

    def __len__(self) -> int:
        """Return the number of images, as far as the recording tells."""
        ...

    def __iter__(self) -> Iterator[Item]:
        """Give the images in the order of their stamps."""
        ...


def images_of(source: Source) -> Iterator[NDArray[np.uint8] | None]:
    """Give the pixels of every image (H, W, 3) RGB, None for those that cannot be used."""
    for item in source:
        yield None if isinstance(item.frame, ImageError) else item.frame.image


def open_source(path: Path, topic: str = '', fps: float = 0.0) -> Source:
    """Open a recording by what it is.

    Parameters
    ----------
    path: rosbag2 folder, .mcap or .db3 file, video file, or folder of images.
    topic: image topic of a bag, '' for the only one.
    fps: rate of a folder of images, 0 for that of its meta.json or 10.

    Raises
    ------
    SourceError
        When it is none of these or cannot be opened.

    """
    if not path.exists():
        raise SourceError(f'{path} does not exist')
    if path.suffix in ('.mcap', '.db3') or (path / 'metadata.yaml').is_file():
        return BagSource(path, topic)
    if path.is_dir():
        return FolderSource(path, fps)
    return VideoSource(path)


class BagSource:
    """An image topic of a rosbag2 recording."""

    def __init__(self, path: Path, topic: str = '') -> None:
        self.path = path
        try:
            with AnyReader([path], default_typestore=typestore()) as reader:
                counts = {
                    c.topic: c.msgcount
                    for c in reader.connections
                    if c.msgtype in (IMAGE_TYPE, COMPRESSED_TYPE)
                }
        except (AnyReaderError, OSError, ValueError) as error:
            raise SourceError(f'{path} is not a readable bag: {error}') from error
        listed = ', '.join(counts) or 'none'
        if topic and topic not in counts:
            raise SourceError(f'{path} has no image topic {topic}; there are: {listed}')
        if not topic and len(counts) != 1:
            raise SourceError(f'{path}: choose one image topic with --topic; there are: {listed}')
        self.topic = topic or next(iter(counts))
        self._count = counts[self.topic]

    def __len__(self) -> int:
        """Return the number of messages."""
        return self._count

    def __iter__(self) -> Iterator[Item]:
        """Give the images as they were recorded."""
        with AnyReader([self.path], default_typestore=typestore()) as reader:
            connections = [c for c in reader.connections if c.topic == self.topic]
            for number, (connection, _, raw) in enumerate(reader.messages(connections)):
                name = f'{self.topic}[{number}]'
                message = reader.deserialize(raw, connection.msgtype)
                decode = (
                    rgb_from_image if connection.msgtype == IMAGE_TYPE else rgb_from_compressed
                )
                stamp = message.header.stamp  # type: ignore[attr-defined]
                stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
                try:
                    frame_id = message.header.frame_id  # type: ignore[attr-defined]
                    yield Item(name, Frame(decode(message), stamp_ns, frame_id))
                except ImageError as error:
                    yield Item(name, error)


class FolderSource:
    """A folder of images, in natural order: frame 10 comes after frame 9."""

    def __init__(self, path: Path, fps: float = 0.0) -> None:
        files = (p for p in path.iterdir() if p.suffix.lower() in _IMAGES)
        self.files = natural_order(files)
        if not self.files:
            raise SourceError(
                f'{path} is no bag and holds no images ({", ".join(sorted(_IMAGES))})'
            )
        meta = path / 'meta.json'
        if not fps and meta.is_file():
            try:
                fps = float(json.loads(meta.read_text()).get('fps') or 0)
            except (ValueError, AttributeError, TypeError) as error:
                raise SourceError(f'{meta}: fps cannot be read: {error}') from error
        self.fps = fps or _DEFAULT_FPS

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    def __iter__(self) -> Iterator[Item]:
        """Give the images with the stamps their rate implies, beginning with zero."""
        for number, file in enumerate(self.files):
            image = cv2.imread(str(file), cv2.IMREAD_COLOR)
            if image is None:
                yield Item(file.name, ImageError(f'{file.name} cannot be decoded', 'data'))
                continue
            stamp_ns = round(number * 1e9 / self.fps)
            yield Item(file.name, Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), stamp_ns))


class VideoSource:
    """The first video stream of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                self._count = stream.frames
                self._fps = float(stream.average_rate or 25)
        except (av.error.FFmpegError, IndexError) as error:
            raise SourceError(f'{path} is neither a bag nor a readable video: {error}') from error

    def __len__(self) -> int:
        """Return the number of frames its header names, 0 where it names none."""
        return int(self._count)

    def __iter__(self) -> Iterator[Item]:
        """Give the frames with their presentation times."""
        with av.open(str(self.path)) as container:
            try:
                for number, picture in enumerate(container.decode(video=0)):
                    seconds = picture.time if picture.time is not None else number / self._fps
                    image = picture.to_ndarray(format='rgb24')
                    yield Item(f'frame {number}', Frame(image, round(seconds * 1e9)))
            except av.error.FFmpegError as error:
                yield Item('end of video', ImageError(f'the video breaks off: {error}', 'data'))
