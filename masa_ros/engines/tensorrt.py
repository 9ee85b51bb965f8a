# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""TensorRT: a stage exported whole, converted by torch_tensorrt, run by TensorRT's own runtime.

One engine a stage, nothing of it left to PyTorch. torch_tensorrt, plain or for TensorRT-RTX,
whichever is installed, is needed to build; an engine that is built runs with TensorRT alone.
"""

from __future__ import annotations

import importlib.util
import inspect
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from masa_ros.errors import EngineError
from masa_ros.models.forms import portable_forms
from masa_ros.models.stages import Run, Stage


class _Positional(nn.Module):
    """A stage whose inputs are a sequence, whatever its ``forward`` calls them."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the stage."""
        return tuple(self.stage(*inputs))


def export(stage: Stage, inputs: Sequence[Tensor]) -> torch.export.ExportedProgram:
    """Export a stage for inputs of these shapes, with any number of rows.

    Raises
    ------
    EngineError
        When torch.export cannot trace it.

    """
    shapes: Any = None
    if stage.rows:
        count = torch.export.Dim('rows', min=1, max=stage.most)
        shapes = (tuple({0: count} if name in stage.rows else {} for name in stage.inputs),)
    try:
        with portable_forms(), torch.no_grad():
            return torch.export.export(
                _Positional(stage), tuple(inputs), dynamic_shapes=shapes, strict=False
            )
    except Exception as error:  # whatever torch says of a graph it cannot trace
        raise EngineError(f'{stage.name} cannot be exported: {first_line(error)}') from error


class TensorRT:
    """See ``masa_ros.engines.runtimes.Runtime``."""

    name = 'tensorrt'
    keeps = True

    def missing(self, device: str) -> str:
        """Look for an NVIDIA GPU and torch_tensorrt."""
        if not device.startswith('cuda'):
            return 'TensorRT needs a CUDA device'
        if importlib.util.find_spec('torch_tensorrt') is None:
            return 'the package torch-tensorrt is not installed'
        try:
            _modules()
        except Exception as error:  # broken in as many ways as there are drivers
            return f'torch_tensorrt cannot be imported ({first_line(error)})'
        return ''

    def version(self) -> str:
        """Versions of torch, torch_tensorrt and TensorRT."""
        torch_tensorrt, tensorrt = _modules()
        flavour = getattr(tensorrt, '_package_name', 'tensorrt')
        return (
            f'torch {torch.__version__}, torch_tensorrt {torch_tensorrt.__version__}, '
            f'{flavour} {tensorrt.__version__}'
        )

    def lower(self, device: str) -> str:
        """Return nothing: on a GPU networks are in half precision already."""
        return ''

    def build(self, stage: Stage, inputs: Sequence[Tensor]) -> bytes:
        """Export, convert and compile; see ``Runtime.build``."""
        torch_tensorrt, _ = _modules()
        program = export(stage, inputs)
        described = []
        for name, value in zip(stage.inputs, inputs):
            if name not in stage.rows:
                described.append(torch_tensorrt.Input(value.shape, dtype=value.dtype))
                continue
            most, rest = stage.most, tuple(value.shape[1:])
            described.append(
                torch_tensorrt.Input(
                    min_shape=(1, *rest),
                    opt_shape=(max(1, most // 2), *rest),
                    max_shape=(most, *rest),
                    dtype=value.dtype,
                )
            )
        convert = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine
        options: dict[str, Any] = {'arg_inputs': described, 'use_fp32_acc': True}
        if 'use_explicit_typing' in inspect.signature(convert).parameters:  # before 2.14
            options['use_explicit_typing'] = True
        try:
            return bytes(convert(program, **options))
        except Exception as error:
            raise EngineError(f'{stage.name} cannot be built: {_root_cause(error)}') from error

    def load(self, stage: Stage, data: bytes, dtype: torch.dtype, device: str) -> Run:
        """Deserialise an engine; see ``Runtime.load``."""
        return _Engine(stage, data, dtype, device)


class _Engine:
    """An engine ready to run, in the order of the stream that is current when it is called."""

    def __init__(self, stage: Stage, data: bytes, dtype: torch.dtype, device: str) -> None:
        _, tensorrt = _modules()
        self.stage, self.dtype, self.device = stage, dtype, torch.device(device)
        with torch.cuda.device(self.device):
            self._runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))
            self._engine = self._runtime.deserialize_cuda_engine(data)
            if self._engine is None:
                raise EngineError(f'{stage.name}: TensorRT does not accept the engine')
            self._context = self._engine.create_execution_context()
            self._stream = torch.cuda.Stream()
        if self._context is None:
            raise EngineError(f'{stage.name}: not enough memory on {device} to run the engine')
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        ins = tensorrt.TensorIOMode.INPUT
        self._inputs = [n for n in names if self._engine.get_tensor_mode(n) == ins]
        self._outputs = [n for n in names if n not in self._inputs]
        if (len(self._inputs), len(self._outputs)) != (len(stage.inputs), len(stage.outputs)):
            raise EngineError(f'{stage.name}: the engine has other inputs or outputs')

    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        values = [x.contiguous() for x in self.stage.arrange(tensors, self.dtype)]
        context, found = self._context, {}
        with torch.cuda.device(self.device):
            for name, value in zip(self._inputs, values):
                if not context.set_input_shape(name, tuple(value.shape)):
                    raise EngineError(f'{self.stage.name}: not built for {tuple(value.shape)}')
                context.set_tensor_address(name, value.data_ptr())
            for name, key in zip(self._outputs, self.stage.outputs):
                shape, dtype = tuple(context.get_tensor_shape(name)), self._dtype(name)
                found[key] = torch.empty(shape, dtype=dtype, device=self.device)
                context.set_tensor_address(name, found[key].data_ptr())
            # TensorRT synchronises more than it must on the default stream. The current one waits
            # for ours, so that memory it frees or reuses is not read or written any more.
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            if not context.execute_async_v3(self._stream.cuda_stream):
                raise EngineError(f'{self.stage.name}: TensorRT failed to run the engine')
            current.wait_stream(self._stream)
        return found

    def _dtype(self, name: str) -> torch.dtype:
        return _DTYPES[self._engine.get_tensor_dtype(name).name]


_DTYPES = {
    'FLOAT': torch.float32,
    'HALF': torch.float16,
    'INT32': torch.int32,
    'INT64': torch.int64,
    'BOOL': torch.bool,
}


def _modules() -> tuple[Any, Any]:
    """torch_tensorrt and the TensorRT that it found; the order of the imports matters."""
    import torch_tensorrt

    logging.getLogger('torch_tensorrt').setLevel(logging.ERROR)
    import tensorrt

    return torch_tensorrt, tensorrt


def first_line(error: BaseException) -> str:
    """Return what an error says in one line; torch and TensorRT say pages."""
    text = str(error).strip().splitlines()
    return f'{type(error).__name__}: {text[0][:300]}' if text else type(error).__name__


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
