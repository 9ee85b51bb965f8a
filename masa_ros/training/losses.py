# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The training objective: proposals, boxes and contrastive embeddings (paper 3.2, J).

One-stage proposals are in ``dense_losses``, masks in ``mask_losses``.

All functions work on plain tensors; boxes are xyxy in network-input pixels. With several processes
(``parallel``) a loss is this process's share of that of the whole batch: the shares add up to it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from masa_ros.models.dense import DenseHead
from masa_ros.models.heads import (
    BoxHead,
    ProposalHead,
    decode_boxes,
    encode_boxes,
    select_proposals,
)
from masa_ros.models.network import MasaNetwork
from masa_ros.training import parallel
from masa_ros.training.dense_losses import dense_loss, dense_proposals, keep_loss
from masa_ros.training.mask_losses import mask_loss, outline_loss
from masa_ros.training.targets import LossConfig, Rois, Target, match, pick

_MOST_IDS = 1 << 16  # of one scene


def proposal_loss(
    head: ProposalHead,
    logits: list[Tensor],
    deltas: list[Tensor],
    targets: list[Target],
    config: LossConfig,
) -> dict[str, Tensor]:
    """Objectness and box loss of the proposal head (Ren et al. 2015, eq. 1)."""
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
        negative &= ~target.unknown(anchors, config.ignore_share)
        chance = target.generator(0)
        chosen_positive = pick(positive.nonzero()[:, 0], config.anchors // 2, chance)
        rest = config.anchors - len(chosen_positive)
        chosen_negative = pick(negative.nonzero()[:, 0], rest, chance)
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


@torch.no_grad()
def sample_rois(proposed: list[Tensor], targets: list[Target], config: LossConfig) -> Rois:
    """Proposals and the objects themselves, at most a fixed number an image, positives first."""
    parts = []
    for i, (proposals, target) in enumerate(zip(proposed, targets)):
        size = (target.boxes[:, 2:] - target.boxes[:, :2]).repeat(1, 2)
        chance = target.generator(1)
        noise = torch.randn(target.boxes.shape, generator=chance).to(size)
        jittered = target.boxes + size * noise * 0.07
        every = torch.cat((proposals, target.boxes, jittered))
        iou, index = match(every, target)
        positive = iou >= 0.5
        negative = ~positive & ~target.unknown(every, config.ignore_share)
        limit = int(config.rois * config.positive_fraction)
        kept = pick(positive.nonzero()[:, 0], limit, chance)
        rest = config.rois - len(kept)
        kept = torch.cat((kept, pick(negative.nonzero()[:, 0], rest, chance)))
        parts.append(
            Rois(every[kept], torch.full_like(kept, i), index[kept], iou[kept], positive[kept])
        )
    return Rois(*(torch.cat(values) for values in zip(*parts)))


@torch.no_grad()
def _proposed(
    head: ProposalHead, logits: list[Tensor], deltas: list[Tensor], shape: tuple[int, int]
) -> list[Tensor]:
    """Boxes (N_i, 4) that the proposal head gives of every image."""
    boxes, scores = head.candidates(logits, deltas, 200)
    level = head.candidate_levels(logits, 200)
    return [
        select_proposals(some, score, level, shape, 0.7, 200)[0]
        for some, score in zip(boxes, scores)
    ]


def box_loss(
    head: BoxHead, pooled: Tensor, rois: Rois, targets: list[Target], config: LossConfig
) -> dict[str, Tensor]:
    """Score and refinement loss of the box head."""
    logits, deltas = (x.float() for x in head(pooled))
    stds = head.STDS
    positive = rois.positive
    truth = torch.cat([t.boxes for t in targets])[rois.place(targets)[positive]]
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


def imitation_loss(tutor: MasaNetwork, images: Tensor, rois: Rois, embeddings: Tensor) -> Tensor:
    """One minus the cosine of embeddings (R, E) and those that ``tutor`` gives the same boxes."""
    with torch.no_grad():
        looks = tutor(images).appearance
        wanted = tutor.embed(tutor.appearance_pool(looks, rois.boxes, rois.image))
    count = max(parallel.total(len(wanted), embeddings.device), 1)
    return (1 - F.cosine_similarity(embeddings.float(), wanted.float())).sum() / count


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


class Looks(NamedTuple):
    """What embeddings are learned from.

    Attributes
    ----------
    pooled: (R, C, 7, 7) features of boxes on objects.
    identity: (R,) int64, the same for the two views of one object alone.
    view: (R,) 0 or 1.
    scene: (R,) int64.

    """

    pooled: Tensor
    identity: Tensor
    view: Tensor
    scene: Tensor

    def loss(self, network: MasaNetwork, config: LossConfig) -> tuple[Tensor, Tensor]:
        """Return embeddings (R, E) and the weighted contrast of the two views."""
        embeddings = network.embed(self.pooled)
        scene = self.scene if config.one_camera else None
        contrast = contrast_loss(embeddings, self.identity, self.view, scene)
        return embeddings, config.contrast * contrast


def _looks(pooled: Tensor, rois: Rois, targets: list[Target]) -> Looks:
    """Say whose features (R, C, 7, 7) those of boxes on objects are."""
    pairs = len(targets) // 2
    ids = torch.cat([t.ids for t in targets])[rois.place(targets)]
    scene = parallel.rank() * pairs + rois.image % pairs
    return Looks(pooled, scene * _MOST_IDS + ids, rois.image // pairs, scene)


def seen_objects(
    network: MasaNetwork, images: Tensor, targets: list[Target], config: LossConfig
) -> Looks:
    """Features of the objects of a batch before anything that learns, see ``unmixed``.

    Nothing is looked for, which takes most of the time: the boxes are the objects' own, exact
    and jittered.
    """
    assert network.appearance is not None
    with torch.no_grad():
        maps = network.appearance.unmixed(network.backbone(images))
        rois = sample_rois([target.boxes[:0] for target in targets], targets, config)
        rois = rois.some(rois.positive)
        pooled = network.appearance_pool(maps, rois.boxes, rois.image)
    return _looks(pooled, rois, targets)


def objective(
    network: MasaNetwork,
    images: Tensor,
    targets: list[Target],
    config: LossConfig,
    guide: MasaNetwork | None = None,
    tutor: MasaNetwork | None = None,
) -> dict[str, Tensor]:
    """All losses of a batch whose second half holds the second views of the first half.

    Parameters
    ----------
    images: (2B, 3, H, W) normalised.
    targets: 2B; ``ids`` are compared between image i and image i + B only.
    guide: a network with one-stage proposals whose classes this one is to keep.
    tutor: a network whose embeddings this one is to imitate.

    Returns
    -------
    Weighted losses by name; their sum is the objective.

    """
    features, head = network(images), network.proposals
    shape = (images.shape[2], images.shape[3])
    if isinstance(head, DenseHead):
        found = head(features.maps)
        losses = dense_loss(head, found, targets, config)
        proposed = dense_proposals(head, found, shape)
        if guide is not None:
            with torch.no_grad():
                said = guide.proposals(guide.backbone(images).maps)
            losses['keep'] = config.keep * keep_loss(found, said)
    else:
        logits, deltas = head(features.levels)
        losses = proposal_loss(head, logits, deltas, targets, config)
        proposed = _proposed(head, logits, deltas, shape)
    rois = sample_rois(proposed, targets, config)
    if network.boxes is None:  # nobody asks what is no object
        rois = rois.some(rois.positive)
    pooled = network.pool(features.levels, rois.boxes, rois.image)
    if network.boxes is not None:
        losses |= box_loss(network.boxes, pooled, rois, targets, config)

    positive = rois.positive.nonzero()[:, 0]
    chosen = rois.some(positive)
    looks = pooled[positive]
    if network.appearance is not None:
        looks = network.appearance_pool(features.appearance, chosen.boxes, chosen.image)
    embeddings, losses['contrast'] = _looks(looks, chosen, targets).loss(network, config)
    if tutor is not None:
        losses['imitate'] = config.imitate * imitation_loss(tutor, images, chosen, embeddings)
    if network.masks is not None:
        rank = torch.cat(
            [torch.arange(int((chosen.image == i).sum())) for i in range(len(targets))]
        ).to(images.device)
        few = (rank < config.masks_per_image).nonzero()[:, 0]
        masked = chosen.some(few)
        mask_logits = network.masks(
            features.detail, pooled[positive[few]], masked.boxes, masked.image
        )
        losses['mask'] = config.mask * mask_loss(mask_logits, masked, targets)
        outlined = outline_loss(mask_logits, masked, targets, images)
        losses['outline'] = config.mask * config.outline * outlined
    return losses
