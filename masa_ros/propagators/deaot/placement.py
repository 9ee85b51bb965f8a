# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How a frame becomes the input of DeAOT's network, and logits become of its size again."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from masa_ros.models.aot.network import STRIDE


class Placement(NamedTuple):
    """The sizes of a frame and of what it is resized to; nothing is padded.

    Attributes
    ----------
    height, width: of the frame, pixels.
    rows, columns: of the network's input, 16 n + 1 each.

    """

    height: int
    width: int
    rows: int
    columns: int

    @classmethod
    def of(cls, height: int, width: int, longest: int) -> Placement:
        """Choose the input's size: its long side is about ``longest`` at most; 0: any."""
        scale = min(1.0, longest / max(height, width)) if longest else 1.0
        return cls(height, width, _fitting(int(height * scale)), _fitting(int(width * scale)))

    def image_in(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize an image (height, width, 3) as the published network was given them.

        Cubic on bytes: rounded, and cut to 0..255.
        """
        if (self.rows, self.columns) == (self.height, self.width):
            return image
        size = self.columns, self.rows
        resized = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_CUBIC)
        return np.asarray(resized, np.uint8)

    def labels_in(self, labels: Tensor) -> Tensor:
        """Bring labels (height, width) to the network: (rows, columns) int64."""
        size = self.rows, self.columns
        small = F.interpolate(labels[None, None].float(), size, mode='nearest')
        return small[0, 0].to(torch.int64)

    def logits_out(self, logits: Tensor) -> Tensor:
        """Bring logits (C, h, w) to the frame, (C, height, width); corners stay where they are."""
        size = self.height, self.width
        return F.interpolate(logits[None], size, mode='bilinear', align_corners=True)[0]


def _fitting(side: int) -> int:
    """Return the nearest side that is a multiple of the stride, and one."""
    return int(np.around((side - 1) / STRIDE)) * STRIDE + 1  # halves go to the even multiple
