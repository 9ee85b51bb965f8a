# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Networks with DEVA's memory as ``masa_ros.propagators.protocol.Propagator``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from masa_ros.models.deva import weights
from masa_ros.models.deva.network import DevaNetwork, DevaSizes, ImageMaps
from masa_ros.models.devices import choose_device
from masa_ros.models.files import DEVA_FILE, locate
from masa_ros.models.nano_propagation import NanoPropagation
from masa_ros.models.preprocess import normalise
from masa_ros.models.upload import to_device
from masa_ros.propagators.deva.memory import DevaMemory, Encoded
from masa_ros.propagators.deva.options import DevaPropagatorConfig, MemoryConfig
from masa_ros.propagators.loaded import Loaded, version
from masa_ros.types import Frame


class MemoryPropagator(Loaded):
    """Carries masks on by a memory that is read in every frame; see ``Propagator``.

    The masks of all objects of one frame that are to be found in another one (the projection of
    DEVA's consensus, paper eq. 1) are those of a fresh memory: it remembers the one frame, reads
    the other, and is thrown away.
    """

    network: DevaNetwork | NanoPropagation
    config: MemoryConfig

    @torch.inference_mode()
    def encode(self, frames: Sequence[Frame]) -> list[Encoded]:
        """Run the image encoder on frames of one size; see ``Propagator``."""
        if not frames:
            return []
        place = self.config.placement(*frames[0].shape)
        pixels = [to_device(frame.image, self.device).permute(2, 0, 1) for frame in frames]
        images = place.image_in(normalise(torch.stack(pixels))).to(self.dtype)
        every = self.network(images)
        encoded = []
        for i in range(len(frames)):
            maps = ImageMaps(*(x[i : i + 1] for x in every))
            # Copies: what goes into a memory must not hold the maps of the whole batch.
            tokens = (
                x[0].flatten(1).T.clone() for x in (maps.key, maps.selection, maps.shrinkage)
            )
            encoded.append(Encoded(place, images[i : i + 1], maps, *tokens))
        return encoded

    def memory(self) -> DevaMemory:
        """Begin to remember; see ``Propagator``."""
        return DevaMemory(self)


class DevaPropagator(MemoryPropagator):
    """The published network."""

    model = 'DEVA'
    network: DevaNetwork

    @classmethod
    def load(cls, config: DevaPropagatorConfig, device: str) -> DevaPropagator:
        """Build the published network and read its weights.

        Raises
        ------
        ConfigError
            When the device is not there.
        WeightsError
            When the weights file is missing or does not fit.

        """
        where = choose_device(device)
        path = Path(config.weights).expanduser() if config.weights else locate(DEVA_FILE)
        network = DevaNetwork(DevaSizes())
        weights.load(network, path)
        return cls(network, config, str(where), version(path))
