# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The weights of the small propagation network, and the backbone that it shares with masa_nano."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from masa_ros.errors import WeightsError
from masa_ros.models import checkpoints
from masa_ros.models.nano_propagation import NanoPropagation
from masa_ros.models.zoo import model_config

_BACKBONE = 'backbone.'


def shipped() -> Path:
    """Return the file that comes with the package."""
    return Path(__file__).parent.parent / 'weights' / 'nano_propagator.safetensors'


def load_backbone(network: NanoPropagation, path: Path | None = None) -> str:
    """Fill the backbone from a file of masa_nano, the shipped one by default.

    Returns the check sum of its tensors. Raises WeightsError as ``load`` does.
    """
    path = path or model_config('masa_nano').shipped_weights or Path()
    every, _ = checkpoints.read_safetensors(path)
    tensors = {
        name.removeprefix(_BACKBONE): value
        for name, value in every.items()
        if name.startswith(_BACKBONE)
    }
    checkpoints.fill(network.backbone, tensors, f"{path} does not hold masa_nano's backbone")
    return _check_sum(tensors)


def load(network: NanoPropagation, path: Path) -> None:
    """Fill the network from a file that training wrote, its backbone from that of masa_nano.

    Raises
    ------
    WeightsError
        When the file is missing, damaged or of another network, or made on another backbone than
        that of the shipped masa_nano.

    """
    if not path.is_file():
        raise WeightsError(f'weights of the nano propagator: there is no file {path}')
    tensors, metadata = checkpoints.read_safetensors(path)
    sum_of_backbone = load_backbone(network)
    made_on = metadata.get('backbone', '')
    if made_on not in ('', sum_of_backbone):
        raise WeightsError(
            f'{path} was made on a backbone with the check sum {made_on}; that of the shipped '
            f'masa_nano has {sum_of_backbone}'
        )
    text = f'{path} does not fit the nano propagator'
    checkpoints.fill(network, tensors, text, given=_BACKBONE)


def save(network: NanoPropagation, path: Path, metadata: Mapping[str, str]) -> None:
    """Write all but the backbone in half precision; its check sum comes to the metadata."""
    state = network.state_dict()
    backbone = {
        name.removeprefix(_BACKBONE): value
        for name, value in state.items()
        if name.startswith(_BACKBONE)
    }
    own = {name: value for name, value in state.items() if not name.startswith(_BACKBONE)}
    checkpoints.write(own, path, {**metadata, 'backbone': _check_sum(backbone)})


def _check_sum(tensors: Mapping[str, Tensor]) -> str:
    """Return the start of a SHA-256 over tensors in half precision, whatever they are held in."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().half().numpy().tobytes())
    return digest.hexdigest()[:12]
