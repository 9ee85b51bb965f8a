# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Depth of messages as images in metres, and depth of another sensor seen from the camera.

A depth image here is (H, W) float32: the coordinate z, forward, of what a pixel shows, in metres
(REP 118); 0 or not finite where nothing is known. Messages are any objects with the fields of
``sensor_msgs``: nothing of ROS is imported.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from masa_ros.errors import ImageError
from masa_ros.images import channel_of, check_size
from masa_ros.space import rvl
from masa_ros.space.cameras import Camera

Depth = NDArray[np.float32]
T = TypeVar('T')

_ENCODINGS = ('16UC1', 'mono16', '32FC1')
_HEADER = struct.Struct('<iff')  # compressedDepth: format, two parameters of the quantisation
_PNG = b'\x89PNG'
_KINDS = {7: 'f4', 8: 'f8'}  # of sensor_msgs/PointField
_BYTES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 8: 8}


def depth_from_image(message: Any, scale: float = 0.0) -> Depth:
    """Return the depth (H, W) of a ``sensor_msgs/Image``, metres.

    Parameters
    ----------
    message: of encoding 16UC1, mono16 or 32FC1.
    scale: metres a unit; 0: those of REP 118, millimetres in 16 bits and metres in floats.

    Raises
    ------
    ImageError
        When the encoding is another, or step and data do not fit.

    """
    kind = _kind(message.encoding)
    pixels = channel_of(message, np.float32 if kind == '32FC1' else np.uint16)
    return in_metres(pixels, scale)


def depth_from_compressed(message: Any, scale: float = 0.0) -> Depth:
    """Return the depth (H, W) of a ``sensor_msgs/CompressedImage`` of compressedDepth, metres.

    As compressed_depth_image_transport writes it: a header of 12 bytes, then 16 bits a pixel as
    PNG or as RVL. Of 32FC1 they hold inverse depth: z = a / (value - b).

    Parameters
    ----------
    message: its format begins with 16UC1, mono16 or 32FC1.
    scale: as for ``depth_from_image``.

    Raises
    ------
    ImageError
        When it is anything else.

    """
    kind = _kind(str(message.format).partition(';')[0].strip())
    data = bytes(message.data)
    if len(data) <= _HEADER.size:
        raise ImageError(f"compressedDepth of '{message.format}' is empty", 'data')
    _, a, b = _HEADER.unpack_from(data)
    if data[_HEADER.size :].startswith(_PNG):
        pixels = _from_png(data[_HEADER.size :])
    elif 'rvl' in message.format.lower():
        pixels = rvl.decode(data[_HEADER.size :])
    else:
        raise ImageError(f"compressedDepth of '{message.format}' is neither PNG nor RVL", 'data')
    if kind != '32FC1':
        return in_metres(pixels, scale)
    with np.errstate(divide='ignore'):
        depth = np.float32(a * (scale or 1.0)) / (pixels.astype(np.float32) - np.float32(b))
    depth[pixels == 0] = np.nan
    return np.asarray(depth)


def _from_png(data: bytes) -> NDArray[np.uint16]:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError(f'compressedDepth cannot be decoded: {error.err}', 'data') from error
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 2:
        raise ImageError('compressedDepth holds no image of 16 bits', 'data')
    check_size(*pixels.shape[::-1])
    return np.asarray(pixels)


def points_from_cloud(message: Any) -> NDArray[np.float32]:
    """Return the points of a ``sensor_msgs/PointCloud2``: (H, W, 3) metres, H = 1: in no order.

    Raises
    ------
    ImageError
        When there are no fields x, y, z of floats, or the data do not fit.

    """
    height, width = int(message.height), int(message.width)
    step, row = int(message.point_step), int(message.row_step)
    order = '>' if message.is_bigendian else '<'
    fields = {field.name: field for field in message.fields}
    if not all(name in fields and fields[name].datatype in _KINDS for name in 'xyz'):
        raise ImageError('the cloud has no x, y and z of floats', 'encoding')
    ends = [fields[n].offset + _BYTES[fields[n].datatype] for n in 'xyz']
    size = len(message.data)
    if max(ends) > step or row < width * step or size < row * height:
        raise ImageError(
            f'data has {size} bytes, {width} x {height} points of {step} do not fit', 'data'
        )
    layout = np.dtype(
        {
            'names': ['x', 'y', 'z'],
            'formats': [order + _KINDS[fields[n].datatype] for n in 'xyz'],
            'offsets': [fields[n].offset for n in 'xyz'],
            'itemsize': step,
        }
    )
    if not size:
        return np.zeros((1, 0, 3), np.float32)
    rows = np.ndarray((height, width), layout, message.data, strides=(row, step))
    return np.stack([rows[name].astype(np.float32) for name in 'xyz'], axis=-1)


def resized(depth: Depth, shape: tuple[int, int]) -> Depth:
    """Return registered depth at the size (height, width) of its image: of the nearest pixel.

    Raises
    ------
    ImageError
        When the sides are not in the same ratio: it is not of the same view.

    """
    if depth.shape == shape:
        return depth
    (rows, columns), (height, width) = depth.shape, shape
    if abs(rows * width - columns * height) > max(rows * height, columns * width) * 0.01:
        raise ImageError(
            f'depth of {columns} x {rows} pixels is not registered to an image of '
            f'{width} x {height}',
            'size',
        )
    return np.asarray(cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))


def points_of(depth: Depth, camera: Camera) -> NDArray[np.float32]:
    """Return the points (N, 3) that a depth image shows, metres in its camera's frame.

    Raises
    ------
    ValueError
        When the camera's images have another size.

    """
    if depth.shape != camera.shape:
        (rows, columns), (height, width) = depth.shape, camera.shape
        raise ValueError(
            f'the depth has {columns} x {rows} pixels, its camera_info is of {width} x {height}'
        )
    known = np.isfinite(depth) & (depth > 0)
    z = depth[known][:, None]
    return np.hstack((camera.grid[known] * z, z))


def projected(
    points: NDArray[np.floating],
    transform: NDArray[np.floating],
    camera: Camera,
    reach: int = 0,
) -> Depth:
    """Return the depth image (H, W) that a camera has of points; where several are, the nearest.

    Parameters
    ----------
    points: (N, 3) metres in the frame of the sensor; those that are not finite are left out.
    transform: (4, 4) from that frame to the optical frame of the camera.
    camera: that sees them.
    reach: every point also fills the pixels so far away from its own: for a sensor with
        coarser pixels than the camera.

    """
    height, width = camera.shape
    depth = np.full(height * width, np.inf, np.float32)
    points = np.asarray(points).reshape(-1, 3)
    with np.errstate(invalid='ignore'):  # not finite points
        seen = points @ transform[:3, :3].T.astype(points.dtype) + transform[:3, 3].astype(
            points.dtype
        )
    seen = seen[camera.in_view(seen)]
    at = np.floor(camera.seen_at(seen)).astype(np.int64)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            columns, rows = at[:, 0] + dx, at[:, 1] + dy
            inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
            np.minimum.at(depth, rows[inside] * width + columns[inside], seen[inside, 2])
    depth[np.isinf(depth)] = np.nan
    return depth.reshape(height, width)


def registered(
    depth: Depth, other: Camera, to_image: NDArray[np.floating], camera: Camera
) -> Depth:
    """Return depth of another camera as a camera sees it.

    Parameters
    ----------
    depth: (H, W) metres, of the other camera.
    other: that camera.
    to_image: (4, 4) from its optical frame to that of the camera.
    camera: that sees it.

    Raises
    ------
    ValueError
        When the other camera's images have another size.

    """
    # Where the image has finer pixels than the depth, each fills those around it.
    reach = max(0, math.ceil((camera.focal / other.focal - 1.05) / 2))
    return projected(points_of(depth, other), to_image, camera, reach)


def _kind(encoding: str) -> str:
    if encoding not in _ENCODINGS:
        raise ImageError(
            f"'{encoding}' is no depth; supported are {', '.join(_ENCODINGS)}", 'encoding'
        )
    return encoding


def in_metres(pixels: NDArray[Any], scale: float = 0.0) -> Depth:
    """Return depth values as float32 metres.

    Parameters
    ----------
    pixels: integers or floats.
    scale: metres a unit; 0: those of REP 118, millimetres in integers and metres in floats.

    """
    unit = scale or (1.0 if pixels.dtype.kind == 'f' else 0.001)
    if pixels.dtype == np.float32 and unit == 1.0:
        return pixels
    return np.multiply(pixels, np.float32(unit), dtype=np.float32)


def nearest(stamped: Iterable[tuple[int, T]], stamp_ns: int, slop_ns: int) -> T | None:
    """Return what is nearest in stamp, the first of equal ones; None when nothing is so near."""
    found = min(stamped, key=lambda each: abs(each[0] - stamp_ns), default=None)
    if found is None or abs(found[0] - stamp_ns) > slop_ns:
        return None
    return found[1]
