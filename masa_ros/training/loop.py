# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What every training loop needs: a learning rate, averaged weights, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import cv2
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from masa_ros.errors import WeightsError


def alone(worker: int) -> None:
    """Begin a worker process: it shares few cores with the training itself."""
    cv2.setNumThreads(0)


def rate(progress: float, step: int, warmup: int) -> float:
    """Return the share of the learning rate at a progress of 0..1: it rises, then falls to 0."""
    return 0.5 * (1 + math.cos(math.pi * progress)) * min(1, (step + 1) / warmup)


@torch.no_grad()
def average(mean: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Let averaged weights follow a network after its step number ``step``.

    They must not remember the random start, so their memory grows with the run.
    """
    decay = min(decay, step / (step + 10))
    for kept, value in zip(mean.state_dict().values(), network.state_dict().values()):
        if kept.is_floating_point():
            kept.lerp_(value, 1 - decay)
        else:
            kept.copy_(value)


def save(
    path: Path,
    networks: Mapping[str, nn.Module],
    optimiser: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    """Write a checkpoint, whole or not at all."""
    tensors: dict[str, Tensor] = {}
    for prefix, network in networks.items():
        tensors |= {f'{prefix}.{k}': v.contiguous() for k, v in network.state_dict().items()}
    for i, values in optimiser.state_dict()['state'].items():
        tensors |= {f'optimiser.{i}.{k}': v.contiguous() for k, v in values.items()}
    temporary = path.with_suffix('.tmp')
    save_file(tensors, temporary, metadata={'step': str(step), 'seconds': repr(seconds)})
    temporary.replace(path)


def load(
    path: Path, networks: Mapping[str, nn.Module], optimiser: torch.optim.Optimizer
) -> tuple[int, float]:
    """Fill networks and optimiser from a checkpoint; returns its step and seconds.

    Raises
    ------
    WeightsError
        When it is none of this run.

    """
    try:
        with safe_open(path, 'pt', device='cpu') as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        parts: dict[str, dict[str, Tensor]] = {name: {} for name in (*networks, 'optimiser')}
        for name, value in tensors.items():
            prefix, _, rest = name.partition('.')
            parts[prefix][rest] = value
        for name, network in networks.items():
            network.load_state_dict(parts[name])
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in parts['optimiser'].items():
            number, _, key = name.partition('.')
            state.setdefault(int(number), {})[key] = value
        optimiser.load_state_dict({**optimiser.state_dict(), 'state': state})
        return int(metadata['step']), float(metadata['seconds'])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f'{path} is no checkpoint of this run ({str(error).splitlines()[0]}); '
            'take another output folder, or leave out --resume'
        ) from error
