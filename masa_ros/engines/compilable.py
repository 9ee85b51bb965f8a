# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What can be compiled: a network in stages, and the same network in float32 to compare with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from masa_ros.models.stages import Case, Run, Runs, Stage


class Reference(Protocol):
    """A network in float32: what engines are made of and compared with."""

    device: str

    def cases(self, images: Sequence[NDArray[np.uint8]]) -> list[Case]:
        """Run all stages by plain PyTorch on images of the size of a network input.

        Parameters
        ----------
        images: (H, W, 3) uint8 RGB.

        """
        ...

    def stages_in(self, precision: str) -> Mapping[str, Stage]:
        """Return the stages of a copy of the network, brought to a precision."""
        ...


class Compilable(Protocol):
    """A network whose stages can be compiled.

    Attributes
    ----------
    name: of the model; tells users whose engines lie on the disk.
    device: where it runs.
    precision: in which PyTorch runs it.
    asked: the precision that engines are to have; 'auto' where that is left open: the network's
        own, or a lower one that agrees with float32 (``Runtime.lower``).
    stages: its stages by name, in the order in which they are built.
    eager: what runs them by plain PyTorch.
    runs: what runs them now, asked with the size of every input.

    """

    runs: Runs

    @property
    def name(self) -> str:
        """See above."""
        ...

    @property
    def device(self) -> str:
        """See above."""
        ...

    @property
    def precision(self) -> str:
        """See above."""
        ...

    @property
    def asked(self) -> str:
        """See above."""
        ...

    @property
    def stages(self) -> Mapping[str, Stage]:
        """See above."""
        ...

    @property
    def eager(self) -> Mapping[str, Run]:
        """See above."""
        ...

    def input_shape(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of the input for images of this size."""
        ...

    def reference(self) -> Reference:
        """Load the same network in float32.

        Raises
        ------
        WeightsError, ConfigError
            When it cannot be loaded.

        """
        ...
