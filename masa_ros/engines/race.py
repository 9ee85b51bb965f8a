# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which of several ways of running a stage is the fastest on this machine."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence

import torch

from masa_ros.models.stages import Run, Tensors

_LEAST, _MOST = 3, 25
"""Calls of each."""
_SECONDS = 3.0
"""After which no further ones are begun."""
_TIE = 0.05
"""Part of the time by which one must be faster to count as faster."""

clock = time.perf_counter
"""Seconds."""


@torch.inference_mode()
def medians(runs: Sequence[Run], inputs: Sequence[Tensors]) -> list[float]:
    """Return the median seconds of a call of each.

    They are called in turns, so that what else the machine does meanwhile meets all alike; once
    before it counts.

    Parameters
    ----------
    runs: ways of running one stage.
    inputs: of the stage, taken in turns too.

    """
    times: list[list[float]] = [[] for _ in runs]
    start = clock()
    for i, tensors in zip(range(_MOST + 1), itertools.cycle(inputs)):
        if i > _LEAST and clock() - start > _SECONDS:
            break
        for run, measured in zip(runs, times):
            before = clock()
            run(**tensors)
            if i:
                measured.append(clock() - before)
    return [statistics.median(measured) for measured in times]


def fastest(seconds: Sequence[float]) -> int:
    """Return which of some times is the shortest: the last of those that are hardly longer."""
    least = min(seconds)
    return max(i for i, value in enumerate(seconds) if value <= least * (1 + _TIE))
