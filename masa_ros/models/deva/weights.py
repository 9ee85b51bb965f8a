# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Filling DEVA's network from the published file, or from one of ours."""

from __future__ import annotations

from pathlib import Path

from masa_ros.models import checkpoints
from masa_ros.models.deva.network import DevaNetwork


def load(network: DevaNetwork, path: Path) -> None:
    """Fill the network from a safetensors file or a checkpoint as it was published.

    Raises
    ------
    WeightsError
        When the file is missing, damaged or of another network: when a tensor of the network is
        missing, one of the file unknown, or a shape different.

    """
    every = checkpoints.read_either(path)
    tensors = {k: v for k, v in every.items() if not k.endswith(checkpoints.COUNTER)}
    checkpoints.fill(network, tensors, f"{path} does not fit DEVA's propagation network")
