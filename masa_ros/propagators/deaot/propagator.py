# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""DeAOT's network as ``masa_ros.propagators.protocol.Propagator``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from masa_ros.models.aot import weights
from masa_ros.models.aot.network import AotSizes, DeAotNetwork, ImageMaps
from masa_ros.models.aot.stages import aot_stages
from masa_ros.models.devices import choose_device
from masa_ros.models.files import DEAOT_FILE, locate
from masa_ros.models.preprocess import normalise
from masa_ros.models.staged import check_precision
from masa_ros.models.stages import Run, Stage
from masa_ros.models.upload import to_device
from masa_ros.propagators.deaot.memory import DeaotMemory, Encoded
from masa_ros.propagators.deaot.options import DeaotPropagatorConfig
from masa_ros.propagators.deaot.placement import Placement
from masa_ros.propagators.loaded import InStages, version
from masa_ros.types import Frame


class DeaotPropagator(InStages):
    """Carries masks on; see ``Propagator``."""

    name = 'deaot'
    model = 'DeAOT-L R50'
    network: DeAotNetwork
    config: DeaotPropagatorConfig
    whole = Placement

    def stages_of(self, network: DeAotNetwork) -> Mapping[str, Stage]:
        """See ``Staged``."""
        return aot_stages(network)

    @classmethod
    def load(cls, config: DeaotPropagatorConfig, device: str) -> DeaotPropagator:
        """Build the published network, DeAOT-L on ResNet-50, and read its weights.

        Raises
        ------
        ConfigError
            When the device is not there, or has not the precision.
        WeightsError
            When the weights file is missing or does not fit.

        """
        where = choose_device(device)
        check_precision(config.precision, where)
        path = Path(config.weights).expanduser() if config.weights else locate(DEAOT_FILE)
        network = DeAotNetwork(AotSizes())
        weights.load(network, path)
        return cls(network, config, str(where), version(path))

    @torch.inference_mode()
    def encode(self, frames: Sequence[Frame]) -> list[Encoded]:
        """Run the image encoder on frames of one size; see ``Propagator``."""
        if not frames:
            return []
        place = self.config.placement(*frames[0].shape)
        # Held until they are copied below: the tensors are views of their memory.
        images = [place.image_in(frame.image) for frame in frames]
        pixels = [to_device(image, self.device).permute(2, 0, 1) for image in images]
        tensor = normalise(torch.stack(pixels))
        return self.encoded(tensor, place, self.runs((place.rows, place.columns)))

    def encoded(self, images: Tensor, place: Placement, run: Mapping[str, Run]) -> list[Encoded]:
        """Run the image encoder on its inputs; see ``InStages``."""
        every = self.image_stage(images, run)
        return [
            Encoded(place, ImageMaps(**{k: x.to(self.dtype) for k, x in made.items()}), run)
            for made in every
        ]

    def input_shape(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of the network's input for frames of this size."""
        place = self.config.placement(height, width)
        return place.rows, place.columns

    def memory(self) -> DeaotMemory:
        """Begin to remember; see ``Propagator``."""
        return DeaotMemory(self)
