# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the losses compare with: the objects of training images, and boxes matched to them."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

_DOUBTFUL_IOU = 0.4


class Target(NamedTuple):
    """What is known of one training image.

    Attributes
    ----------
    boxes: (N, 4) float32, tight around the visible pixels.
    masks: (N, H, W) bool or uint8, visible pixels.
    ids: (N,) int64; the same number in the other view is the same object.
    ignore: (H, W) bool; nothing is known there, so nothing there counts as background.
    drawn: (N,) bool, the mask is known; otherwise it is the filled box.
    doubtful: (D, 4) float32, boxes of which nobody knows whether they are objects.
    number: of the image in the whole training; what is sampled of it depends on nothing else.
    generated: it is put together of pieces.

    """

    boxes: Tensor
    masks: Tensor
    ids: Tensor
    ignore: Tensor
    drawn: Tensor
    doubtful: Tensor
    number: int = 0
    generated: bool = False

    def to(self, device: torch.device) -> Target:
        """Return the same on a device."""
        return self._replace(
            boxes=self.boxes.to(device),
            masks=self.masks.to(device),
            ids=self.ids.to(device),
            ignore=self.ignore.to(device),
            drawn=self.drawn.to(device),
            doubtful=self.doubtful.to(device),
        )

    def unknown(self, boxes: Tensor, share: float) -> Tensor:
        """Tell (M,) which boxes (M, 4) are no examples of background: nothing is known there.

        They have more than this share of their area on ignored pixels, or mean a doubtful object.
        """
        unknown = unknown_share(self.ignore, boxes) > share
        if len(self.doubtful):
            overlap = torchvision.ops.box_iou(boxes, self.doubtful)
            unknown |= (overlap >= _DOUBTFUL_IOU).any(1)
        return unknown

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
    distance: weight of the distribution of distances, against that of the boxes made of them.
    generated: weight of generated scenes in the losses of one-stage proposals.
    imitate: weight of embeddings that are to be those of another network.
    keep: weight of classes that are to stay as they were.
    outline: weight of what a box alone says of a mask, against a known mask.
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
    distance: float = 0.25
    generated: float = 0.0
    imitate: float = 1.0
    keep: float = 1.0
    outline: float = 0.5
    one_camera: bool = False


def pick(candidates: Tensor, count: int, generator: torch.Generator) -> Tensor:
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

    def some(self, index: Tensor) -> Rois:
        """Return some of them."""
        return Rois(*(values[index] for values in self))

    def place(self, targets: list[Target]) -> Tensor:
        """Index (R,) of each one's object in the concatenation of all images' objects."""
        counts = torch.tensor([0] + [len(t.boxes) for t in targets[:-1]]).cumsum(0)
        return self.object + counts.to(self.image.device)[self.image]
