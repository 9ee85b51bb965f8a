# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The training objective: proposals, boxes, masks and contrastive embeddings (paper 3.2, J).

All functions work on plain tensors; boxes are xyxy in network-input pixels. With several processes
(``parallel``) a loss is this process's share of that of the whole batch: the shares add up to it.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from masa_ros.models.heads import decode_boxes, encode_boxes, select_proposals
from masa_ros.models.network import MasaNetwork
from masa_ros.training import parallel

_MOST_IDS = 1 << 16  # of one scene


class Target(NamedTuple):
    """What is known of one training image.

    Attributes
    ----------
    boxes: (N, 4) float32, tight around the visible pixels.
    masks: (N, H, W) bool or uint8, visible pixels.
    ids: (N,) int64; the same number in the other view is the same object.
    ignore: (H, W) bool; nothing is known there, so nothing there counts as background.
    number: of the image in the whole training; what is sampled of it depends on nothing else.

    """

    boxes: Tensor
    masks: Tensor
    ids: Tensor
    ignore: Tensor
    number: int = 0

    def to(self, device: torch.device) -> Target:
        """Return the same on a device."""
        return self._replace(
            boxes=self.boxes.to(device),
            masks=self.masks.to(device),
            ids=self.ids.to(device),
            ignore=self.ignore.to(device),
        )

    def generator(self, purpose: int) -> torch.Generator:
        """Return the source of chance of this image for one purpose."""
        return torch.Generator().manual_seed(self.number * 8 + purpose)


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Sampling and weights of the objective.

    Attributes
    ----------
    anchors, rois: sampled per image for the proposal and the box head.
    anchor_positive, anchor_negative: an anchor that overlaps an object by more than the first
        learns to be it, one that overlaps all by less than the second to be none. The released
        models took 0.7 and 0.3; with few objects an image that leaves an anchor or two for each.
    positive_fraction: at most that share of the sampled rois are positives.
    quality_scores: train the score towards the IoU of the refined box, so that whole objects
        rank above their parts; False gives the hard labels of the released models.
    ignore_share: a box with more of its area unknown than this is no negative.
    masks_per_image: boxes per image that train the mask head.
    rpn_box, box, mask, contrast: weights of these losses; the scores have weight 1.
    one_camera: tell an object from the others of its own image only, because the images show the
        same things again, as frames of one camera do.

    """

    anchors: int = 256
    rois: int = 64
    anchor_positive: float = 0.5
    anchor_negative: float = 0.35
    positive_fraction: float = 0.5
    quality_scores: bool = True
    ignore_share: float = 0.5
    masks_per_image: int = 8
    rpn_box: float = 2.0
    box: float = 2.0
    mask: float = 1.0
    contrast: float = 0.5
    one_camera: bool = False


def _pick(candidates: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """At most ``count`` random ones of the indices."""
    order = torch.randperm(len(candidates), generator=generator)[:count]
    return candidates[order.to(candidates.device)]


def unknown_share(ignore: Tensor, boxes: Tensor) -> Tensor:
    """Share (N,) of each box's area that lies on ignored pixels (H, W)."""
    if not bool(ignore.any()):
        return boxes.new_zeros(len(boxes))
    height, width = ignore.shape
    # Summed-area table: four look-ups a box.
    table = F.pad(ignore.float().cumsum(0).cumsum(1), (1, 0, 1, 0))
    x0, x1 = (boxes[:, i].round().long().clamp(0, width) for i in (0, 2))
    y0, y1 = (boxes[:, i].round().long().clamp(0, height) for i in (1, 3))
    inside = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]
    return inside / ((x1 - x0) * (y1 - y0)).clamp(min=1)


def match(boxes: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """Best object of each box: IoU (M,) and index (M,); IoU 0 where there is no object."""
    if not len(target.boxes):
        nothing = torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
        return boxes.new_zeros(len(boxes)), nothing
    iou, index = torchvision.ops.box_iou(boxes, target.boxes).max(1)
    return iou, index


def proposal_loss(
    network: MasaNetwork,
    logits: list[Tensor],
    deltas: list[Tensor],
    targets: list[Target],
    config: LossConfig,
) -> dict[str, Tensor]:
    """Objectness and box loss of the proposal head (Ren et al. 2015, eq. 1)."""
    head = network.proposals
    sizes = [(x.shape[2], x.shape[3]) for x in logits]
    anchors = torch.cat(head.anchors(sizes, logits[0].device))
    flat_logits = torch.cat([x.permute(0, 2, 3, 1).flatten(1) for x in logits], 1).float()
    flat_deltas = torch.cat(
        [x.permute(0, 2, 3, 1).reshape(len(x), -1, 4) for x in deltas], 1
    ).float()
    score_losses, box_losses, sampled = [], [], 0
    for logit, delta, target in zip(flat_logits, flat_deltas, targets):
        iou, index = match(anchors, target)
        positive = iou >= config.anchor_positive
        if len(target.boxes):  # every object gets its best anchors, however small they overlap
            overlap = torchvision.ops.box_iou(anchors, target.boxes)
            best = overlap.max(0).values
            forced = ((overlap == best) & (best > 0.1)).any(1)
            positive |= forced
            index = torch.where(
                forced, torch.where(overlap == best, overlap, -1.0).max(1).indices, index
            )
        negative = (iou < config.anchor_negative) & ~positive
        negative &= unknown_share(target.ignore, anchors) <= config.ignore_share
        chance = target.generator(0)
        chosen_positive = _pick(positive.nonzero()[:, 0], config.anchors // 2, chance)
        rest = config.anchors - len(chosen_positive)
        chosen_negative = _pick(negative.nonzero()[:, 0], rest, chance)
        chosen = torch.cat((chosen_positive, chosen_negative))
        label = torch.zeros(len(chosen), device=logit.device)
        label[: len(chosen_positive)] = 1.0
        score_losses.append(
            F.binary_cross_entropy_with_logits(logit[chosen], label, reduction='sum')
        )
        wanted = encode_boxes(
            anchors[chosen_positive], target.boxes[index[chosen_positive]], head.STDS
        )
        box_losses.append(
            F.smooth_l1_loss(delta[chosen_positive], wanted, beta=1 / 9, reduction='sum')
        )
        sampled += len(chosen)
    count = max(parallel.total(sampled, logits[0].device), 1)
    return {
        'rpn_score': torch.stack(score_losses).sum() / count,
        'rpn_box': torch.stack(box_losses).sum() / count * config.rpn_box,
    }


class Rois(NamedTuple):
    """Boxes sampled for the second stage over a batch.

    ``boxes`` (R, 4), ``image`` (R,), ``object`` (R,) index of the matched object in its image's
    target, ``iou`` (R,) with it, ``positive`` (R,) bool.
    """

    boxes: Tensor
    image: Tensor
    object: Tensor
    iou: Tensor
    positive: Tensor


@torch.no_grad()
def sample_rois(
    network: MasaNetwork,
    logits: list[Tensor],
    deltas: list[Tensor],
    targets: list[Target],
    shape: tuple[int, int],
    config: LossConfig,
) -> Rois:
    """Proposals and the objects themselves, a fixed number an image, positives first."""
    boxes, scores = network.proposals.candidates(logits, deltas, 200)
    level = network.proposals.candidate_levels(logits, 200)
    parts = []
    for i, target in enumerate(targets):
        proposed, _ = select_proposals(boxes[i], scores[i], level, shape, 0.7, 200)
        size = (target.boxes[:, 2:] - target.boxes[:, :2]).repeat(1, 2)
        chance = target.generator(1)
        noise = torch.randn(target.boxes.shape, generator=chance).to(size)
        jittered = target.boxes + size * noise * 0.07
        every = torch.cat((proposed, target.boxes, jittered))
        iou, index = match(every, target)
        positive = iou >= 0.5
        negative = ~positive & (unknown_share(target.ignore, every) <= config.ignore_share)
        limit = int(config.rois * config.positive_fraction)
        kept = _pick(positive.nonzero()[:, 0], limit, chance)
        rest = config.rois - len(kept)
        kept = torch.cat((kept, _pick(negative.nonzero()[:, 0], rest, chance)))
        parts.append(
            Rois(every[kept], torch.full_like(kept, i), index[kept], iou[kept], positive[kept])
        )
    return Rois(*(torch.cat(values) for values in zip(*parts)))


def box_loss(
    network: MasaNetwork, pooled: Tensor, rois: Rois, targets: list[Target], config: LossConfig
) -> dict[str, Tensor]:
    """Score and refinement loss of the box head."""
    logits, deltas = (x.float() for x in network.boxes(pooled))
    stds = network.boxes.STDS
    positive = rois.positive
    truth = torch.cat([t.boxes for t in targets])[_global_index(rois, targets)[positive]]
    quality = positive.float()
    if config.quality_scores:
        refined = decode_boxes(rois.boxes[positive], deltas[positive].detach(), stds)
        quality[positive] = torchvision.ops.box_iou(refined, truth).diagonal().clamp(0, 1)
    wanted = torch.stack((quality, 1 - quality), 1)
    refine = F.smooth_l1_loss(
        deltas[positive],
        encode_boxes(rois.boxes[positive], truth, stds),
        beta=1.0,
        reduction='sum',
    )
    count = max(parallel.total(len(rois.boxes), logits.device), 1)
    return {
        'box_score': F.cross_entropy(logits, wanted, reduction='sum') / count,
        'box': refine / count * config.box,
    }


def _global_index(rois: Rois, targets: list[Target]) -> Tensor:
    """Index of each roi's object in the concatenation of all images' objects."""
    counts = torch.tensor([0] + [len(t.boxes) for t in targets[:-1]]).cumsum(0)
    return rois.object + counts.to(rois.image.device)[rois.image]


def mask_loss(logits: Tensor, rois: Rois, targets: list[Target]) -> Tensor:
    """Binary cross-entropy plus Dice on 28x28 windows; logits (R, 28, 28) of positive rois."""
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
    probability = logits.sigmoid().flatten(1)
    overlap = (probability * wanted.flatten(1)).sum(1)
    dice = 1 - (2 * overlap + 1) / (probability.sum(1) + wanted.flatten(1).sum(1) + 1)
    pixels = F.binary_cross_entropy_with_logits(logits, wanted, reduction='sum') / size**2
    return (pixels + dice.sum()) / count


def contrast_loss(
    embeddings: Tensor, identity: Tensor, view: Tensor, scene: Tensor | None = None
) -> Tensor:
    """Multi-positive InfoNCE between two views (paper eq. 1; supplement J).

    Every embedding is drawn to those of the same object in the other view and pushed off all
    embeddings of other objects, in both views and in all images of the batch.

    Parameters
    ----------
    embeddings: (R, E), scaled so that their dot products are logits.
    identity: (R,) int64, unique over the batch except for the two views of one object.
    view: (R,) 0 or 1.
    scene: (R,) int64; given, embeddings of different scenes are not compared.

    Returns
    -------
    Scalar, the mean over embeddings that have a positive and something to be told from; 0 without.

    """
    embeddings = embeddings.float()
    scene = torch.zeros_like(identity) if scene is None else scene
    others, other_identity, other_view, other_scene = (
        parallel.gather(rows) for rows in (embeddings, identity, view, scene)
    )
    similarity = embeddings @ others.T
    same = identity[:, None] == other_identity[None]
    positive = same & (view[:, None] != other_view[None])
    left_out = same | (scene[:, None] != other_scene[None])
    rows = positive.any(1) & ~left_out.all(1)
    count = max(parallel.total(int(rows.sum()), embeddings.device), 1)
    if not bool(rows.any()):
        return similarity.sum() * 0.0
    similarity, left_out, weight = similarity[rows], left_out[rows], positive[rows].float()
    against = similarity.masked_fill(left_out, -torch.inf).logsumexp(1)
    each = F.softplus(against[:, None] - similarity)
    return ((each * weight).sum(1) / weight.sum(1)).sum() / count


def released_contrast_loss(dots: Tensor, positive: Tensor) -> Tensor:
    """Contrast of the released code, between sampled boxes of two views.

    For each row the mean over its positives of the cross-entropy ``-log(e^p / (sum of e^n + mean
    of e^p))``: the positives together count as one. Released with weight 0.25.

    Parameters
    ----------
    dots: (P, R) dot products of embeddings.
    positive: (P, R) bool, whether the boxes show one object.

    Returns
    -------
    Mean over the rows that have a positive, 0 where none has.

    """
    rows = positive.any(1)
    dots, positive = dots[rows], positive[rows]
    if not len(dots):
        return dots.sum()
    count = positive.sum(1, keepdim=True)
    shared = torch.where(positive, dots - count.log(), dots).logsumexp(1)
    return (shared - torch.where(positive, dots, 0).sum(1) / count[:, 0]).mean()


def released_margin_loss(cosines: Tensor, positive: Tensor) -> Tensor:
    """Auxiliary loss of the released code: squared error of cosines to 1 and, beyond 0.1, to 0.

    Of the negatives only the three times as many with the largest error count.

    Parameters
    ----------
    cosines: (P, R) of embeddings.
    positive: (P, R) bool, whether the boxes show one object.

    """
    if not positive.any():
        return 0 * cosines.sum()
    right = (cosines[positive].clamp(0, 1) - 1) ** 2
    wrong = (cosines[~positive] - 0.1).clamp(0, 1) ** 2
    wrong = wrong.topk(min(3 * len(right), len(wrong))).values
    return torch.cat((right, wrong)).mean()


def objective(
    network: MasaNetwork, images: Tensor, targets: list[Target], config: LossConfig
) -> dict[str, Tensor]:
    """All losses of a batch whose second half holds the second views of the first half.

    Parameters
    ----------
    images: (2B, 3, H, W) normalised.
    targets: 2B; ``ids`` are compared between image i and image i + B only.

    Returns
    -------
    Weighted losses by name; their sum is the objective.

    """
    features = network(images)
    logits, deltas = network.proposals(features.levels)
    losses = proposal_loss(network, logits, deltas, targets, config)
    shape = (images.shape[2], images.shape[3])
    rois = sample_rois(network, logits, deltas, targets, shape, config)
    pooled = network.pool(features.levels, rois.boxes, rois.image)
    losses |= box_loss(network, pooled, rois, targets, config)

    positive = rois.positive.nonzero()[:, 0]
    chosen = Rois(*(value[positive] for value in rois))
    pairs = len(targets) // 2
    ids = torch.cat([t.ids for t in targets])[_global_index(chosen, targets)]
    scene = parallel.rank() * pairs + chosen.image % pairs
    identity = scene * _MOST_IDS + ids
    embeddings = network.embed(pooled[positive])
    losses['contrast'] = config.contrast * contrast_loss(
        embeddings, identity, chosen.image // pairs, scene if config.one_camera else None
    )
    if network.masks is not None:
        rank = torch.cat(
            [torch.arange(int((chosen.image == i).sum())) for i in range(len(targets))]
        ).to(images.device)
        few = (rank < config.masks_per_image).nonzero()[:, 0]
        masked = Rois(*(value[few] for value in chosen))
        mask_logits = network.masks(
            features.detail, pooled[positive[few]], masked.boxes, masked.image
        )
        losses['mask'] = config.mask * mask_loss(mask_logits, masked, targets)
    return losses
