# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""OpenVINO: a stage exported whole, converted and run by one of OpenVINO's plugins.

What is kept is OpenVINO's intermediate representation (IR): the graph as XML and the weights, one
behind the other. It is data in a documented format, read without unpickling, and compiled for
this processor when it is loaded: tenths of a second. A compiled model (``export_model``) would
save half of that and is as large, but only the version that wrote it may read it.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from masa_ros.engines.tensorrt import export, first_line
from masa_ros.errors import EngineError
from masa_ros.models.stages import Run, Stage

_LENGTH = 8  # bytes that tell how long the XML is


class OpenVINO:
    """See ``masa_ros.engines.runtimes.Runtime``.

    Parameters
    ----------
    name: of the runtime.
    processor: by OpenVINO's name: CPU, or an Intel GPU or NPU beside it. What is between the
        stages runs on the CPU.

    """

    keeps = True

    def __init__(self, name: str = 'openvino', processor: str = 'CPU') -> None:
        self.name, self._processor = name, processor

    def missing(self, device: str) -> str:
        """Look for the processor and the package."""
        if device != 'cpu':
            return f'OpenVINO is for Intel and Arm processors; device: cpu, not {device}'
        if importlib.util.find_spec('openvino') is None:
            return 'the package openvino is not installed'
        try:
            core = _module().Core()
            kinds = {name.partition('.')[0] for name in core.available_devices}
            if self._processor not in kinds:
                return (
                    f'OpenVINO finds no {self._processor}; there are: {", ".join(sorted(kinds))}'
                )
            core.get_property(self._processor, 'FULL_DEVICE_NAME')
        except Exception as error:  # a library that does not fit, a processor it does not know
            return f'openvino cannot be used ({first_line(error)})'
        return ''

    def version(self) -> str:
        """Versions of torch and OpenVINO."""
        return f'torch {torch.__version__}, openvino {_module().get_version()}'

    def lower(self, device: str) -> str:
        """Return 'bf16' where the processor multiplies bfloat16; elsewhere it would be slower."""
        known = _module().Core().get_property(self._processor, 'OPTIMIZATION_CAPABILITIES')
        return 'bf16' if 'BF16' in known else ''

    def build(self, stage: Stage, inputs: Sequence[Tensor]) -> bytes:
        """Export and convert; see ``Runtime.build``."""
        openvino = _module()
        program = export(stage, inputs)
        # The converter reads weights where they lie; of those in another order of memory it reads
        # a copy, which for bfloat16 is gone by then (2026.4).
        for values in (program.state_dict, program.constants):
            for name, value in values.items():
                if isinstance(value, nn.Parameter):
                    values[name] = nn.Parameter(value.detach().contiguous(), requires_grad=False)
                elif isinstance(value, Tensor):
                    values[name] = value.contiguous()
        try:
            model = openvino.convert_model(program)
            shapes = [
                [openvino.Dimension(1, stage.most), *value.shape[1:]]
                if name in stage.rows
                else list(value.shape)
                for name, value in zip(stage.inputs, inputs)
            ]
            model.reshape({i: openvino.PartialShape(shape) for i, shape in enumerate(shapes)})
            with tempfile.TemporaryDirectory() as folder:
                graph, weights = Path(folder, 'model.xml'), Path(folder, 'model.bin')
                openvino.save_model(model, graph, compress_to_fp16=False)
                xml = graph.read_bytes()
                return len(xml).to_bytes(_LENGTH, 'little') + xml + weights.read_bytes()
        except Exception as error:
            raise EngineError(f'{stage.name} cannot be built: {_last_line(error)}') from error

    def load(self, stage: Stage, data: bytes, dtype: torch.dtype, device: str) -> Run:
        """Compile for this processor; see ``Runtime.load``."""
        return _Engine(stage, data, dtype, self._processor)


class _Engine:
    """A compiled model, on a CPU run by as many threads as PyTorch takes; for one at a time."""

    def __init__(self, stage: Stage, data: bytes, dtype: torch.dtype, processor: str) -> None:
        openvino = _module()
        self.stage, self.dtype, self._openvino = stage, dtype, openvino
        end = _LENGTH + int.from_bytes(data[:_LENGTH], 'little')
        options: dict[str, Any] = {
            # As the graph is typed: left alone, the plugin takes bfloat16 on a processor that has
            # it, also for the positions of samples, which it cannot tell apart.
            'INFERENCE_PRECISION_HINT': 'f32',
            'PERFORMANCE_HINT': 'LATENCY',
        }
        if processor == 'CPU':
            options['INFERENCE_NUM_THREADS'] = torch.get_num_threads()
        try:
            core = openvino.Core()
            model = core.read_model(data[_LENGTH:end], data[end:])
            compiled = core.compile_model(model, processor, options)
        except Exception as error:
            raise EngineError(
                f'{stage.name}: OpenVINO does not accept the engine: {_last_line(error)}'
            ) from error
        if (len(compiled.inputs), len(compiled.outputs)) != (
            len(stage.inputs),
            len(stage.outputs),
        ):
            raise EngineError(f'{stage.name}: the engine has other inputs or outputs')
        self._request = compiled.create_infer_request()

    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        # Held until the end: OpenVINO reads them where they lie.
        values = [x.detach().contiguous() for x in self.stage.arrange(tensors, self.dtype)]
        try:
            for i, value in enumerate(values):
                self._request.set_input_tensor(i, self._shared(value))
            self._request.infer()
            outputs = [self._request.get_output_tensor(i) for i in range(len(self.stage.outputs))]
        except RuntimeError as error:
            raise EngineError(f'{self.stage.name}: {_last_line(error)}') from error
        return {name: self._copied(value) for name, value in zip(self.stage.outputs, outputs)}

    def _shared(self, value: Tensor) -> Any:
        """Give OpenVINO a contiguous tensor; NumPy, which goes between, knows no bfloat16."""
        if value.dtype == torch.bfloat16:
            bits, shape = value.view(torch.int16).numpy(), self._openvino.Shape(value.shape)
            return self._openvino.Tensor(bits, shape, self._openvino.Type.bf16)
        return self._openvino.Tensor(value.numpy(), shared_memory=True)

    def _copied(self, value: Any) -> Tensor:
        """Take an output, whose memory is written again by the next call.

        What is bfloat16 becomes float32, as everything else is on a CPU.
        """
        found = np.array(value.data)
        if value.element_type == self._openvino.Type.bf16:
            return torch.from_numpy(found.view(np.int16)).view(torch.bfloat16).float()
        return torch.from_numpy(found)


def _module() -> Any:
    import openvino

    return openvino


def _last_line(error: BaseException) -> str:
    """Return what OpenVINO complains of; before that it tells where in its source it stands."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else first_line(error)
