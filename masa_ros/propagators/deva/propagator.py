# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Networks with DEVA's memory as ``masa_ros.propagators.protocol.Propagator``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from masa_ros.models.deva import weights
from masa_ros.models.deva.network import DevaNetwork, DevaSizes, ImageMaps
from masa_ros.models.deva.stages import DevaImageStage, deva_stages
from masa_ros.models.devices import choose_device
from masa_ros.models.files import DEVA_FILE, locate
from masa_ros.models.nano_propagation import NanoPropagation
from masa_ros.models.precision import at_least_float32
from masa_ros.models.preprocess import normalise
from masa_ros.models.staged import check_precision
from masa_ros.models.stages import Run, Stage
from masa_ros.models.upload import to_device
from masa_ros.propagators.deva.memory import DevaMemory, Encoded
from masa_ros.propagators.deva.options import DevaPropagatorConfig, MemoryConfig
from masa_ros.propagators.deva.placement import Placement
from masa_ros.propagators.loaded import InStages, version
from masa_ros.types import Frame


class MemoryPropagator(InStages):
    """Carries masks on by a memory that is read in every frame; see ``Propagator``.

    The masks of all objects of one frame that are to be found in another one (the projection of
    DEVA's consensus, paper eq. 1) are those of a fresh memory: it remembers the one frame, reads
    the other, and is thrown away.
    """

    network: DevaNetwork | NanoPropagation
    config: MemoryConfig
    whole = Placement

    @torch.inference_mode()
    def encode(self, frames: Sequence[Frame]) -> list[Encoded]:
        """Run the image encoder on frames of one size; see ``Propagator``."""
        if not frames:
            return []
        place = self.config.placement(*frames[0].shape)
        pixels = [to_device(frame.image, self.device).permute(2, 0, 1) for frame in frames]
        images = place.image_in(normalise(torch.stack(pixels)))
        return self.encoded(images, place, self.runs((images.shape[2], images.shape[3])))

    def encoded(self, images: Tensor, place: Placement, run: Mapping[str, Run]) -> list[Encoded]:
        """Run the image encoder on its inputs; see ``InStages``."""
        images = images.to(self.dtype)
        encoded = []
        for i, made in enumerate(self.image_stage(images, run)):
            maps = ImageMaps(**made)
            # Copies: what goes into a memory must not hold the maps of the whole batch.
            keys, selections, shrinkage = (
                at_least_float32(x)[0].flatten(1).T.clone()
                for x in (maps.key, maps.selection, maps.shrinkage)
            )
            image = images[i : i + 1]
            encoded.append(Encoded(place, image, maps, keys, selections, shrinkage, run))
        return encoded

    def input_shape(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of the network's input for frames of this size."""
        return self.config.placement(height, width).input_shape

    def memory(self) -> DevaMemory:
        """Begin to remember; see ``Propagator``."""
        return DevaMemory(self)


class DevaPropagator(MemoryPropagator):
    """The published network."""

    name = 'deva'
    model = 'DEVA'
    network: DevaNetwork

    def stages_of(self, network: DevaNetwork) -> Mapping[str, Stage]:
        """See ``Staged``."""
        return deva_stages(network, DevaImageStage(network))

    @classmethod
    def load(cls, config: DevaPropagatorConfig, device: str) -> DevaPropagator:
        """Build the published network and read its weights.

        Raises
        ------
        ConfigError
            When the device is not there, or has not the precision.
        WeightsError
            When the weights file is missing or does not fit.

        """
        where = choose_device(device)
        check_precision(config.precision, where)
        path = Path(config.weights).expanduser() if config.weights else locate(DEVA_FILE)
        network = DevaNetwork(DevaSizes())
        weights.load(network, path)
        return cls(network, config, str(where), version(path))
