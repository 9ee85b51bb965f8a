# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a way of tracking is: a ``Method``, and one ``Session`` for every stream of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from masa_ros.types import Expected, Frame, Instances, Prompt, Result

E = TypeVar('E')
"""What a method makes of a frame in the costly, stateless part; nobody else looks inside."""
_In = TypeVar('_In', contravariant=True)
Log = Callable[[str], None]
"""Takes a line worth telling."""


class Session(Protocol[_In]):
    """What a method remembers of one stream. Frames come in the order of their stamps.

    Ids are the session's own, from 1 on, and never given twice, ``reset`` or not.
    """

    def update(
        self, frame: Frame, encoded: _In, given: Instances | None = None
    ) -> Sequence[Result]:
        """Take the next frame; returns the frames that are decided now.

        None while later frames are awaited, several when they have come: every frame is answered
        once, in order. A stamp behind the last one counts as the same moment. The size of the
        frames may change.

        Parameters
        ----------
        frame: next frame.
        encoded: what the method's ``encode`` made of it.
        given: detections of somebody else to be tracked instead of the method's own.

        """
        ...

    def prompt(self, frame: Frame, encoded: _In, prompt: Prompt) -> Instances:
        """Begin or correct a track by what somebody points at in a frame.

        Returns
        -------
        The tracks that it became, as they are in that frame; a frame that is answered later has
        them in its ``Result`` too.

        Raises
        ------
        PromptError
            When nothing is there or the track is not known; the text says which.

        """
        ...

    def ids(self) -> Sequence[int]:
        """Return the tracks that are remembered, in sight or not."""
        ...

    def remove(self, track_id: int) -> bool:
        """Forget a track; False where none has this id."""
        ...

    def finish(self) -> Sequence[Result]:
        """Answer the frames that are still open, with what is known of them."""
        ...

    def reset(self) -> None:
        """Forget all tracks and open frames."""
        ...

    def figures(self) -> Mapping[str, Any]:
        """Return what diagnostics tell: sizes of memories, counts of what was refused."""
        ...


@runtime_checkable
class Expecting(Protocol):
    """A session that makes use of where its tracks should be seen; others need not."""

    def expect(self, expected: Expected) -> None:
        """Take where tracks, by the session's ids, should be seen in the next frame."""
        ...


class Method(Protocol[E]):
    """A way of tracking: networks and options, no state between frames, any number of streams.

    Attributes
    ----------
    name: as users give it.
    options: its class of options, see ``masa_ros.options``.
    accepts: kinds of prompts that sessions take: of 'point', 'box', 'mask', 'text'.
    device: where it runs, for example 'cpu' or 'cuda:0'.

    """

    name: str
    options: type
    accepts: frozenset[str]
    device: str

    @classmethod
    def load(cls, options: Any, log: Log) -> Method[E]:
        """Read the weights and make the networks ready.

        Raises
        ------
        ConfigError, WeightsError, EngineError
            With a text that names the option or file.

        """
        ...

    def encode(self, frames: Sequence[Frame]) -> list[E]:
        """Run the part that costs most and remembers nothing, on frames of one size."""
        ...

    def session(self, after: Session[Any] | None = None) -> Session[E]:
        """Begin a session; ``after`` hands over the tracks of one of the same method."""
        ...

    def configure(self, options: Any) -> None:
        """Take changed options, all of them or none; what was loaded stays.

        Raises
        ------
        ConfigError
            Naming an option that cannot change to this value.

        """
        ...

    def describe(self) -> Mapping[str, Any]:
        """Return what was loaded and how it runs, for diagnostics."""
        ...

    def prepare(self, height: int, width: int) -> bool:
        """Wait for what has to be built for images of this size; False when something failed."""
        ...

    def interrupt(self) -> None:
        """Let who waits for something that is built go on without it; from another thread."""
        ...

    def close(self) -> None:
        """Give up what is being built; nobody waits for it any more. From any thread."""
        ...
