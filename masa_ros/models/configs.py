# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Sizes of networks and rules of models, as plain values: nothing here imports a network."""

from __future__ import annotations

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Sizes of a residual backbone.

    Attributes
    ----------
    depths, widths: blocks and channels of the four stages, strides 4, 8, 16, 32.
    stem: channels of the first convolution.
    bottleneck: the published ResNet-50 (7x7 stem, max-pooling, bottleneck blocks); otherwise the
        stem is one 3x3 convolution and the first stage takes over the second halving.
    first_stage: index of the finest stage in the pyramid.

    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    stem: int
    bottleneck: bool
    first_stage: int = 0

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        """Channels of the maps handed to the pyramid."""
        return self.widths[self.first_stage :]

    @property
    def detail_channels(self) -> int:
        """Channels of the map of stride 4 that masks are drawn from."""
        return self.widths[0]

    @property
    def first_stride(self) -> int:
        """Stride of the finest of these maps."""
        return 4 << self.first_stage


@dataclasses.dataclass(frozen=True)
class CspConfig:
    """Sizes of NanoDet-g's backbone; the last three of its four stages feed the pyramid.

    Attributes
    ----------
    stem: channels of the first convolution; every stage doubles them.
    units: of the four stages, strides 4, 8, 16, 32.

    """

    stem: int = 32
    units: tuple[int, ...] = (1, 2, 2, 3)

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        """Channels of the maps handed to the pyramid."""
        return tuple(self.stem << i for i in range(2, len(self.units) + 1))

    @property
    def detail_channels(self) -> int:
        """Channels of the map of stride 4 that masks are drawn from."""
        return 2 * self.stem

    @property
    def first_stride(self) -> int:
        """Stride of the finest map handed to the pyramid."""
        return 8


@dataclasses.dataclass(frozen=True)
class DenseConfig:
    """Sizes of one-stage proposals.

    Attributes
    ----------
    channels: of its neck.
    classes: that it names.
    bins: of the distribution of a distance, from 0 to bins - 1 strides.
    adapter: channels of the part that learns objects of any kind.
    mix: share of what it adds to a score once it has learned.
    shift: of the logit of a score. Scores learn the expected overlap, which is low even where
        an object is; shifted, the thresholds of the association fit.

    """

    channels: int = 128
    classes: int = 80
    bins: int = 11
    adapter: int = 64
    mix: float = 1.0
    shift: float = 0.0


@dataclasses.dataclass(frozen=True)
class SwinConfig:
    """Sizes of a Swin transformer; the last three of its four stages feed the pyramid.

    Attributes
    ----------
    width: channels of the first stage; every further one doubles them.
    depths, heads: blocks and attention heads of the four stages.
    window: side of the attention windows in tokens.

    """

    window: int
    width: int = 128
    depths: tuple[int, ...] = (2, 2, 18, 2)
    heads: tuple[int, ...] = (4, 8, 16, 32)

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        """Channels of the maps handed to the pyramid."""
        return tuple(self.width << i for i in range(1, len(self.depths)))

    @property
    def first_stride(self) -> int:
        """Stride of the finest of these maps."""
        return 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamDecoderConfig:
    """Sizes of SAM's mask decoder, and of what every image encoder makes for it.

    Attributes
    ----------
    image_size: side of the square input in pixels.
    embedding: channels of the image embedding, of stride 16, that the mask decoder reads.
    decoder_heads, decoder_width: attention heads and hidden channels of the mask decoder.

    """

    image_size: int = 1024
    embedding: int = 256
    decoder_heads: int = 8
    decoder_width: int = 2048


@dataclasses.dataclass(frozen=True)
class SamConfig(SamDecoderConfig):
    """Sizes of SAM's own image encoder, and of its mask decoder.

    Attributes
    ----------
    width, depth, heads: channels, blocks and attention heads of the vision transformer.
    global_blocks: blocks that attend over the whole image; the others over windows.
    taps: blocks whose output feeds the pyramid, one a level.
    window: side of the attention windows in tokens.

    """

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    taps: tuple[int, ...]
    window: int = 14

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        """Channels of the maps handed to the pyramid."""
        return (self.width,) * len(self.taps)

    @property
    def first_stride(self) -> int:
        """Stride of the finest map the pyramid makes of them."""
        return 4


@dataclasses.dataclass(frozen=True)
class TinyVitConfig(SamDecoderConfig):
    """Sizes of MobileSAM's image encoder, TinyViT-5M, and of SAM's mask decoder.

    Attributes
    ----------
    widths, depths, heads, windows: channels, blocks, attention heads and side of the attention
        windows in tokens of the four levels, strides 4, 8, 16, 16. The first has convolutions in
        place of attention.

    """

    widths: tuple[int, ...] = (64, 128, 160, 320)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (2, 4, 5, 10)
    windows: tuple[int, ...] = (7, 7, 14, 7)

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        """No pyramid stands on it."""
        return ()

    @property
    def first_stride(self) -> int:
        """Stride of the image embedding."""
        return 16


@dataclasses.dataclass(frozen=True)
class MaskConfig:
    """Sizes of the light mask head: channels of its detail map, convolutions."""

    detail: int
    convs: int


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Sizes of one member of the network family.

    Attributes
    ----------
    backbone: what kind and how large.
    channels, levels: of the pyramid; without levels the network is SAM alone, which draws what
        it is shown, and has nothing that finds or describes objects.
    fusion_blocks, fusion_attention, released_layout: of the dynamic fusion, ``DynamicFusion``.
    anchor_scale: side of the proposal anchors in strides.
    roi_samples: see ``RoIAlign``.
    roi_levels: pyramid levels that boxes are pooled from.
    box_convs, box_widths: of the box head.
    appearance: channels of the maps that embeddings alone are pooled from; 0: they are pooled
        from the pyramid.
    embed_convs, embed_groups, embed_width, embedding, temperature: of ``heads.EmbeddingHead``.
    masks: the light mask head, None for networks without; SAM brings its own.
    dense: one-stage proposals in place of proposal network and box head.

    """

    backbone: ResNetConfig | CspConfig | SwinConfig | SamConfig | TinyVitConfig
    channels: int = 256
    levels: int = 5
    fusion_blocks: int = 3
    fusion_attention: bool = False
    released_layout: bool = True
    anchor_scale: float = 8.0
    roi_samples: int = 0
    roi_levels: int = 4
    box_convs: int = 0
    box_widths: tuple[int, ...] = (1024, 1024)
    appearance: int = 0
    embed_convs: int = 4
    embed_groups: int = 32
    embed_width: int = 1024
    embedding: int = 256
    temperature: float = 0.0
    masks: MaskConfig | None = None
    dense: DenseConfig | None = None

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the pyramid levels in network-input pixels."""
        return tuple(self.backbone.first_stride << i for i in range(self.levels))


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """One member of the zoo.

    Attributes
    ----------
    name: as users give it.
    network: sizes.
    input_size, short_side: the image is scaled to fit them, pixels; 0: no limit.
    pad_multiple: the input is padded right and bottom to a multiple of this.
    fixed_size: the network takes no other input size.
    antialias: whether shrinking the image low-passes it; official models were trained without.
    candidates: anchors kept per pyramid level before suppression.
    proposals: boxes handed to the box head.
    proposal_nms_iou, nms_iou: suppression of proposals and of final boxes.
    min_side: thinner boxes are dropped, network pixels; the released code keeps them all.
    mask_share: of two masks the smaller of which lies in the other by more than this share, the
        better scored one stays; 1: both.
    mask_iou: of two masks that overlap by more than this (IoU) the better scored one stays.
    score_threshold, max_instances: what is returned.
    class_threshold: below this score a class is not named.
    class_names: by label, where the network knows classes.
    formerly: name of the model in files that were written before it had this one.
    weights: file that the package ships, or ''.

    """

    name: str
    network: NetworkConfig
    input_size: int = 1024
    short_side: int = 0
    pad_multiple: int = 32
    fixed_size: bool = False
    antialias: bool = False
    candidates: int = 1000
    proposals: int = 1000
    proposal_nms_iou: float = 0.7
    nms_iou: float = 0.5
    min_side: float = 0.0
    mask_share: float = 1.0
    mask_iou: float = 1.0
    score_threshold: float = 0.02
    max_instances: int = 50
    class_threshold: float = 0.4
    class_names: tuple[str, ...] = ()
    formerly: str = ''
    weights: str = ''

    @property
    def shipped_weights(self) -> Path | None:
        """Where the shipped weights lie, None for models without."""
        if not self.weights:
            return None
        return Path(__file__).parent.parent / 'weights' / self.weights
