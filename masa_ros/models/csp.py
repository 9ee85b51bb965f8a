# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Cross-stage partial backbone of plain 3x3 convolutions: that of NanoDet-g.

On a CPU, dense convolutions in channels-last order are faster than depthwise ones with a third of
the operations. The published weights have their batch norms folded into the convolutions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masa_ros.models.configs import CspConfig
from masa_ros.models.layers import BackboneMaps


class ConvLeaky(nn.Module):
    """Convolution with a bias, then a ReLU that lets a tenth of the negative side through."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, ceil(H / stride), ceil(W / stride))."""
        return F.leaky_relu(self.conv(x), 0.1, inplace=True)


class CspUnit(nn.Module):
    """Two convolutions of half the channels; both results go on."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvLeaky(channels, channels // 2)
        self.second = ConvLeaky(channels // 2, channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        x = self.first(x)
        return torch.cat((self.second(x), x), 1)


class CspStage(nn.Module):
    """One convolution, units on one branch, and the branch beside what entered it."""

    def __init__(self, channels: int, units: int, stride: int) -> None:
        super().__init__()
        self.enter = ConvLeaky(channels, channels, stride=stride)
        self.units = nn.Sequential(*(CspUnit(channels) for _ in range(units)))
        self.leave = ConvLeaky(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 2 C, H / stride, W / stride)."""
        x = self.enter(x)
        return torch.cat((self.leave(self.units(x)), x), 1)


class Csp(nn.Module):
    """Stem, max-pooling and four stages, each of which doubles the channels."""

    def __init__(self, config: CspConfig) -> None:
        super().__init__()
        self.stem = ConvLeaky(3, config.stem, stride=2)
        self.stages = nn.ModuleList(
            CspStage(config.stem << i, units, 1 if i == 0 else 2)
            for i, units in enumerate(config.units)
        )

    def forward(self, x: Tensor) -> BackboneMaps:
        """(B, 3, H, W) -> maps of strides 8, 16 and 32; ``detail`` is that of stride 4."""
        x = F.max_pool2d(self.stem(x), 3, 2, padding=1)
        stages = []
        for stage in self.stages:
            x = stage(x)
            stages.append(x)
        return BackboneMaps(stages[1:], stages[0])
