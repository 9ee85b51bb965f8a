# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What both sides of DEVA's network are built of: residual blocks, attention, gated memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from masa_ros.models.layers import ConvNorm

_REDUCTION = 16  # of the channels inside the channel gate


def stage(
    block: type[BasicBlock] | type[Bottleneck],
    channels_in: int,
    channels: int,
    depth: int,
    stride: int,
) -> nn.Sequential:
    """Make a stage of a residual network (He et al. 2016), the stride in its first 3x3.

    ``channels`` are the inner ones; bottlenecks give four times as many.
    """
    width = channels * block.expansion
    shortcut = None
    if stride != 1 or channels_in != width:
        shortcut = nn.Sequential(
            nn.Conv2d(channels_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
        )
    first = block(channels_in, channels, stride, shortcut)
    return nn.Sequential(first, *(block(width, channels) for _ in range(depth - 1)))


class Residual(nn.Module):
    """Residual block of two 3x3 convolutions without norm, ReLU first."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.downsample = (
            nn.Identity()
            if channels_in == channels_out
            else nn.Conv2d(channels_in, channels_out, 1)
        )
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        middle = F.relu(self.conv1(F.relu(x)), inplace=True)
        return self.conv2(middle) + self.downsample(x)


class ChannelGate(nn.Module):
    """Weigh channels by what their mean and their maximum say."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        middle = channels // _REDUCTION
        self.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(channels, middle), nn.ReLU(), nn.Linear(middle, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        said = self.mlp(x.mean((2, 3), keepdim=True)) + self.mlp(x.amax((2, 3), keepdim=True))
        return x * said.sigmoid()[:, :, None, None]


class SpatialGate(nn.Module):
    """Weigh positions by what maximum and mean of their channels say."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = ConvNorm(2, 1, 7, groups=None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        seen = torch.stack((x.amax(1), x.mean(1)), 1)
        return x * self.spatial(seen).sigmoid()


class Cbam(nn.Module):
    """Attention over channels, then over positions (Woo et al. 2018, eq. 1 to 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ChannelGate = ChannelGate(channels)
        self.SpatialGate = SpatialGate()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return self.SpatialGate(self.ChannelGate(x))


class Fuser(nn.Module):
    """Join what is seen in the image with what is known of every object."""

    def __init__(self, image: int, known: int, channels: int) -> None:
        super().__init__()
        self.block1 = Residual(image + known, channels)
        self.attention = Cbam(channels)
        self.block2 = Residual(channels, channels)

    def forward(self, image: Tensor, objects: Tensor) -> Tensor:
        """Image (1, C_i, h, w), objects (N, C_o, h, w) -> (N, C, h, w)."""
        x = self.block1(torch.cat((image.expand(objects.shape[0], -1, -1, -1), objects), 1))
        return self.block2(x + self.attention(x))


class SensoryUpdate(nn.Module):
    """A gated recurrent unit over positions, that of the sensory memory of XMem and DEVA.

    Unlike the usual one it forgets and then blends: h' = f h (1 - u) + u tanh(v), where f, u, v
    are the thirds of one convolution of input and state.
    """

    def __init__(self, channels_in: int, channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.transform = nn.Conv2d(
            channels_in + channels, 3 * channels, kernel, padding=kernel // 2
        )

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """Input (N, C_in, h, w), state (N, C, h, w) -> the new state."""
        forget, update, value = self.transform(torch.cat((x, state), 1)).chunk(3, 1)
        update = update.sigmoid()
        return forget.sigmoid() * state * (1 - update) + update * value.tanh()


class FineSensoryUpdate(SensoryUpdate):
    """The unit fed by what the decoder made at strides 16, 8 and 4."""

    def __init__(self, channels_in: Sequence[int], channels: int, kernel: int = 3) -> None:
        super().__init__(channels, channels, kernel)
        self.g16_conv, self.g8_conv, self.g4_conv = (
            nn.Conv2d(c, channels, 1) for c in channels_in
        )

    def gather(self, p16: Tensor, p8: Tensor, p4: Tensor) -> Tensor:
        """Join maps (N, C_s, H / s, W / s): input (N, C, H / 16, W / 16) of the unit."""
        fine = self.g8_conv(F.avg_pool2d(p8, 2)) + self.g4_conv(F.avg_pool2d(p4, 4))
        return self.g16_conv(p16) + fine
