"""Build TensorRT engines on a machine without a GPU: nothing can be run, everything converted.

TensorRT-RTX itself builds without a driver. torch_tensorrt asks torch for the properties of the
current device when it is imported and deserialises what it has built; both need a driver and are
replaced here. Import this before torch_tensorrt.
"""

import contextlib
import sys
import types

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


def import_torch_tensorrt():
    """Import and prepare torch_tensorrt; raises ImportError where it is not installed."""
    if torch.cuda.is_available():
        import torch_tensorrt

        return torch_tensorrt
    pretended = {
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
    for name, function in pretended.items():
        setattr(torch.cuda, name, function)
    import torch_tensorrt
    from torch_tensorrt.dynamo.conversion import _TRTInterpreter

    for name, module in list(sys.modules.items()):
        if name.startswith('torch_tensorrt') and hasattr(module, 'to_torch_device'):
            module.to_torch_device = lambda *_: torch.device('cpu')
    _TRTInterpreter.trt = _TensorRT(_TRTInterpreter.trt)
    return torch_tensorrt
