# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Does an engine compute what the network computes? Engines are used only when it does.

Every stage is fed what the float32 network, run by plain PyTorch, feeds it, so that a fault is
seen where it arises and not hidden or multiplied by the choices (top-k, suppression) in between.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from masa_ros.models.stages import Case, Run, Stage


@dataclasses.dataclass(frozen=True)
class Measure:
    """One figure of agreement.

    Attributes
    ----------
    name: what was compared.
    value: 1 is full agreement, lower is worse.
    limit: the least that is accepted.

    """

    name: str
    value: float
    limit: float

    @property
    def good(self) -> bool:
        """Whether it is accepted; NaN is not."""
        return self.value >= self.limit

    def __str__(self) -> str:
        """Return for example ``embedding cosine, least 0.99910 (limit 0.98)``."""
        return f'{self.name} {self.value:.5f} (limit {self.limit:g})'


@torch.inference_mode()
def compare(stage: Stage, run: Run, cases: Sequence[Case]) -> list[Measure]:
    """Compare what runs a stage with float32 on all cases; the measures are the worst of them."""
    worst: dict[str, float] = {}
    for case in cases:
        inputs = case.inputs[stage.name]
        expected = {k: v.float().cpu() for k, v in case.outputs[stage.name].items()}
        found = {k: v.float().cpu() for k, v in run(**inputs).items()}
        values = dict.fromkeys(stage.limits, float('nan'))
        if all(bool(value.isfinite().all()) for value in found.values()):
            values = stage.agreement(inputs, expected, found)
        for key, value in values.items():
            before = worst.get(key, value)
            worst[key] = value if value < before or value != value else before
    return [Measure(key, value, stage.limits[key]) for key, value in worst.items()]
