"""Reading and writing of weights files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from masa_ros.errors import WeightsError
from masa_ros.models.network import MasaNetwork


def save(network: MasaNetwork, path: Path, metadata: dict[str, str]) -> None:
    """Write the network's tensors in half precision with ``metadata`` beside them, atomically."""
    tensors = {
        name: value.detach().cpu().contiguous().half() if value.is_floating_point() else value
        for name, value in network.state_dict().items()
        if not name.endswith('num_batches_tracked')  # counts training steps, no meaning after
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix('.tmp')
    save_file(tensors, temporary, metadata=metadata)
    temporary.replace(path)


def load(network: MasaNetwork, path: Path, model: str) -> dict[str, str]:
    """Fill the network from a safetensors file and return the file's metadata.

    Raises
    ------
    WeightsError
        When the file is missing, no safetensors file, made for another model, or when a tensor
        is missing, left over or of another shape.

    """
    if not path.is_file():
        raise WeightsError(f'weights of {model}: there is no file {path}')
    try:
        with safe_open(path, framework='pt') as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f'{path} is not a readable safetensors file: {error}') from error
    made_for = metadata.get('model', model)
    if made_for != model:
        raise WeightsError(f'{path} holds weights of {made_for}, the chosen model is {model}')
    own = {
        name: value
        for name, value in network.state_dict().items()
        if not name.endswith('num_batches_tracked')
    }
    wrong = [f'{name} is missing' for name in own.keys() - tensors.keys()]
    wrong += [f'{name} is unknown' for name in tensors.keys() - own.keys()]
    wrong += [
        f'{name} has shape {tuple(tensors[name].shape)}, expected {tuple(own[name].shape)}'
        for name in own.keys() & tensors.keys()
        if tensors[name].shape != own[name].shape
    ]
    if wrong:
        shown = '; '.join(sorted(wrong)[:5])
        raise WeightsError(f'{path} does not fit {model}, {len(wrong)} differences: {shown}')
    network.load_state_dict(tensors, strict=False)
    return metadata


def fingerprint(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
