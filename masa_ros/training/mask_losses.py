# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What masks learn from: known masks, and where there are none, boxes and colours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from masa_ros.models.preprocess import STD
from masa_ros.training import parallel
from masa_ros.training.targets import Rois, Target

_LIKE = 0.3  # similarity of colours from which two pixels are of one thing (BoxInst: 0.3)
_STEPS = ((0, 2), (2, 0), (2, 2), (2, -2))  # from a cell to those it is compared with


def mask_loss(logits: Tensor, rois: Rois, targets: list[Target]) -> Tensor:
    """Binary cross-entropy plus Dice on 28x28 windows, of the objects whose mask is known.

    Parameters
    ----------
    logits: (R, 28, 28).
    rois: R, all positive, in the order of their images.
    targets: of the images.

    """
    known = torch.cat([t.drawn for t in targets])[rois.place(targets)]
    logits, rois = logits[known], rois.some(known)
    count = max(parallel.total(len(logits), logits.device), 1)
    if not len(logits):
        return logits.float().sum()
    size = logits.shape[-1]
    windows = [
        torchvision.ops.roi_align(
            target.masks[rois.object[rois.image == i]][:, None].float(),
            list(rois.boxes[rois.image == i][:, None]),
            size,
            sampling_ratio=2,
            aligned=True,
        )[:, 0]
        for i, target in enumerate(targets)
        if bool((rois.image == i).any())
    ]
    wanted = (torch.cat(windows) >= 0.5).float()
    logits = logits.float()
    dice = _dice(logits.sigmoid().flatten(1), wanted.flatten(1))
    pixels = F.binary_cross_entropy_with_logits(logits, wanted, reduction='sum') / size**2
    return (pixels + dice.sum()) / count


def _dice(probability: Tensor, wanted: Tensor) -> Tensor:
    """One minus the Dice overlap (R,) of rows (R, N)."""
    overlap = (probability * wanted).sum(1)
    return 1 - (2 * overlap + 1) / (probability.sum(1) + wanted.sum(1) + 1)


def outline_loss(logits: Tensor, rois: Rois, targets: list[Target], images: Tensor) -> Tensor:
    """Losses of objects of which only the box is known (BoxInst, Tian et al. 2021, eq. 3 to 7).

    The mask must reach all four sides of the box and not beyond; neighbours of one colour are of
    one thing.

    Parameters
    ----------
    logits: (R, S, S).
    rois: R, all positive.
    targets: of the images.
    images: (B, 3, H, W) normalised.

    """
    place = rois.place(targets)
    boxed = ~torch.cat([t.drawn for t in targets])[place]
    logits, rois = logits[boxed].float(), rois.some(boxed)
    count = max(parallel.total(len(logits), logits.device), 1)
    if not len(logits):
        return logits.sum()
    size = logits.shape[-1]
    inside = _inside(rois.boxes, torch.cat([t.boxes for t in targets])[place[boxed]], size)
    probability = logits.sigmoid()
    reach = _dice(probability.amax(1), inside.amax(1)) + _dice(probability.amax(2), inside.amax(2))
    alike = _alike(rois, images, size)
    pairs, total = torch.zeros_like(reach), torch.zeros_like(reach)
    for (rows, columns), same in zip(_STEPS, alike):
        first, second = _moved(logits, rows, columns)
        # The probability that both are of the object, or neither.
        both = F.logsigmoid(first) + F.logsigmoid(second)
        neither = F.logsigmoid(-first) + F.logsigmoid(-second)
        counted = same * torch.maximum(*_moved(inside, rows, columns))
        pairs = pairs - (torch.logaddexp(both, neither) * counted).sum((1, 2))
        total = total + counted.sum((1, 2))
    return (reach + pairs / total.clamp(min=1)).sum() / count


def _inside(boxes: Tensor, truth: Tensor, size: int) -> Tensor:
    """Cells (R, S, S) of windows over boxes (R, 4) whose middle lies in the true boxes (R, 4)."""
    middle = (torch.arange(size, device=boxes.device) + 0.5) / size
    ways = []
    for axis in (0, 1):
        low, high = boxes[:, axis, None], boxes[:, axis + 2, None]
        at = low + middle * (high - low)
        ways.append((at >= truth[:, axis, None]) & (at <= truth[:, axis + 2, None]))
    return (ways[1][:, :, None] & ways[0][:, None, :]).float()


@torch.no_grad()
def _alike(rois: Rois, images: Tensor, size: int) -> list[Tensor]:
    """Tell (R, ., .) for every step which cells have the colour of the cell a step away."""
    where = torch.cat((rois.image[:, None].to(rois.boxes), rois.boxes), 1)
    colours = torchvision.ops.roi_align(
        images.float().contiguous(), where, size, sampling_ratio=1, aligned=True
    )
    colours = colours * colours.new_tensor(STD)[:, None, None] * (100 / 255)
    alike = []
    for rows, columns in _STEPS:
        first, second = _moved(colours, rows, columns)
        distance = (first - second).square().mean(1).sqrt()
        alike.append((torch.exp(-0.5 * distance) >= _LIKE).float())
    return alike


def _moved(x: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Cells (..., S, S) and those some rows below and columns beside them, where there are any."""
    height, width = x.shape[-2:]
    first = x[..., : height - rows, max(-columns, 0) : width - max(columns, 0)]
    second = x[..., rows:, max(columns, 0) : width - max(-columns, 0)]
    return first, second
