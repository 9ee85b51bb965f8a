# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is remembered of every track, as parallel arrays."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from masa_ros.tracking.similarity import lengths
from masa_ros.types import TrackState

# As plain numbers, which numpy compares arrays with in a third of the time.
TENTATIVE, TRACKED, LOST, COASTED = map(int, TrackState)


@dataclasses.dataclass
class TrackMemory:
    """All live tracks, in the order of their creation.

    Attributes
    ----------
    ids: (T,) int64.
    states: (T,) uint8 of ``TrackState``.
    boxes: (T, 4) float64, last known box, pixels.
    velocities: (T, 2) float64, of the centre against the scene, pixels per second.
    drift: (T, 2) float64, how far the camera moved the scene since that box, pixels.
    embeddings: (T, C) float32, running average.
    gallery: (T, K, C) float32, sightings that look unlike each other; unused places repeat the
        first one.
    lengths, gallery_lengths: (T,), (T, K) float32, of these vectors.
    stored: (T,) int64, sightings written to the gallery so far.
    scores: (T,) float32 of the last sighting.
    votes: (T, L) float32, sum of the scores for each known label.
    labels: (T,) int32 of the last sighting.
    steadiness: (T,) float64, share of the last frames in which the track was detected.
    hits: (T,) int64, frames in which the track was detected.
    missed: (T,) int64, frames since then.
    first_ns, last_ns: (T,) int64, stamps of the first and the last detection.
    box_ns: (T,) int64, stamp of the last known box, which may be later.
    kept: (T,) bool, somebody pointed at it, so that it is not forgotten.

    """

    ids: NDArray[np.int64]
    states: NDArray[np.uint8]
    boxes: NDArray[np.float64]
    velocities: NDArray[np.float64]
    drift: NDArray[np.float64]
    embeddings: NDArray[np.float32]
    gallery: NDArray[np.float32]
    lengths: NDArray[np.float32]
    gallery_lengths: NDArray[np.float32]
    stored: NDArray[np.int64]
    steadiness: NDArray[np.float64]
    scores: NDArray[np.float32]
    votes: NDArray[np.float32]
    labels: NDArray[np.int32]
    hits: NDArray[np.int64]
    missed: NDArray[np.int64]
    first_ns: NDArray[np.int64]
    last_ns: NDArray[np.int64]
    box_ns: NDArray[np.int64]
    kept: NDArray[np.bool_]

    @classmethod
    def begin(
        cls,
        ids: NDArray[np.int64],
        boxes: NDArray[np.floating],
        embeddings: NDArray[np.float32],
        scores: NDArray[np.float32],
        votes: NDArray[np.float32],
        labels: NDArray[np.int32],
        gallery_size: int,
        stamp_ns: int,
    ) -> TrackMemory:
        """Return tentative tracks seen once, at ``stamp_ns``."""
        count = len(ids)
        stamps = np.full(count, stamp_ns, np.int64)
        long = lengths(embeddings)
        return cls(
            ids=ids,
            states=np.full(count, TENTATIVE, np.uint8),
            boxes=boxes.astype(np.float64),
            velocities=np.zeros((count, 2)),
            drift=np.zeros((count, 2)),
            embeddings=embeddings.copy(),
            gallery=np.repeat(embeddings[:, None], gallery_size, axis=1),
            lengths=long,
            gallery_lengths=np.repeat(long[:, None], gallery_size, axis=1),
            stored=np.ones(count, np.int64),
            steadiness=np.full(count, 0.2),
            scores=scores.copy(),
            votes=votes,
            labels=labels.copy(),
            hits=np.ones(count, np.int64),
            missed=np.zeros(count, np.int64),
            first_ns=stamps,
            last_ns=stamps.copy(),
            box_ns=stamps.copy(),
            kept=np.zeros(count, np.bool_),
        )

    @classmethod
    def empty(cls, embedding_size: int, labels: int, gallery_size: int) -> TrackMemory:
        """Return a memory without tracks."""
        return cls.begin(
            ids=np.zeros(0, np.int64),
            boxes=np.zeros((0, 4)),
            embeddings=np.zeros((0, embedding_size), np.float32),
            scores=np.zeros(0, np.float32),
            votes=np.zeros((0, labels), np.float32),
            labels=np.zeros(0, np.int32),
            gallery_size=gallery_size,
            stamp_ns=0,
        )

    def __len__(self) -> int:
        """Return the number of tracks."""
        return len(self.ids)

    def keep(self, chosen: NDArray[np.bool_]) -> None:
        """Forget all tracks but the chosen ones."""
        if not chosen.all():
            for field in dataclasses.fields(self):
                setattr(self, field.name, getattr(self, field.name)[chosen])

    def continue_as(self, row: int, other: int) -> None:
        """Let a track go on with all that is known of another one but its identity."""
        for field in dataclasses.fields(self):
            if field.name not in ('ids', 'first_ns', 'kept'):
                values = getattr(self, field.name)
                values[row] = values[other]

    def append(self, other: TrackMemory) -> None:
        """Add the tracks of another memory behind the own ones."""
        for field in dataclasses.fields(self):
            joined = np.concatenate((getattr(self, field.name), getattr(other, field.name)))
            setattr(self, field.name, joined)

    def shift(self, nanoseconds: int) -> None:
        """Move all stamps, so that nothing becomes older or younger when the clock is set."""
        for stamps in (self.first_ns, self.last_ns, self.box_ns):
            stamps += nanoseconds

    def rescale(self, x: float, y: float) -> None:
        """Multiply all places, in pixels, along both axes."""
        for places in (self.boxes, self.velocities, self.drift):
            places *= np.tile((x, y), places.shape[1] // 2)

    @property
    def confirmed(self) -> NDArray[np.bool_]:
        """True (T,) where the track is not tentative."""
        return self.states != TENTATIVE

    @property
    def absent(self) -> NDArray[np.bool_]:
        """True (T,) where the last frame had no sight of the track."""
        return (self.missed > 0) & (self.states != COASTED)
