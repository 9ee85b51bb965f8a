# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The stages of networks with DEVA's memory; the memory is read between them, by PyTorch.

======  ================================================  =========================================
stage   inputs                                            outputs
======  ================================================  =========================================
image   images (B, 3, H, W)                               f16, f8, f4, key, shrinkage, selection
masks   readout, sensory (N, C, h, w), last (N, h, w),    logits (N, H / 4, W / 4), sensory
        f16, f8, f4 of one image
values  masks (N, H, W), sensory (N, C, h, w), images     values (N, C, h, w), sensory
        where they are looked at, f16, f8, f4 of one
======  ================================================  =========================================

The sensory memory that a stage gives is the one it was given, after what the stage has seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from masa_ros.models.deva.network import ImageMaps, Maps
from masa_ros.models.deva.reading import similarity
from masa_ros.models.stages import Stage, Tensors, least_cosine

if TYPE_CHECKING:  # a stage depends on the parts that it runs, not on those of other networks
    from masa_ros.models.deva.network import DevaNetwork


class ImageStage(Stage):
    """What is seen in an image; the parts differ from network to network."""

    name = 'image'
    inputs = ('images',)
    outputs = ImageMaps._fields
    mixed = True
    limits: ClassVar[Mapping[str, float]] = {
        'map cosine, least': 0.998,
        'what is read, mean overlap': 0.98,
    }

    def agreement(self, inputs: Tensors, expected: Tensors, found: Tensors) -> dict[str, float]:
        """Compare the maps, and how much every position would read of every other.

        Keys hold positions, which are large and always right: their cosine would tell nothing.
        """
        ours, theirs = (_self_reading(side) for side in (found, expected))
        names = ('f16', 'f8', 'f4', 'shrinkage', 'selection')
        return {
            'map cosine, least': least_cosine(expected, found, names),
            'what is read, mean overlap': float(torch.minimum(ours, theirs).sum(1).mean()),
        }


def _self_reading(maps: Tensors) -> Tensor:
    """Return how much every position of a frame reads of the others, (Q, Q), rows sum to 1."""
    key, selection, shrinkage = (
        maps[name][0].flatten(1).T for name in ('key', 'selection', 'shrinkage')
    )
    alike = similarity(key, selection, key, shrinkage)
    return alike.fill_diagonal_(-torch.inf).softmax(1)


class DevaImageStage(ImageStage):
    """That of DEVA's own network."""

    def __init__(self, network: DevaNetwork) -> None:
        super().__init__()
        self.pixel_encoder, self.key_proj = network.pixel_encoder, network.key_proj

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the table above."""
        f16, f8, f4, x = self.pixel_encoder(images)
        return (f16, f8, f4, *self.key_proj(x))


class MaskStage(Stage):
    """Draw objects, and tell their sensory memories what was seen."""

    name = 'masks'
    rows = ('readout', 'sensory', 'last')
    inputs = (*rows, *Maps._fields)
    outputs = ('logits', 'sensory')
    most = 16
    limits: ClassVar[Mapping[str, float]] = {
        'mask IoU, mean': 0.98,
        'mask IoU, least': 0.8,
        'cosine, least': 0.998,
    }

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.decoder = network.mask_decoder

    def forward(
        self, readout: Tensor, sensory: Tensor, last: Tensor, *maps: Tensor
    ) -> tuple[Tensor, ...]:
        """See the table above."""
        decoded = self.decoder(Maps(*maps), readout, sensory, last)
        return decoded.logits, self.decoder.sensory_update(decoded.update, sensory)

    def agreement(self, inputs: Tensors, expected: Tensors, found: Tensors) -> dict[str, float]:
        """Compare the cells that are drawn, and all numbers."""
        ours, theirs = (side['logits'].flatten(1) > 0 for side in (found, expected))
        union = (ours | theirs).sum(1)
        iou = (ours & theirs).sum(1) / union.clamp(min=1)
        iou[union < 16] = 1.0  # next to nothing in both
        return {
            'mask IoU, mean': float(iou.mean()),
            'mask IoU, least': float(iou.min()),
            'cosine, least': least_cosine(expected, found, self.outputs),
        }


class ValueStage(Stage):
    """What is to be remembered of objects in an image."""

    name = 'values'
    rows = ('masks', 'sensory')
    outputs = ('values', 'sensory')
    most = 16

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.encoder = network.mask_encoder
        images = ('images',) if self.encoder.reads_image else ()
        self.inputs = (*self.rows, *Maps._fields, *images)

    def forward(
        self, masks: Tensor, sensory: Tensor, f16: Tensor, f8: Tensor, f4: Tensor, *images: Tensor
    ) -> tuple[Tensor, ...]:
        """See the table above."""
        values = self.encoder(next(iter(images), None), Maps(f16, f8, f4), masks)
        return values, self.encoder.sensory_update(values, sensory)


def deva_stages(network: Any, image: ImageStage) -> dict[str, Stage]:
    """Return the stages of a network by name; they share its parameters."""
    stages: list[Stage] = [image, MaskStage(network), ValueStage(network)]
    return {stage.name: stage.eval() for stage in stages}
