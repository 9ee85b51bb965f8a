# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The objective of one-stage proposals."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from masa_ros.models.dense import DenseHead, DenseMaps
from masa_ros.models.heads import select_proposals
from masa_ros.training import parallel
from masa_ros.training.targets import LossConfig, Target

_MOST = 10  # positions that learn the edges of one object


def _flat(maps: list[Tensor]) -> Tensor:
    """(B, C, H_l, W_l) of all levels -> (B, P, C) float32."""
    return torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1).float()


def dense_loss(
    head: DenseHead, found: DenseMaps, targets: list[Target], config: LossConfig
) -> dict[str, Tensor]:
    """Score, box and distance losses (Generalized Focal Loss, Li et al. 2020, eq. 2 to 6).

    The positions in an object whose boxes fit best, as many as fit (the dynamic k of OTA, Ge et
    al. 2021), learn its edges, and as their score how well their box fits: whole objects rank
    above their parts and good boxes above poor ones. All others learn 0, also those that see the
    object from further off, lest an object is found many times; but not those that mean a
    doubtful one.

    Generated scenes count ``config.generated``, by default nothing: what is pasted stands out in
    ways that nothing else does, and the known part of the head, which has learned from
    photographs, ranks worse after many of them.
    """
    sizes = [(x.shape[2], x.shape[3]) for x in found.objects]
    points, strides = head.positions(sizes, found.objects[0].device)
    logits, distances = _flat(found.objects)[..., 0], _flat(found.distances)
    boxes = head.decode(points, strides, distances)
    zero = logits.sum() * 0
    scores, fits, edges, positives = [zero], [zero], [zero], 0.0
    for logit, box, distance, target in zip(logits, boxes, distances, targets):
        share = config.generated if target.generated else 1.0
        if not share:
            continue
        wanted, index, learns = assign(points, box.detach(), target)
        known = (wanted > 0) | ~target.unknown(box.detach(), config.ignore_share)
        error = (wanted - logit.sigmoid()).abs().detach()
        entropy = F.binary_cross_entropy_with_logits(logit, wanted, reduction='none')
        scores.append((entropy * error**2)[known].sum() * share)
        chosen = learns.nonzero()[:, 0]
        positives += len(chosen) * share
        if not len(chosen):
            continue
        truth, weight = target.boxes[index[chosen]], wanted[chosen] * share
        fit = torchvision.ops.generalized_box_iou_loss(box[chosen], truth, reduction='none')
        fits.append((fit * weight).sum())
        off = torch.cat((points[chosen] - truth[:, :2], truth[:, 2:] - points[chosen]), 1)
        wanted_steps = (off / strides[chosen, None]).clamp(0, head.bins - 1 - 1e-3)
        steps = distance[chosen].unflatten(-1, (4, head.bins)).log_softmax(-1)
        edges.append((_between(steps, wanted_steps).mean(1) * weight).sum())
    count = max(parallel.total(positives, logits.device), 1)
    return {
        'object': torch.stack(scores).sum() / count,
        'box': config.box * torch.stack(fits).sum() / count,
        'distance': config.distance * torch.stack(edges).sum() / count,
    }


def keep_loss(found: DenseMaps, said: DenseMaps) -> Tensor:
    """Quality focal loss of the classes (Li et al. 2020, eq. 1) towards those of another network.

    Parameters
    ----------
    found: what the network that learns says.
    said: what it is to say, of the same images.

    """
    logits, wanted = _flat(found.classes), _flat(said.classes).sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction='none')
    error = (wanted - logits.sigmoid()).detach()
    # As many as there are positions that see something.
    count = parallel.total(float(wanted.amax(-1).sum()), logits.device)
    return (entropy * error**2).sum() / max(count, 1.0)


def _between(steps: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy (N, 4) of log-probabilities (N, 4, bins) with the two bins around a number."""
    low = wanted.long()
    high_share = wanted - low
    first = steps.gather(-1, low[..., None])[..., 0]
    second = steps.gather(-1, low[..., None] + 1)[..., 0]
    return -(first * (1 - high_share) + second * high_share)


@torch.no_grad()
def assign(points: Tensor, boxes: Tensor, target: Target) -> tuple[Tensor, Tensor, Tensor]:
    """Match positions with objects.

    Parameters
    ----------
    points: (P, 2) where they are.
    boxes: (P, 4) what they see.
    target: the objects.

    Returns
    -------
    The score (P,) that each should have, the object (P,) that it sees best, and whether it is one
    of those that learn that object (P,).

    """
    if not len(target.boxes):
        none = torch.zeros(len(points), dtype=torch.long, device=points.device)
        return boxes.new_zeros(len(points)), none, none.bool()
    overlap = torchvision.ops.box_iou(boxes, target.boxes)
    index = overlap.argmax(1)
    x, y = points[:, :1], points[:, 1:]
    low_x, low_y, high_x, high_y = target.boxes.unbind(1)
    within = (x > low_x) & (x < high_x) & (y > low_y) & (y < high_y)
    # An object that no position lies in is learned by the nearest ones.
    centre = (target.boxes[:, :2] + target.boxes[:, 2:]) / 2
    away = torch.cdist(points, centre)
    within |= away <= away.min(0).values + 1e-3
    fit = torch.where(within, overlap + 1e-4, 0)
    top = fit.topk(min(_MOST, len(points)), dim=0)
    many = top.values.sum(0).round().clamp(1, _MOST)
    rank = torch.arange(len(top.values), device=points.device)[:, None]
    learns = torch.zeros_like(within).scatter_(0, top.indices, rank < many) & (fit > 0)
    # A position that several objects want is the one's that it fits best, unless it is the best
    # that others have: then it is that one's that has nothing better.
    first = torch.zeros_like(within).scatter_(0, top.indices[:1], True)
    own = torch.where(learns, overlap + 1e-4, 0) + first * (3 - 2 * overlap)
    taken = learns.any(1)
    index = torch.where(taken, own.argmax(1), index)
    score = overlap.gather(1, index[:, None])[:, 0]
    return torch.where(taken, score, 0).clamp(0, 1), index, taken


@torch.no_grad()
def dense_proposals(
    head: DenseHead, found: DenseMaps, shape: tuple[int, int], keep: int = 200
) -> list[Tensor]:
    """Boxes (N_i, 4) that are proposed of every image of ``shape``."""
    seen = head.candidates(found, keep)
    level = torch.zeros_like(seen.logits[0], dtype=torch.long)  # one suppression for all levels
    return [
        select_proposals(boxes, logits, level, shape, 0.7, keep)[0]
        for boxes, logits in zip(seen.boxes, seen.logits)
    ]
