# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Networks in the pieces that are compiled: tensors of known shape in, tensors out.

A stage is a plain module without data-dependent control flow, so that it can be exported whole.
What has no static shape, suppression and choices, stands between the stages. A stage brings all
that is special to it; whoever compiles it knows nothing else of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from masa_ros.models.precision import PRECISIONS

Run = Callable[..., dict[str, Tensor]]
"""What runs a stage: its named inputs in, its named outputs out."""

Runs = Callable[[tuple[int, int]], Mapping[str, Run]]
"""What gives the runs of all stages for a network input of (height, width)."""

Tensors = Mapping[str, Tensor]


class Stage(nn.Module):
    """One piece of a network; ``forward`` takes its inputs and returns a tuple of its outputs.

    A stage holds the modules that it runs and no others: an engine of it depends on them.

    Attributes
    ----------
    name: unlike those of the network's other stages.
    inputs, outputs: names of the tensors of ``forward``, in their order.
    rows: names of the inputs whose first axis is free, of one length for all; that of all outputs
        is then free too. All other axes follow from the size of the network input.
    most: rows that it takes at once; it is called again for more.
    exact: names of the inputs that stay as they are; others are cast to the type of feature maps.
    mixed: whether mixed precision is worth a try where float16 is not exact enough.
    limits: the least agreement with float32 that is accepted, by what is compared; 1 is full.

    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    rows: tuple[str, ...] = ()
    most: int = 1
    exact: tuple[str, ...] = ()
    mixed: bool = False
    limits: ClassVar[Mapping[str, float]] = {'cosine, least': 0.998}

    def arrange(self, tensors: Tensors, dtype: torch.dtype) -> list[Tensor]:
        """Put named inputs in their order, feature maps in the given type."""
        return [
            tensors[name]
            if name in self.exact or not tensors[name].is_floating_point()
            else tensors[name].to(dtype)
            for name in self.inputs
        ]

    def agreement(self, inputs: Tensors, expected: Tensors, found: Tensors) -> dict[str, float]:
        """Compare outputs with those of the float32 network.

        Parameters
        ----------
        inputs: what the stage was given.
        expected, found: outputs by name, float32 on the CPU, all finite.

        Returns
        -------
        A figure for each of ``limits``: 1 is full agreement, lower is worse.

        """
        return {'cosine, least': least_cosine(expected, found, self.outputs)}

    def precisions(self, wanted: str) -> list[str]:
        """Return the precisions to try, the wanted one first, each more exact than the last."""
        order = list(PRECISIONS)
        tried = order[order.index(wanted) :]
        between = ('fp16', 'mixed') if self.mixed else ()
        return [p for p in tried if p in (wanted, 'fp32') or (wanted, p) == between]


class Case(NamedTuple):
    """What a float32 network made of one image, stage by stage.

    Attributes
    ----------
    inputs, outputs: tensors by stage and name.

    """

    inputs: Mapping[str, Tensors]
    outputs: Mapping[str, Tensors]


class Eager:
    """Run a stage as it is."""

    def __init__(self, stage: Stage, dtype: torch.dtype) -> None:
        self.stage, self.dtype = stage, dtype

    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        """Named inputs, of any floating type, to named outputs."""
        inputs = self.stage.arrange(tensors, self.dtype)
        return dict(zip(self.stage.outputs, self.stage(*inputs)))


def run_rows(stage: Stage, run: Run, tensors: Tensors, most: int = 0) -> dict[str, Tensor]:
    """Run a stage on any number of rows, none too, as many at once as it takes.

    Parameters
    ----------
    stage: which it is.
    run: what runs it.
    tensors: its inputs by name; further ones are left out.
    most: rows at once, where that is less than the stage takes; 0: as many.

    """
    step = min(most or stage.most, stage.most)
    count = len(tensors[stage.rows[0]])
    rows = {name: tensors[name] for name in stage.rows}
    shared = {name: tensors[name] for name in stage.inputs if name not in rows}
    if not count:
        # Run on a row that is thrown away: the stage knows the shapes.
        rows = {name: value.new_zeros((1, *value.shape[1:])) for name, value in rows.items()}
    parts = []
    for start in range(0, max(count, 1), step):
        some = {name: value[start : start + step] for name, value in rows.items()}
        parts.append(run(**some, **shared))
    return {name: joined([part[name] for part in parts])[:count] for name in stage.outputs}


def joined(parts: list[Tensor]) -> Tensor:
    """Put tensors behind one another; one alone, the common case, is not copied."""
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def least_cosine(expected: Tensors, found: Tensors, names: Iterable[str]) -> float:
    """Return the least cosine of named tensors, each taken as one vector."""
    return min(
        float(
            torch.cosine_similarity(
                expected[name].reshape(1, -1).double(), found[name].reshape(1, -1).double()
            )
        )
        for name in names
    )
