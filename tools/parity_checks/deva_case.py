# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Comparing a DEVA case frame by frame: the worst figure of every kind is printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from masa_ros.propagators.deva import DevaMemory
from parity_checks.report import Array, Report

EXACT = 1e-4  # standard deviations
PIXELS = 5e-4  # share of the pixels that may be of another object
# Where a pixel decides what is remembered (top-k, prototypes, hard masks) rounding grows: as much
# as the original differs from its own run in float64.
LOOSE = {
    'prob': 0.03,
    'sensory': 0.03,
    'work_usage': 0.06,
    'long_usage': 0.06,
    'usage_top': 0.06,
    'long_value_sum': 1e-3,
    'argmax': 5e-3,
}


class _Worst(NamedTuple):
    """How far one array was off: of its limit, as it is, relative; the limit; which it was."""

    share: float
    absolute: float
    relative: float
    limit: float
    key: str


class Case:
    """Compares the arrays of a case.

    Parameters
    ----------
    report: where lines go.
    name: of the case; the arrays begin with it.
    arrays: of the fixtures.
    loose: whether it is one of those where rounding grows.

    """

    def __init__(
        self, report: Report, name: str, arrays: dict[str, Array], loose: bool = False
    ) -> None:
        self.report, self.name, self.arrays, self.loose = report, name, arrays, loose
        self.worst: dict[str, _Worst] = {}
        self.compared: list[str] = []
        self.wrong: list[str] = []

    def near(self, key: str, ours: Tensor, tolerance: float = EXACT) -> None:
        """Compare an array, or the stored part of it; the tolerance is in standard deviations."""
        name = f'{self.name}.{key}'
        mine, theirs = ours.detach().double().numpy(), self.arrays[name]
        if f'{name}.stride' in self.arrays:
            full = tuple(self.arrays[f'{name}.shape'].tolist())
            if mine.shape == (1, *full):
                mine = mine[0]
            self.same(f'{key}.shape', mine.shape, full)
            steps = self.arrays[f'{name}.stride'].tolist()
            index: tuple[Any, ...] = (..., *(slice(None, None, step) for step in steps))
            mine = mine[index]
        if mine.shape != theirs.shape:
            self.wrong.append(f'{key} is {mine.shape}, not {theirs.shape}')
            return
        worst = float(np.abs(mine - theirs).max(initial=0))
        spread = float(theirs.std()) or float(np.abs(theirs).max(initial=0)) or 1.0
        self._add(key, worst, worst / spread, tolerance)

    def labels(self, key: str, ours: Tensor) -> None:
        """Compare labels, of which a few may differ."""
        other = ours.numpy() != self.arrays[f'{self.name}.{key}']
        self._add(key, float(other.sum()), float(other.mean()), PIXELS)

    def _add(self, key: str, absolute: float, relative: float, limit: float) -> None:
        kind = key.rpartition('.')[2]
        if self.loose:
            limit = LOOSE.get(kind, limit)
        made = _Worst(relative / limit, absolute, relative, limit, key)
        # A figure that is no number is the worst there is.
        if kind not in self.worst or not made.share <= self.worst[kind].share:
            self.worst[kind] = made

    def same(self, key: str, ours: object, theirs: object) -> None:
        """Compare what must be equal."""
        self.compared.append(key)
        if ours != theirs:
            self.wrong.append(f'{key} is {ours}, not {theirs}')

    def memory(self, frame: str, memory: DevaMemory, put: bool) -> None:
        """Compare what is in memory after a frame, and whether the frame was put there."""
        arrays, start = self.arrays, f'{self.name}.{frame}.'
        theirs: dict[int, list[int]] = {}
        for bucket, each in arrays.get(f'{start}buckets', np.zeros((0, 2), int)).tolist():
            theirs.setdefault(bucket, []).append(each)
        buckets, work = memory.buckets, [b.tokens.size - b.long for b in memory.buckets]
        self.same(f'{frame}.is_memory_frame', put, bool(arrays[f'{start}is_memory_frame']))
        self.same(f'{frame}.obj_ids', list(memory.ids), arrays[f'{start}obj_ids'].tolist())
        self.same(f'{frame}.buckets', [b.ids for b in buckets], list(theirs.values()))
        self.same(f'{frame}.work_size', work, _listed(arrays.get(f'{start}work_size')))
        if f'{start}long_size' in arrays:
            sizes = [b.long for b in buckets]
            self.same(f'{frame}.long_size', sizes, _listed(arrays[f'{start}long_size']))
        if memory.ids:
            self.near(f'{frame}.sensory', torch.stack(list(memory.sensory.values())))
        if self.wrong:
            return
        for number, bucket in zip(theirs, buckets):
            tokens = bucket.tokens
            long = tokens.rows(slice(bucket.long))
            third = tokens.rows(slice(bucket.long, None)).rows(slice(None, None, 3))
            held = {
                'work_key_sum': third.keys.sum(1),
                'work_usage': third.usage,
                'long_key_sum': long.keys.sum(1),
                'long_shrinkage': long.shrinkage[:, 0],
                'long_value_sum': long.values.sum(2).T,
                'long_usage': long.usage,
            }
            for key, value in held.items():
                if f'{start}b{number}.{key}' in arrays:
                    stored = arrays[f'{start}b{number}.{key}']
                    self.near(f'{frame}.b{number}.{key}', value.reshape(stored.shape))

    def finish(self) -> None:
        """Print what was compared."""
        for kind, worst in self.worst.items():
            name = f'deva {self.name} {kind}'
            if worst.key != kind:
                name += f' ({worst.key.removesuffix("." + kind)})'
            figures = f'{worst.absolute:.1e}', f'{worst.relative:.1e}', f'{worst.limit:.0e}'
            self.report.line(name, *figures, worst.share <= 1)
        if self.compared:
            name = f'deva {self.name} {len(self.compared)} integers'
            self.report.line(name, str(len(self.wrong)), '', 'equal', not self.wrong)
        for text in self.wrong[:5]:
            print(f'   {text}')


def _listed(sizes: Array | None) -> Sequence[int]:
    return [] if sizes is None else sizes.reshape(-1).tolist()
