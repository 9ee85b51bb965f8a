# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What follows points: a ``PointTracker``, and a ``Chain`` for points that begin in one frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from masa_ros.types import Frame

E = TypeVar('E')
"""What a point tracker makes of a frame in the stateless part; nobody else looks inside."""
_In = TypeVar('_In', contravariant=True)

Points = NDArray[np.float32]
"""(N, 2) x y in pixels of the image; (0, 0) is the centre of its first pixel."""


class Seen(NamedTuple):
    """Where points are in one frame.

    Attributes
    ----------
    points: (N, 2), also of those that are hidden: where they are thought to be.
    visible: (N,) bool.

    """

    points: Points
    visible: NDArray[np.bool_]


class Chain(Protocol[_In]):
    """Points that are followed from the frame they were chosen in, which is not answered."""

    def step(self, encoded: _In) -> list[Seen]:
        """Take the next frame; returns the frames that are decided now, in their order.

        Every frame is answered once. None while later frames are awaited, several when they have
        come.
        """
        ...

    def rest(self) -> list[Seen]:
        """Return what is thought of the frames that are still open; nothing changes by it."""
        ...

    def keep(self, index: NDArray[np.intp]) -> None:
        """Follow only these points from now on, in this order."""
        ...


class PointTracker(Protocol[E]):
    """Follows points; no state, any number of chains.

    Attributes
    ----------
    late: frames that an answer waits for at most.
    patch: side of what must not be plain around a point, so that it can be followed, pixels; 0:
        any point can.

    """

    late: int
    patch: int

    def encode(self, frames: Sequence[Frame]) -> list[E]:
        """Run the part that does not depend on the points, on frames of one size."""
        ...

    def begin(self, encoded: E, points: Points) -> Chain[E]:
        """Begin with points of a frame."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """Return what was loaded, for diagnostics."""
        ...


class PointTrackerKind(NamedTuple):
    """A line of the registry of point trackers.

    Attributes
    ----------
    options: its class of options.
    load: makes it of them, to run on a device; raises ConfigError or WeightsError.

    """

    options: type
    load: Callable[[Any, str], PointTracker[Any]]
