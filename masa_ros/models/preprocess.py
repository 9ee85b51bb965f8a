# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""From an image to what a network reads."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from masa_ros.models.configs import ModelConfig
from masa_ros.models.upload import to_device

# ImageNet statistics of 0..255 RGB, as in the released models.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def fitted_size(height: int, width: int, long_side: int, short_side: int) -> tuple[int, int]:
    """(rows, columns) of an image scaled to fit both sides, its proportions kept."""
    scale = min(long_side / max(height, width), short_side / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def fitted_to(model: ModelConfig, long_side: int, height: int, width: int) -> tuple[int, int]:
    """(rows, columns) of an image in a model's input; ``long_side`` 0: the model's own."""
    longest = long_side or model.input_size
    shortest = model.short_side * longest // model.input_size
    return fitted_size(height, width, longest, shortest or longest)


def resize(
    image: NDArray[np.uint8], size: tuple[int, int], antialias: bool, device: str
) -> Tensor:
    """Bilinear (h, w, 3) -> (1, 3, *size) on the device.

    Official models were trained on what OpenCV makes of floats, without antialias; on a CPU they
    get exactly that. torch rounds the positions otherwise, by some 1e-5 pixels.
    """
    rows, columns = size
    if device == 'cpu' and not antialias:
        pixels = cv2.resize(image.astype(np.float32), (columns, rows))
        return torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    # In this order of steps the strides say 'channels last', which is the faster way on a CPU.
    tensor = to_device(image, device)[None].permute(0, 3, 1, 2)
    if tensor.is_cuda:
        tensor = tensor.float()  # bytes are resized as they are only on a CPU
    return F.interpolate(tensor, size, mode='bilinear', align_corners=False, antialias=antialias)


def normalise(images: Tensor) -> Tensor:
    """RGB 0..255 (B, 3, H, W), any dtype -> float32 network input, channels last."""
    # Row by row: on a CPU, loops over an axis of three take several times as long.
    rows = images.permute(0, 2, 3, 1).to(torch.float32, copy=True).flatten(2)
    columns = images.shape[3]
    rows -= torch.tensor(MEAN, device=rows.device).repeat(columns)
    rows /= torch.tensor(STD, device=rows.device).repeat(columns)
    return rows.unflatten(2, (columns, 3)).permute(0, 3, 1, 2)


def padded_input(
    image: NDArray[np.uint8], size: tuple[int, int], multiple: int, antialias: bool, device: str
) -> Tensor:
    """Bring an (h, w, 3) RGB image to a size, and zeros right and below to a multiple."""
    rows, columns = size
    tensor = normalise(resize(image, size, antialias, device))
    right, below = -columns % multiple, -rows % multiple
    return F.pad(tensor, (0, right, 0, below)) if right or below else tensor
