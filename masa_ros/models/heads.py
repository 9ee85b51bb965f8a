# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The heads on the fused pyramid: proposals, box refinement, embedding, mask."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from masa_ros.models.layers import ConvNorm, start_near_zero

_MAX_LOG_RATIO = abs(math.log(16 / 1000))


def decode_boxes(anchors: Tensor, deltas: Tensor, stds: Sequence[float]) -> Tensor:
    """Move and scale boxes by predicted deltas (R-CNN, Girshick et al. 2014, appendix C).

    Parameters
    ----------
    anchors: (..., 4) xyxy.
    deltas: (..., 4) normalised dx, dy, dw, dh.
    stds: what one unit of each delta stands for.

    Returns
    -------
    (..., 4) xyxy, not clipped.

    """
    deltas = deltas.float() * deltas.new_tensor(stds, dtype=torch.float32)
    size = anchors[..., 2:] - anchors[..., :2]
    centre = (anchors[..., :2] + anchors[..., 2:]) * 0.5 + size * deltas[..., :2]
    half = size * deltas[..., 2:].clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp() * 0.5
    return torch.cat((centre - half, centre + half), dim=-1)


def encode_boxes(anchors: Tensor, boxes: Tensor, stds: Sequence[float]) -> Tensor:
    """Inverse of ``decode_boxes``: the deltas (..., 4) that turn anchors into boxes."""
    size = (anchors[..., 2:] - anchors[..., :2]).clamp(min=1e-3)
    target = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3)
    shift = (boxes[..., :2] + boxes[..., 2:]) * 0.5 - (anchors[..., :2] + anchors[..., 2:]) * 0.5
    deltas = torch.cat((shift / size, (target / size).log()), dim=-1)
    return deltas / deltas.new_tensor(stds)


def clip_boxes(boxes: Tensor, height: float, width: float) -> Tensor:
    """Clip (..., 4) xyxy boxes to an image."""
    limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)


class ProposalHead(nn.Module):
    """Region proposal network (Ren et al. 2015): the fast replacement of "segment everything".

    Three anchors (height / width 0.5, 1, 2) of ``scale`` x stride pixels at every position.
    """

    STDS = (1.0, 1.0, 1.0, 1.0)

    def __init__(self, channels: int, strides: Sequence[int], scale: float) -> None:
        super().__init__()
        self.strides, self.scale = tuple(strides), scale
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.cls = start_near_zero(nn.Conv2d(channels, 3, 1), 0.01)
        self.reg = start_near_zero(nn.Conv2d(channels, 12, 1), 0.01)

    def forward(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return logits (B, 3, H_l, W_l) and deltas (B, 12, H_l, W_l), anchor-major, per level."""
        hidden = [F.relu(self.conv(x)) for x in levels]
        return [self.cls(x) for x in hidden], [self.reg(x) for x in hidden]

    def anchors(self, sizes: Sequence[tuple[int, int]], device: torch.device) -> list[Tensor]:
        """Anchors of each level for maps of (rows, columns): (rows * columns * 3, 4) xyxy."""
        ratio = torch.tensor([0.5, 1.0, 2.0], device=device).sqrt()
        out = []
        for (rows, columns), stride in zip(sizes, self.strides):
            half = 0.5 * self.scale * stride
            base = torch.stack((-half / ratio, -half * ratio, half / ratio, half * ratio), 1)
            y, x = torch.meshgrid(
                torch.arange(rows, device=device) * stride,
                torch.arange(columns, device=device) * stride,
                indexing='ij',
            )
            shift = torch.stack((x, y, x, y), -1).reshape(-1, 1, 4)
            out.append((shift + base).reshape(-1, 4))
        return out

    def candidates(
        self, logits: Sequence[Tensor], deltas: Sequence[Tensor], per_level: int
    ) -> tuple[Tensor, Tensor]:
        """Decode the best ``per_level`` anchors of every level.

        Returns
        -------
        boxes (B, K, 4) float32 xyxy network pixels, not clipped; logits (B, K) float32. K is fixed
        by the sizes of the maps alone; ``candidate_levels`` tells which level each comes from.

        """
        sizes = [(x.shape[2], x.shape[3]) for x in logits]
        all_boxes, all_logits = [], []
        anchors = self.anchors(sizes, logits[0].device)
        for anchor, logit, delta in zip(anchors, logits, deltas):
            logit = logit.permute(0, 2, 3, 1).flatten(1).float()
            delta = delta.permute(0, 2, 3, 1).reshape(len(delta), -1, 4)
            score, index = logit.topk(min(per_level, logit.shape[1]), dim=1)
            chosen = delta.gather(1, index[..., None].expand(-1, -1, 4))
            all_boxes.append(decode_boxes(anchor[index], chosen, self.STDS))
            all_logits.append(score)
        return torch.cat(all_boxes, 1), torch.cat(all_logits, 1)

    @staticmethod
    def candidate_levels(levels: Sequence[Tensor], per_level: int) -> Tensor:
        """Level (K,) int64 of the ``candidates`` of maps (B, C, H_l, W_l)."""
        counts = [min(per_level, 3 * x.shape[2] * x.shape[3]) for x in levels]
        device = levels[0].device
        return torch.cat([torch.full((n,), i, device=device) for i, n in enumerate(counts)])


def select_proposals(
    boxes: Tensor, logits: Tensor, level: Tensor, shape: tuple[int, int], nms_iou: float, keep: int
) -> tuple[Tensor, Tensor]:
    """Clip, suppress within each level, keep the best.

    Parameters
    ----------
    boxes, logits, level: of one image, see ``ProposalHead.candidates``.
    shape: (height, width) of the image in network pixels, without padding.

    Returns
    -------
    (at most ``keep``, 4) boxes and their scores 0..1, best first.

    """
    boxes = clip_boxes(boxes, *shape)
    valid = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
    boxes, scores, level = boxes[valid], logits[valid].float().sigmoid(), level[valid]
    chosen = torchvision.ops.batched_nms(boxes, scores, level, nms_iou)[:keep]
    return boxes[chosen], scores[chosen]


def _hidden(channels: int, size: int, widths: Sequence[int]) -> nn.ModuleList:
    sizes = [channels * size * size, *widths]
    return nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))


class BoxHead(nn.Module):
    """Score and refine boxes from their 7x7 features; one class, class-agnostic regression."""

    STDS = (0.1, 0.1, 0.2, 0.2)

    def __init__(self, channels: int, convs: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ConvNorm(channels, channels, relu=True) for _ in range(convs))
        self.fcs = _hidden(channels, 7, widths)
        self.cls = start_near_zero(nn.Linear(widths[-1], 2), 0.01)
        self.reg = start_near_zero(nn.Linear(widths[-1], 4), 0.001)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, 7, 7) -> logits (N, 2) of object and background, deltas (N, 4)."""
        for conv in self.convs:
            features = conv(features)
        x = features.flatten(1)
        for fc in self.fcs:
            x = F.relu(fc(x))
        return self.cls(x), self.reg(x)


class EmbeddingHead(nn.Module):
    """Appearance embedding of a box from its 7x7 features (MASA paper, section 3.2.1).

    A positive ``temperature`` normalises the embeddings to length 1 / sqrt(temperature), so that
    dot products are cosines / temperature, the logits of the contrastive loss and of the
    bi-softmax alike. The released models leave them as they are (0).

    Without ``convs`` and with a ``width`` of 0 the embedding is linear in the features.
    """

    def __init__(
        self,
        channels: int,
        convs: int,
        groups: int,
        width: int,
        embedding: int,
        temperature: float,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.convs = nn.ModuleList(
            ConvNorm(channels, channels, groups=groups, relu=True) for _ in range(convs)
        )
        self.fcs = _hidden(channels, 7, [width] if width else [])
        self.embed = nn.Linear(width or channels * 7 * 7, embedding)

    @property
    def linear(self) -> bool:
        """Whether the embedding is linear in the features, but for its length."""
        return not (self.convs or self.fcs)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, 7, 7) -> (N, E)."""
        for conv in self.convs:
            features = conv(features)
        x = features.flatten(1)
        for fc in self.fcs:
            x = F.relu(fc(x))
        x = self.embed(x)
        if self.temperature:
            x = F.normalize(x.float(), dim=1) / math.sqrt(self.temperature)
        return x
