# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Decoding of video that comes as messages, one packet each.

Works on any object with the fields of ``ffmpeg_image_transport_msgs/FFMPEGPacket`` or
``foxglove_msgs/CompressedVideo``. Nothing of ROS is imported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, Generic, NamedTuple, TypeVar

import av

from masa_ros.codecs.bitstream import Bitstream
from masa_ros.errors import ImageError
from masa_ros.images import Picture

T = TypeVar('T')

# Names of codecs and of encoders, as libx264 or hevc_nvenc.
_CODECS = {'h264': '264|avc', 'hevc': '265|hevc', 'vp9': 'vp9', 'av1': 'av1'}
_DECODERS = {'av1': 'libdav1d'}  # FFmpeg's own needs a GPU
_LARGEST = 8192 * 4352  # pixels: the largest picture in any level of H.264, H.265 and AV1
_REORDERED = 16  # pictures that H.264 and H.265 may hold back until they are shown
_KEY = 1  # flag of an FFMPEGPacket
_ERRORS = (av.error.FFmpegError, ValueError, MemoryError)


class _Packet(NamedTuple):
    header: Any
    codec: str
    data: bytes
    key: bool = False
    number: int | None = None
    luma: str = ''


@dataclasses.dataclass(frozen=True)
class _Pending(Generic[T]):
    """What a picture is going to belong to."""

    tag: T
    header: Any
    luma: str


class VideoDecoder(Generic[T]):
    """Decodes the packets of one stream.

    Every packet comes with a tag of the caller's, and every tag is given back exactly once: with
    the picture of its packet, or with why there is none. A picture is given as soon as it is
    decoded. Where the encoder reorders (B frames), that is some packets later, in the order in
    which they are shown.

    A stream is decoded from a key frame on. After a packet that is broken, or that builds on one
    that did not come, the decoder waits for the next key frame: until then it could only give
    smeared pictures. The causes of refusal are 'without_key_frame', 'broken_video',
    'without_picture' (a packet of parameters alone, or one that the decoder passed over) and
    'encoding'. Another codec is decoded by a decoder of its own, another size by the same.

    Not safe for use by several threads at once.
    """

    def __init__(self) -> None:
        self._codec = ''
        self._context: Any = None
        self._bitstream: Bitstream | None = None
        self._waiting = ''  # why there are no pictures until a key frame comes
        self._pending: dict[int, _Pending[T]] = {}  # by number of the packet
        self._number = 0
        self._count: int | None = None  # that the packet before names
        self._counted = False

    def __len__(self) -> int:
        """Return the number of packets whose pictures are still to come."""
        return len(self._pending)

    def decode(self, message: Any, tag: T) -> list[tuple[T, Picture | ImageError]]:
        """Decode a packet; gives the pictures that are ready now, each with its own tag."""
        answers: list[tuple[T, Picture | ImageError]] = []
        try:
            packet = _packet_of(message)
            if packet.codec != self._codec:
                answers += self.flush()
                self._open(packet.codec)
        except ImageError as unknown:
            return [*answers, (tag, unknown)]
        assert self._bitstream is not None
        if not packet.data:
            answers += self.flush('a packet was broken')
            return [*answers, (tag, _broken('a packet of the video has no data'))]
        look = self._bitstream.look(packet.data)
        key = look.key or (packet.key and look.picture and self._bitstream.parameters)
        gap = self._gap(packet) or look.gap
        if gap and not key and not self._waiting:
            answers += self.flush('packets are missing')
            return [*answers, (tag, _broken('packets of the video are missing before this one'))]
        if self._waiting and look.picture and not key:
            text = f'{self._waiting}: no picture until a key frame comes'
            return [*answers, (tag, ImageError(text, 'without_key_frame'))]
        self._number += 1
        data = av.Packet(packet.data)
        data.pts = data.dts = self._number
        if not look.picture:
            with contextlib.suppress(*_ERRORS):  # FFmpeg takes the parameters, but asks for more
                self._context.decode(data)
            error = ImageError('a packet of the video holds no picture', 'without_picture')
            return [*answers, (tag, error)]
        self._waiting = ''
        self._pending[self._number] = _Pending(tag, packet.header, packet.luma)
        try:
            pictures = self._context.decode(data)
        except _ERRORS as failure:
            self._pending.pop(self._number)
            answers += self.flush('a packet was broken')
            text = f'a packet of the video ({packet.codec}) cannot be decoded: {failure}'
            return [*answers, (tag, _broken(text))]
        answers += self._answers(pictures)
        while len(self._pending) > _REORDERED:
            answers.append(self._passed_over(min(self._pending)))
        return answers

    def flush(self, why: str = 'the video ended') -> list[tuple[T, Picture | ImageError]]:
        """Give everything that is still to come, and wait for a key frame.

        Parameters
        ----------
        why: it waits, for the error of the packets until then.

        """
        if self._context is None:
            return []
        try:
            pictures = self._context.decode(None)
        except _ERRORS:
            pictures = []
        answers = self._answers(pictures)
        answers += [self._passed_over(number) for number in list(self._pending)]
        self._restart(why)
        return answers

    def drop(self) -> list[T]:
        """End the stream; returns the tags that were not given back."""
        tags = [pending.tag for pending in self._pending.values()]
        self._pending.clear()
        self._codec, self._context = '', None
        return tags

    def _open(self, codec: str) -> None:
        """Begin with another codec; raises ImageError where FFmpeg has no decoder for it."""
        self._codec, self._context = '', None
        try:
            context = av.CodecContext.create(_DECODERS.get(codec, codec), 'r')
        except ValueError as error:  # PyAV's class for it has moved
            text = f'this installation of PyAV ({av.__version__}) cannot decode {codec}'
            raise ImageError(text, 'encoding') from error
        # A thread per frame would hold back as many pictures as there are threads. One per slice
        # would not, but cameras send one slice a picture. A core decodes 150 pictures of
        # 1920 x 1080 in a second, and other cameras have cores of their own.
        context.thread_count = 1
        context.options = {'max_pixels': str(_LARGEST)}
        if codec == 'hevc':
            # Otherwise FFmpeg fills what is missing of a picture, and does not say so.
            context.options |= {'err_detect': 'explode'}
        self._codec, self._context, self._bitstream = codec, context, Bitstream(codec)
        self._waiting = 'the video began before'
        self._count, self._counted = None, False

    def _gap(self, packet: _Packet) -> bool:
        """Whether a count that goes on with every packet leaves some out.

        FFmpeg up to 6 says nothing of a lost packet of H.265, dav1d nothing of one of AV1. H.264
        has better numbers of its own, where the camera's may leave out what was never encoded.
        """
        last, now = self._count, packet.number
        self._count = now
        if last is None or now is None or self._codec == 'h264' or self._context.has_b_frames:
            return False
        step = now - last
        self._counted |= step == 1  # else it may be a time
        return self._counted and step != 1

    def _answers(self, pictures: Iterable[Any]) -> list[tuple[T, Picture | ImageError]]:
        """Give pictures the tags of their packets; those from a corrupt one on are refused."""
        answers: list[tuple[T, Picture | ImageError]] = []
        broken = False
        for picture in pictures:
            pending = self._pending.pop(picture.pts, None)
            broken |= bool(picture.is_corrupt)
            if pending is None:
                continue
            answer: Picture | ImageError = Picture(pending.header, picture, pending.luma)
            if broken:
                answer = _broken('a picture of the video is damaged')
            answers.append((pending.tag, answer))
        if broken:
            damaged = _broken('it may build on a damaged picture')
            answers += [(pending.tag, damaged) for pending in self._pending.values()]
            self._restart('a picture was damaged')
        return answers

    def _passed_over(self, number: int) -> tuple[T, ImageError]:
        text = 'the decoder made no picture of a packet'
        return self._pending.pop(number).tag, ImageError(text, 'without_picture')

    def _restart(self, why: str) -> None:
        """Wait for a key frame; the parameters of the stream are kept."""
        self._pending.clear()
        self._context.flush_buffers()
        self._waiting = why


def _broken(text: str) -> ImageError:
    return ImageError(text, 'broken_video')


def _packet_of(message: Any) -> _Packet:
    """Read a message; raises ImageError when its codec is not known."""
    data = bytes(memoryview(message.data))
    if hasattr(message, 'timestamp'):  # foxglove_msgs/CompressedVideo
        header = SimpleNamespace(stamp=message.timestamp, frame_id=message.frame_id)
        return _Packet(header, _codec_of(message.format), data)
    # codec;pixel format of the codec;encoding that it was made of;encoding of the camera
    name, *formats = message.encoding.split(';')
    luma = formats[1] if len(formats) > 1 else ''
    key, number = bool(message.flags & _KEY), int(message.pts)
    return _Packet(message.header, _codec_of(name), data, key, number, luma)


def _codec_of(name: str) -> str:
    """Return the codec of an encoder or a codec; raises ImageError when it is not known."""
    for codec, names in _CODECS.items():
        if re.search(names, name.lower()):
            return codec
    known = 'h264, h265 (hevc), vp9, av1 and the names of their encoders'
    raise ImageError(f"'{name}' names no video codec known here; known are {known}", 'encoding')
