# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""TinyViT (Wu et al. 2022) as MobileSAM (Zhang et al. 2023) has it: a small image encoder for SAM.

Convolutions at stride 4, then attention inside windows at strides 8 and 16, and SAM's neck. The
last two levels have one size: MobileSAM does not halve the map between them. Parameters have the
names of the published file.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

from masa_ros.models.configs import TinyVitConfig
from masa_ros.models.layers import BackboneMaps

_EXPANSION = 4  # hidden channels of blocks, of both kinds, for each of their own


class _ConvNorm(nn.Sequential):
    """Convolution and batch norm."""

    def __init__(
        self, channels_in: int, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        padding = kernel // 2
        self.c = nn.Conv2d(
            channels_in, channels, kernel, stride, padding, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(channels)


class _Stem(nn.Module):
    """From pixels to stride 4."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.seq = nn.Sequential(
            _ConvNorm(3, half, 3, 2), nn.GELU(), _ConvNorm(half, channels, 3, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, H / 4, W / 4)."""
        out: Tensor = self.seq(x)
        return out


class _Separable(nn.Module):
    """1x1, depthwise 3x3 and 1x1 convolutions: around a short cut, or from level to level."""

    def __init__(
        self, channels_in: int, hidden: int, channels: int, stride: int = 1, around: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = _ConvNorm(channels_in, hidden)
        self.conv2 = _ConvNorm(hidden, hidden, 3, stride, groups=hidden)
        self.conv3 = _ConvNorm(hidden, channels)
        self.around = around

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H / stride, W / stride)."""
        out: Tensor = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return F.gelu(out + x) if self.around else out


class _WindowAttention(nn.Module):
    """Attention inside windows; the logits also say how far apart two tokens are.

    The bias of two tokens is that of their distance in rows and columns, without its direction.
    """

    index: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        place = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        rows, columns = (place[:, None] - place[None]).abs().unbind(-1)
        self.register_buffer('index', rows * window + columns, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, window * window, C), one window each -> the same."""
        count, tokens, channels = x.shape
        qkv = self.qkv(self.norm(x)).view(count, tokens, self.heads, 3, -1)
        query, key, value = qkv.permute(3, 0, 2, 1, 4).unbind(0)
        bias = self.attention_biases[:, self.index]
        logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1) + bias
        seen = (logits.softmax(-1) @ value).transpose(1, 2)
        out: Tensor = self.proj(seen.reshape(count, tokens, channels))
        return out


class _Mlp(nn.Module):
    """Norm and two linear layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, _EXPANSION * channels)
        self.fc2 = nn.Linear(_EXPANSION * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> the same."""
        out: Tensor = self.fc2(F.gelu(self.fc1(self.norm(x))))
        return out


class _Block(nn.Module):
    """Attention inside windows, a depthwise convolution across them, and linear layers."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.attn = _WindowAttention(channels, heads, window)
        self.local_conv = _ConvNorm(channels, channels, 3, groups=channels)
        self.mlp = _Mlp(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        x = x.permute(0, 2, 3, 1)
        x = self.local_conv((x + self._attend(x)).permute(0, 3, 1, 2))
        tokens = x.flatten(2).transpose(1, 2)
        return (tokens + self.mlp(tokens)).transpose(1, 2).view_as(x)

    def _attend(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same.

        Zeros fill the windows at the right and below; they are attended to as well.
        """
        batch, height, width, channels = x.shape
        side = self.attn.window
        x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        x = x.view(batch, rows, side, columns, side, channels).transpose(2, 3)
        x = self.attn(x.reshape(-1, side * side, channels))
        x = x.view(batch, rows, columns, side, side, channels).transpose(2, 3)
        x = x.reshape(batch, rows * side, columns * side, channels)
        return x[:, :height, :width]


class _Level(nn.Module):
    """Blocks of one size, and what leads to the next level."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class TinyVit(nn.Module):
    """TinyViT between pixels and SAM's image embedding."""

    def __init__(self, config: TinyVitConfig) -> None:
        super().__init__()
        widths = config.widths
        self.patch_embed = _Stem(widths[0])
        self.layers = nn.ModuleList()
        for i, width in enumerate(widths):
            # Convolutions at the finest level, where attention would cost most.
            blocks: list[nn.Module] = [
                _Block(width, config.heads[i], config.windows[i])
                if i
                else _Separable(width, _EXPANSION * width, width, around=True)
                for _ in range(config.depths[i])
            ]
            following = None
            if i + 1 < len(widths):
                stride = 2 if i + 2 < len(widths) else 1
                following = _Separable(width, widths[i + 1], widths[i + 1], stride)
            self.layers.append(_Level(blocks, following))
        self.neck = nn.Sequential(
            nn.Conv2d(widths[-1], config.embedding, 1, bias=False),
            LayerNorm2d(config.embedding),
            nn.Conv2d(config.embedding, config.embedding, 3, padding=1, bias=False),
            LayerNorm2d(config.embedding),
        )

    def forward(self, x: Tensor) -> BackboneMaps:
        """(B, 3, S, S) -> no maps for a pyramid; ``detail``: the embedding (B, C, S/16, S/16)."""
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x)
        return BackboneMaps([], self.neck(x))
