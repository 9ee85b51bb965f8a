# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Masks as run lengths: the form they have in messages and in files.

In a message a mask is a window and the COCO *uncompressed* run lengths of that window; in a file
it is the COCO *compressed* form of the whole image. ``mask_from_msg`` is what a subscriber needs.
"""

from __future__ import annotations

import array
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from masa_ros.types import LARGEST_SIDE, Mask

# Values of mask_encoding in masa_ros/msg/TrackedInstance.
MASK_NONE = 0
MASK_COCO_COUNTS = 1

_LARGEST_SHIFT = 30  # bits below the last five of a run length; no image has longer runs


def mask_from_msg(instance: Any) -> Mask | None:
    """Mask of a ``masa_ros/msg/TrackedInstance``, None where it has none.

    ``mask.full(array.image_height, array.image_width)`` gives it at the size of the image.

    Raises
    ------
    ValueError
        For an encoding this version does not know, or run lengths that do not fit the window.

    """
    if instance.mask_encoding == MASK_NONE:
        return None
    if instance.mask_encoding != MASK_COCO_COUNTS:
        raise ValueError(f'mask_encoding {instance.mask_encoding} is not known here')
    return Mask.from_counts(
        instance.mask_x,
        instance.mask_y,
        instance.mask_width,
        instance.mask_height,
        np.asarray(instance.mask_counts, dtype=np.uint32),
    )


def msg_fields(mask: Mask | None) -> dict[str, Any]:
    """Return the mask fields of a ``masa_ros/msg/TrackedInstance`` by name."""
    if mask is None:
        return {'mask_encoding': MASK_NONE}
    # array.array is the one type that rclpy takes over without looking at every element.
    return {
        'mask_encoding': MASK_COCO_COUNTS,
        'mask_x': mask.x,
        'mask_y': mask.y,
        'mask_width': mask.width,
        'mask_height': mask.height,
        'mask_counts': array.array('I', mask.counts.tobytes()),
    }


def coco_rle(mask: Mask, height: int, width: int) -> dict[str, Any]:
    """Return the compressed COCO form of a mask at the size of the image, ready for JSON."""
    rle = coco.encode(np.asfortranarray(mask.full(height, width), dtype=np.uint8))
    return {'size': [height, width], 'counts': rle['counts'].decode('ascii')}


def mask_from_coco_rle(rle: Any) -> Mask:
    """Return a COCO mask, compressed or not, cropped to its bounding box; raises ValueError."""
    return crop(pixels_from_coco_rle(rle).astype(np.bool_))


def pixels_from_coco_rle(rle: Any) -> NDArray[np.uint8]:
    """Return a COCO mask, compressed or not, at the size of its image: (H, W), 1 on the object.

    Not by pycocotools, which takes the sizes and counts of a file for granted.

    Raises
    ------
    ValueError
        When it is no mask: something is missing or of another type, the run lengths do not add up
        to the size, or the size is none of an image.

    """
    height, width = _size(rle)
    counts = rle.get('counts')
    if isinstance(counts, (str, bytes)):
        counts = _uncompressed(counts.encode() if isinstance(counts, str) else counts)
    if not isinstance(counts, list):
        raise ValueError(f'the counts of a mask are of the type {type(counts).__name__}')
    for count in counts:
        # Larger ones could add up to the size by overflow.
        if type(count) is not int or not 0 <= count <= height * width:
            raise ValueError(f'a run of {_short(count)} in a mask of {width} x {height} pixels')
    runs = np.array(counts, np.int64)
    return Mask.from_counts(0, 0, width, height, runs).pixels.astype(np.uint8)


def pixels_from_coco(shape: Any, height: int, width: int) -> NDArray[np.uint8]:
    """Return a COCO segmentation of an image of this size: (H, W), 1 on the object.

    Parameters
    ----------
    shape: run lengths, compressed or not, or a list of polygons [x, y, x, y, ...].
    height, width: of the image, pixels.

    Raises
    ------
    ValueError
        When it is neither, or is of an image of another size.

    """
    if not isinstance(shape, list):
        if _size(shape) != (height, width):
            rows, columns = shape['size']
            raise ValueError(
                f'a mask of {columns} x {rows} pixels in an image of {width} x {height}'
            )
        return pixels_from_coco_rle(shape)
    _size({'size': (height, width)})
    if not shape:
        raise ValueError('a mask of no polygons')
    for polygon in shape:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f'{_short(polygon)} is no polygon: three or more pairs of x and y')
        for value in polygon:
            # pycocotools takes memory for every pixel that an edge is long.
            if type(value) not in (int, float) or not abs(value) <= 2 * LARGEST_SIDE:
                raise ValueError(f'a polygon with a corner at {_short(value)}')
    return np.asarray(coco.decode(coco.merge(coco.frPyObjects(shape, height, width))))


def _size(rle: Any) -> tuple[int, int]:
    """Return (height, width) of a COCO mask; raises ValueError when it is none of an image."""
    size = rle.get('size') if isinstance(rle, Mapping) else None
    if not isinstance(size, (list, tuple)) or len(size) != 2:
        raise ValueError(f'{_short(rle)} is no mask: it needs a size of two numbers, and counts')
    height, width = size
    if not all(type(side) is int and 0 < side <= LARGEST_SIDE for side in size):
        raise ValueError(f'a mask of {_short(width)} x {_short(height)} pixels')
    return height, width


def _short(value: Any) -> str:
    return reprlib.repr(value)


def _uncompressed(text: bytes) -> list[int]:
    """Run lengths of COCO's compressed form; raises ValueError when it is none.

    Six bits a character, from 48 on: five of the number, lowest first, and whether more follow;
    the fifth bit of the last is the sign. From the third on they are differences to the run
    before the last.
    """
    counts: list[int] = []
    number = shift = 0
    for character in text:
        bits = character - 48
        if not 0 <= bits < 64 or shift > _LARGEST_SHIFT:
            raise ValueError('the counts of a mask are no compressed run lengths')
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        number = shift = 0
    if shift:
        raise ValueError('the compressed run lengths of a mask break off')
    return counts


def crop(full: NDArray[np.bool_]) -> Mask:
    """Return the tight window of a full-size mask; an empty one has no pixels."""
    rows, columns = np.flatnonzero(full.any(axis=1)), np.flatnonzero(full.any(axis=0))
    if not len(rows):
        return Mask(0, 0, np.zeros((0, 0), np.bool_))
    y, x = int(rows[0]), int(columns[0])
    return Mask(x, y, full[y : rows[-1] + 1, x : columns[-1] + 1].copy())
