# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The small propagation network that is shipped, with DEVA's memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.ndimage import find_objects
from torch import Tensor

from masa_ros.models import nano_weights
from masa_ros.models.deva.stages import deva_stages
from masa_ros.models.devices import choose_device
from masa_ros.models.nano_propagation import NanoImageStage, NanoPropagation, NanoSizes
from masa_ros.models.preprocess import fitted_size
from masa_ros.models.staged import check_precision
from masa_ros.models.stages import Stage
from masa_ros.options import option
from masa_ros.propagators.deva.memory import DevaMemory, Encoded
from masa_ros.propagators.deva.options import MemoryConfig
from masa_ros.propagators.deva.placement import Placement
from masa_ros.propagators.deva.propagator import MemoryPropagator
from masa_ros.propagators.loaded import version


@dataclasses.dataclass(frozen=True)
class NanoPropagatorConfig(MemoryConfig):
    """Options of the small network's propagation; raises ConfigError naming one that is wrong."""

    weights: str = option('', "file of the network's weights; '' is the one that is shipped")
    size: int = option(512, 'long side that images are resized to, pixels', 64, 4096)
    mem_every: int = option(3, 'every so many frames one is remembered', 1, 1000, live=True)
    max_mid: int = option(
        6, 'frames in the working memory at which it is condensed', 2, 1000, live=True
    )
    min_mid: int = option(
        3, 'frames that stay in it then: the first and the last', 1, 999, live=True
    )
    prototypes: int = option(64, 'places that are kept each time', 1, 10_000, live=True)
    max_long: int = option(1000, 'most of them that are held', 2, 1_000_000, live=True)
    min_piece: float = option(
        0.1,
        'pieces of a mask smaller than this share of its largest one are taken for mistakes',
        0,
        1,
        live=True,
    )

    def placement(self, height: int, width: int) -> Placement:
        """See ``MemoryConfig``."""
        fitted = fitted_size(height, width, self.size, self.size)
        return Placement(height, width, *fitted, antialias=True, multiple=NanoPropagation.STRIDE)


class NanoMemory(DevaMemory):
    """See ``DevaMemory``. Small pieces of masks are neither answered nor remembered."""

    def _segment(self, encoded: Encoded) -> tuple[Tensor, dict[int, Tensor]]:
        masks, updates = super()._segment(encoded)
        config: NanoPropagatorConfig = self._propagator.config
        return without_small_pieces(masks, config.min_piece), updates


def without_small_pieces(masks: Tensor, least: float) -> Tensor:
    """Give the pixels of small pieces to the background, in place.

    Parameters
    ----------
    masks: (1 + N, H, W) probabilities, background first.
    least: share of the largest piece of what is most probable below which one is small.

    """
    labels = masks.max(0).indices.to(torch.int32).cpu().numpy()  # faster than argmax
    small = np.zeros(labels.shape, np.bool_)
    for label, window in enumerate(find_objects(labels), 1):
        if window is None:
            continue
        inside = (labels[window] == label).astype(np.uint8)
        count, pieces, stats, _ = cv2.connectedComponentsWithStats(inside)
        if count > 2:
            areas = stats[:, cv2.CC_STAT_AREA]
            few = areas < least * areas[1:].max()
            few[0] = False  # all around them
            small[window] |= few[pieces]
    if small.any():
        where = torch.from_numpy(small).to(masks.device)
        masks[:, where], masks[0, where] = 0, 1
    return masks


class NanoPropagator(MemoryPropagator):
    """See ``MemoryPropagator``."""

    name = 'nano'
    model = 'nano'
    network: NanoPropagation

    def stages_of(self, network: NanoPropagation) -> Mapping[str, Stage]:
        """See ``Staged``."""
        return deva_stages(network, NanoImageStage(network))

    def memory(self) -> NanoMemory:
        """Begin to remember; see ``Propagator``."""
        return NanoMemory(self)

    @classmethod
    def load(cls, config: NanoPropagatorConfig, device: str) -> NanoPropagator:
        """Build the network and read its weights, and those of masa_nano's backbone.

        Raises
        ------
        ConfigError
            When the device is not there, or has not the precision.
        WeightsError
            When a weights file is missing or does not fit.

        """
        where = choose_device(device)
        check_precision(config.precision, where)
        path = Path(config.weights).expanduser() if config.weights else nano_weights.shipped()
        network = NanoPropagation(NanoSizes())
        nano_weights.load(network, path)
        return cls(network, config, str(where), version(path))
