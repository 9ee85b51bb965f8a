# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""DeAOT's network as ``masa_ros.propagators.protocol.Propagator``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from masa_ros.models.aot import weights
from masa_ros.models.aot.network import AotSizes, DeAotNetwork, ImageMaps
from masa_ros.models.devices import choose_device
from masa_ros.models.files import DEAOT_FILE, locate
from masa_ros.models.preprocess import normalise
from masa_ros.models.upload import to_device
from masa_ros.propagators.deaot.memory import DeaotMemory, Encoded
from masa_ros.propagators.deaot.options import DeaotPropagatorConfig
from masa_ros.propagators.loaded import Loaded, version
from masa_ros.types import Frame


class DeaotPropagator(Loaded):
    """Carries masks on; see ``Propagator``."""

    model = 'DeAOT-L R50'
    network: DeAotNetwork
    config: DeaotPropagatorConfig

    @classmethod
    def load(cls, config: DeaotPropagatorConfig, device: str) -> DeaotPropagator:
        """Build the published network, DeAOT-L on ResNet-50, and read its weights.

        Raises
        ------
        ConfigError
            When the device is not there.
        WeightsError
            When the weights file is missing or does not fit.

        """
        where = choose_device(device)
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
        every = self.network(normalise(torch.stack(pixels)))
        return [
            Encoded(place, ImageMaps(*(x[i : i + 1] for x in every))) for i in range(len(frames))
        ]

    def memory(self) -> DeaotMemory:
        """Begin to remember; see ``Propagator``."""
        return DeaotMemory(self)
