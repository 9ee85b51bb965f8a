"""What is remembered of every track, as parallel arrays."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from masa_ros.types import Mask, TrackState


@dataclasses.dataclass
class TrackMemory:
    """All live tracks, in the order of their creation.

    Attributes
    ----------
    ids: (T,) int64.
    states: (T,) uint8 of ``TrackState``.
    boxes: (T, 4) float64, last seen box, pixels.
    velocities: (T, 2) float64, of the centre, pixels per second.
    embeddings: (T, C) float64, running average.
    scores, labels: (T,) of the last sighting.
    hits: (T,) int64, frames in which the track was seen.
    first_ns, last_ns: (T,) int64, stamps of the first and the last sighting.
    missed: (T,) int64, frames since the last sighting.
    masks: T masks of the last sighting.

    """

    ids: NDArray[np.int64]
    states: NDArray[np.uint8]
    boxes: NDArray[np.float64]
    velocities: NDArray[np.float64]
    embeddings: NDArray[np.float64]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]
    hits: NDArray[np.int64]
    first_ns: NDArray[np.int64]
    last_ns: NDArray[np.int64]
    missed: NDArray[np.int64]
    masks: list[Mask | None]

    @classmethod
    def empty(cls, embedding_size: int) -> TrackMemory:
        """Return a memory without tracks."""
        return cls(
            ids=np.zeros(0, np.int64),
            states=np.zeros(0, np.uint8),
            boxes=np.zeros((0, 4)),
            velocities=np.zeros((0, 2)),
            embeddings=np.zeros((0, embedding_size)),
            scores=np.zeros(0, np.float32),
            labels=np.zeros(0, np.int32),
            hits=np.zeros(0, np.int64),
            first_ns=np.zeros(0, np.int64),
            last_ns=np.zeros(0, np.int64),
            missed=np.zeros(0, np.int64),
            masks=[],
        )

    def __len__(self) -> int:
        """Return the number of tracks."""
        return len(self.ids)

    def keep(self, chosen: NDArray[np.bool_]) -> None:
        """Forget all tracks but the chosen ones."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                value = [item for item, stays in zip(value, chosen) if stays]
            else:
                value = value[chosen]
            setattr(self, field.name, value)

    def append(self, other: TrackMemory) -> None:
        """Add the tracks of another memory behind the own ones."""
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            joined = mine + theirs if isinstance(mine, list) else np.concatenate((mine, theirs))
            setattr(self, field.name, joined)

    @property
    def confirmed(self) -> NDArray[np.bool_]:
        """True (T,) where the track is not tentative."""
        return self.states != TrackState.TENTATIVE
