# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Training in several processes that computes what one process computes.

Every process works on its share of a batch. Sums that the loss is divided by, statistics of batch
norm and embeddings that are contrasted go over all processes, and gradients are added up: two
processes with four scenes each take the step of one with eight, to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather, all_reduce

from masa_ros.errors import MasaError

_PATIENCE = timedelta(days=7)


def processes() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, 0 for the one that writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def started(device: str) -> Iterator[str]:
    """Join the processes that torchrun started; gives the device of this one.

    Without torchrun there is one process and nothing to join. Inside of another ``started``
    nothing happens.
    """
    if 'WORLD_SIZE' not in os.environ or dist.is_initialized():
        yield device
        return
    cuda = device.startswith('cuda')
    if cuda:
        device = f'cuda:{os.environ.get("LOCAL_RANK", "0")}'
        torch.cuda.set_device(device)
    dist.init_process_group('nccl' if cuda else 'gloo')
    try:
        yield device
    finally:
        dist.destroy_process_group()


def first_alone(work: Callable[[], object]) -> None:
    """Let process 0 do what only one may do, while the others wait for it, however long.

    Raises
    ------
    MasaError, OSError
        Whatever process 0 raises, in every process.

    """
    if processes() == 1:
        work()
        return
    # NCCL gives up after ten minutes.
    waiting = dist.new_group(backend='gloo', timeout=_PATIENCE)
    failure: list[MasaError | OSError | None] = [None]
    if rank() == 0:
        try:
            work()
        except (MasaError, OSError) as error:
            failure = [error]
    dist.broadcast_object_list(failure, src=0, group=waiting)  # type: ignore[arg-type]
    if failure[0] is not None:
        raise failure[0]


def union(texts: dict[str, str]) -> dict[str, str]:
    """Join the dictionaries of all processes."""
    if processes() == 1:
        return texts
    parts: list[Any] = [None] * processes()
    dist.all_gather_object(parts, texts)
    return {name: text for part in parts for name, text in part.items()}


def total(value: float, device: torch.device) -> float:
    """Sum of a number over all processes."""
    if processes() == 1:
        return value
    summed = torch.tensor(float(value), dtype=torch.float64, device=device)
    dist.all_reduce(summed)
    return float(summed)


def gather(rows: Tensor) -> Tensor:
    """Rows (N_k, ...) of all processes behind one another; gradients flow back to their owners."""
    if processes() == 1:
        return rows
    counts = [torch.zeros((), dtype=torch.long, device=rows.device) for _ in range(processes())]
    dist.all_gather(counts, torch.tensor(len(rows), device=rows.device))
    sizes = [int(count) for count in counts]
    padded = torch.cat((rows, rows.new_zeros((max(sizes) - len(rows), *rows.shape[1:]))))
    if padded.requires_grad:
        parts = list(all_gather(padded))
    else:
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes)])


def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give every process the sum of the gradients of all."""
    if processes() == 1:
        return
    with_gradient = [p for p in parameters if p.requires_grad]
    for parameter in with_gradient:
        if parameter.grad is None:  # nothing of this share reached it
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([p.grad.flatten() for p in with_gradient if p.grad is not None])
    dist.all_reduce(flat)
    start = 0
    for parameter in with_gradient:
        assert parameter.grad is not None
        count = parameter.numel()
        parameter.grad.copy_(flat[start : start + count].view_as(parameter))
        start += count


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the batch of all processes, on any device; torch's own needs a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        if not self.training or processes() == 1:
            return super().forward(x)
        values = x.float()
        count = values.new_full((1,), values.numel() / values.shape[1])
        sums = torch.cat((values.sum((0, 2, 3)), values.square().sum((0, 2, 3)), count))
        sums = all_reduce(sums)
        channels = values.shape[1]
        size = sums[-1]
        mean = sums[:channels] / size
        variance = sums[channels : 2 * channels] / size - mean.square()
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None
            momentum = self.momentum or 0.0
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * size / (size - 1), momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return (values * scale[:, None, None] + shift[:, None, None]).to(x.dtype)


def share_batch_norm(network: nn.Module) -> None:
    """Let the batch norms of a network see the batches of all processes."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm
