# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What can run a stage. A further runtime is one class and one line of ``RUNTIMES``."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from masa_ros.engines.openvino import OpenVINO
from masa_ros.engines.tensorrt import TensorRT
from masa_ros.errors import ConfigError
from masa_ros.models.stages import Eager, Run, Stage


class Runtime(Protocol):
    """A way of running stages.

    Attributes
    ----------
    name: as users give it.
    keeps: whether ``build`` makes something that is worth keeping on disk.

    """

    name: str
    keeps: bool

    def missing(self, device: str) -> str:
        """Return what keeps it from running on a device, '' when nothing does."""

    def version(self) -> str:
        """Return the versions that its engines depend on."""

    def lower(self, device: str) -> str:
        """Return a precision below that of the network to begin with on a device; '' for none.

        Asked where the user left the precision open.
        """

    def build(self, stage: Stage, inputs: Sequence[Tensor]) -> bytes:
        """Compile a stage for inputs of these shapes and types; any number of rows.

        Raises
        ------
        EngineError
            When the stage cannot be compiled.

        """

    def load(self, stage: Stage, data: bytes, dtype: torch.dtype, device: str) -> Run:
        """Make what ``build`` gave ready to run; ``dtype`` is that of the feature maps.

        Raises
        ------
        EngineError
            When it does not run here.

        """


class EagerRuntime:
    """PyTorch as it is."""

    name = 'eager'
    keeps = False

    def missing(self, device: str) -> str:
        """Return nothing: it runs everywhere."""
        return ''

    def version(self) -> str:
        """Version of torch."""
        return str(torch.__version__)

    def lower(self, device: str) -> str:
        """Return nothing: nobody would check it."""
        return ''

    def build(self, stage: Stage, inputs: Sequence[Tensor]) -> bytes:
        """Nothing is to be built."""
        return b''

    def load(self, stage: Stage, data: bytes, dtype: torch.dtype, device: str) -> Run:
        """Run the module."""
        return Eager(stage, dtype)


class CompileRuntime:
    """torch.compile: fused kernels made for this machine, kept by torch in a cache of its own."""

    name = 'compile'
    keeps = False

    def missing(self, device: str) -> str:
        """Look for a compiler of kernels."""
        if device == 'cpu':
            found = shutil.which('g++') or shutil.which('clang++')
            return '' if found else 'torch.compile needs g++ on a CPU'
        found_triton = importlib.util.find_spec('triton')
        return '' if found_triton else 'torch.compile needs triton on a GPU'

    def version(self) -> str:
        """Version of torch."""
        return str(torch.__version__)

    def lower(self, device: str) -> str:
        """Return nothing: every precision takes minutes to compile."""
        return ''

    def build(self, stage: Stage, inputs: Sequence[Tensor]) -> bytes:
        """Nothing is kept: kernels are made at the first call."""
        return b''

    def load(self, stage: Stage, data: bytes, dtype: torch.dtype, device: str) -> Run:
        """Wrap the module; the first call takes long."""
        return _Compiled(stage, dtype)


class _Compiled(Eager):
    def __init__(self, stage: Stage, dtype: torch.dtype) -> None:
        super().__init__(stage, dtype)
        self._forward = torch.compile(stage, dynamic=bool(stage.rows), fullgraph=True)

    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        inputs, rows = self.stage.arrange(tensors, self.dtype), self.stage.rows
        single = bool(rows) and len(tensors[rows[0]]) == 1
        if single:
            # A single row would be compiled once more: tracing takes one for a constant.
            inputs = [
                torch.cat((value, value)) if name in rows else value
                for name, value in zip(self.stage.inputs, inputs)
            ]
        found = self._forward(*inputs)
        if self.dtype == torch.bfloat16:  # as everything else is on a CPU
            found = tuple(value.float() if value.is_floating_point() else value for value in found)
        if single:
            found = tuple(value[:1] for value in found)
        return dict(zip(self.stage.outputs, found))


RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime
    for runtime in (
        *(TensorRT(), OpenVINO()),
        *(OpenVINO('openvino_gpu', 'GPU'), OpenVINO('openvino_npu', 'NPU')),
        *(CompileRuntime(), EagerRuntime()),
    )
}
"""All runtimes, the fastest on a GPU first."""

_MEASURED = ('openvino', 'eager')
"""What 'auto' measures on a CPU. Not 'compile': it takes minutes a stage, again at every start."""


def choose(name: str, device: str) -> tuple[Runtime, ...]:
    """Return the runtime of that name.

    'auto' is the fastest there is on a GPU. On a CPU it is all of which the fastest is found by
    measurement, eager PyTorch last among them.

    Raises
    ------
    ConfigError
        For an unknown name, or a runtime that does not run here; the text says why.

    """
    if name == 'auto':
        if device == 'cpu':
            return tuple(RUNTIMES[n] for n in _MEASURED if not RUNTIMES[n].missing(device))
        return (next(r for r in RUNTIMES.values() if not r.missing(device)),)
    if name not in RUNTIMES:
        raise ConfigError(f"runtime is '{name}'; it must be one of: auto, {', '.join(RUNTIMES)}")
    runtime = RUNTIMES[name]
    missing = runtime.missing(device)
    if missing:
        raise ConfigError(f"runtime '{name}' does not run on {device}: {missing}")
    return (runtime,)


def left_out(name: str, device: str) -> str:
    """Return what 'auto' would measure on a CPU and why it cannot, '' where it can."""
    if (name, device) != ('auto', 'cpu'):
        return ''
    missing = {n: RUNTIMES[n].missing(device) for n in _MEASURED}
    return '; '.join(f'without {n}: {why}' for n, why in missing.items() if why)
