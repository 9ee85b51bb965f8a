# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pixels of ``sensor_msgs`` images as RGB arrays.

Works on any object with the fields of ``sensor_msgs/Image`` or ``sensor_msgs/CompressedImage``:
messages of rclpy, whose data is an ``array.array``, and of ``rosbags``, whose data is a numpy
array. Nothing of ROS is imported. Beside them the pictures of a video, and the order of images
that lie in a folder.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from masa_ros.errors import ImageError
from masa_ros.types import LARGEST_SIDE

Rgb = NDArray[np.uint8]

# Markers of JPEG (ITU T.81, table B.1); a scan's data holds none of them.
_JPEG, _JPEG_SCAN, _JPEG_END = b'\xff\xd8', b'\xff\xda', b'\xff\xd9'


class _Layout(NamedTuple):
    """How an encoding lies in memory: rows x columns x channels of a type, then a conversion.

    ``conversion`` is an OpenCV colour code, None where the channels are RGB already.
    ``rows`` is the number of stored rows per image row, as a fraction (numerator, denominator).
    """

    dtype: type[np.generic]
    channels: int
    conversion: int | None
    rows: tuple[int, int] = (1, 1)


_U8, _U16 = np.uint8, np.uint16
# OpenCV names Bayer patterns by the second pixel of the second row, ROS by the first of the first.
_BAYER = {
    'rggb': cv2.COLOR_BayerBG2RGB,
    'bggr': cv2.COLOR_BayerRG2RGB,
    'gbrg': cv2.COLOR_BayerGR2RGB,
    'grbg': cv2.COLOR_BayerGB2RGB,
}
_LAYOUTS = {
    'rgb8': _Layout(_U8, 3, None),
    'bgr8': _Layout(_U8, 3, cv2.COLOR_BGR2RGB),
    '8UC3': _Layout(_U8, 3, cv2.COLOR_BGR2RGB),  # OpenCV's own order
    'rgba8': _Layout(_U8, 4, cv2.COLOR_RGBA2RGB),
    'bgra8': _Layout(_U8, 4, cv2.COLOR_BGRA2RGB),
    '8UC4': _Layout(_U8, 4, cv2.COLOR_BGRA2RGB),
    'rgb16': _Layout(_U16, 3, None),
    'bgr16': _Layout(_U16, 3, cv2.COLOR_BGR2RGB),
    'rgba16': _Layout(_U16, 4, cv2.COLOR_RGBA2RGB),
    'bgra16': _Layout(_U16, 4, cv2.COLOR_BGRA2RGB),
    'mono8': _Layout(_U8, 1, cv2.COLOR_GRAY2RGB),
    '8UC1': _Layout(_U8, 1, cv2.COLOR_GRAY2RGB),
    'mono16': _Layout(_U16, 1, cv2.COLOR_GRAY2RGB),
    '16UC1': _Layout(_U16, 1, cv2.COLOR_GRAY2RGB),
    'uyvy': _Layout(_U8, 2, cv2.COLOR_YUV2RGB_UYVY),
    'yuv422': _Layout(_U8, 2, cv2.COLOR_YUV2RGB_UYVY),
    'yuyv': _Layout(_U8, 2, cv2.COLOR_YUV2RGB_YUY2),
    'yuv422_yuy2': _Layout(_U8, 2, cv2.COLOR_YUV2RGB_YUY2),
    'nv12': _Layout(_U8, 1, cv2.COLOR_YUV2RGB_NV12, rows=(3, 2)),
    'nv21': _Layout(_U8, 1, cv2.COLOR_YUV2RGB_NV21, rows=(3, 2)),
    **{f'bayer_{name}8': _Layout(_U8, 1, code) for name, code in _BAYER.items()},
    **{f'bayer_{name}16': _Layout(_U16, 1, code) for name, code in _BAYER.items()},
}
SUPPORTED_ENCODINGS = tuple(_LAYOUTS)

# As FFmpeg numbers them (libavutil/pixfmt.h). BT.2020 is nearer to BT.709 than to BT.601.
_FULL_RANGE, _BT709 = 2, (1, 9, 10)
_WITH_LUMA = ('yuv420p', 'yuvj420p', 'nv12', 'gray')  # eight bits of brightness come first

# Conversions that only choose channels.
_AS_VIEWS: dict[int, Callable[[Rgb], Rgb]] = {
    cv2.COLOR_BGR2RGB: lambda pixels: pixels[:, :, ::-1],
    cv2.COLOR_RGBA2RGB: lambda pixels: pixels[:, :, :3],
    cv2.COLOR_BGRA2RGB: lambda pixels: pixels[:, :, 2::-1],
    cv2.COLOR_GRAY2RGB: lambda pixels: np.broadcast_to(pixels[:, :, None], (*pixels.shape, 3)),
}


def rgb_from_image(message: Any, views: bool = False) -> Rgb:
    """Return the pixels (H, W, 3) uint8 RGB of a ``sensor_msgs/Image``.

    ``rgb8`` is a view of the message's memory, everything else is one conversion. With ``views``
    so are ``bgr8``, ``rgba8``, ``bgra8`` and ``mono8``, their channels reordered by strides: right
    for a GPU, which takes the bytes as they are, and slow to read on a CPU. 16-bit images are
    scaled to eight bits. Encodings not known here are given to cv_bridge where the
    installation has a working one.

    Raises
    ------
    ImageError
        When the encoding is not known, the image has no pixels, or step and data do not fit.

    """
    encoding, height, width = message.encoding, int(message.height), int(message.width)
    check_size(width, height)
    layout = _LAYOUTS.get(encoding)
    if layout is None:
        return _by_cv_bridge(message)
    pixels = _pixels(message, layout, height, width)
    if layout.dtype is _U16:
        if layout.conversion is not None:
            pixels = cv2.cvtColor(pixels, layout.conversion)
        return np.multiply(pixels, 255 / 65535).astype(np.uint8)
    if layout.conversion is None:
        return pixels
    if views and layout.conversion in _AS_VIEWS:
        return _AS_VIEWS[layout.conversion](pixels)
    if layout.rows != (1, 1) and (height % 2 or width % 2):
        raise ImageError(
            f'{encoding} needs an even size, the image is {width} x {height} pixels', 'size'
        )
    if layout.channels == 2 and width % 2:
        raise ImageError(
            f'{encoding} needs an even width, the image is {width} pixels wide', 'size'
        )
    return cv2.cvtColor(pixels, layout.conversion)


def _pixels(message: Any, layout: _Layout, height: int, width: int) -> NDArray[Any]:
    """View the bytes of a message as (rows, width[, channels]) without copying them."""
    dtype = np.dtype(layout.dtype)
    rows = -(-height * layout.rows[0] // layout.rows[1])
    line = width * layout.channels * dtype.itemsize
    step = int(message.step)
    data = np.frombuffer(message.data, np.uint8)
    described = f'{message.encoding} {width} x {height}'
    if step < line:
        raise ImageError(
            f'step is {step} bytes, a line of {described} has at least {line}', 'step'
        )
    needed = step * (rows - 1) + line
    if data.size < needed:
        raise ImageError(
            f'data has {data.size} bytes, {described} with step {step} has {needed}', 'data'
        )
    # Writable where the message is: torch takes over such memory without a copy.
    lines = np.lib.stride_tricks.as_strided(
        data, (rows, line), (step, 1), writeable=data.flags.writeable
    )
    if dtype.itemsize > 1:
        if step % dtype.itemsize or data.ctypes.data % dtype.itemsize:
            lines = np.ascontiguousarray(lines)
        lines = lines.view(dtype)
        if bool(message.is_bigendian) != (sys.byteorder == 'big'):
            lines = lines.byteswap()
    if layout.channels == 1:
        return lines
    return lines.reshape(rows, width, layout.channels)


def channel_of(message: Any, dtype: type[np.generic]) -> NDArray[Any]:
    """View the only channel (H, W) of a ``sensor_msgs/Image``, in the machine's byte order.

    Raises
    ------
    ImageError
        When the image has no pixels, or step and data do not fit.

    """
    height, width = int(message.height), int(message.width)
    check_size(width, height)
    return _pixels(message, _Layout(dtype, 1, None), height, width)


def _by_cv_bridge(message: Any) -> Rgb:
    """Convert an encoding not known here; raises ImageError when nobody knows it."""
    try:
        from cv_bridge import CvBridge

        converted = CvBridge().imgmsg_to_cv2(message, desired_encoding='rgb8')
    except Exception as error:  # cv_bridge breaks in many ways beside numpy 2: none matters here
        reason = '' if isinstance(error, ImportError) else f' (cv_bridge: {error})'
        raise ImageError(
            f"encoding '{message.encoding}' is not supported{reason}; supported are "
            f'{", ".join(SUPPORTED_ENCODINGS)}',
            'encoding',
        ) from error
    return np.ascontiguousarray(converted)


def rgb_from_compressed(message: Any) -> Rgb:
    """Return the pixels (H, W, 3) uint8 RGB of a ``sensor_msgs/CompressedImage``.

    Raises
    ------
    ImageError
        When the data is no image that OpenCV can read.

    """
    data = np.frombuffer(message.data, np.uint8)
    if not data.size:
        raise ImageError('the compressed image has no data', 'data')
    encoded = data.tobytes()
    if encoded.startswith(_JPEG) and encoded.rfind(_JPEG_END) < encoded.rfind(_JPEG_SCAN):
        # OpenCV before 5 makes the missing part grey and says nothing.
        raise ImageError(f'the JPEG image is cut short after {data.size} bytes', 'data')
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(f'the compressed image cannot be decoded: {error.err}', 'data') from error
    if image is None:
        raise ImageError(
            f"the compressed image ({data.size} bytes of '{message.format}') cannot be decoded",
            'data',
        )
    check_size(*image.shape[1::-1])
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class Picture(NamedTuple):
    """A decoded picture of a video that came as messages.

    Attributes
    ----------
    header: with stamp and frame_id, as an image has it.
    frame: av.VideoFrame; holds its own pixels until it is converted.
    luma: encoding of one channel that its brightness is, as bayer_rggb8; '' where it has colours.

    """

    header: Any
    frame: Any
    luma: str = ''


def rgb_from_picture(picture: Picture) -> Rgb:
    """Return the pixels (H, W, 3) uint8 RGB of a decoded picture.

    Raises
    ------
    ImageError
        When it has no size or a format that cannot be converted.

    """
    frame = picture.frame
    layout = _LAYOUTS.get(picture.luma, _LAYOUTS['rgb8'])
    if layout.channels > 1 or layout.dtype is not _U8 or frame.format.name not in _WITH_LUMA:
        return rgb_from_frame(frame)
    check_size(frame.width, frame.height)
    # The bytes as the camera had them: ffmpeg_image_transport does not squeeze these into the
    # range of a video, as it would a brightness.
    lines = np.frombuffer(frame.planes[0], np.uint8).reshape(-1, frame.planes[0].line_size)
    assert layout.conversion is not None
    return cv2.cvtColor(lines[: frame.height, : frame.width], layout.conversion)


def rgb_from_frame(frame: Any) -> Rgb:
    """Return the pixels (H, W, 3) uint8 RGB of an av.VideoFrame, by the colours its stream names.

    Raises
    ------
    ImageError
        When it has no size or a format that cannot be converted.

    """
    check_size(frame.width, frame.height)
    # A stream that does not say is taken as swscale made it, which ffmpeg_image_transport encodes
    # with: BT.601 at any size. Said in full, since PyAV 12 takes no notice of the stream.
    full = int(frame.color_range) == _FULL_RANGE or frame.format.name.startswith('yuvj')
    try:
        converted = frame.reformat(
            format='rgb24',
            src_colorspace='ITU709' if int(frame.colorspace) in _BT709 else 'ITU601',
            dst_colorspace='ITU601',
            src_color_range='JPEG' if full else 'MPEG',
            dst_color_range='JPEG',
        )
        return np.asarray(converted.to_ndarray())
    except Exception as error:  # FFmpeg's errors are classes of PyAV, which is not imported here
        text = f'a picture of format {frame.format.name} cannot be converted: {error}'
        raise ImageError(text, 'encoding') from error


def check_size(width: int, height: int) -> None:
    """Raise ImageError when no image has this size."""
    if not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
        raise ImageError(f'the image is {width} x {height} pixels', 'size')


def natural_order(files: Iterable[Path]) -> list[Path]:
    """Sort files by name with numbers as numbers: frame 10 comes after frame 9."""

    def parts(file: Path) -> list[tuple[int, str]]:
        pieces = re.split(r'(\d+)', file.name)
        return [(int(piece), '') if piece.isdigit() else (-1, piece) for piece in pieces]

    return sorted(files, key=parts)
