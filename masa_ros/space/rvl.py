# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""RVL, the other form of compressedDepth (Wilson, "Fast Lossless Depth Image Compression", 2017).

An image is runs: so many pixels without depth, so many with. Every number is made of nibbles, low
bits first, of which the highest bit says that another one follows; eight of them are a word. A
pixel with depth is the difference to the one before it, signs folded into the lowest bit.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from masa_ros.errors import ImageError
from masa_ros.images import check_size

_SIZE = struct.Struct('<II')  # columns, rows
_LONGEST = 11  # nibbles of a number of 32 bits


def decode(data: bytes) -> NDArray[np.uint16]:
    """Return the image (H, W) that bytes of compressed_depth_image_transport hold.

    Parameters
    ----------
    data: number of columns and of rows, 32 bits each, then the words.

    Raises
    ------
    ImageError
        When the bytes end too soon or are no such image.

    """
    if len(data) < _SIZE.size:
        raise ImageError('RVL of compressedDepth has no size', 'data')
    columns, rows = _SIZE.unpack_from(data)
    check_size(columns, rows)
    numbers = _numbers(data[_SIZE.size :])
    size, filled, at = rows * columns, 0, 0
    firsts, places, counts = [], [], []  # of runs with depth: in the numbers, in the image
    listed = numbers.tolist()
    while filled < size:
        if at + 2 > len(listed):
            raise ImageError(f'RVL ends after {filled} of {size} pixels', 'data')
        empty, count = listed[at], listed[at + 1]
        at += 2
        firsts.append(at)
        places.append(filled + empty)
        counts.append(count)
        filled += empty + count
        at += count
        if not empty and not count:
            raise ImageError('RVL has a run of nothing', 'data')
    if filled != size or at > len(listed):
        raise ImageError(f'RVL does not hold {columns} x {rows} pixels', 'data')
    each = np.array(counts)
    step = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each)
    folded = numbers[np.repeat(firsts, each) + step]
    pixels = np.zeros(size, np.uint16)
    pixels[np.repeat(places, each) + step] = np.cumsum((folded >> 1) ^ -(folded & 1))
    return pixels.reshape(rows, columns)


def _numbers(data: bytes) -> NDArray[np.int64]:
    """Return the numbers that the words hold, and perhaps a few zeros behind them."""
    words = np.frombuffer(data, '<u4', count=len(data) // 4)
    octets = words.astype('>u4').view(np.uint8)  # the first nibble is the highest of its word
    nibbles = np.stack((octets >> 4, octets & 15), axis=-1).ravel()
    lasts = np.flatnonzero(nibbles < 8)
    if not len(lasts):
        return np.zeros(0, np.int64)
    firsts = np.concatenate(([0], lasts[:-1] + 1))
    lengths = lasts - firsts + 1
    longest = int(lengths.max())
    if longest > _LONGEST:
        raise ImageError('RVL has a number of more than 32 bits', 'data')
    numbers = (nibbles[firsts] & 7).astype(np.int64)
    for i in range(1, longest):
        longer = np.flatnonzero(lengths > i)
        numbers[longer] |= (nibbles[firsts[longer] + i] & 7).astype(np.int64) << (3 * i)
    return numbers
