# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Embeddings on a frozen backbone learn from what it made of earlier scenes, again and again.

Making scenes and running the backbone takes ten times as long as a step of the embeddings.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from masa_ros.models.network import MasaNetwork
from masa_ros.training.losses import MOST_IDS, Looks, seen_objects
from masa_ros.training.targets import LossConfig, Target


class Memory:
    """Features of objects before anything that learns, by scene.

    Parameters
    ----------
    most: scenes that are kept; new ones take the place of the oldest.
    seed: of the draws.

    """

    def __init__(self, most: int, seed: int) -> None:
        self._scenes: deque[Looks] = deque(maxlen=most)
        self._chance = torch.Generator().manual_seed(seed)

    def add(
        self, network: MasaNetwork, images: Tensor, targets: list[Target], config: LossConfig
    ) -> None:
        """Remember the scenes of a batch, see ``losses.objective``."""
        looks = seen_objects(network, images, targets, config)
        for scene in looks.scene.unique().tolist():
            self._scenes.append(Looks(*(values[looks.scene == scene] for values in looks)))

    def draw(self, count: int) -> Looks:
        """Return ``count`` of the scenes, numbered anew, or all."""
        order = torch.randperm(len(self._scenes), generator=self._chance)[:count].tolist()
        drawn = []
        for number, i in enumerate(order):
            looks = self._scenes[i]
            ids = looks.identity - looks.scene * MOST_IDS
            scene = torch.full_like(looks.scene, number)
            drawn.append(looks._replace(identity=scene * MOST_IDS + ids, scene=scene))
        return Looks(*(torch.cat(values) for values in zip(*drawn)))


def contrast(network: MasaNetwork, looks: Looks, config: LossConfig) -> dict[str, Tensor]:
    """Return the loss of objects that were drawn, by name."""
    assert network.appearance is not None
    mixed = looks._replace(pooled=network.appearance.mix(looks.pooled))
    return {'contrast': mixed.loss(network, config)[1]}
