# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Generated recordings that are hard in one way each, with exact truth."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from masa_ros.demo.scene import ACTORS, Actor, Key, drift, render
from masa_ros.recordings.tracks_file import TrackedFrame
from masa_ros.tracking.geometry import ious
from masa_ros.types import Frame, Instances

FRAMES, LONG = 100, 120
KINDS = ('crossings', 'occlusion', 'camera', 'dropped')
HARDER = ('flicker', 'long occlusion')
"""What association alone cannot do: see ``flickering``, and objects hidden for six seconds."""

Clip = list[tuple[Frame, TrackedFrame]]


def clip(kind: str, seed: int) -> Clip:
    """Return one clip of a kind; different seeds give different ones."""
    rng = np.random.default_rng([seed, (*KINDS, *HARDER).index(kind)])
    return list({'crossings': _crossings, 'occlusion': _occlusion, 'camera': _camera,
                 'dropped': _dropped, 'flicker': _crossings,
                 'long occlusion': _long_occlusion}[kind](rng))  # fmt: skip


def flickering(found: list[Instances], truth: list[TrackedFrame], seed: int) -> list[Instances]:
    """Take detections away as a poor detector does: each object's now and then, for 1 to 4 frames.

    What is left is seen for 1 to 8 frames in between. A detection is that of the object that its
    box overlaps most, by 0.3 at least.
    """
    rng = np.random.default_rng([seed, len(found)])
    ids = np.unique(np.concatenate([frame.instances.track_ids for frame in truth])).tolist()
    missed = {track_id: _runs(rng, len(found)) for track_id in ids}
    kept = []
    for number, (detections, frame) in enumerate(zip(found, truth)):
        overlap = ious(detections.boxes, frame.instances.boxes)
        gone = [missed[i][number] for i in frame.instances.track_ids.tolist()]
        lost = np.zeros(len(detections), np.bool_)
        if overlap.size:
            lost = np.array(gone)[overlap.argmax(1)] & (overlap.max(1) >= 0.3)
        kept.append(detections[~lost])
    return kept


def _runs(rng: np.random.Generator, frames: int) -> NDArray[np.bool_]:
    """Return True in runs of 1 to 4 frames, False in runs of 1 to 8 before and between them."""
    lengths = rng.integers(1, (9, 5), (frames, 2))
    return np.repeat([[False, True]] * frames, lengths.ravel())[:frames]


def _cast(rng: np.random.Generator, paths: list[tuple[Key, ...]]) -> list[Actor]:
    """Give the paths to actors drawn by chance; the same object may appear twice."""
    chosen = rng.permutation(len(ACTORS))[: len(paths)]
    return [ACTORS[i]._replace(path=path) for i, path in zip(chosen, paths)]


def _across(rng: np.random.Generator) -> tuple[Key, ...]:
    """Through the image from one side to the other, turning."""
    side = rng.uniform(80, 170)
    angle, turn = rng.uniform(-20, 20), rng.uniform(-60, 60)
    start: tuple[float, float]
    end: tuple[float, float]
    if rng.random() < 0.5:
        start, end = (60, rng.uniform(70, 410)), (580, rng.uniform(70, 410))
    else:
        start, end = (rng.uniform(70, 570), 60), (rng.uniform(70, 570), 420)
    if rng.random() < 0.5:
        start, end = end, start
    return (0, *start, side, angle), (1, *end, side * rng.uniform(0.8, 1.25), angle + turn)


def _crossings(rng: np.random.Generator) -> Iterator[tuple[Frame, TrackedFrame]]:
    """Let five objects pass in front of and behind each other."""
    return render(_cast(rng, [_across(rng) for _ in range(5)]), FRAMES, drift)


def _occlusion(rng: np.random.Generator) -> Iterator[tuple[Frame, TrackedFrame]]:
    """Hide two objects behind a third and let one leave the image, for 2.5 s each."""
    return _hidden(rng, (0.3, 0.4), 0.25, FRAMES)


def _long_occlusion(rng: np.random.Generator) -> Iterator[tuple[Frame, TrackedFrame]]:
    """Do the same for 6 s of 12."""
    return _hidden(rng, (0.2, 0.25), 0.5, LONG)


def _hidden(
    rng: np.random.Generator, begin: tuple[float, float], share: float, frames: int
) -> Iterator[tuple[Frame, TrackedFrame]]:
    """Hide objects for a share of the time, from a moment between two on."""
    hidden = []
    x, y = rng.uniform(260, 380), rng.uniform(200, 280)
    for _ in range(2):
        side, (ax, bx) = rng.uniform(60, 90), rng.permutation([90.0, 550.0])
        ay, by, out = *rng.uniform(100, 380, 2), rng.uniform(*begin)
        meet = (x + rng.uniform(-10, 10), y + rng.uniform(-10, 10), side, 0.0)
        start, end = (0, ax, ay, side, 0), (1, bx, by, side, 20)
        hidden.append((start, (out, *meet), (out + share, *meet), end))
    side, row = rng.uniform(90, 140), rng.uniform(100, 380)
    back = begin[0] + share
    away = (0, 120, row, side, 0), (begin[0], -130, row, side, 0), (back, -130, row, side, 0)
    leaving = (*away, (1, 150, rng.uniform(100, 380), side, 0))
    front = ((0, x, y, 230, 0), (1, x, y, 230, 10))
    return render(_cast(rng, [*hidden, leaving, front]), frames, drift)


def _camera(rng: np.random.Generator) -> Iterator[tuple[Frame, TrackedFrame]]:
    """Shake and pan the camera over objects that move a little."""
    phases, jolts = rng.uniform(0, 6.3, 4), rng.normal(0, 12, (FRAMES, 2))

    def camera(time: float) -> tuple[float, float]:
        jolt = jolts[round(time * (FRAMES - 1))]
        pan = 150 * np.sin(2 * np.pi * time + phases[0]), 70 * np.sin(4 * np.pi * time + phases[1])
        return float(pan[0] + jolt[0]), float(pan[1] + jolt[1])

    paths = []
    for _ in range(5):
        here, side = rng.uniform((120, 100), (520, 380)), rng.uniform(70, 140)
        there = here + rng.normal(0, 50, 2)
        times = np.linspace(0, 1, FRAMES)
        paths.append(
            tuple(
                (t, *(here + t * (there - here) - camera(t)), side, 10 * t) for t in times.tolist()
            )
        )
    return render(_cast(rng, paths), FRAMES, camera)


def _dropped(rng: np.random.Generator) -> Iterator[tuple[Frame, TrackedFrame]]:
    """Show half of the frames of crossings, a random half."""
    every = list(_crossings(rng))
    return iter([every[i] for i in np.sort(rng.permutation(FRAMES)[: FRAMES // 2])])
