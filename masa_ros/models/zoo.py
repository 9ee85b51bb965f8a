"""The models by name: their sizes, input rules and default thresholds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from masa_ros.errors import ConfigError
from masa_ros.models.network import NetworkConfig


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """One member of the zoo.

    Attributes
    ----------
    name: as users give it.
    network: sizes.
    input_size: long side of the network input, pixels.
    pad_multiple: the input is padded right and bottom to a multiple of this.
    antialias: whether shrinking the image low-passes it; official models were trained without.
    candidates: anchors kept per pyramid level before suppression.
    proposals: boxes handed to the box head.
    proposal_nms_iou, nms_iou: suppression of proposals and of final boxes.
    score_threshold, max_instances: what is returned.
    weights: file that the package ships, or ''.

    """

    name: str
    network: NetworkConfig
    input_size: int
    pad_multiple: int
    antialias: bool
    candidates: int
    proposals: int
    proposal_nms_iou: float
    nms_iou: float
    score_threshold: float
    max_instances: int
    weights: str = ''

    @property
    def shipped_weights(self) -> Path | None:
        """Where the shipped weights lie, None for models without."""
        if not self.weights:
            return None
        return Path(__file__).parent.parent / 'weights' / self.weights


_NANO = ModelConfig(
    name='masa_nano',
    network=NetworkConfig(
        depths=(1, 2, 2, 2),
        widths=(32, 64, 128, 192),
        stem=16,
        bottleneck=False,
        first_stage=1,
        channels=48,
        levels=5,
        fusion_blocks=1,
        released_layout=False,
        anchor_scale=4.0,
        roi_samples=2,
        roi_levels=4,
        box_convs=0,
        box_widths=(256, 256),
        embed_convs=2,
        embed_groups=16,
        embed_width=256,
        embedding=128,
        temperature=0.07,
        detail=32,
        mask_convs=3,
    ),
    input_size=512,
    pad_multiple=32,
    antialias=True,
    candidates=300,
    proposals=150,
    proposal_nms_iou=0.7,
    nms_iou=0.5,
    score_threshold=0.3,
    max_instances=100,
    weights='masa_nano.safetensors',
)

_R50 = ModelConfig(
    name='masa_r50',
    network=NetworkConfig(
        depths=(3, 4, 6, 3),
        widths=(256, 512, 1024, 2048),
        stem=64,
        bottleneck=True,
        first_stage=0,
        channels=256,
        levels=5,
        fusion_blocks=3,
        released_layout=True,
        anchor_scale=8.0,
        roi_samples=0,
        roi_levels=4,
        box_convs=4,
        box_widths=(1024,),
        embed_convs=4,
        embed_groups=32,
        embed_width=1024,
        embedding=256,
    ),
    input_size=1024,
    pad_multiple=32,
    antialias=False,
    candidates=1000,
    proposals=1000,
    proposal_nms_iou=0.7,
    nms_iou=0.5,
    score_threshold=0.02,
    max_instances=50,
)

ZOO = {model.name: model for model in (_NANO, _R50)}


def model_config(name: str) -> ModelConfig:
    """Return the model of that name; raises ConfigError naming the ones there are."""
    try:
        return ZOO[name]
    except KeyError:
        raise ConfigError(f"no model is called '{name}'; there are: {', '.join(ZOO)}") from None
