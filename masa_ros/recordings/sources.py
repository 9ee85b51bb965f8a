# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Recordings as streams of frames: rosbag2, video files, folders of images."""

from __future__ import annotations

import collections
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.highlevel import AnyReader
from rosbags.typesys.store import Typestore

from masa_ros.codecs.decoder import VideoDecoder
from masa_ros.errors import ImageError, SourceError
from masa_ros.images import (
    Picture,
    natural_order,
    rgb_from_compressed,
    rgb_from_frame,
    rgb_from_image,
    rgb_from_picture,
)
from masa_ros.recordings.bags import (
    COMPRESSED_TYPE,
    IMAGE_TYPE,
    PACKET_TYPE,
    VIDEO_TYPE,
    interrupted,
    typestore,
)
from masa_ros.types import Frame

_TYPES = (IMAGE_TYPE, COMPRESSED_TYPE, PACKET_TYPE, VIDEO_TYPE)
BAGS = ('.mcap', '.db3')
VIDEOS = ('.mp4', '.mkv', '.avi', '.mov', '.webm', '.m4v', '.mpg', '.mpeg', '.ts', '.h264')
"""By which a video is known in a folder or a list; ``open_source`` opens any."""
IMAGES = {'.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff'}
_DEFAULT_FPS = 10.0


class Item(NamedTuple):
    """One image of a recording.

    Attributes
    ----------
    name: of the image there.
    frame: the image, or why there is none.
    arrived_ns: when it was recorded, nanoseconds; 0 where the recording does not tell.

    """

    name: str
    frame: Frame | ImageError
    arrived_ns: int = 0


class Source(Protocol):
    """A recording. Iterating twice gives the same frames."""

    def __len__(self) -> int:
        """Return the number of images, as far as the recording tells."""
        ...

    def __iter__(self) -> Iterator[Item]:
        """Give the images as they came."""
        ...


def images_of(source: Source) -> Iterator[NDArray[np.uint8] | None]:
    """Give the pixels of every image (H, W, 3) RGB, None for those that cannot be used."""
    for item in source:
        yield None if isinstance(item.frame, ImageError) else item.frame.image


def frames_of(items: Iterable[Item]) -> list[Frame]:
    """Return the frames of a recording, without those that cannot be used."""
    return [item.frame for item in items if not isinstance(item.frame, ImageError)]


class Beside:
    """Files that go with the images of a recording: by name, or by order where none has one.

    Parameters
    ----------
    files: in any order.
    names: of the images.
    key: what two names that belong together have in common.

    """

    def __init__(
        self, files: Iterable[Path], names: Iterable[str], key: Callable[[str], str]
    ) -> None:
        self._files, self._key = natural_order(files), key
        self._by_key = {key(file.name): file for file in self._files}
        self._named = any(key(name) in self._by_key for name in names)

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self._files)

    def of(self, index: int, name: str) -> Path | None:
        """Return the file of an image, None where it has none."""
        if self._named:
            return self._by_key.get(self._key(name))
        return self._files[index] if index < len(self._files) else None


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
    if path.suffix in BAGS or (path / 'metadata.yaml').is_file():
        return BagSource(path, topic)
    if path.is_dir():
        return FolderSource(path, fps)
    return VideoSource(path)


class BagSource:
    """An image topic of a rosbag2 recording: images, compressed images, or a video in packets.

    An MCAP file whose recorder was killed is read up to where it breaks off.
    """

    def __init__(self, path: Path, topic: str = '') -> None:
        self.path = path
        self._whole, self._store = True, typestore()
        counts: dict[str, int] = collections.Counter()
        try:
            with AnyReader([path], default_typestore=self._store) as reader:
                for connection in reader.connections:
                    if connection.msgtype in _TYPES:
                        counts[connection.topic] += connection.msgcount
        except Exception as error:  # garbage makes the reader raise anything
            if path.suffix == '.mcap' and path.is_file():
                self._whole = False
                for name, kind, *_ in interrupted(path):
                    counts[name] += kind in _TYPES
            if not any(counts.values()):
                raise SourceError(f'{path} is not a readable bag: {error}') from error
            counts = {name: count for name, count in counts.items() if count}
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
        """Give the images as they were recorded; those of a video as they are shown."""
        for number, (frame, arrived_ns) in enumerate(self._frames()):
            yield Item(f'{self.topic}[{number}]', frame, arrived_ns)

    def _frames(self) -> Iterator[tuple[Frame | ImageError, int]]:
        """Give every image, or why there is none, with its time of recording."""
        decoder: VideoDecoder[int] = VideoDecoder()
        messages, end = self._messages(), None
        while end is None:
            try:
                kind, raw, store, recorded_ns = next(messages)
            except StopIteration:
                break
            except Exception as error:  # damaged bytes make the readers raise anything
                end = ImageError(f'the recording breaks off: {error}', 'data')
                continue
            try:
                message: Any = store.deserialize_cdr(raw, kind)
            except Exception as error:  # as above
                answers = decoder.flush('a packet was broken')
                unread = ImageError(f'the message cannot be read: {error!r}', 'data')
                answers.append((recorded_ns, unread))
            else:
                if kind not in (PACKET_TYPE, VIDEO_TYPE):
                    yield _frame_of(message), recorded_ns
                    continue
                answers = decoder.decode(message, recorded_ns)
            for arrived_ns, answer in answers:
                yield _frame_of(answer), arrived_ns
        for arrived_ns, answer in decoder.flush():
            yield _frame_of(answer), arrived_ns
        if end is not None:
            yield end, 0

    def _messages(self) -> Iterator[tuple[str, bytes, Typestore, int]]:
        """Give type, CDR bytes, definitions and time of recording of the topic's messages."""
        if not self._whole:
            for topic, kind, raw, arrived_ns in interrupted(self.path):
                if topic == self.topic:
                    yield kind, raw, self._store, arrived_ns
            return
        with AnyReader([self.path], default_typestore=self._store) as reader:
            connections = [c for c in reader.connections if c.topic == self.topic]
            for connection, arrived_ns, raw in reader.messages(connections):
                kind = connection.msgtype
                # The bag's own definitions, which may be of another version.
                store = reader.typestore if kind in reader.typestore.fielddefs else self._store
                yield kind, raw, store, arrived_ns


def _frame_of(message: Any) -> Frame | ImageError:
    """Return the frame that a message or a picture of a video holds, or why it holds none."""
    if isinstance(message, ImageError):
        return message
    try:
        if isinstance(message, Picture):
            pixels = rgb_from_picture(message)
        elif hasattr(message, 'encoding'):
            pixels = rgb_from_image(message)
        else:
            pixels = rgb_from_compressed(message)
    except ImageError as error:
        return error
    return Frame(pixels, stamp_ns_of(message), message.header.frame_id)


def stamp_ns_of(message: Any) -> int:
    """Return the stamp in the header of a message, nanoseconds."""
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


class FolderSource:
    """A folder of images, in natural order: frame 10 comes after frame 9."""

    def __init__(self, path: Path, fps: float = 0.0) -> None:
        files = (p for p in path.iterdir() if p.suffix.lower() in IMAGES)
        self.files = natural_order(files)
        if not self.files:
            raise SourceError(
                f'{path} is no bag and holds no images ({", ".join(sorted(IMAGES))})'
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
                    yield Item(f'frame {number}', self._frame(picture, round(seconds * 1e9)))
            except av.error.FFmpegError as error:
                yield Item('end of video', ImageError(f'the video breaks off: {error}', 'data'))

    @staticmethod
    def _frame(picture: av.VideoFrame, stamp_ns: int) -> Frame | ImageError:
        try:
            return Frame(rgb_from_frame(picture), stamp_ns)
        except ImageError as error:
            return error
