# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Devices that networks run on: which there are, and what to do when one is lost."""

from __future__ import annotations

import ctypes
import gc
import mmap
from pathlib import Path

import torch

from masa_ros.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """Resolve 'auto', 'cpu', 'cuda', 'cuda:N'; raises ConfigError for what is not there."""
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device('meta')
    if device.type not in ('cpu', 'cuda'):
        raise ConfigError(f"device is '{name}'; it must be auto, cpu, cuda or cuda:N")
    if device.type == 'cuda':
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ConfigError(f"device is '{name}', but torch sees {count} CUDA devices")
    return device


def lost_device(error: BaseException) -> bool:
    """Tell whether an error says that a GPU is out of memory or gone."""
    kinds = (torch.cuda.OutOfMemoryError, getattr(torch, 'AcceleratorError', ()))  # torch 2.8
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and 'CUDA' in str(error))


def resident_mib() -> float:
    """Return the memory that this process holds, MiB; 0 where the system does not tell."""
    statm = Path('/proc/self/statm')
    if not statm.is_file():
        return 0.0
    return int(statm.read_text().split()[1]) * mmap.PAGESIZE / (1 << 20)


def free_memory() -> None:
    """Give memory that nothing uses any more back to the other processes, a GPU's too."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)  # of glibc, which keeps it otherwise
    if trim is not None:
        trim(0)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
