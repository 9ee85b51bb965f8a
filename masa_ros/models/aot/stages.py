# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The stages of DeAOT's network.

======  =====================================  ==========================================
stage   inputs                                 outputs
======  =====================================  ==========================================
image   images (B, 3, H, W)                    f4, f8, f16, embedding of ``ImageMaps``
masks   final (1, 2 C, h, w) of the layers,    logits (1 + 10, ., .) of stride 4
        f4, f8, f16 of one image
======  =====================================  ==========================================

The layers of propagation run between them by PyTorch: most of what they do is products with a
memory whose size changes from frame to frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from masa_ros.models.aot.network import ImageMaps
from masa_ros.models.stages import Stage, Tensors, least_cosine

if TYPE_CHECKING:
    from masa_ros.models.aot.network import DeAotNetwork


class ImageStage(Stage):
    """What is seen in an image."""

    name = 'image'
    inputs = ('images',)
    outputs = ImageMaps._fields
    mixed = True

    def __init__(self, network: DeAotNetwork) -> None:
        super().__init__()
        self.encoder, self.projector = network.encoder, network.encoder_projector

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the table above."""
        f4, f8, f16 = self.encoder(images)
        return f4, f8, f16, self.projector(f16)


class MaskStage(Stage):
    """Who is where."""

    name = 'masks'
    inputs = ('final', 'f4', 'f8', 'f16')
    outputs = ('logits',)
    limits: ClassVar[Mapping[str, float]] = {
        'cosine, least': 0.998,
        'identity, share of the cells': 0.98,
    }

    def __init__(self, network: DeAotNetwork) -> None:
        super().__init__()
        self.decoder = network.decoder

    def forward(self, final: Tensor, f4: Tensor, f8: Tensor, f16: Tensor) -> tuple[Tensor, ...]:
        """See the table above."""
        return (self.decoder(ImageMaps(f4, f8, f16, f16), final),)

    def agreement(self, inputs: Tensors, expected: Tensors, found: Tensors) -> dict[str, float]:
        """Compare who is there in every cell, and all numbers."""
        same = found['logits'].argmax(0) == expected['logits'].argmax(0)
        return {
            'cosine, least': least_cosine(expected, found, self.outputs),
            'identity, share of the cells': float(same.float().mean()),
        }


def aot_stages(network: DeAotNetwork) -> dict[str, Stage]:
    """Return the stages of a network by name; they share its parameters."""
    stages: list[Stage] = [ImageStage(network), MaskStage(network)]
    return {stage.name: stage.eval() for stage in stages}
