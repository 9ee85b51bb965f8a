# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Masks on a GPU: all windows at once, placed, cut out and run-length encoded before download.

The pixels of all windows lie behind one another in one vector, column by column as the run lengths
want them, so that a frame of a hundred masks takes as many kernels as a frame of one, and what is
downloaded are the run lengths. Gives the pixels that the code for a CPU gives, up to where a logit
is zero within rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from masa_ros.types import Mask

_PIXELS_AT_ONCE = 1 << 23  # bounds the memory: about 100 bytes a pixel


class Pixels(NamedTuple):
    """Pixels of some windows: index of the mask (P,), column and row in the image (P,), int64."""

    mask: Tensor
    x: Tensor
    y: Tensor


class Taps(NamedTuple):
    """Where along one axis of a logit map pixels are read.

    Attributes
    ----------
    cells: (P, T) int64.
    weight: (P, T) float32.

    """

    cells: Tensor
    weight: Tensor


def groups_of(windows: np.ndarray) -> list[slice]:
    """Cut windows (N, 4) x0 y0 x1 y1 into runs of bounded area."""
    areas = (windows[:, 2] - windows[:, 0]) * (windows[:, 3] - windows[:, 1])
    groups, first, total = [], 0, 0
    for i, area in enumerate(areas.tolist()):
        if total and total + area > _PIXELS_AT_ONCE:
            groups.append(slice(first, i))
            first, total = i, 0
        total += area
    if len(areas):
        groups.append(slice(first, len(areas)))
    return groups


def unroll(windows: np.ndarray, device: torch.device) -> Pixels:
    """List the pixels of windows (N, 4) int64 x0 y0 x1 y1, each column by column."""
    size = windows[:, 2:] - windows[:, :2]
    area = size.prod(axis=1)
    ends = np.cumsum(area)
    table = np.column_stack((windows[:, :2], size[:, 1], ends - area))
    left, top, height, start = torch.from_numpy(table).to(device, non_blocking=True).unbind(1)
    count = torch.from_numpy(area).to(device, non_blocking=True)
    number = torch.arange(len(windows), device=device)
    mask = torch.repeat_interleave(number, count, output_size=int(ends[-1]) if len(ends) else 0)
    within = torch.arange(len(mask), device=device) - start[mask]
    column = within // height[mask]
    return Pixels(mask, left[mask] + column, top[mask] + within - column * height[mask])


def sample(logits: Tensor, pixels: Pixels, rows: Taps, columns: Taps) -> Tensor:
    """Return where (P,) the interpolated logits (N, h, w) of the pixels are positive."""
    _, height, width = logits.shape
    flat, base = logits.reshape(-1).float(), pixels.mask * (height * width)
    value = torch.zeros_like(pixels.mask, dtype=torch.float32)
    for i in range(rows.cells.shape[1]):
        line = base + rows.cells[:, i] * width
        for j in range(columns.cells.shape[1]):
            value += rows.weight[:, i] * columns.weight[:, j] * flat[line + columns.cells[:, j]]
    return value > 0


def encode(inside: Tensor, windows: np.ndarray) -> list[Mask | None]:
    """Run-length encode what ``sample`` gave for the ``unroll`` of windows; None for no pixel."""
    size = windows[:, 2:] - windows[:, :2]
    area = size.prod(axis=1)
    ends = np.cumsum(area)
    starts = ends - area
    change = torch.ones(len(inside), dtype=torch.bool, device=inside.device)
    change[1:] = inside[1:] != inside[:-1]
    change[torch.from_numpy(starts[area > 0]).to(inside.device)] = True
    places = torch.nonzero(change)[:, 0]
    runs, first = torch.stack((places, inside[places].long())).cpu().numpy()
    masks: list[Mask | None] = []
    bounds = np.searchsorted(runs, np.concatenate((starts, ends[-1:])))
    for i, (x0, y0, _, _) in enumerate(windows.tolist()):
        low, high = bounds[i], bounds[i + 1]
        if low == high or (high - low == 1 and not first[low]):
            masks.append(None)
            continue
        counts = np.diff(runs[low:high], append=ends[i])
        if first[low]:
            counts = np.concatenate(([0], counts))
        width, height = size[i].tolist()
        masks.append(Mask.from_counts(x0, y0, width, height, counts.astype(np.uint32)))
    return masks


def cover(
    inside: Tensor, pixels: Pixels, count: int, height: int, width: int, step: int
) -> Tensor:
    """Mark (count, cells) float32 which of every ``step``-th pixels the masks hold."""
    across = -(-width // step)
    cells = across * -(-height // step)
    seen = inside & (pixels.x % step == 0) & (pixels.y % step == 0)
    place = pixels.mask * cells + (pixels.y // step) * across + pixels.x // step
    covers = torch.zeros(count * cells, device=inside.device)
    return covers.scatter_add_(0, place, seen.float()).view(count, cells)


def box_taps(position: Tensor, cells: int) -> Taps:
    """Bilinear taps of positions (P,), in cells of a map, whose border is repeated outwards."""
    low = position.floor()
    part = position - low
    index = torch.stack((low, low + 1), 1).clamp(0, cells - 1).long()
    return Taps(index, torch.stack((1 - part, part), 1))


def matrix_taps(matrix: Tensor) -> Taps:
    """Taps of a resize matrix (target, source) whose rows hold a few neighbouring weights."""
    touched = matrix != 0
    first = touched.float().argmax(1)
    most = int(touched.sum(1).max())
    index = (first[:, None] + torch.arange(most)).clamp(max=matrix.shape[1] - 1)
    weight = matrix.gather(1, index)
    # Behind the last column the clamped index repeats it: counted once.
    fresh = first[:, None] + torch.arange(most) < matrix.shape[1]
    return Taps(index, weight * fresh)


def pick(taps: Taps, position: Tensor) -> Taps:
    """Taps of integer positions (P,) out of those of a whole axis."""
    return Taps(taps.cells[position], taps.weight[position])
