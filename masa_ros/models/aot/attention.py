# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Gated propagation: what the layers of DeAOT are made of (Yang and Yang 2022, section 4.2).

One head. What attention reads is multiplied by a gate, spread by a depthwise convolution and
projected: GP(U, Q, K, V) = F_dw(U * softmax(Q K^T) V) W.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = tuple[int, int]
"""Rows and columns of the positions of a frame."""


class Written(NamedTuple):
    """What one layer has written down of a frame of T positions.

    Attributes
    ----------
    key: (T, K).
    value, identity: (T, V) what is seen there, and who is there.

    """

    key: Tensor
    value: Tensor
    identity: Tensor


def to_map(x: Tensor, size: Size) -> Tensor:
    """Positions (T, C), row by row -> (1, C, h, w)."""
    return x.T.unflatten(1, size)[None]


def to_positions(x: Tensor) -> Tensor:
    """Bring a map (1, C, h, w) to positions (T, C), row by row."""
    return x[0].flatten(1).T


def window_index(size: Size, reach: int, device: torch.device) -> Tensor:
    """Return (T, T) the place of every position in the window around every other.

    Places are counted row by row; what is outside of the window has the one behind the last.
    """
    rows, columns = (torch.arange(n, device=device) for n in size)
    side = 2 * reach + 1
    down = (rows[None] - rows[:, None] + reach)[:, None, :, None]
    right = (columns[None] - columns[:, None] + reach)[None, :, None, :]
    inside = (down >= 0) & (down < side) & (right >= 0) & (right < side)
    index = torch.where(inside, down * side + right, side * side)
    return index.reshape(len(rows) * len(columns), -1)


class _Spread(nn.Module):
    """Depthwise convolution over the positions of a frame."""

    def __init__(self, channels: int, kernel: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False
        )

    def forward(self, x: Tensor, size: Size) -> Tensor:
        """(T, C) -> (T, C)."""
        return to_positions(self.conv(to_map(x, size)))


class _Propagation(nn.Module):
    """What all propagations share: reading, gate, spreading, projection.

    Parameters
    ----------
    value: channels of what is seen, and as many of identities, at every position.
    channels: of the features of each of the two branches.

    """

    def __init__(self, value: int, channels: int) -> None:
        super().__init__()
        self.dw_conv = _Spread(2 * value)
        self.projection = nn.Linear(2 * value, 2 * channels)

    def _read(
        self,
        query: Tensor,
        frames: Sequence[Written],
        gate: Tensor,
        size: Size,
        bias: Tensor | None = None,
    ) -> Tensor:
        query = query / query.shape[1] ** 0.5
        scores = torch.cat([query @ each.key.T for each in frames], 1)
        if bias is not None:
            scores = scores + bias
        weights = scores.softmax(1).split([len(each.key) for each in frames], 1)
        # Frame by frame: joined, the values of all frames would be copied for every reading.
        values = _sum(w @ each.value for w, each in zip(weights, frames))
        identities = _sum(w @ each.identity for w, each in zip(weights, frames))
        read = torch.cat((values, identities), 1) * gate
        return self.projection(self.dw_conv(read, size))


def _sum(tensors: Iterable[Tensor]) -> Tensor:
    """Add tensors of one shape, of which there is at least one."""
    return functools.reduce(torch.add, tensors)


class GatedPropagation(_Propagation):
    """Propagation from any number of remembered frames (the long-term memory)."""

    def forward(
        self, query: Tensor, frames: Sequence[Written], gate: Tensor, size: Size
    ) -> Tensor:
        """Read at Q positions.

        Parameters
        ----------
        query: (Q, K).
        frames: that are read, as if they were one.
        gate: (Q, 2 V).
        size: of the Q positions.

        Returns
        -------
        (Q, 2 C), visual features first, identities behind.

        """
        return self._read(query, frames, gate, size)


class LocalGatedPropagation(_Propagation):
    """Propagation from around the same place of the frame before (the short-term memory).

    All positions are compared, and those outside of the window left out: less memory than
    windows that are cut out, for a matrix that is small beside those of the long-term memory.
    """

    def __init__(self, key: int, value: int, channels: int, reach: int) -> None:
        super().__init__(value, channels)
        self.relative_emb_k = nn.Conv2d(key, (2 * reach + 1) ** 2, 1)

    def forward(
        self, query: Tensor, frame: Written, gate: Tensor, size: Size, index: Tensor
    ) -> Tensor:
        """Read at Q positions a frame of as many; ``index`` is that of ``window_index``."""
        # Where a position is counts by a bias that is made of the query before it is scaled.
        embed = self.relative_emb_k
        relative = F.linear(query, embed.weight.flatten(1), embed.bias)
        bias = F.pad(relative, (0, 1), value=-torch.inf).gather(1, index)
        return self._read(query, [frame], gate, size, bias)


class SelfPropagation(_Propagation):
    """Propagation within a frame; query and key are the same projection."""

    def __init__(self, key: int, value: int, channels: int) -> None:
        super().__init__(value, channels)
        self.linear_QK = nn.Linear(2 * channels, key)
        self.linear_V1, self.linear_V2, self.linear_U1, self.linear_U2 = (
            nn.Linear(channels, value) for _ in range(4)
        )

    def forward(self, seen: Tensor, known: Tensor, size: Size) -> Tensor:
        """Visual features and identities (T, C) each -> (T, 2 C)."""
        query = self.linear_QK(torch.cat((seen, known), 1))
        gate = torch.cat((F.silu(self.linear_U1(seen)), F.silu(self.linear_U2(known))), 1)
        own = Written(query, F.silu(self.linear_V1(seen)), F.silu(self.linear_V2(known)))
        return self._read(query, [own], gate, size)
