# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One copy of a camera's bytes to the device, whatever view of them the image is."""

from __future__ import annotations

import ctypes

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(image: NDArray[np.uint8], device: str) -> Tensor:
    """Return an array of any strides as a tensor of the same shape on a device.

    The memory that the view spans, padding of lines and channels that are left out included, is
    copied once, to a GPU through pinned memory and without waiting. Channels in another order
    (``bgr8``), left out (``rgba8``) or repeated (``mono8``) become strides of the tensor there.
    """
    start, span, flipped = 0, 1, []
    strides = []
    for axis, (count, stride) in enumerate(zip(image.shape, image.strides)):
        reach = (count - 1) * stride
        span += abs(reach)
        if stride < 0:
            start -= reach
            flipped.append(axis)
        strides.append(abs(stride))
    address = image.ctypes.data - start
    # torch warns of read-only arrays; this view of the same bytes is not written to.
    memory = np.ctypeslib.as_array((ctypes.c_uint8 * span).from_address(address))
    flat = torch.from_numpy(memory)
    if device != 'cpu':
        flat = flat.pin_memory().to(device, non_blocking=True)
    tensor = flat.as_strided(image.shape, strides)
    return tensor.flip(flipped) if flipped else tensor
