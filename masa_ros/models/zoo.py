# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The models by name: their sizes, input rules and default thresholds."""

from __future__ import annotations

import dataclasses

from masa_ros.errors import ConfigError
from masa_ros.models.coco import COCO_CLASSES
from masa_ros.models.configs import (
    CspConfig,
    DenseConfig,
    MaskConfig,
    ModelConfig,
    NetworkConfig,
    ResNetConfig,
    SamConfig,
    SwinConfig,
    TinyVitConfig,
)

_NANO = ModelConfig(
    name='masa_nano',
    network=NetworkConfig(
        backbone=CspConfig(),
        channels=64,
        levels=3,
        fusion_blocks=0,
        roi_samples=2,
        roi_levels=3,
        appearance=48,
        embed_convs=0,
        embed_width=0,
        embedding=128,
        temperature=0.07,
        masks=MaskConfig(detail=32, convs=3),
        dense=DenseConfig(mix=0.2, shift=0.8),
    ),
    input_size=512,
    antialias=True,
    candidates=1000,
    nms_iou=0.6,
    min_side=1.0,
    mask_iou=0.7,
    score_threshold=0.4,
    max_instances=100,
    class_names=COCO_CLASSES,
    weights='masa_nano.safetensors',
)

# Files of masa_nano from before its embeddings had maps of their own.
_NANO3 = dataclasses.replace(
    _NANO,
    name='masa_nano3',
    formerly='masa_nano',
    network=dataclasses.replace(
        _NANO.network, appearance=0, embed_convs=2, embed_groups=16, embed_width=256
    ),
    weights='',
)

_NANO2 = ModelConfig(
    name='masa_nano2',
    formerly='masa_nano',
    network=NetworkConfig(
        backbone=ResNetConfig(
            depths=(1, 2, 2, 2),
            widths=(32, 64, 128, 192),
            stem=16,
            bottleneck=False,
            first_stage=1,
        ),
        channels=48,
        fusion_blocks=1,
        released_layout=False,
        anchor_scale=4.0,
        roi_samples=2,
        box_widths=(256, 256),
        embed_convs=2,
        embed_groups=16,
        embed_width=256,
        embedding=128,
        temperature=0.07,
        masks=MaskConfig(detail=32, convs=3),
    ),
    input_size=512,
    antialias=True,
    candidates=300,
    proposals=150,
    min_side=1.0,
    mask_share=0.6,
    score_threshold=0.55,
    max_instances=100,
)

_R50 = ModelConfig(
    name='masa_r50',
    network=NetworkConfig(
        backbone=ResNetConfig(
            depths=(3, 4, 6, 3), widths=(256, 512, 1024, 2048), stem=64, bottleneck=True
        ),
        box_convs=4,
        box_widths=(1024,),
    ),
)


def _sam(name: str, backbone: SamConfig) -> ModelConfig:
    return ModelConfig(
        name=name,
        network=NetworkConfig(backbone=backbone, fusion_attention=True),
        pad_multiple=1024,
        fixed_size=True,
    )


_SAM_VITB = _sam(
    'masa_sam_vitb',
    SamConfig(width=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11), taps=(2, 5, 8, 11)),
)

_SAM_VITH = _sam(
    'masa_sam_vith',
    SamConfig(width=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31), taps=(7, 15, 23, 31)),
)

_SAM_MOBILE = ModelConfig(
    name='masa_sam_mobile',
    network=NetworkConfig(backbone=TinyVitConfig(), levels=0),
    pad_multiple=1024,
    fixed_size=True,
    antialias=True,
)

_DETIC = ModelConfig(
    name='masa_detic',
    network=NetworkConfig(backbone=SwinConfig(window=7), roi_levels=3),
    input_size=1333,
    short_side=800,
    score_threshold=0.05,
    max_instances=100,
)

_GDINO = ModelConfig(
    name='masa_gdino',
    network=NetworkConfig(backbone=SwinConfig(window=12), roi_levels=3),
    input_size=1333,
    short_side=800,
)

ZOO = {
    model.name: model
    for model in (_NANO, _NANO2, _NANO3, _R50, _SAM_VITB, _SAM_VITH, _SAM_MOBILE, _DETIC, _GDINO)
}


def model_config(name: str) -> ModelConfig:
    """Return the model of that name; raises ConfigError naming the ones there are."""
    try:
        return ZOO[name]
    except KeyError:
        raise ConfigError(f"no model is called '{name}'; there are: {', '.join(ZOO)}") from None
