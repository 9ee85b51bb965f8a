# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Detic (Zhou et al. 2022) behind a backbone: CenterNet2's proposals and cascade, and words.

Modules are named as in ``detic_masa.pth``, the weights inside which this is made for.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn

from masa_ros.models.checkpoints import fill
from masa_ros.models.heads import clip_boxes, decode_boxes
from masa_ros.models.masks import View
from masa_ros.models.sampling import roi_levels
from masa_ros.types import Mask

_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
_FINEST = 112.0  # pixels: boxes up to twice as wide are pooled from the finest level
_TEMPERATURE = 50.0
_LEAST_HEAT, _CANDIDATES, _PROPOSALS, _OVERLAP = 1e-4, 1000, 256, 0.9


@dataclasses.dataclass(frozen=True)
class DeticSizes:
    """Sizes behind the backbone; the defaults are those of the published weights.

    Attributes
    ----------
    channels: of the maps of the backbone.
    width: of the pyramid.
    hidden: of the box heads.
    text: of the embeddings of words.
    classes: of the vocabulary that comes with the weights.

    """

    channels: tuple[int, ...] = (256, 512, 1024)
    width: int = 256
    hidden: int = 1024
    text: int = 512
    classes: int = 1203


class Seen(NamedTuple):
    """What the cascade makes of proposals.

    Attributes
    ----------
    boxes: (N, 4) in network pixels, inside the image.
    scores: (N, K) of every word.

    """

    boxes: Tensor
    scores: Tensor


class _Conv(nn.Module):
    """3x3 (or 1x1) convolution with a bias, group norm where ``groups`` says so."""

    def __init__(
        self, inner: int, outer: int, size: int = 3, stride: int = 1, groups: int = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, size, stride, size // 2)
        if groups:
            self.gn = nn.GroupNorm(groups, outer)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.gn(x) if hasattr(self, 'gn') else x


class _Pyramid(nn.Module):
    """Feature pyramid of five levels, strides 8 to 128."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(_Conv(c, width, 1) for c in channels)
        self.fpn_convs = nn.ModuleList(_Conv(width, width) for _ in channels)
        self.fpn_convs.extend(_Conv(width, width, stride=2) for _ in range(2))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        merged = [lateral(x) for lateral, x in zip(self.lateral_convs, maps)]
        for i in range(len(merged) - 1, 0, -1):
            size = merged[i - 1].shape[-2:]
            merged[i - 1] = merged[i - 1] + F.interpolate(merged[i], size=size, mode='nearest')
        out = [conv(x) for conv, x in zip(self.fpn_convs, merged)]
        out.append(self.fpn_convs[-2](out[-1]))
        out.append(self.fpn_convs[-1](F.relu(out[-1])))
        return out


class _Scale(nn.Module):
    """A number that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class _CenterNet(nn.Module):
    """Says of every position how likely it is the centre of an object, and where its edges are."""

    strides = (8, 16, 32, 64, 128)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reg_convs = nn.ModuleList(_Conv(width, width, groups=32) for _ in range(4))
        self.conv_cls = nn.Conv2d(width, 1, 3, padding=1)
        self.conv_reg = nn.Conv2d(width, 4, 3, padding=1)
        self.scales = nn.ModuleList(_Scale() for _ in self.strides)

    def forward(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Levels -> heat (B, 1, ., .) logits; distances (B, 4, ., .) left, top, ... in strides."""
        heat, distances = [], []
        for x, scale in zip(levels, self.scales):
            for conv in self.reg_convs:
                x = F.relu(conv(x))
            heat.append(self.conv_cls(x))
            distances.append(scale(self.conv_reg(x)).clamp(min=0))
        return heat, distances


class _Words(nn.Module):
    """Cosines of boxes and words, with a vocabulary of its own."""

    zs_weight: Tensor

    def __init__(self, sizes: DeticSizes) -> None:
        super().__init__()
        self.linear = nn.Linear(sizes.hidden, sizes.text)
        self.register_buffer('zs_weight', torch.zeros(sizes.text, sizes.classes + 1))

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        """(N, C) and unit columns (E, K) -> logits (N, K)."""
        return _TEMPERATURE * F.normalize(self.linear(x), dim=1) @ words


class _BoxHead(nn.Module):
    def __init__(self, sizes: DeticSizes) -> None:
        super().__init__()
        wide = (sizes.width * 7 * 7, sizes.hidden, sizes.hidden)
        self.shared_fcs = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(wide))
        self.fc_cls = _Words(sizes)
        self.fc_reg = nn.Sequential(
            nn.Linear(sizes.hidden, sizes.hidden), nn.ReLU(), nn.Linear(sizes.hidden, 4)
        )

    def forward(self, features: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, 7, 7) and unit columns (E, K) -> logits (N, K), deltas (N, 4)."""
        x = features.flatten(1)
        for fc in self.shared_fcs:
            x = F.relu(fc(x))
        return self.fc_cls(x, words), self.fc_reg(x)


class _MaskHead(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_Conv(width, width) for _ in range(4))
        self.upsample = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.conv_logits = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, 14, 14) -> logits (N, 28, 28)."""
        for conv in self.convs:
            x = F.relu(conv(x))
        return self.conv_logits(F.relu(self.upsample(x)))[:, 0]


class Detic(nn.Module):
    """Maps of a backbone in, boxes with scores of words, and their masks, out."""

    def __init__(self, sizes: DeticSizes | None = None) -> None:
        super().__init__()
        sizes = sizes or DeticSizes()
        self.neck = _Pyramid(sizes.channels, sizes.width)
        self.rpn_head = _CenterNet(sizes.width)
        self.roi_head = nn.ModuleDict(
            {
                'bbox_head': nn.ModuleList(_BoxHead(sizes) for _ in _STDS),
                'mask_head': _MaskHead(sizes.width),
            }
        )
        self.eval()

    def read(self, tensors: dict[str, Tensor], text: str) -> None:
        """Take published tensors; ``text`` begins the WeightsError where they do not fit."""
        own = {
            name.removeprefix('detector.'): value
            for name, value in tensors.items()
            if name.startswith('detector.')
            and not name.startswith('detector.backbone.')
            and not name.endswith('.freq_weight')  # weighs classes in training
        }
        fill(self, own, text)

    @property
    def stages(self) -> nn.ModuleList:
        """The box heads of the cascade."""
        heads = self.roi_head['bbox_head']
        assert isinstance(heads, nn.ModuleList)
        return heads

    @property
    def vocabulary(self) -> Tensor:
        """Unit columns (E, K) of the classes that come with the weights."""
        head: Any = self.stages[0]
        words: Tensor = head.fc_cls.zs_weight
        return words[:, :-1]  # the last column is the background, whose score nobody reads

    def propose(
        self, heat: Sequence[Tensor], distances: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return boxes (N, 4) in network pixels, not clipped, and scores (N,) of one image."""
        boxes, scores = [], []
        for logits, reach, stride in zip(heat, distances, self.rpn_head.strides):
            seen = logits[0, 0].flatten().sigmoid()
            seen, index = seen.topk(min(_CANDIDATES, len(seen)))
            index = index[seen > _LEAST_HEAT]
            scores.append(seen[: len(index)].sqrt())
            width = logits.shape[3]
            at = torch.stack((index % width, index // width), 1)
            centre = (at + 0.5) * stride
            edges = reach[0].flatten(1).T[index] * stride
            low, high = centre - edges[:, :2], centre + edges[:, 2:]
            boxes.append(torch.cat((low, torch.maximum(high, low + 0.01)), 1))
        found, score = torch.cat(boxes), torch.cat(scores)
        kept = torchvision.ops.nms(found, score, _OVERLAP)[:_PROPOSALS]
        return found[kept], score[kept]

    def refine(
        self,
        levels: Sequence[Tensor],
        boxes: Tensor,
        scores: Tensor,
        words: Tensor,
        shape: tuple[int, int],
    ) -> Seen:
        """Refine proposals three times and compare them with words.

        Parameters
        ----------
        levels: of the pyramid.
        boxes, scores: (N, 4), (N,) proposals.
        words: (E, K) unit columns.
        shape: (rows, columns) of the image in the network input.

        """
        total = torch.zeros((len(boxes), words.shape[1]), device=boxes.device)
        for head, stds in zip(self.stages, _STDS):
            logits, deltas = head(pooled(levels, boxes, 7), words)
            boxes = clip_boxes(decode_boxes(boxes, deltas, stds), *shape)
            total += logits.sigmoid()
        return Seen(boxes, (total / len(_STDS) * scores[:, None]).sqrt())

    def forward(self, maps: Sequence[Tensor], words: Tensor, shape: tuple[int, int]) -> Seen:
        """Find words (E, K) in maps (1, C_l, H_l, W_l) of one image; see ``refine``."""
        levels = self.neck(maps)
        return self.refine(levels, *self.propose(*self.rpn_head(levels)), words, shape)

    def draw(self, levels: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Return mask logits (N, 28, 28) of boxes (N, 4) in network pixels."""
        logits: Tensor = self.roi_head['mask_head'](pooled(levels, boxes, 14))
        return logits


def as_words(embeddings: Tensor) -> Tensor:
    """Embeddings (K, E) of any length to unit columns (E, K)."""
    return F.normalize(embeddings.T, dim=0)


def pooled(levels: Sequence[Tensor], boxes: Tensor, size: int) -> Tensor:
    """RoIAlign (N, C, size, size) of boxes (N, 4) on the three finest levels, strides 8 to 32."""
    level = roi_levels(boxes, 3, _FINEST)
    rois = torch.cat((torch.zeros_like(boxes[:, :1]), boxes), 1)
    out = boxes.new_zeros((len(boxes), levels[0].shape[1], size, size))
    for i, stride in enumerate((8, 16, 32)):
        chosen = torch.nonzero(level == i)[:, 0]
        out[chosen] = torchvision.ops.roi_align(
            levels[i].contiguous(), rois[chosen], size, 1 / stride, 0, aligned=True
        )
    return out


def paste(logits: Tensor, boxes: NDArray[np.float32], view: View) -> tuple[Mask | None, ...]:
    """Bring mask logits (N, S, S) of boxes (N, 4), image pixels, to the pixels of the image.

    Probabilities are interpolated, with nothing outside of a box, and compared with a half.
    """
    drawn = []
    for chance, box in zip(logits.float().sigmoid().cpu().numpy(), boxes):
        low = np.clip(np.floor(box[:2]), 0, (view.width, view.height)).astype(int)
        high = np.clip(np.ceil(box[2:]), low, (view.width, view.height)).astype(int)
        x = _weights(low[0], high[0], box[0], box[2], chance.shape[1])
        y = _weights(low[1], high[1], box[1], box[3], chance.shape[0])
        inside = y @ chance @ x.T >= 0.5
        found = inside.size and inside.any()
        drawn.append(Mask(int(low[0]), int(low[1]), inside) if found else None)
    return tuple(drawn)


def _weights(
    first: int, end: int, low: np.float32, high: np.float32, cells: int
) -> NDArray[np.float32]:
    """(end - first, cells) share of each cell of a box at each pixel's centre, along an axis."""
    centre = np.arange(first, end, dtype=np.float32) + np.float32(0.5)
    at = (centre - low) / max(high - low, np.float32(1e-6)) * cells - np.float32(0.5)
    near = 1 - np.abs(at[:, None] - np.arange(cells, dtype=np.float32))
    return np.maximum(near, 0)
