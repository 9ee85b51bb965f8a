"""The MASA network: backbone, pyramid, dynamic fusion, and the heads on top of it."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from masa_ros.models.heads import BoxHead, EmbeddingHead, MaskHead, ProposalHead
from masa_ros.models.layers import ConvNorm, DynamicFusion, FeaturePyramid, ResNet
from masa_ros.models.sampling import RoIAlign


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Sizes of one member of the network family.

    Attributes
    ----------
    depths, widths, stem, bottleneck: of the residual backbone, see ``ResNet``.
    first_stage: index of the finest backbone stage in the pyramid (0: stride 4, 1: stride 8).
    channels, levels: of the pyramid.
    fusion_blocks, released_layout: of the dynamic fusion, see ``DynamicFusion``.
    anchor_scale: side of the proposal anchors in strides.
    roi_samples: see ``RoIAlign``.
    roi_levels: pyramid levels that boxes are pooled from.
    box_convs, box_widths: of the box head.
    embed_convs, embed_groups, embed_width, embedding, temperature: of the embedding head.
    detail: channels of the mask head, 0 for a network without masks.
    mask_convs: of the mask head.

    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    stem: int
    bottleneck: bool
    first_stage: int
    channels: int
    levels: int
    fusion_blocks: int
    released_layout: bool
    anchor_scale: float
    roi_samples: int
    roi_levels: int
    box_convs: int
    box_widths: tuple[int, ...]
    embed_convs: int
    embed_groups: int
    embed_width: int
    embedding: int
    temperature: float = 0.0
    detail: int = 0
    mask_convs: int = 0

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the pyramid levels in network-input pixels."""
        return tuple(4 << (self.first_stage + i) for i in range(self.levels))


class Features(NamedTuple):
    """What the image part hands to the heads: ``levels`` (B, C, ., .) and ``detail`` or None."""

    levels: list[Tensor]
    detail: Tensor | None


class MasaNetwork(nn.Module):
    """Image part (``forward``) and box part (``pool`` and the heads) of one model.

    Between the two stand top-k and non-maximum suppression, which have no static form: see
    ``masa_ros.models.detector``.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = ResNet(config.depths, config.widths, config.stem, config.bottleneck)
        self.pyramid = FeaturePyramid(
            config.widths[config.first_stage :], config.channels, config.levels
        )
        self.fusion = nn.Sequential(
            *(
                DynamicFusion(config.channels, config.released_layout)
                for _ in range(config.fusion_blocks)
            )
        )
        self.proposals = ProposalHead(config.channels, config.strides, config.anchor_scale)
        self.pool = RoIAlign(7, config.strides[: config.roi_levels], config.roi_samples)
        self.boxes = BoxHead(config.channels, config.box_convs, config.box_widths)
        self.embed = EmbeddingHead(
            config.channels,
            config.embed_convs,
            config.embed_groups,
            config.embed_width,
            config.embedding,
            config.temperature,
        )
        if config.detail:
            self.detail_fine = ConvNorm(config.widths[0], config.detail, 1)
            self.detail_coarse = ConvNorm(config.channels, config.detail, 1)
            self.detail_out = ConvNorm(config.detail, config.detail, relu=True)
            self.pool_detail = RoIAlign(MaskHead.SIZE, (4,), 1)
            self.masks = MaskHead(config.channels, config.detail, config.mask_convs)

    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) normalised images -> features; all shapes follow from H and W."""
        stages = self.backbone(images)
        levels = self.pyramid(stages[self.config.first_stage :])
        levels = self.fusion(levels)
        if not self.config.detail:
            return Features(levels, None)
        fine = self.detail_fine(stages[0])
        coarse = F.interpolate(
            self.detail_coarse(levels[0]),
            size=fine.shape[-2:],
            mode='bilinear',
            align_corners=False,
        )
        return Features(levels, self.detail_out(F.relu(fine + coarse)))

    def mask_logits(
        self, features: Features, pooled: Tensor, boxes: Tensor, image: Tensor
    ) -> Tensor:
        """Mask logits (N, 28, 28) of boxes (N, 4) with their pooled features (N, C, 7, 7)."""
        if features.detail is None:
            raise ValueError('this network has no mask head')
        return self.masks(pooled, self.pool_detail([features.detail], boxes, image))
