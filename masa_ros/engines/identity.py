# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the engine of a stage depends on: its weights, its structure, the code it is made of.

Not on the rest of its network: an engine of other code or weights is another engine, one of the
same stage in another model is the same.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import masa_ros
from masa_ros.models.stages import Stage

_ROOT = Path(masa_ros.__file__).parent


def identity_of(stage: Stage) -> dict[str, Any]:
    """Return what tells a stage from all others, as plain values."""
    modules = {
        kind.__module__
        for module in stage.modules()
        for kind in type(module).__mro__
        if kind.__module__ != 'builtins'
    }
    own = {name for name in modules if name.split('.')[0] == 'masa_ros'}
    return {
        'weights': weights_version(stage),
        'structure': structure_version(stage),
        'code': code_version(own),
        'packages': package_versions(modules - own),
    }


_CPU_FACTS = (
    *('vendor_id', 'cpu family', 'model', 'model name', 'stepping', 'flags'),
    *('CPU implementer', 'CPU architecture', 'CPU variant', 'CPU part', 'Features'),
)
"""What /proc/cpuinfo tells of a processor on x86 and Arm that is not of the moment."""


@functools.cache
def _cpu_facts() -> str:
    found = {platform.machine(), platform.processor()}
    with contextlib.suppress(OSError):
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            name, _, value = line.partition(':')
            if name.strip() in _CPU_FACTS:
                found.add(f'{name.strip()}: {value.strip()}')
    return hashlib.sha256('\n'.join(sorted(found)).encode()).hexdigest()[:16]


def cpu_version() -> str:
    """Return what tells the processor, and the threads that are used of it, from others."""
    return f'{_cpu_facts()}, {torch.get_num_threads()} threads'


def weights_version(stage: torch.nn.Module) -> str:
    """Hash of the values of all parameters and buffers, wherever they were read from."""
    digest = hashlib.sha256()
    values = {**dict(stage.named_parameters()), **dict(stage.named_buffers())}
    for name, value in sorted(values.items()):
        digest.update(f'{name} '.encode())
        _add(digest, value)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, value: Tensor) -> None:
    digest.update(f'{tuple(value.shape)} {value.dtype}\0'.encode())
    plain = value.detach().cpu().contiguous().reshape(-1)
    digest.update(plain.view(torch.uint8).numpy().data)


def structure_version(stage: Stage) -> str:
    """Hash of what a stage is made of, and of all plain values that its modules hold."""
    digest = hashlib.sha256()
    digest.update(
        repr((stage.inputs, stage.outputs, stage.rows, stage.most, stage.exact)).encode()
    )
    for name, module in stage.named_modules():
        kind = type(module)
        digest.update(f'{name} {kind.__module__}.{kind.__qualname__}\0'.encode())
        for key, value in sorted(vars(module).items()):
            if not key.startswith('_') and key != 'training':
                digest.update(f'{key} {_plain(value)}\0'.encode())
    return digest.hexdigest()


def _plain(value: Any) -> str:
    """Write a value so that the same is written the same in every process."""
    if value is None or isinstance(value, (bool, int, float, str, bytes, torch.dtype, torch.Size)):
        return repr(value)
    if isinstance(value, Tensor):
        digest = hashlib.sha256()
        _add(digest, value)
        return digest.hexdigest()
    if isinstance(value, Mapping):
        return str(sorted((_plain(k), _plain(v)) for k, v in value.items()))
    if isinstance(value, (list, tuple)):
        return str([_plain(item) for item in value])
    if isinstance(value, (set, frozenset)):
        return str(sorted(_plain(item) for item in value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return type(value).__qualname__ + _plain(fields)
    named = value if hasattr(value, '__qualname__') else type(value)
    return f'{named.__module__}.{named.__qualname__}'


def code_version(modules: Iterable[str]) -> str:
    """Hash of the source of modules of this package, all they import, and how engines are made."""
    found = {f'masa_ros.engines.{file.stem}' for file in (_ROOT / 'engines').glob('*.py')}
    open_ = list(modules)
    seen: set[str] = set()
    while open_:
        name = open_.pop()
        if name not in seen:
            seen.add(name)
            open_ += _imports(name)
    digest = hashlib.sha256()
    for name in sorted(found | seen):
        digest.update(name.encode() + b'\0' + source(name) + b'\0')
    return digest.hexdigest()


def source(module: str) -> bytes:
    """Return the source of a module of this package, nothing for what is none."""
    path = _ROOT.joinpath(*module.split('.')[1:])
    for file in (path.with_suffix('.py'), path / '__init__.py'):
        if file.is_file():
            return file.read_bytes()
    return b''


@functools.cache
def _imports(module: str) -> tuple[str, ...]:
    """Names in this package that a module imports when it runs, at its top or later."""
    found = {name for name in _imported(ast.parse(source(module))) if source(name)}
    return tuple(sorted(found))


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.startswith('masa_ros.'))
    elif isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'masa_ros':
        yield str(node.module)
        yield from (f'{node.module}.{alias.name}' for alias in node.names)
    elif isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.dump(node.test):
        for other in node.orelse:
            yield from _imported(other)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _imported(child)


def package_versions(modules: Iterable[str]) -> dict[str, str]:
    """Versions of the packages that other modules come from; torch's is told by the runtimes.

    A module that no package has, a user's own, stands for itself.
    """
    tops = {name.split('.')[0]: name for name in sorted(modules)}
    distributions = importlib.metadata.packages_distributions()
    found = {}
    for top in tops.keys() - {'torch'} - set(sys.stdlib_module_names):
        if top in distributions:
            found[top] = importlib.metadata.version(distributions[top][0])
            continue
        files = {getattr(sys.modules.get(n), '__file__', '') or '' for n in modules if _in(n, top)}
        digest = hashlib.sha256()
        for file in sorted(filter(None, files)):
            digest.update(Path(file).read_bytes())
        found[top] = digest.hexdigest()
    return found


def _in(module: str, top: str) -> bool:
    return module.split('.')[0] == top
