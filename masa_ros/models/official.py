# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Reading the checkpoints that the authors of MASA, SAM and MobileSAM published.

They are pickles of PyTorch tensors next to objects of the training framework. Nothing of the
pickle is ever run: tensors and plain containers are rebuilt, every other name becomes an inert
placeholder, and a name of Python's own library that has no business in a checkpoint is refused.
"""

from __future__ import annotations

import _compat_pickle
import collections
import pickle
import re
import sys
import types
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from masa_ros.errors import WeightsError
from masa_ros.models.configs import ModelConfig, ResNetConfig, SamDecoderConfig

_REBUILT: dict[tuple[str, str], Any] = {
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('torch', 'Size'): torch.Size,
    ('torch._utils', '_rebuild_tensor_v2'): torch._utils._rebuild_tensor_v2,
    ('torch._utils', '_rebuild_parameter'): torch._utils._rebuild_parameter,
    **{('builtins', t.__name__): t for t in (dict, list, tuple, set, frozenset)},
    **{
        ('torch', str(dtype).split('.')[1]): dtype
        for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64)
    },
}
# Standard library modules whose names occur in honest checkpoints. They become placeholders like
# all others; a name of any other standard module means that the file was made to do something.
_INNOCENT = {
    '_codecs',
    'argparse',
    'collections',
    'copyreg',
    'datetime',
    'decimal',
    'enum',
    'functools',
    'numbers',
    'operator',
    'pathlib',
    'types',
    'typing',
    'uuid',
}
_INNOCENT_BUILTINS = {
    'bool',
    'bytearray',
    'bytes',
    'complex',
    'dict',
    'float',
    'frozenset',
    'getattr',
    'int',
    'list',
    'object',
    'print',
    'range',
    'set',
    'slice',
    'str',
    'tuple',
    'type',
}


class _Refused(pickle.UnpicklingError):
    """The pickle names something that has no business in a checkpoint."""


class _Placeholder:
    """Stands for an object of a class that is not rebuilt; swallows what pickles do to objects."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> _Placeholder:
        return _Placeholder()

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __hash__(self) -> int:
        return id(self)

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Iterable[Any]) -> None:
        pass

    def add(self, item: Any) -> None:
        pass


def _is_storage(module: str, name: str) -> bool:
    return module in ('torch', 'torch.storage') and bool(re.fullmatch(r'\w*Storage', name))


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # Pickles of the protocol that torch.save takes have the names of Python 2.
        module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
        module = _compat_pickle.IMPORT_MAPPING.get(module, module)
        if (module, name) in _REBUILT:
            return _REBUILT[module, name]
        if _is_storage(module, name):
            return getattr(torch, name)
        root = module.split('.')[0]
        if root == 'builtins':
            refused = name not in _INNOCENT_BUILTINS
        else:
            refused = root in sys.stdlib_module_names and root not in _INNOCENT
        if refused or root == 'posix':
            raise _Refused(f'{module}.{name}')
        return type(name, (_Placeholder,), {'__module__': module})


def _pickle_module() -> types.ModuleType:
    """Give what torch.load expects of a pickle module, with the restricted unpickler inside."""
    module = types.ModuleType('restricted_pickle')
    module.Unpickler = _Unpickler  # type: ignore[attr-defined]
    module.load = lambda file, **options: _Unpickler(file, **options).load()  # type: ignore[attr-defined]
    return module


def read(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint by name, on the CPU.

    Raises
    ------
    WeightsError
        When the file is missing, truncated, no checkpoint, or names code to be run.

    """
    if not path.is_file():
        raise WeightsError(f'there is no file {path}')
    if not path.stat().st_size:
        raise WeightsError(f'{path} is empty; fetch it again')
    try:
        content = torch.load(
            path, map_location='cpu', weights_only=False, pickle_module=_pickle_module()
        )
    except _Refused as error:
        raise WeightsError(
            f'{path} refers to {error}, which has no business in a checkpoint: '
            'the file was made to run code; nothing of it was run'
        ) from None
    except Exception as error:  # whatever foreign bytes make of an unpickler
        hint = '; the file is cut off or damaged' if zipfile_was_meant(path) else ''
        raise WeightsError(
            f'{path} is not a PyTorch checkpoint ({type(error).__name__}: {error}){hint}'
        ) from error
    tensors = content
    for wrapped in ('state_dict', 'model', 'model_state_dict'):
        if isinstance(content, dict) and wrapped in content:
            tensors = content[wrapped]
            break
    if not isinstance(tensors, dict) or not any(isinstance(v, Tensor) for v in tensors.values()):
        raise WeightsError(f'{path} holds no state_dict with tensors')
    strange = [name for name, value in tensors.items() if not isinstance(value, Tensor)]
    if strange:
        raise WeightsError(f'{path}: {strange[0]} is no tensor, nor are {len(strange) - 1} others')
    return {str(name): value for name, value in tensors.items()}


def zipfile_was_meant(path: Path) -> bool:
    """Tell whether the file begins as PyTorch's checkpoints do but does not end so."""
    with path.open('rb') as file:
        return file.read(2) == b'PK' and not zipfile.is_zipfile(path)


_Rules = list[tuple[str, 'str | Callable[[re.Match[str]], str]']]

_HEADS: _Rules = [
    (r'^rpn_head\.rpn_(conv|cls|reg)\.', r'proposals.\1.'),
    (r'^roi_head\.bbox_head\.(?:shared|fc)_(convs|fcs|cls|reg)\.', r'boxes.\1.'),
    (r'^track_head\.embed_head\.fc_embed\.', r'embed.embed.'),
    (r'^track_head\.embed_head\.', r'embed.'),
    (r'^masa_adapter\.1\.dyhead_blocks\.', r'fusion.'),
    (r'\.spatial_conv_(offset|high|mid|low)\.', r'.\1.'),
    (r'\.scale_attn_module\.1\.', r'.scale.conv.'),
    (r'\.task_attn_module\.(conv\d)\.conv\.', r'.task.\1.'),
    (r'^(boxes|embed)\.(.*)\.(?:bn|gn)\.', r'\1.\2.norm.'),
]
_PYRAMID: _Rules = [
    (r'^masa_adapter\.0\.lateral_convs\.(.*)\.(conv|bn)\.', r'pyramid.lateral.\1.\2.'),
    (r'^masa_adapter\.0\.fpn_convs\.(.*)\.(conv|bn)\.', r'pyramid.output.\1.\2.'),
    (r'^(pyramid\..*)\.bn\.', r'\1.norm.'),
]
_RESNET: _Rules = [
    (r'^backbone\.conv1\.', r'backbone.stem.conv.'),
    (r'^backbone\.bn1\.', r'backbone.stem.norm.'),
    (r'^backbone\.layer(\d)\.', lambda match: f'backbone.stages.{int(match[1]) - 1}.'),
    (r'^(backbone\.stages\.\d\.\d+)\.conv(\d)\.', r'\1.conv\2.conv.'),
    (r'^(backbone\.stages\.\d\.\d+)\.bn(\d)\.', r'\1.conv\2.norm.'),
    (r'\.downsample\.0\.', r'.downsample.conv.'),
    (r'\.downsample\.1\.', r'.downsample.norm.'),
]
_SWIN: _Rules = [
    (r'^detector\.backbone\.patch_embed\.projection\.', r'backbone.patch.'),
    (r'^detector\.backbone\.patch_embed\.norm\.', r'backbone.patch_norm.'),
    (r'^detector\.backbone\.stages\.(\d)\.blocks\.', r'backbone.stages.\1.'),
    (r'^detector\.backbone\.stages\.(\d)\.downsample\.', r'backbone.merges.\1.'),
    (r'^detector\.backbone\.norm(\d)\.', lambda match: f'backbone.norms.{int(match[1]) - 1}.'),
    (r'\.attn\.w_msa\.', r'.attn.'),
    (r'\.ffn\.layers\.0\.0\.', r'.fc1.'),
    (r'\.ffn\.layers\.1\.', r'.fc2.'),
]
_SAM: _Rules = [
    (r'^(?:detector\.backbone|image_encoder)\.', r'backbone.'),
    (r'^(?:detector\.)?(prompt_encoder|mask_decoder)\.', r'masks.\1.'),
    (r'^pyramid\.(lateral|output)\.', r'pyramid.merge.\1.'),
    (r'^masa_adapter\.0\.fpn1\.1\.ln\.', r'pyramid.up4.1.'),
    (r'^masa_adapter\.0\.fpn1\.', r'pyramid.up4.'),
    (r'^masa_adapter\.0\.fpn2\.0\.', r'pyramid.up2.'),
]

# What the published files hold beyond the network, and why it is not read.
_IGNORED_ALWAYS = {
    r'\.num_batches_tracked$': 'counts training steps',
    r'^data_preprocessor\.': 'mean and deviation of the pixels, the same constants for all',
}
_IGNORED_SAM = {
    r'^image_encoder\.(norm_)?head\.': "TinyViT's classifier; what it learned from first",
}
_IGNORED_SWIN = {
    r'^detector\.(?!backbone\.)': 'the open-vocabulary detector; its boxes are given from outside',
}


def _family(model: ModelConfig) -> tuple[_Rules, dict[str, str]]:
    backbone = model.network.backbone
    if isinstance(backbone, SamDecoderConfig):
        return _HEADS + _PYRAMID + _SAM, _IGNORED_ALWAYS | _IGNORED_SAM
    if isinstance(backbone, ResNetConfig):
        return _HEADS + _PYRAMID + _RESNET, _IGNORED_ALWAYS
    return _HEADS + _PYRAMID + _SWIN, _IGNORED_ALWAYS | _IGNORED_SWIN


def translate(model: ModelConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give published tensors the names of our network; leave out what is known not to be needed.

    A name that no rule knows stays as it is, for the caller to complain of.
    """
    rules, ignored = _family(model)
    translated = {}
    for name, value in tensors.items():
        if any(re.search(pattern, name) for pattern in ignored):
            continue
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        translated[name] = value
    return translated
