# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Swin transformer backbone (Liu et al. 2021) of the Detic and Grounding-DINO models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masa_ros.models.configs import SwinConfig
from masa_ros.models.layers import BackboneMaps


def _pad_to(x: Tensor, multiple: int) -> Tensor:
    """Zeros below and right of (B, H, W, C) until both sides are multiples."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % multiple, 0, -x.shape[1] % multiple))


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learned bias for each relative position."""

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        table = torch.zeros((2 * window - 1) ** 2, heads)
        self.relative_position_bias_table = nn.Parameter(table)
        at = torch.stack(
            torch.meshgrid(torch.arange(window), torch.arange(window), indexing='ij'), -1
        ).view(-1, 2)
        apart = at[:, None] - at[None] + window - 1
        index = apart[..., 0] * (2 * window - 1) + apart[..., 1]
        self.register_buffer('relative_position_index', index)

    def forward(self, x: Tensor, blocked: Tensor | None) -> Tensor:
        """Attend within windows.

        Parameters
        ----------
        x: (B * windows, N, C) tokens.
        blocked: (windows, N, N) added to the attention logits, or None.

        """
        many, tokens, channels = x.shape
        q, k, v = self.qkv(x).view(many, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        bias = bias.view(tokens, tokens, self.heads).permute(2, 0, 1)[None]
        if blocked is not None:
            bias = (bias + blocked[:, None]).repeat(many // len(blocked), 1, 1, 1)
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias
        out = logits.softmax(-1) @ v
        return self.proj(out.transpose(1, 2).reshape(many, tokens, channels))


class SwinBlock(nn.Module):
    """Window attention and MLP, both residual; every second block shifts the windows."""

    def __init__(self, channels: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, window)
        self.norm2 = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def _windows(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B * windows, window ** 2, C)."""
        batch, height, _, channels = x.shape
        x = x.view(batch, height // self.window, self.window, -1, self.window, channels)
        return x.transpose(2, 3).reshape(-1, self.window**2, channels)

    def _blocked(self, height: int, width: int, like: Tensor) -> Tensor:
        """Keep the parts that the shift has wrapped around from seeing the others."""
        row, column = (torch.arange(n, device=like.device) for n in (height, width))
        region = (row >= height - self.window).long() + (row >= height - self.shift)
        side = (column >= width - self.window).long() + (column >= width - self.shift)
        label = (region[:, None] * 3 + side[None])[None, :, :, None]
        label = self._windows(label)[:, :, 0]
        apart = label[:, None, :] != label[:, :, None]
        return apart.to(like.dtype) * -100.0

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        batch, rows, columns, channels = x.shape
        y = _pad_to(self.norm1(x), self.window)
        height, width = y.shape[1:3]
        blocked = None
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
            blocked = self._blocked(height, width, y)
        y = self.attn(self._windows(y), blocked)
        y = y.view(batch, height // self.window, -1, self.window, self.window, channels)
        y = y.transpose(2, 3).reshape(batch, height, width, channels)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y[:, :rows, :columns]
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class PatchMerging(nn.Module):
    """Join 2 x 2 tokens into one of twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 2 C)."""
        x = _pad_to(x, 2)
        batch, height, width, channels = x.shape
        x = x.view(batch, height // 2, 2, width // 2, 2, channels)
        # Channel-major, then row and column of the token: the order of the released weights.
        x = x.permute(0, 1, 3, 5, 2, 4).reshape(batch, height // 2, width // 2, 4 * channels)
        return self.reduction(self.norm(x))


class Swin(nn.Module):
    """Swin transformer; sizes need not be multiples of anything."""

    read_by_others = True  # the detectors of the published files stand on its maps

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, config.width, 4, stride=4)
        self.patch_norm = nn.LayerNorm(config.width)
        widths = [config.width << i for i in range(len(config.depths))]
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    SwinBlock(width, heads, config.window, config.window // 2 * (i % 2))
                    for i in range(depth)
                )
            )
            for width, depth, heads in zip(widths, config.depths, config.heads)
        )
        self.merges = nn.ModuleList(PatchMerging(width) for width in widths[:-1])
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths[1:])

    def forward(self, x: Tensor) -> BackboneMaps:
        """(B, 3, H, W) -> maps of strides 8, 16, 32."""
        x = F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))
        x = self.patch_norm(self.patch(x).permute(0, 2, 3, 1))
        maps = []
        for i, stage in enumerate(self.stages):
            x = stage(x if i == 0 else self.merges[i - 1](x))
            if i > 0:
                maps.append(self.norms[i - 1](x).permute(0, 3, 1, 2))
        return BackboneMaps(maps, None)
