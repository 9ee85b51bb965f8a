# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Filling DEVA's network from the published file, or from one of ours."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from masa_ros.errors import WeightsError
from masa_ros.models import official
from masa_ros.models.deva.network import DevaNetwork

PUBLISHED = 'DEVA-propagation.pth'
_COUNTER = 'num_batches_tracked'  # counts training steps


def load(network: DevaNetwork, path: Path) -> None:
    """Fill the network from a safetensors file or a checkpoint as it was published.

    Raises
    ------
    WeightsError
        When the file is missing, damaged or of another network: when a tensor of the network is
        missing, one of the file unknown, or a shape different.

    """
    if path.suffix == '.safetensors':
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f'{path} is not a readable safetensors file: {error}') from error
    else:
        tensors = official.read(path)
    own = {k: v.shape for k, v in network.state_dict().items() if not k.endswith(_COUNTER)}
    given = {k: v.shape for k, v in tensors.items() if not k.endswith(_COUNTER)}
    wrong = [f'{name} is missing' for name in sorted(own.keys() - given.keys())]
    wrong += [
        f'{name} has shape {tuple(given[name])}, expected {tuple(own[name])}'
        for name in sorted(own.keys() & given.keys())
        if given[name] != own[name]
    ]
    wrong += [f'{name} is unknown' for name in sorted(given.keys() - own.keys())]
    if wrong:
        raise WeightsError(
            f"{path} does not fit DEVA's propagation network, {len(wrong)} differences: "
            + '; '.join(wrong[:5])
        )
    network.load_state_dict(tensors, strict=False)
