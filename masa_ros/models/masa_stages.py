# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The stages of the MASA network.

==========  =====================================  =============================================
stage       inputs                                 outputs
==========  =====================================  =============================================
image       images (B, 3, H, W)                    level0 ... (B, C, ., .), detail where there
                                                   are masks, appearance0 ... where embeddings
                                                   have maps of their own, candidates (B, K, 4),
                                                   logits (B, K), classes (B, K, .) of one-stage
                                                   proposals
boxes       boxes (N, 4), level0 ... of one image  boxes (N, 4) refined, scores (N,)
embeddings  boxes (N, 4), level0 ... and           pooled (N, C, 7, 7), embeddings (N, E)
            appearance0 ... of one image
masks       boxes (N, 4), pooled where the head    masks: (N, S, S) logits
            reads it, detail of one image
==========  =====================================  =============================================

Networks with one-stage proposals have no stage 'boxes': their candidates are final. Boxes are
float32 xyxy in network pixels, scores and classes float32, everything else has the dtype of the
network. Boxes are refined without being clipped to the image: where it ends depends on the camera.
SAM alone has the stages 'image', which gives detail and nothing else, and 'masks'.

How they are compared: where a score threshold or an edge runs, rounding decides single instances
and pixels. Means are held tightly, the worst case loosely.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
import torchvision
from torch import Tensor

from masa_ros.models.dense import DenseHead
from masa_ros.models.heads import clip_boxes, decode_boxes
from masa_ros.models.stages import Stage, Tensors, least_cosine

if TYPE_CHECKING:  # a stage depends on the parts that it runs, not on those of other networks
    from masa_ros.models.configs import ModelConfig
    from masa_ros.models.network import MasaNetwork

SHARED_MAPS = ('map0', 'map1', 'map2')
"""Names of the maps of a Swin backbone among the outputs of the image stage, finest first."""

_BEST = 100  # candidates that must be found again


class ImageStage(Stage):
    """Backbone, pyramid, fusion and the best anchors of the proposal head.

    Attributes
    ----------
    levels: names of the fused maps, finest first.

    """

    name = 'image'
    inputs = ('images',)
    mixed = True
    limits: ClassVar[Mapping[str, float]] = {
        'map cosine, least': 0.998,
        'best candidates found again': 0.95,
    }

    def __init__(self, network: MasaNetwork, candidates: int) -> None:
        super().__init__()
        self.levels = _levels(network)
        self.backbone, self.pyramid, self.fusion = (
            network.backbone,
            network.pyramid,
            network.fusion,
        )
        self.detail = None if network.masks is None else network.masks.detail_map
        self.proposals, self.candidates = network.proposals, candidates
        self.maps = self.levels if self.detail is None else (*self.levels, 'detail')
        self.appearance, names = network.appearance, _appearance(network)
        self.maps += names
        self.outputs = (*self.maps, 'candidates', 'logits')
        if isinstance(self.proposals, DenseHead):
            self.outputs += ('classes',)
        # What the detectors of these models read: one pass of the backbone serves both.
        self.shared = SHARED_MAPS if getattr(self.backbone, 'read_by_others', False) else ()
        self.outputs += self.shared

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the table above."""
        found = self.backbone(images)
        levels = self.fusion(self.pyramid(found.maps))
        detail = () if self.detail is None else (self.detail(levels, found.detail),)
        looks = () if self.appearance is None else self.appearance(found)
        head = self.proposals
        if isinstance(head, DenseHead):
            return (*levels, *detail, *looks, *head.candidates(head(found.maps), self.candidates))
        logits, deltas = head(levels)
        shared = found.maps if self.shared else ()
        return (
            *levels,
            *detail,
            *looks,
            *head.candidates(logits, deltas, self.candidates),
            *shared,
        )

    def agreement(self, inputs: Tensors, expected: Tensors, found: Tensors) -> dict[str, float]:
        """Compare the maps, and look for the best candidates among those that were found."""
        height, width = inputs['images'].shape[2:]
        scores, theirs = expected['logits'][0].sigmoid(), found['logits'][0].sigmoid()
        boxes = clip_boxes(expected['candidates'][0], height, width)
        whole = torch.nonzero(whole_boxes(boxes))[:, 0]
        best = whole[scores[whole].topk(min(_BEST, len(whole))).indices]
        there = clip_boxes(found['candidates'][0], height, width)
        near = torchvision.ops.box_iou(boxes[best], there) > 0.9
        alike = near & ((scores[best][:, None] - theirs[None]).abs() < 0.05)
        if 'classes' in expected:
            ours, named = (side['classes'][0].sigmoid() for side in (expected, found))
            alike &= torch.cdist(ours[best], named, p=torch.inf) < 0.05
        return {
            'map cosine, least': least_cosine(expected, found, self.maps),
            'best candidates found again': float(alike.any(1).float().mean()),
        }


class EncoderStage(Stage):
    """Image encoder of SAM alone."""

    name = 'image'
    inputs, outputs = ('images',), ('detail',)
    mixed = True

    def __init__(self, network: MasaNetwork) -> None:
        super().__init__()
        self.backbone = network.backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the table above."""
        return (self.backbone(images).detail,)


class BoxStage(Stage):
    """Box head: score and refine boxes."""

    name = 'boxes'
    outputs = ('boxes', 'scores')
    rows, exact = ('boxes',), ('boxes',)
    most = 1000
    limits: ClassVar[Mapping[str, float]] = {
        'box IoU, mean': 0.99,
        'box IoU, 1st percentile': 0.9,
        'score, 1 - largest error': 0.95,
        'score, 1 - mean error': 0.99,
    }

    def __init__(self, network: MasaNetwork) -> None:
        super().__init__()
        self.inputs = ('boxes', *_levels(network)[: network.config.roi_levels])
        if network.boxes is None:
            raise ValueError('the network has no box head')
        self.pool, self.head = network.pool, network.boxes
        self.stride = network.config.strides[0]

    def forward(self, boxes: Tensor, *levels: Tensor) -> tuple[Tensor, ...]:
        """See the table above."""
        cls, reg = self.head(self.pool(levels, boxes, _one_image(boxes)))
        return decode_boxes(boxes, reg, self.head.STDS), cls.float().softmax(1)[:, 0]

    def agreement(self, inputs: Tensors, expected: Tensors, found: Tensors) -> dict[str, float]:
        """Compare boxes as they lie in the image, and scores."""
        height, width = (side * self.stride for side in inputs['level0'].shape[2:])
        ours, theirs = (clip_boxes(side['boxes'], height, width) for side in (found, expected))
        whole = whole_boxes(theirs)
        iou = torchvision.ops.box_iou(ours[whole], theirs[whole]).diagonal()
        error = (found['scores'] - expected['scores']).abs()
        return {
            'box IoU, mean': float(iou.mean()),
            'box IoU, 1st percentile': float(iou.quantile(0.01)),
            'score, 1 - largest error': 1 - float(error.max()),
            'score, 1 - mean error': 1 - float(error.mean()),
        }


class EmbeddingStage(Stage):
    """Features and embeddings of boxes."""

    name = 'embeddings'
    outputs = ('pooled', 'embeddings')
    rows, exact = ('boxes',), ('boxes',)
    most = 100
    limits: ClassVar[Mapping[str, float]] = {
        'embedding cosine, mean': 0.998,
        'embedding cosine, least': 0.98,
    }

    def __init__(self, network: MasaNetwork) -> None:
        super().__init__()
        self.levels = _levels(network)[: network.config.roi_levels]
        self.inputs = ('boxes', *self.levels, *_appearance(network))
        self.pool, self.embed = network.pool, network.embed
        self.appearance_pool = network.appearance_pool

    def forward(self, boxes: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
        """See the table above."""
        image, count = _one_image(boxes), len(self.levels)
        looks = pooled = self.pool(maps[:count], boxes, image)
        if maps[count:]:
            looks = self.appearance_pool(maps[count:], boxes, image)
        return pooled, self.embed(looks).float()

    def agreement(self, inputs: Tensors, expected: Tensors, found: Tensors) -> dict[str, float]:
        """Compare directions."""
        cosine = torch.cosine_similarity(found['embeddings'], expected['embeddings'])
        return {
            'embedding cosine, mean': float(cosine.mean()),
            'embedding cosine, least': float(cosine.min()),
        }


class MaskStage(Stage):
    """Masks of boxes."""

    name = 'masks'
    outputs = ('masks',)
    exact = ('boxes',)
    most = 50
    limits: ClassVar[Mapping[str, float]] = {'mask IoU, mean': 0.98, 'mask IoU, least': 0.8}

    def __init__(self, network: MasaNetwork) -> None:
        super().__init__()
        self.head = network.masks.drawing
        self.rows = ('boxes', 'pooled') if network.masks.reads_pooled else ('boxes',)
        self.inputs = (*self.rows, 'detail')

    def forward(self, boxes: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
        """See the table above."""
        pooled, detail = maps if len(maps) == 2 else (None, *maps)
        return (self.head(detail, pooled, boxes, _one_image(boxes)),)

    def agreement(self, inputs: Tensors, expected: Tensors, found: Tensors) -> dict[str, float]:
        """Compare the cells that are drawn."""
        ours, theirs = (side['masks'].flatten(1) > 0 for side in (found, expected))
        union = (ours | theirs).sum(1)
        iou = (ours & theirs).sum(1) / union.clamp(min=1)
        iou[union < 16] = 1.0  # next to nothing in both
        return {'mask IoU, mean': float(iou.mean()), 'mask IoU, least': float(iou.min())}


def masa_stages(network: MasaNetwork, model: ModelConfig) -> dict[str, Stage]:
    """Return the stages of a network by name; they share its parameters."""
    stages: list[Stage] = []
    if network.proposals is None:
        stages.append(EncoderStage(network))
    else:
        stages.append(ImageStage(network, model.candidates))
        if network.boxes is not None:
            stages.append(BoxStage(network))
        stages.append(EmbeddingStage(network))
    if network.masks is not None:
        stages.append(MaskStage(network))
    return {stage.name: stage.eval() for stage in stages}


def whole_boxes(boxes: Tensor) -> Tensor:
    """Tell (N,) which boxes have two pixels a side: the IoU of a sliver is rounding alone."""
    return (boxes[:, 2:] - boxes[:, :2] >= 2).all(1)


def _levels(network: MasaNetwork) -> tuple[str, ...]:
    return tuple(f'level{i}' for i in range(network.config.levels))


def _appearance(network: MasaNetwork) -> tuple[str, ...]:
    count = 0 if network.appearance is None else network.appearance.LEVELS
    return tuple(f'appearance{i}' for i in range(count))


def _one_image(boxes: Tensor) -> Tensor:
    """Index of the image of each box in a batch of one."""
    return torch.zeros_like(boxes[:, 0], dtype=torch.long)
