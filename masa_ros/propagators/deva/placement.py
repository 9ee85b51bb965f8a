# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How a frame lies in the input of a network: resized, then padded on all sides."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from masa_ros.models.deva.network import STRIDE


class Placement(NamedTuple):
    """Where a frame is.

    Attributes
    ----------
    height, width: of the frame, pixels.
    rows, columns: of the resized frame.
    antialias: whether images are smoothed before they become smaller.
    multiple: the sides of the input are multiples of it.

    """

    height: int
    width: int
    rows: int
    columns: int
    antialias: bool = False
    multiple: int = STRIDE

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """Pixels left, right, top and bottom; the odd one is on the right and at the bottom."""
        x, y = -self.columns % self.multiple, -self.rows % self.multiple
        return x // 2, x - x // 2, y // 2, y - y // 2

    @property
    def input_shape(self) -> tuple[int, int]:
        """Rows and columns of the input."""
        left, right, top, bottom = self.padding
        return self.rows + top + bottom, self.columns + left + right

    @property
    def resized(self) -> bool:
        """Whether the frame changes its size at all."""
        return (self.rows, self.columns) != (self.height, self.width)

    def image_in(self, image: Tensor) -> Tensor:
        """Bring normalised images (B, 3, height, width) to the network."""
        if self.resized:
            size = self.rows, self.columns
            image = F.interpolate(image, size, mode='bilinear', antialias=self.antialias)
        return F.pad(image, self.padding)

    def masks_in(self, masks: Tensor) -> Tensor:
        """Bring masks (N, height, width) to the network; no pixel becomes of two objects."""
        if self.resized and len(masks):
            size = self.rows, self.columns
            masks = F.interpolate(masks[None], size, mode='nearest-exact')[0]
        return F.pad(masks, self.padding)

    def masks_out(self, masks: Tensor) -> Tensor:
        """Bring probabilities (1 + N, H, W) of the network back to the frame."""
        left, _, top, _ = self.padding
        masks = masks[:, top : top + self.rows, left : left + self.columns]
        if not self.resized:
            return masks.clone()  # whoever gets them may draw in them
        size = self.height, self.width
        return F.interpolate(masks[None], size, mode='bilinear', align_corners=False)[0]
