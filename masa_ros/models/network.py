# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The MASA network: backbone, pyramid, dynamic fusion, and the heads on top of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from masa_ros.errors import ConfigError
from masa_ros.models.configs import (
    CspConfig,
    NetworkConfig,
    ResNetConfig,
    SamConfig,
    SamDecoderConfig,
    SwinConfig,
    TinyVitConfig,
)
from masa_ros.models.csp import Csp
from masa_ros.models.dense import DenseHead
from masa_ros.models.fusion import DynamicFusion
from masa_ros.models.heads import BoxHead, EmbeddingHead, ProposalHead
from masa_ros.models.layers import AppearanceMaps, FeaturePyramid
from masa_ros.models.masks import BoxMasks
from masa_ros.models.resnet import ResNet
from masa_ros.models.sampling import RoIAlign
from masa_ros.models.swin import Swin


class Features(NamedTuple):
    """What the image part hands to the heads.

    Attributes
    ----------
    levels: fused pyramid, (B, C, ., .) each, finest first.
    detail: what the masks are drawn from, None for networks without masks.
    maps: of the backbone, which one-stage proposals read.
    appearance: what embeddings are pooled from, the fused pyramid where there is nothing else.

    """

    levels: list[Tensor]
    detail: Tensor | None
    maps: list[Tensor]
    appearance: list[Tensor]


def _build(config: NetworkConfig) -> tuple[nn.Module, nn.Module | None, nn.Module | None]:
    """Make the parts in which the families differ: backbone, pyramid, masks."""
    backbone = config.backbone
    if isinstance(backbone, SamDecoderConfig):
        return _build_sam(config, backbone)
    pyramid = FeaturePyramid(backbone.pyramid_channels, config.channels, config.levels)
    if isinstance(backbone, SwinConfig):
        return Swin(backbone), pyramid, None
    made = Csp(backbone) if isinstance(backbone, CspConfig) else ResNet(backbone)
    if config.masks is None:
        return made, pyramid, None
    return made, pyramid, BoxMasks(config.masks, backbone.detail_channels, config.channels)


def _build_sam(
    config: NetworkConfig, backbone: SamDecoderConfig
) -> tuple[nn.Module, nn.Module | None, nn.Module]:
    """Do the same for the models on SAM."""
    try:
        from masa_ros.models import sam, tiny_vit
    except ImportError as error:
        raise ConfigError(
            f'the SAM models need the package segment-anything: '
            f'pip install segment-anything ({error})'
        ) from error
    if isinstance(backbone, TinyVitConfig):
        return tiny_vit.TinyVit(backbone), None, sam.SamMasks(backbone)
    assert isinstance(backbone, SamConfig)
    pyramid = None
    if config.levels:
        pyramid = sam.SimplePyramid(backbone.width, config.channels, config.levels)
    return sam.SamEncoder(backbone), pyramid, sam.SamMasks(backbone)


class MasaNetwork(nn.Module):
    """Image part (``forward``) and box part (``pool`` and the heads) of one model.

    ``masa_ros.models.masa_stages`` cuts it into the pieces that run between top-k and suppression.

    Attributes
    ----------
    proposals: ``ProposalHead``, which reads the fused pyramid, or ``DenseHead``, which reads the
        maps of the backbone.
    boxes: scores and refines what a ``ProposalHead`` proposes; None beside a ``DenseHead``.
    appearance, appearance_pool: maps that embeddings alone are pooled from, and what pools them;
        None and ``pool`` where embeddings are pooled from the pyramid, as everything else.

    SAM alone (a config without levels) has ``backbone`` and ``masks``, and no other part.

    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone, pyramid, masks = _build(config)
        self.masks: Any = masks  # one of ``masks.BoxMasks``, ``sam.SamMasks``, None
        self.proposals: Any = None  # ``heads.ProposalHead`` or ``dense.DenseHead``
        self.boxes: Any = None
        if pyramid is None:
            return
        self.pyramid = pyramid
        self.fusion = nn.Sequential(
            *(
                DynamicFusion(config.channels, config.released_layout, config.fusion_attention)
                for _ in range(config.fusion_blocks)
            )
        )
        if config.dense is not None:
            channels = config.backbone.pyramid_channels
            self.proposals = DenseHead(channels, config.strides, config.dense)
        else:
            self.proposals = ProposalHead(config.channels, config.strides, config.anchor_scale)
            self.boxes = BoxHead(config.channels, config.box_convs, config.box_widths)
        self.pool = RoIAlign(7, config.strides[: config.roi_levels], config.roi_samples)
        self.appearance: AppearanceMaps | None = None
        self.appearance_pool = self.pool
        if config.appearance:
            backbone = config.backbone
            assert isinstance(backbone, CspConfig | ResNetConfig)
            channels = (backbone.detail_channels, *backbone.pyramid_channels[:2])
            self.appearance = AppearanceMaps(channels, config.appearance)
            strides = tuple(4 << i for i in range(AppearanceMaps.LEVELS))
            self.appearance_pool = RoIAlign(7, strides, config.roi_samples)
        self.embed = EmbeddingHead(
            config.appearance or config.channels,
            config.embed_convs,
            config.embed_groups,
            config.embed_width,
            config.embedding,
            config.temperature,
        )

    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) normalised images -> features; all shapes follow from H and W."""
        maps = self.backbone(images)
        levels = self.fusion(self.pyramid(maps.maps))
        detail = None if self.masks is None else self.masks.detail_map(levels, maps.detail)
        appearance = levels if self.appearance is None else self.appearance(maps)
        return Features(levels, detail, maps.maps, appearance)
