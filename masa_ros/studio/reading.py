# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tracks that were made before, shown beside what is tracked now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from masa_ros.errors import PromptError
from masa_ros.methods.protocol import Log, Session
from masa_ros.recordings.tracks_file import TrackedFrame
from masa_ros.types import Frame, Instances, Prompt, Result


class Reading:
    """A ``Method`` that tracks nothing and answers with what a file of tracks says.

    Parameters
    ----------
    frames: of the file.

    """

    name: str = 'tracks.json'
    options: type = object
    device: str = 'cpu'
    accepts: frozenset[str] = frozenset()

    def __init__(self, frames: Sequence[TrackedFrame]) -> None:
        self.frames = {frame.index: frame for frame in frames}

    @property
    def named(self) -> list[tuple[int, int, str]]:
        """The names that somebody gave tracks: first image, id, name."""
        found: dict[tuple[int, str], int] = {}
        for index, frame in sorted(self.frames.items()):
            for track_id, name in zip(frame.instances.track_ids.tolist(), frame.instances.names):
                if name:
                    found.setdefault((track_id, name), index)
        return [(index, track_id, name) for (track_id, name), index in found.items()]

    @classmethod
    def load(cls, options: Any, log: Log) -> Reading:
        """Not made of options."""
        raise NotImplementedError

    def encode(self, frames: Sequence[Frame]) -> list[None]:
        """Do nothing."""
        return [None] * len(frames)

    def session(self, after: Session[Any] | None = None) -> _Session:
        """Begin with the first image of the file."""
        return _Session(self.frames)

    def configure(self, options: Any) -> None:
        """Take nothing."""

    def describe(self) -> Mapping[str, Any]:
        """Tell how much there is."""
        return {'method': self.name, 'images': len(self.frames)}

    def prepare(self, height: int, width: int) -> bool:
        """Have nothing to prepare."""
        return True

    def interrupt(self) -> None:
        """Have nobody wait."""

    def close(self) -> None:
        """Have nothing to give back."""


class _Session:
    """Counts the images; see ``Session``."""

    def __init__(self, frames: Mapping[int, TrackedFrame]) -> None:
        self._frames, self._next = frames, 0

    def update(
        self, frame: Frame, encoded: None, given: Instances | None = None
    ) -> Sequence[Result]:
        known = self._frames.get(self._next)
        self._next += 1
        if known is None:
            return [Result(frame, Instances.empty())]
        return [Result(frame, known.instances, known.class_names)]

    def prompt(self, frame: Frame, encoded: None, prompt: Prompt) -> Instances:
        raise PromptError('these tracks are read from a file')

    def ids(self) -> Sequence[int]:
        known = self._frames.get(self._next - 1)
        return [] if known is None else known.instances.track_ids.tolist()

    def remove(self, track_id: int) -> bool:
        return False

    def finish(self) -> Sequence[Result]:
        return []

    def reset(self) -> None:
        self._next = 0

    def figures(self) -> Mapping[str, Any]:
        return {}
