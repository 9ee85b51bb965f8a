# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Filling networks from weights files, ours and published ones, and writing ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from masa_ros.errors import WeightsError
from masa_ros.models import official
from masa_ros.models.configs import ModelConfig, SamConfig
from masa_ros.models.files import SAM_FILES, locate
from masa_ros.models.network import MasaNetwork
from masa_ros.models.zoo import ZOO

COUNTER = 'num_batches_tracked'
"""Ends the names of tensors that count training steps: they have no meaning after."""


def save(network: MasaNetwork, path: Path, metadata: dict[str, str]) -> None:
    """Write the network's tensors in half precision with ``metadata`` beside them, atomically."""
    write(network.state_dict(), path, metadata)


def write(state: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write tensors by name in half precision with ``metadata`` beside them, atomically."""
    tensors = {
        name: value.detach().cpu().contiguous().half() if value.is_floating_point() else value
        for name, value in state.items()
        if not name.endswith(COUNTER)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix('.tmp')
    save_file(tensors, temporary, metadata=metadata)
    temporary.replace(path)


def load(
    network: MasaNetwork, path: Path, model: ModelConfig, anew: Sequence[str] = ()
) -> dict[str, str]:
    """Fill the network from a safetensors file of ours or a checkpoint as it was published.

    Parts that begin ``anew`` keep the weights they have, whatever the file says of them.

    A published MASA-SAM file without SAM's own tensors is completed by the file of SAM, looked
    for beside it and in the weights folder. Returns the metadata of files of ours.

    Raises
    ------
    WeightsError
        When a file is missing, damaged or made for another model: when a tensor of the network
        is missing, one of the file unknown, or a shape different.

    """
    metadata: dict[str, str] = {}
    if path.suffix == '.safetensors':
        tensors, metadata = _read_safetensors(path, model)
    else:
        tensors = official.translate(model, official.read(path))
        frozen = isinstance(model.network.backbone, SamConfig) and not any(
            name.startswith(('backbone.', 'masks.')) for name in tensors
        )
        if frozen:
            sam = locate(SAM_FILES[model.name], beside=path)
            tensors |= official.translate(model, official.read(sam))
    begun = tuple(f'{part}.' for part in anew)
    own = {name: value for name, value in network.state_dict().items() if name.startswith(begun)}
    tensors = {n: value for n, value in tensors.items() if not n.startswith(begun)} | own
    wrong = differences(network, tensors)
    if wrong:
        likely = _made_for(tensors, path)
        shown = '; '.join(wrong[:5])
        raise WeightsError(
            f'{path} does not fit {model.name}, {len(wrong)} differences: {shown}'
            + (f'. It looks like a file of {likely}' if likely not in ('', model.name) else '')
        )
    network.load_state_dict(tensors, strict=False)
    return metadata


def _read_safetensors(path: Path, model: ModelConfig) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise WeightsError(f'weights of {model.name}: there is no file {path}')
    tensors, metadata = read_safetensors(path)
    made_for = metadata.get('model', model.name)
    if made_for not in (model.name, model.formerly):
        raise WeightsError(f'{path} holds weights of {made_for}, the chosen model is {model.name}')
    return tensors, metadata


def read_either(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, or of a checkpoint; raises as ``official.read``."""
    if path.suffix == '.safetensors':
        return read_safetensors(path)[0]
    return official.read(path)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of a file; raises WeightsError when it cannot be read."""
    try:
        with safe_open(path, framework='pt') as file:
            metadata = dict(file.metadata() or {})
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f'{path} is not a readable safetensors file: {error}') from error


def differences(network: nn.Module, tensors: dict[str, Tensor]) -> list[str]:
    """Return how tensors by name differ from those of a network: missing, unknown, of a shape."""
    own = {
        name: value for name, value in network.state_dict().items() if not name.endswith(COUNTER)
    }
    wrong = [f'{name} is missing' for name in sorted(own.keys() - tensors.keys())]
    wrong += [
        f'{name} has shape {tuple(tensors[name].shape)}, expected {tuple(own[name].shape)}'
        for name in sorted(own.keys() & tensors.keys())
        if tensors[name].shape != own[name].shape
    ]
    wrong += [f'{name} is unknown' for name in sorted(tensors.keys() - own.keys())]
    return wrong


def fill(module: nn.Module, tensors: dict[str, Tensor], text: str, given: str = '') -> None:
    """Fill a module; ``text`` begins the WeightsError where tensors do not fit it.

    Tensors of the module whose names start with ``given`` are there already.
    """
    own = {n: v for n, v in module.state_dict().items() if given and n.startswith(given)}
    if wrong := differences(module, {**own, **tensors}):
        raise WeightsError(f'{text}, {len(wrong)} differences: ' + '; '.join(wrong[:5]))
    module.load_state_dict(tensors, strict=False)


def _made_for(tensors: dict[str, Tensor], path: Path) -> str:
    """Name of the model whose network has the most of these tensors, '' when none has half."""
    if path.suffix != '.safetensors':
        tensors = official.read(path)
    best, most = '', len(tensors) // 2
    for model in ZOO.values():
        with torch.device('meta'):
            own = MasaNetwork(model.network).state_dict()
        named = tensors
        if path.suffix != '.safetensors':
            named = official.translate(model, tensors)
        fitting = sum(k in own and own[k].shape == v.shape for k, v in named.items())
        if fitting > most:
            best, most = model.name, fitting
    return best
