# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Build TensorRT engines on a machine without a GPU: nothing can be run, everything converted.

TensorRT-RTX itself builds without a driver. torch_tensorrt asks torch for the properties of the
current device when it is imported and deserialises what it has built; both need a driver and are
replaced here.
"""

import contextlib
import sys
import types
from unittest import mock

import torch

_DEVICE = types.SimpleNamespace(
    name='none',
    major=8,
    minor=9,
    total_memory=24 << 30,
    multi_processor_count=100,
    L2_cache_size=0,
    is_integrated=False,
    warp_size=32,
)


class _Serialized:
    """An engine that was built and stays the bytes it is."""

    def __init__(self, data):
        self.data = bytes(data)

    def serialize(self):
        return self.data

    def get_aliased_input_tensor(self, name):
        return None


class _Runtime:
    """Stands for ``tensorrt.Runtime``."""

    def __init__(self, *_):
        pass

    def deserialize_cuda_engine(self, data):
        return _Serialized(data)


class _TensorRT:
    """The tensorrt module with another ``Runtime``."""

    def __init__(self, module):
        self._module = module

    def __getattr__(self, name):
        return _Runtime if name == 'Runtime' else getattr(self._module, name)


_PRETENDED = {
    'get_device_capability': lambda *_: (_DEVICE.major, _DEVICE.minor),
    'current_device': lambda: 0,
    'get_device_properties': lambda *_: _DEVICE,
    'get_device_name': lambda *_: _DEVICE.name,
    'mem_get_info': lambda *_: (20 << 30, 24 << 30),
    'empty_cache': lambda: None,
    'synchronize': lambda *_: None,
    'set_device': lambda *_: None,
    'device': lambda *_: contextlib.nullcontext(),
}


@contextlib.contextmanager
def pretended_gpu():
    """Let torch_tensorrt build; with a real GPU nothing is replaced."""
    if torch.cuda.is_available():
        yield
        return
    with contextlib.ExitStack() as stack:
        for name, function in _PRETENDED.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, function))
        import torch_tensorrt  # noqa: F401
        from torch_tensorrt.dynamo.conversion import _TRTInterpreter

        for name, module in list(sys.modules.items()):
            if name.startswith('torch_tensorrt') and hasattr(module, 'to_torch_device'):
                here = mock.patch.object(module, 'to_torch_device', lambda *_: torch.device('cpu'))
                stack.enter_context(here)
        stack.enter_context(
            mock.patch.object(_TRTInterpreter, 'trt', _TensorRT(_TRTInterpreter.trt))
        )
        yield
