# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Dynamic feature fusion: each pyramid level meets its neighbours in deformable convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masa_ros.models.layers import start_near_zero
from masa_ros.models.sampling import ModulatedDeformConv


class DeformNorm(nn.Module):
    """Modulated deformable convolution followed by group norm."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = ModulatedDeformConv(channels, channels, stride)
        self.norm = nn.GroupNorm(16, channels)

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """See ``ModulatedDeformConv.forward``."""
        return self.norm(self.conv(x, offset, mask))


class ScaleAttention(nn.Module):
    """Weight of a whole map from its mean (Dynamic Head, Dai et al. 2021, eq. 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same, each image times a weight in 0..1."""
        return x * F.hardsigmoid(F.relu(self.conv(x.mean((2, 3), keepdim=True))))


class TaskAttention(nn.Module):
    """Dynamic ReLU (Chen et al. 2020): the larger of two lines chosen per image and channel.

    The task-aware attention of Dynamic Head (Dai et al. 2021, eq. 5).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels // 4, 1)
        self.conv2 = nn.Conv2d(channels // 4, 4 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        hidden = F.relu(self.conv1(x.mean((2, 3), keepdim=True)))
        slope1, shift1, slope2, shift2 = (F.hardsigmoid(self.conv2(hidden)) - 0.5).chunk(4, dim=1)
        return torch.maximum(x * (slope1 * 2 + 1) + shift1, x * (slope2 * 2) + shift2)


class DynamicFusion(nn.Module):
    """Fuse each pyramid level with its neighbours through deformable convolutions.

    MASA's feature fusion (paper section 3.2.2). All offsets of a level are predicted from that
    level. Without ``attention`` it is the form MASA uses for backbones with a pyramid of their
    own: each neighbour has offsets of its own and the parts are averaged. With ``attention`` it is
    the Dynamic Head block (Dai et al. 2021) of the SAM models: the parts share their offsets, and
    scale- and task-aware attention weigh them.

    The coarser neighbour lives on a grid of half the size, so that it needs offsets at half the
    resolution. Taken at every second position they mean what they say; the released weights,
    however, were trained with the first values of the flat buffer read as a smaller map, which
    ``released_layout`` reproduces.
    """

    def __init__(
        self, channels: int, released_layout: bool = False, attention: bool = False
    ) -> None:
        super().__init__()
        self.released_layout = released_layout
        self.shared = attention
        predicted = 27 if attention else 3 * 27
        self.offset = start_near_zero(nn.Conv2d(channels, predicted, 3, padding=1), 0.01)
        self.high = DeformNorm(channels)
        self.mid = DeformNorm(channels)
        self.low = DeformNorm(channels, stride=2)
        self.scale = ScaleAttention(channels) if attention else nn.Identity()
        self.task = TaskAttention(channels) if attention else nn.Identity()

    def _predict(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Offsets (B, 18, H, W) and masks (B, 9, H, W) for mid, low and high."""
        predicted = self.offset(x)
        if self.shared:
            return [(predicted[:, :18], predicted[:, 18:].sigmoid())] * 3
        offsets = predicted[:, :54].split(18, dim=1)
        return list(zip(offsets, predicted[:, 54:].sigmoid().split(9, dim=1)))

    def to_coarser(self, values: Tensor, coarser: Tensor) -> Tensor:
        """Give offsets or masks (B, C, H, W) the size of the coarser level."""
        rows, columns = coarser.shape[-2:]
        if not self.released_layout:
            return values[:, :, ::2, ::2]
        batch, channels = values.shape[:2]
        flat = values.reshape(batch, -1)[:, : channels * rows * columns]
        return flat.view(batch, channels, rows, columns)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Fuse maps (B, C, H_l, W_l), finest first, each half the size of the one before."""
        out = []
        for i, x in enumerate(levels):
            at_mid, at_low, at_high = self._predict(x)
            parts = [self.scale(self.mid(x, *at_mid))]
            if i > 0:
                parts.append(self.scale(self.low(levels[i - 1], *at_low)))
            if i + 1 < len(levels):
                above = levels[i + 1]
                high = self.high(above, *(self.to_coarser(values, above) for values in at_high))
                high = F.interpolate(high, size=x.shape[-2:], mode='bilinear', align_corners=True)
                parts.append(self.scale(high))
            out.append(self.task(torch.stack(parts).mean(0)))
        return out
