# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""DEVA's propagation network as a ``masa_ros.propagators.protocol.Propagator``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from masa_ros.errors import WeightsError
from masa_ros.models.deva import weights
from masa_ros.models.deva.network import DevaNetwork, DevaSizes, ImageMaps
from masa_ros.models.devices import choose_device
from masa_ros.models.files import fingerprint, weights_folder
from masa_ros.models.preprocess import normalise
from masa_ros.models.upload import to_device
from masa_ros.propagators.deva.memory import DevaMemory, Encoded
from masa_ros.propagators.deva.options import DevaPropagatorConfig
from masa_ros.propagators.deva.placement import Placement
from masa_ros.types import Frame


class DevaPropagator:
    """Carries masks on by a memory that is read in every frame; see ``Propagator``.

    The masks of all objects of one frame that are to be found in another one (the projection of
    DEVA's consensus, paper eq. 1) are those of a fresh memory: it remembers the one frame, reads
    the other, and is thrown away.

    Parameters
    ----------
    network: of any sizes.
    config: see there; ``weights`` is not looked at.
    device: 'cpu', 'cuda:0', ...

    """

    def __init__(self, network: DevaNetwork, config: DevaPropagatorConfig, device: str) -> None:
        self.network = network.eval().to(device).to(memory_format=torch.channels_last)
        self.config, self.device, self.weights = config, device, 'random'

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
        path = Path(config.weights or weights_folder() / weights.PUBLISHED).expanduser()
        if not path.is_file():
            raise WeightsError(
                f'there is no file {path}: put the {weights.PUBLISHED} that the authors of DEVA '
                'publish there, or name it by the option weights'
            )
        network = DevaNetwork(DevaSizes())
        weights.load(network, path)
        propagator = cls(network, config, str(where))
        propagator.weights = f'{path.name} sha256:{fingerprint(path)[:12]}'
        return propagator

    @torch.inference_mode()
    def encode(self, frames: Sequence[Frame]) -> list[Encoded]:
        """Run the image encoder on frames of one size; see ``Propagator``."""
        if not frames:
            return []
        place = Placement.of(*frames[0].shape, self.config.size, self.config.resize)
        antialias = self.config.resize == 'eval'
        pixels = [to_device(frame.image, self.device).permute(2, 0, 1) for frame in frames]
        images = place.image_in(normalise(torch.stack(pixels)), antialias)
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
        return DevaMemory(self.network, self.config)

    def facts(self) -> Mapping[str, Any]:
        """Return what was loaded: model, weights, parameters, device."""
        return {
            'model': 'DEVA',
            'weights': self.weights,
            'parameters': sum(p.numel() for p in self.network.parameters()),
            'device': self.device,
        }
