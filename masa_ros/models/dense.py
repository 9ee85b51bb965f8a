# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One-stage proposals: what every position of the pyramid sees, how sure it is, and which kind.

It stands in place of a proposal network and a box head. The part that NanoDet-g brings (neck,
class scores, distances) knows the eighty classes of COCO; beside it an adapter learns what else is
an object, and what is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masa_ros.models.configs import DenseConfig
from masa_ros.models.csp import ConvLeaky
from masa_ros.models.layers import start_near_zero

_HINTS = 3  # best class scores that the adapter sees


class DenseMaps(NamedTuple):
    """What the head says of every position, a map (B, ., H_l, W_l) a level, finest first.

    Attributes
    ----------
    objects: (B, 1, ., .) logit of being an object of any kind.
    distances: (B, 4 * bins, ., .) logits of how far left, top, right and bottom edge are, in
        strides.
    classes: (B, classes, ., .) logits.

    """

    objects: list[Tensor]
    distances: list[Tensor]
    classes: list[Tensor]


class Candidates(NamedTuple):
    """Positions behind one another.

    Attributes
    ----------
    boxes: (B, K, 4) float32 xyxy network pixels, not clipped.
    logits: (B, K) float32.
    classes: (B, K, classes) float32 logits.

    """

    boxes: Tensor
    logits: Tensor
    classes: Tensor


class Known(nn.Module):
    """Neck and head as NanoDet-g has them: sums along the pyramid, down and up again."""

    def __init__(self, channels_in: Sequence[int], config: DenseConfig) -> None:
        super().__init__()
        width, outputs = config.channels, config.classes + 4 * config.bins
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels_in)
        self.hidden = nn.ModuleList(ConvLeaky(width, width) for _ in channels_in)
        self.output = nn.ModuleList()
        for _ in channels_in:
            output = start_near_zero(nn.Conv2d(width, outputs, 1), 0.01)
            assert output.bias is not None
            nn.init.constant_(output.bias[: config.classes], -math.log(99))  # rarely an object
            self.output.append(output)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Backbone maps -> hidden maps (B, C, ., .), outputs (B, classes + 4 * bins, ., .)."""
        x = [lateral(x) for lateral, x in zip(self.lateral, maps)]
        for i in range(len(x) - 1, 0, -1):
            x[i - 1] = x[i - 1] + _resized(x[i], x[i - 1])
        for i in range(1, len(x)):
            x[i] = x[i] + _resized(x[i - 1], x[i])
        hidden = [hidden(x) for hidden, x in zip(self.hidden, x)]
        return hidden, [output(x) for output, x in zip(self.output, hidden)]


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode='bilinear', align_corners=False)


class DenseHead(nn.Module):
    """One-stage proposals, distances to the edges as distributions (Li et al. 2020, eq. 3).

    The logit of an object is the best class logit plus what the adapter adds, of which a share
    counts once it has learned: the two judges together rank better than either. The distances are
    those of the known part plus the adapter's. The adapter begins by adding nothing.
    """

    def __init__(
        self, channels_in: Sequence[int], strides: Sequence[int], config: DenseConfig
    ) -> None:
        super().__init__()
        self.strides, self.classes, self.bins = tuple(strides), config.classes, config.bins
        self.mix, self.shift = config.mix, config.shift
        self.known = Known(channels_in, config)
        self.adapter = nn.ModuleList(
            ConvLeaky(config.channels, config.adapter) for _ in channels_in
        )
        self.object = nn.Conv2d(config.adapter + _HINTS, 1, 1)
        self.distance = nn.Conv2d(config.adapter, 4 * config.bins, 1)
        for layer in (self.object, self.distance):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> DenseMaps:
        """Backbone maps (B, C_l, H_l, W_l) -> what is seen at every position."""
        found = DenseMaps([], [], [])
        for hidden, output, adapter in zip(*self.known(maps), self.adapter):
            classes, distances = output.split((self.classes, 4 * self.bins), 1)
            x = adapter(hidden)
            best = classes.topk(_HINTS, dim=1).values
            if self.training:  # what is an object at all must not bend what its kind is
                best = best.detach()
            # Logits of some tens would drown what the convolution says.
            added = self.object(torch.cat((x, best * 0.25), 1))
            found.objects.append(best[:, :1] + added * (1.0 if self.training else self.mix))
            found.distances.append(distances + self.distance(x))
            found.classes.append(classes)
        return found

    def positions(
        self, sizes: Sequence[tuple[int, int]], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Centres (P, 2) x y in network pixels, and strides (P,), for maps of (rows, columns)."""
        points, scales = [], []
        for (rows, columns), stride in zip(sizes, self.strides):
            y, x = torch.meshgrid(
                (torch.arange(rows, device=device) + 0.5) * stride,
                (torch.arange(columns, device=device) + 0.5) * stride,
                indexing='ij',
            )
            points.append(torch.stack((x, y), -1).reshape(-1, 2))
            scales.append(torch.full((rows * columns,), float(stride), device=device))
        return torch.cat(points), torch.cat(scales)

    def decode(self, points: Tensor, strides: Tensor, distances: Tensor) -> Tensor:
        """Boxes (..., P, 4) of centres, strides and the logits (..., P, 4 * bins) there."""
        share = distances.float().unflatten(-1, (4, self.bins)).softmax(-1)
        steps = torch.arange(self.bins, device=share.device, dtype=share.dtype)
        edges = (share @ steps) * strides[..., None]
        return torch.cat((points - edges[..., :2], points + edges[..., 2:]), -1)

    def candidates(self, found: DenseMaps, per_level: int) -> Candidates:
        """Return the best ``per_level`` positions of every level; K follows from the sizes."""
        sizes = [(x.shape[2], x.shape[3]) for x in found.objects]
        points, strides = self.positions(sizes, found.objects[0].device)
        counts = [rows * columns for rows, columns in sizes]
        parts = []
        for objects, distances, classes, point, stride in zip(
            *found, points.split(counts), strides.split(counts)
        ):
            logits, index = objects.flatten(1).float().topk(min(per_level, point.shape[0]), dim=1)
            chosen = (
                x.flatten(2).transpose(1, 2).gather(1, index[..., None].expand(-1, -1, x.shape[1]))
                for x in (distances, classes)
            )
            edges, kinds = chosen
            boxes = self.decode(point[index], stride[index], edges)
            parts.append((boxes, logits + self.shift, kinds.float()))
        return Candidates(*(torch.cat(values, 1) for values in zip(*parts)))
