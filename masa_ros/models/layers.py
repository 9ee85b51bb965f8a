# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Building blocks: convolution with norm, feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layer = TypeVar('Layer', nn.Conv2d, nn.Linear)


class BackboneMaps(NamedTuple):
    """What a backbone gives.

    Attributes
    ----------
    maps: (B, C_i, H / s_i, W / s_i), finest first; the input of the pyramid.
    detail: what the masks are drawn from besides the pyramid, None for backbones without.

    """

    maps: list[Tensor]
    detail: Tensor | None


def start_near_zero(layer: Layer, std: float) -> Layer:
    """Give a prediction layer small weights and no bias: training starts from "nothing known"."""
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class ConvNorm(nn.Module):
    """Convolution, norm, optional ReLU.

    ``groups`` 0 means batch norm, otherwise group norm of that many groups; None no norm but a
    bias.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int | None = 0,
        relu: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=groups is None
        )
        self.norm: nn.Module
        if groups is None:
            self.norm = nn.Identity()
        elif groups:
            self.norm = nn.GroupNorm(groups, channels_out)
        else:
            self.norm = nn.BatchNorm2d(channels_out)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, ceil(H / stride), ceil(W / stride))."""
        x = self.norm(self.conv(x))
        return F.relu(x, inplace=True) if self.relu else x


class AppearanceMaps(nn.Module):
    """What tells one object from another of its kind: colour and texture, and some of its form.

    One linear map of stride 4, made of those of strides 4, 8 and 16 of a backbone, and its means
    over 2 x 2 cells, again and again. A box of any size is so described by the same features.
    """

    LEVELS = 4

    def __init__(self, channels_in: Sequence[int], channels: int) -> None:
        super().__init__()
        self.channels_in, self.channels = tuple(channels_in), channels
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in channels_in)

    def forward(self, maps: BackboneMaps) -> list[Tensor]:
        """Return ``LEVELS`` maps of (B, channels, ., .), strides 4, 8, 16 and 32."""
        mixed: Tensor | None = None
        for lateral, x in reversed(list(zip(self.lateral, _finest(maps)))):
            x = lateral(x)
            if mixed is not None:
                x = x + F.interpolate(mixed, size=x.shape[-2:], mode='nearest')
            mixed = x
        assert mixed is not None
        return self._means(mixed)

    def unmixed(self, maps: BackboneMaps) -> list[Tensor]:
        """Return the same before anything that learns: (B, sum of ``channels_in`` + 1, ., .).

        The last channel is 1: what is pooled beyond the edges of the maps is 0 there as well.
        """
        fine, *coarse = _finest(maps)
        wide = [F.interpolate(x, size=fine.shape[-2:], mode='nearest') for x in coarse]
        return self._means(torch.cat((fine, *wide, torch.ones_like(fine[:, :1])), 1))

    def mix(self, pooled: Tensor) -> Tensor:
        """Turn what is pooled of ``unmixed`` into what would be pooled of ``forward``."""
        weights, biases = zip(*(lateral.parameters() for lateral in self.lateral))
        bias = torch.stack(biases).sum(0)[:, None, None, None]
        return F.conv2d(pooled, torch.cat((*weights, bias), 1))

    @torch.no_grad()
    def set(self, weights: Tensor, bias: Tensor) -> None:
        """Make maps of ``unmixed`` by weights (channels, sum of ``channels_in``) and a bias."""
        for lateral, part in zip(self.lateral, weights.split(self.channels_in, 1)):
            own_weight, own_bias = lateral.parameters()
            own_weight.copy_(part[:, :, None, None])
            own_bias.copy_(bias if lateral is self.lateral[0] else torch.zeros_like(bias))

    def _means(self, finest: Tensor) -> list[Tensor]:
        out = [finest]
        while len(out) < self.LEVELS:
            out.append(F.avg_pool2d(out[-1], 2))
        return out


def _finest(maps: BackboneMaps) -> tuple[Tensor, ...]:
    """Return the maps of strides 4, 8 and 16."""
    if maps.detail is None:
        raise ValueError('this backbone gives no map of stride 4 to tell objects apart by')
    return (maps.detail, *maps.maps[:2])


class FeaturePyramid(nn.Module):
    """Feature pyramid network (Lin et al. 2017).

    ``norm``: batch norm on every convolution, otherwise none.
    """

    def __init__(
        self, channels_in: Sequence[int], channels: int, levels: int, norm: bool = True
    ) -> None:
        super().__init__()
        self.levels = levels
        groups = 0 if norm else None
        self.lateral = nn.ModuleList(ConvNorm(c, channels, 1, groups=groups) for c in channels_in)
        self.output = nn.ModuleList(
            ConvNorm(channels, channels, groups=groups) for _ in channels_in
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return ``levels`` maps of (B, channels, ., .), finest first.

        Levels beyond the backbone's take every second pixel of the one before.
        """
        merged = [lateral(x) for lateral, x in zip(self.lateral, maps)]
        for i in range(len(merged) - 1, 0, -1):
            size = merged[i - 1].shape[-2:]
            merged[i - 1] = merged[i - 1] + F.interpolate(merged[i], size=size, mode='nearest')
        out = [output(x) for output, x in zip(self.output, merged)]
        while len(out) < self.levels:
            out.append(F.max_pool2d(out[-1], 1, stride=2))
        return out
