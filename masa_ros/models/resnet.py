# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Residual backbones: the published ResNet-50 and the small one of masa_nano."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from masa_ros.models.configs import ResNetConfig
from masa_ros.models.layers import BackboneMaps, ConvNorm


class Bottleneck(nn.Module):
    """Residual block 1x1, 3x3, 1x1; the stride is in the first convolution (caffe style)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        middle = channels_out // 4
        self.conv1 = ConvNorm(channels_in, middle, 1, stride, relu=True)
        self.conv2 = ConvNorm(middle, middle, 3, relu=True)
        self.conv3 = ConvNorm(middle, channels_out, 1)
        self.downsample = (
            ConvNorm(channels_in, channels_out, 1, stride)
            if stride != 1 or channels_in != channels_out
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.conv3(self.conv2(self.conv1(x))) + shortcut)


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions: on a CPU faster than 1x1 and depthwise ones."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels_in, channels_out, 3, stride, relu=True)
        self.conv2 = ConvNorm(channels_out, channels_out, 3)
        self.downsample = (
            ConvNorm(channels_in, channels_out, 1, stride)
            if stride != 1 or channels_in != channels_out
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.conv2(self.conv1(x)) + shortcut)


class ResNet(nn.Module):
    """Residual network (He et al. 2016)."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = ConvNorm(3, config.stem, 7 if config.bottleneck else 3, 2, relu=True)
        block: type[Bottleneck] | type[BasicBlock]
        block = Bottleneck if config.bottleneck else BasicBlock
        self.stages = nn.ModuleList()
        channels = config.stem
        for i, (depth, width) in enumerate(zip(config.depths, config.widths)):
            stride = 1 if i == 0 and config.bottleneck else 2
            blocks = [block(channels, width, stride)]
            blocks += [block(width, width, 1) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*blocks))
            channels = width

    def forward(self, x: Tensor) -> BackboneMaps:
        """(B, 3, H, W) -> maps (B, C_i, H / s, W / s); ``detail`` is the first stage, stride 4."""
        x = self.stem(x)
        if self.config.bottleneck:
            x = F.max_pool2d(x, 3, 2, padding=1)
        stages = []
        for stage in self.stages:
            x = stage(x)
            stages.append(x)
        return BackboneMaps(stages[self.config.first_stage :], stages[0])
