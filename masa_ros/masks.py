"""Masks as run lengths: the form they have in messages and in files.

In a message a mask is a window and the COCO *uncompressed* run lengths of that window; in a file
it is the COCO *compressed* form of the whole image. ``mask_from_msg`` is what a subscriber needs.
"""

from __future__ import annotations

import array
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from masa_ros.types import LARGEST_SIDE, Mask

# Values of mask_encoding in masa_ros/msg/TrackedInstance.
MASK_NONE = 0
MASK_COCO_COUNTS = 1


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


def mask_from_coco_rle(rle: dict[str, Any]) -> Mask:
    """Return a COCO mask, compressed or not, cropped to its bounding box."""
    return crop(pixels_from_coco_rle(rle).astype(np.bool_))


def pixels_from_coco_rle(rle: dict[str, Any]) -> NDArray[np.uint8]:
    """Return a COCO mask, compressed or not, at the size of its image: (H, W), 1 on the object.

    Not by pycocotools, which takes the sizes and counts of a file for granted.

    Raises
    ------
    ValueError
        When the run lengths do not add up to the size, or the size is none of an image.

    """
    height, width = (int(side) for side in rle['size'])
    if not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE):
        raise ValueError(f'a mask of {width} x {height} pixels')
    counts = rle['counts']
    if not isinstance(counts, list):
        counts = _uncompressed(counts.encode('ascii') if isinstance(counts, str) else counts)
    runs = np.array(counts, np.int64)
    return Mask.from_counts(0, 0, width, height, runs).pixels.astype(np.uint8)


def _uncompressed(text: bytes) -> list[int]:
    """Run lengths of COCO's compressed form.

    Six bits a character, from 48 on: five of the number, lowest first, and whether more follow;
    the fifth bit of the last is the sign. From the third on they are differences to the run
    before the last.
    """
    counts: list[int] = []
    number = shift = 0
    for character in text:
        bits = character - 48
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        number = shift = 0
    return counts


def crop(full: NDArray[np.bool_]) -> Mask:
    """Return the tight window of a full-size mask; an empty one has no pixels."""
    rows, columns = np.flatnonzero(full.any(axis=1)), np.flatnonzero(full.any(axis=0))
    if not len(rows):
        return Mask(0, 0, np.zeros((0, 0), np.bool_))
    y, x = int(rows[0]), int(columns[0])
    return Mask(x, y, full[y : rows[-1] + 1, x : columns[-1] + 1].copy())
