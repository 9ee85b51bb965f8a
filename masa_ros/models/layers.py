"""Building blocks: convolution with norm, residual backbone, feature pyramid, dynamic fusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masa_ros.models.sampling import ModulatedDeformConv

Layer = TypeVar('Layer', nn.Conv2d, nn.Linear)


def start_near_zero(layer: Layer, std: float) -> Layer:
    """Give a prediction layer small weights and no bias: training starts from "nothing known"."""
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class ConvNorm(nn.Module):
    """Convolution without bias, batch or group norm, optional ReLU.

    ``groups`` 0 means batch norm, otherwise group norm of that many groups.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 0,
        relu: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False
        )
        self.norm: nn.Module = (
            nn.GroupNorm(groups, channels_out) if groups else nn.BatchNorm2d(channels_out)
        )
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, ceil(H / stride), ceil(W / stride))."""
        x = self.norm(self.conv(x))
        return F.relu(x, inplace=True) if self.relu else x


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
    """Residual network (He et al. 2016) that returns its four stages, strides 4 to 32.

    ``bottleneck`` gives the published ResNet-50 with a 7x7 stem and max-pooling; otherwise the
    stem is one 3x3 convolution and the first stage takes over the second halving.
    """

    def __init__(
        self, depths: Sequence[int], widths: Sequence[int], stem: int, bottleneck: bool
    ) -> None:
        super().__init__()
        self.pool = bottleneck
        self.stem = ConvNorm(3, stem, 7 if bottleneck else 3, 2, relu=True)
        block: type[Bottleneck] | type[BasicBlock] = Bottleneck if bottleneck else BasicBlock
        self.stages = nn.ModuleList()
        channels = stem
        for i, (depth, width) in enumerate(zip(depths, widths)):
            stride = 1 if i == 0 and bottleneck else 2
            blocks = [block(channels, width, stride)]
            blocks += [block(width, width, 1) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*blocks))
            channels = width

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> four maps (B, C_i, H / s, W / s), s = 4, 8, 16, 32."""
        x = self.stem(x)
        if self.pool:
            x = F.max_pool2d(x, 3, 2, padding=1)
        stages = []
        for stage in self.stages:
            x = stage(x)
            stages.append(x)
        return stages


class FeaturePyramid(nn.Module):
    """Feature pyramid network (Lin et al. 2017) with batch norm on every convolution."""

    def __init__(self, channels_in: Sequence[int], channels: int, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.lateral = nn.ModuleList(ConvNorm(c, channels, 1) for c in channels_in)
        self.output = nn.ModuleList(ConvNorm(channels, channels) for _ in channels_in)

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """Return ``levels`` maps of (B, channels, ., .), finest first.

        Levels beyond the backbone's take every second pixel of the one before.
        """
        merged = [lateral(x) for lateral, x in zip(self.lateral, stages)]
        for i in range(len(merged) - 1, 0, -1):
            size = merged[i - 1].shape[-2:]
            merged[i - 1] = merged[i - 1] + F.interpolate(merged[i], size=size, mode='nearest')
        out = [output(x) for output, x in zip(self.output, merged)]
        while len(out) < self.levels:
            out.append(F.max_pool2d(out[-1], 1, stride=2))
        return out


class DeformNorm(nn.Module):
    """Modulated deformable convolution followed by group norm."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = ModulatedDeformConv(channels, channels, stride)
        self.norm = nn.GroupNorm(16, channels)

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """See ``ModulatedDeformConv.forward``."""
        return self.norm(self.conv(x, offset, mask))


class DynamicFusion(nn.Module):
    """Fuse each pyramid level with its neighbours through deformable convolutions.

    The spatial-aware part of Dynamic Head (Dai et al. 2021) as MASA uses it for backbones with
    a pyramid of their own (paper section 3.2.2). All offsets of a level are predicted from that
    level. The coarser neighbour lives on a grid of half the size, so that it needs offsets at
    half the resolution. Taken at every second position they mean what they say; the released
    weights, however, were trained with the first values of the flat buffer read as a smaller
    map, which ``released_layout`` reproduces.
    """

    def __init__(self, channels: int, released_layout: bool = False) -> None:
        super().__init__()
        self.released_layout = released_layout
        self.offset = start_near_zero(nn.Conv2d(channels, 3 * 27, 3, padding=1), 0.01)
        self.high = DeformNorm(channels)
        self.mid = DeformNorm(channels)
        self.low = DeformNorm(channels, stride=2)

    def _to_coarser(self, values: Tensor, coarser: Tensor) -> Tensor:
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
            predicted = self.offset(x)
            offset_mid, offset_low, offset_high = predicted[:, :54].split(18, dim=1)
            mask_mid, mask_low, mask_high = predicted[:, 54:].sigmoid().split(9, dim=1)
            parts = [self.mid(x, offset_mid, mask_mid)]
            if i > 0:
                parts.append(self.low(levels[i - 1], offset_low, mask_low))
            if i + 1 < len(levels):
                above = levels[i + 1]
                high = self.high(
                    above, self._to_coarser(offset_high, above), self._to_coarser(mask_high, above)
                )
                parts.append(
                    F.interpolate(high, size=x.shape[-2:], mode='bilinear', align_corners=True)
                )
            out.append(torch.stack(parts).mean(0))
        return out
