# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Filling DeAOT's network from the published file, or from one of ours."""

from __future__ import annotations

from pathlib import Path

from masa_ros.models import checkpoints
from masa_ros.models.aot.network import DeAotNetwork

_PARALLEL = 'module.'  # begins the names of a network that was trained on several GPUs


def load(network: DeAotNetwork, path: Path) -> None:
    """Fill the network from a safetensors file or a checkpoint as it was published.

    Raises
    ------
    WeightsError
        When the file is missing, damaged or of another network: when a tensor of the network is
        missing, one of the file unknown, or a shape different.

    """
    every = checkpoints.read_either(path)
    tensors = {
        name.removeprefix(_PARALLEL): value
        for name, value in every.items()
        if not name.endswith(checkpoints.COUNTER)
    }
    checkpoints.fill(network, tensors, f"{path} does not fit DeAOT's network on ResNet-50")
