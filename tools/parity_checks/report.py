# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What all comparisons need: the printed lines, the fixtures."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


class Report:
    """Prints a line a comparison and counts what failed."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.lines = 0
        print(f'{"stage":44} {"max abs":>10} {"max rel":>10} {"tolerance":>10}')

    def line(self, name: str, absolute: str, relative: str, tolerance: str, good: bool) -> None:
        """Print one result."""
        self.lines += 1
        if not good:
            self.failed.append(name)
        verdict = '' if good else '   FAILED'
        print(f'{name:44} {absolute:>10} {relative:>10} {tolerance:>10}{verdict}', flush=True)

    def close(
        self, name: str, ours: Tensor | Array, theirs: Array, tolerance: float, relative: bool
    ) -> None:
        """Compare arrays; a relative tolerance is in standard deviations of the reference."""
        mine = ours.numpy() if isinstance(ours, Tensor) else ours
        if mine.shape != theirs.shape:
            self.line(name, str(mine.shape), str(theirs.shape), 'shape', False)
            return
        worst = float(np.abs(mine.astype(np.float64) - theirs).max()) if mine.size else 0.0
        spread = float(theirs.std()) if theirs.size else 0.0
        share = worst / (spread or float(np.abs(theirs).max(initial=0)) or 1.0)
        good = (share if relative else worst) <= tolerance
        limit = f'{tolerance:.0e}{" std" if relative else ""}'
        self.line(name, f'{worst:.1e}', f'{share:.1e}', limit, good)

    def same(self, name: str, ours: Tensor | Array, theirs: Array) -> None:
        """Compare integers, which must be equal."""
        mine = ours.numpy() if isinstance(ours, Tensor) else ours
        good = mine.shape == theirs.shape and bool((mine == theirs).all())
        self.line(name, '0' if good else 'differs', '', 'equal', good)

    def boxes(
        self,
        name: str,
        ours: Array,
        scores: Array,
        boxes: Array,
        their_scores: Array,
        share: float,
        score_tolerance: float = 1e-5,
    ) -> None:
        """Compare scored boxes as sets: 0.01 pixels and a little score apart at most."""
        if not len(boxes) or not len(ours):
            self.line(name, f'{len(ours)}', f'{len(boxes)}', 'count', len(ours) == len(boxes))
            return
        apart = np.abs(ours[:, None] - boxes[None]).max(2)
        differ = np.abs(scores[:, None] - their_scores[None])
        alike = (apart <= 0.01) & (differ <= score_tolerance)
        found = min(int(alike.any(0).sum()), int(alike.any(1).sum()))
        worst = float(apart.min(0).max())
        count = f'{found}/{max(len(boxes), len(ours))}'
        good = found >= share * max(len(boxes), len(ours))
        self.line(name, f'{worst:.1e}', count, f'{share:.1%}', good)

    def missing(self, name: str) -> None:
        """List what there is no code for yet."""
        print(f'{name:44} missing: not implemented yet')


class Fixtures:
    """A folder of fixtures: its seeded weights and arrays."""

    def __init__(self, folder: Path, seeded: ModuleType) -> None:
        self.folder, self.seeded = folder, seeded
        salt = folder / 'salt.json'
        self.salt = str(json.loads(salt.read_text())['salt']) if salt.is_file() else ''

    def arrays(self, name: str) -> dict[str, Array]:
        """All arrays of a file."""
        with np.load(self.folder / name, allow_pickle=False) as file:
            return dict(file)

    def tensors(self, names: Array, prefix: str) -> dict[str, Tensor]:
        """Seeded tensors of an operator, from its JSON list of names and shapes."""
        listed = json.loads(str(names))
        return {
            name: torch.from_numpy(self.seeded.seeded_tensor(prefix + name, shape, self.salt))
            for name, shape in listed
        }


def load_seeded(root: Path) -> ModuleType:
    """Import what makes the seeded weights; ends the program where it is not there."""
    path = root / 'seeded_weights.py'
    spec = importlib.util.spec_from_file_location('seeded_weights', path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SystemExit(f'{path} is missing: is {root} a folder of fixtures?')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fill(module: torch.nn.Module, tensors: dict[str, Tensor], prefix: str) -> None:
    """Load the tensors below a prefix; all must fit."""
    own = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
    module.load_state_dict(own)
    module.eval()


def tensors_of(arrays: dict[str, Array]) -> dict[str, Tensor]:
    """Return the numeric arrays as tensors."""
    return {k: torch.from_numpy(v) for k, v in arrays.items() if v.dtype.kind not in 'US'}


def cases_of(arrays: dict[str, Array]) -> list[str]:
    """Return the first words of the names, each once."""
    return list(dict.fromkeys(key.split('.')[0] for key in arrays))
