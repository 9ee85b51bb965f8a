# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What carries masks on: a ``Propagator``, and one ``Memory`` for every stream of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Tensor

from masa_ros.types import Frame

E = TypeVar('E')
"""What a propagator makes of a frame in the stateless part; nobody else looks inside."""
_In = TypeVar('_In', contravariant=True)


class Memory(Protocol[_In]):
    """What is remembered of the objects of one stream.

    Every frame is first read, then remembered. What is only read leaves no trace in what is
    known of the objects: reading ahead, or a last frame, changes nothing. Masks are handed over
    at the size of the frame, with the background first: (1 + N, H, W) float32 probabilities that
    sum to 1 in every pixel, or a hard choice of 0 and 1.

    Attributes
    ----------
    ids: of the N objects, in the order of their masks.

    """

    @property
    def ids(self) -> tuple[int, ...]:
        """See above."""
        ...

    def read(self, encoded: _In) -> Tensor:
        """Find the objects again: probabilities (1 + N, H, W); (1, H, W) of ones without any."""
        ...

    def remember(
        self,
        encoded: _In,
        ids: Sequence[int],
        masks: Tensor | None = None,
        certain: bool = False,
    ) -> None:
        """Take what is true of the frame that was read last, or of a first one.

        Parameters
        ----------
        encoded: the frame.
        ids: of all objects from now on; those that are left out are forgotten, others begin.
        masks: (1 + N, H, W) in the order of ``ids``; None: as they were read, which is more exact
            than handing back what ``read`` gave where the network sees the frame smaller.
        certain: somebody has looked (a detector, a user), so that this frame is worth keeping;
            otherwise the memory decides.

        """
        ...

    def drop(self, ids: Sequence[int]) -> None:
        """Forget some objects."""
        ...

    def forget(self) -> None:
        """Forget everything."""
        ...

    def figures(self) -> Mapping[str, Any]:
        """Return how large it is: ``memory_frames``, ``memory_bytes``."""
        ...


class Propagator(Protocol[E]):
    """A network that carries masks on; no state, any number of memories."""

    def encode(self, frames: Sequence[Frame]) -> list[E]:
        """Run the part that needs no memory, on frames of one size."""
        ...

    def memory(self) -> Memory[E]:
        """Begin to remember."""
        ...

    def configure(self, config: Any) -> None:
        """Take new values of the options that are live; memories follow from the next frame on."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """Return what was loaded, for diagnostics."""
        ...


class PropagatorKind(NamedTuple):
    """A line of the registry of propagators.

    Attributes
    ----------
    options: its class of options.
    load: makes it of them, to run on a device; raises ConfigError or WeightsError.

    """

    options: type
    load: Callable[[Any, str], Propagator[Any]]


def check_masks(masks: Tensor, ids: Sequence[int], height: int, width: int) -> None:
    """Raise ValueError where masks (1 + N, height, width) do not fit N different ids."""
    expected = (1 + len(ids), height, width)
    if tuple(masks.shape) != expected or len(set(ids)) < len(ids):
        raise ValueError(f'masks {tuple(masks.shape)} of ids {tuple(ids)}, not {expected}')
