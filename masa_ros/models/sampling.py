# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Sampling of feature maps at real-valued positions: deformable convolution and RoIAlign.

Both are the same operation, weighted sums of rows of a (positions, channels) table, and both
are built on ``weighted_rows``. Torchvision's operators for them have no TensorRT converter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from masa_ros.models.forms import static


def weighted_rows(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Sum K weighted rows of a table: ``out[m] = sum_k weight[m, k] * table[index[m, k]]``.

    Parameters
    ----------
    table: (R, C) features.
    index: (M, K) int64 rows.
    weight: (M, K) float32.

    Returns
    -------
    (M, C) in the dtype of the table.

    """
    # Positions that are no numbers, after an overflow upstream, must not become wild reads: on a
    # GPU these would take the whole process with them.
    index = index.clamp(0, table.shape[0] - 1)
    if table.is_cuda or static():
        # Plain gathers: every compiler converts and fuses them; embedding_bag has no converter.
        rows = table[index[:, 0]] * weight[:, :1].to(table.dtype)
        for k in range(1, index.shape[1]):
            rows = rows + table[index[:, k]] * weight[:, k : k + 1].to(table.dtype)
        return rows
    return F.embedding_bag(index, table, mode='sum', per_sample_weights=weight.to(table.dtype))


def _table(feature: Tensor) -> Tensor:
    """(B, C, H, W) -> (B * H * W, C); free of cost for channels-last maps."""
    return feature.permute(0, 2, 3, 1).reshape(-1, feature.shape[1])


class ModulatedDeformConv(nn.Module):
    """Modulated deformable 3x3 convolution, padding 1, one offset group, no bias.

    Deformable ConvNets v2 (Zhu et al. 2019, eq. 1); equal to torchvision's ``deform_conv2d``.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, 3, 3))
        nn.init.kaiming_normal_(self.weight, nonlinearity='linear')

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """Convolve at displaced taps.

        Parameters
        ----------
        x: (B, C, H, W) features.
        offset: (B, 18, h, w) displacement in cells of x, (y, x) interleaved per tap.
        mask: (B, 9, h, w) weight of each tap, 0..1.

        Returns
        -------
        (B, C_out, h, w)

        """
        batch, channels, height, width = x.shape
        rows, columns = offset.shape[-2:]
        padded_width = width + 2
        # One ring of zeros: a position outside the map is clamped onto it and reads zero.
        table = _table(F.pad(x, (1, 1, 1, 1)))

        def axis(size: int, shape: tuple[int, ...]) -> Tensor:
            return torch.arange(size, device=x.device, dtype=torch.float32).view(shape)

        offset = offset.float().view(batch, 9, 2, rows, columns)
        tap_y, tap_x = axis(3, (3, 1)).expand(3, 3), axis(3, (1, 3)).expand(3, 3)
        y = axis(rows, (1, 1, rows, 1)) * self.stride + tap_y.reshape(1, 9, 1, 1) + offset[:, :, 0]
        z = (
            axis(columns, (1, 1, 1, columns)) * self.stride
            + tap_x.reshape(1, 9, 1, 1)
            + offset[:, :, 1]
        )
        y, z = y.clamp(0, height + 1), z.clamp(0, width + 1)  # coordinates of the padded map
        y0, z0 = y.detach().floor().clamp(max=height), z.detach().floor().clamp(max=width)
        dy, dz = y - y0, z - z0
        image = axis(batch, (batch, 1, 1, 1)) * ((height + 2) * padded_width)
        # float32 is exact up to 2**24 rows, far above any feature map.
        corner = (image + y0 * padded_width + z0).long()
        index = torch.stack((corner, corner + 1, corner + padded_width, corner + padded_width + 1))
        weight = torch.stack(((1 - dy) * (1 - dz), (1 - dy) * dz, dy * (1 - dz), dy * dz)) * mask

        def by_position(values: Tensor) -> Tensor:  # (4, B, 9, h, w) -> (B * h * w * 9, 4)
            return values.permute(1, 3, 4, 2, 0).reshape(-1, 4)

        taps = weighted_rows(table, by_position(index), by_position(weight))
        kernel = self.weight.permute(2, 3, 1, 0).reshape(9 * channels, -1)
        out = taps.view(-1, 9 * channels) @ kernel.to(taps.dtype)
        return out.view(batch, rows, columns, -1).permute(0, 3, 1, 2)


def roi_levels(boxes: Tensor, levels: int, finest: float = 56.0) -> Tensor:
    """Pyramid level of each box, ``floor(log2(sqrt(area) / finest))`` clamped to 0..levels - 1.

    Feature Pyramid Networks (Lin et al. 2017, eq. 1) as released with MASA: boxes up to twice
    ``finest`` pixels wide fall on the finest level.
    """
    size = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=0).sqrt()
    return torch.log2(size / finest + 1e-6).floor().clamp(0, levels - 1)


class RoIAlign(nn.Module):
    """RoIAlign over a feature pyramid (He et al. 2017), half-pixel aligned.

    Parameters
    ----------
    size: output cells per side.
    strides: of the pyramid levels used, finest first.
    samples: sampling points per cell and side; 0 takes ceil(box side / size) of them as the
        released MASA models do. A compiled module must know how many it reads at most: there it
        takes ``MOST`` where a box would have more, spread over the cell as they would be.

    """

    MOST = 4

    def __init__(self, size: int, strides: Sequence[int], samples: int = 2) -> None:
        super().__init__()
        self.size, self.strides, self.samples = size, tuple(strides), samples

    def forward(self, levels: Sequence[Tensor], boxes: Tensor, image: Tensor) -> Tensor:
        """Pool features inside boxes.

        Parameters
        ----------
        levels: maps (B, C, H_l, W_l), one per stride; further ones are not read.
        boxes: (N, 4) float32 xyxy in network-input pixels.
        image: (N,) int64 index of each box's image in the batch.

        Returns
        -------
        (N, C, size, size)

        """
        levels = levels[: len(self.strides)]
        level = roi_levels(boxes, len(levels))
        if self.samples == 0 and not static():
            return self._adaptive(levels, boxes, image, level)

        def choose(values: Sequence[float]) -> Tensor:  # arithmetic, not an index: it converts
            return sum(((level == i).float() * v for i, v in enumerate(values)), start=0.0 * level)

        heights, widths = [x.shape[2] for x in levels], [x.shape[3] for x in levels]
        areas = [h * w for h, w in zip(heights, widths)]
        starts = [levels[0].shape[0] * sum(areas[:i]) for i in range(len(areas))]
        table = torch.cat([_table(x) for x in levels])
        height, width = choose(heights)[:, None], choose(widths)[:, None]
        base = (choose(starts) + image.float() * choose(areas))[:, None, None]

        scaled = boxes.float() * choose([1.0 / s for s in self.strides])[:, None] - 0.5
        y0, y1, dy, in_y = self._axis(scaled[:, 1], scaled[:, 3], height)
        x0, x1, dx, in_x = self._axis(scaled[:, 0], scaled[:, 2], width)

        def grid(y: Tensor, x: Tensor) -> Tensor:
            return (base + y[:, :, None] * width[:, :, None] + x[:, None, :]).long()

        def product(y: Tensor, x: Tensor) -> Tensor:
            return (y * in_y)[:, :, None] * (x * in_x)[:, None, :]

        index = torch.stack((grid(y0, x0), grid(y0, x1), grid(y1, x0), grid(y1, x1)), -1)
        weight = torch.stack(
            (product(1 - dy, 1 - dx), product(1 - dy, dx), product(dy, 1 - dx), product(dy, dx)),
            -1,
        )

        side = self.samples or self.MOST

        def by_cell(values: Tensor) -> Tensor:  # (N, P, P, 4) -> (N * size**2, side**2 * 4)
            cells = values.view(-1, self.size, side, self.size, side, 4)
            return cells.permute(0, 1, 3, 2, 4, 5).reshape(-1, 4 * side**2)

        rows = weighted_rows(table, by_cell(index), by_cell(weight))
        return rows.view(-1, self.size, self.size, table.shape[1]).permute(0, 3, 1, 2)

    def _axis(
        self, low: Tensor, high: Tensor, size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sample one axis: lower and upper cell, fraction between them, weight."""
        most = self.samples or self.MOST
        index = torch.arange(most, device=low.device, dtype=torch.float32)
        cell = torch.arange(self.size, device=low.device, dtype=torch.float32)
        count = torch.full_like(low, float(most))
        if not self.samples:
            count = ((high - low) / self.size).ceil().clamp(1, most)
        within = (index + 0.5) / count[:, None]  # of the cell; beyond 1: not a sample
        step = (cell[:, None] + within[:, None]).flatten(1) / self.size
        position = low[:, None] + (high - low)[:, None] * step
        weight = ((within < 1).float() / count[:, None]).repeat(1, self.size)
        inside = ((position >= -1) & (position <= size)).float() * weight
        position = torch.minimum(position.clamp(min=0), size - 1)
        lower = position.floor()
        return lower, torch.minimum(lower + 1, size - 1), position - lower, inside

    def _adaptive(
        self, levels: Sequence[Tensor], boxes: Tensor, image: Tensor, level: Tensor
    ) -> Tensor:
        rois = torch.cat((image.to(boxes.dtype)[:, None], boxes), 1)
        out = boxes.new_zeros((len(boxes), levels[0].shape[1], self.size, self.size))
        for i, (feature, stride) in enumerate(zip(levels, self.strides)):
            chosen = torch.nonzero(level == i)[:, 0]
            out[chosen] = torchvision.ops.roi_align(
                feature.contiguous(), rois[chosen], self.size, 1 / stride, 0, aligned=True
            )
        return out
