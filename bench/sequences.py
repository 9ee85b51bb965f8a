# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The labelled real recordings of ``../shared/data``."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from masa_ros.evaluation.truth import read_truth
from masa_ros.recordings.sources import frames_of, open_source
from masa_ros.recordings.tracks_file import TrackedFrame
from masa_ros.tracking.geometry import ious
from masa_ros.types import Frame, Instances, TrackState

DATA = Path(__file__).resolve().parents[2] / 'shared/data'


class Recording(NamedTuple):
    """A recording, and what is true of the frames that are labelled."""

    name: str
    frames: list[Frame]
    truth: list[TrackedFrame]


def labelled(
    data: Path = DATA, names: Sequence[str] = (), most: int | None = None
) -> Iterator[Recording]:
    """Give the sequences of a folder that have labels: these, or all; the first frames of them.

    Labels are the PNG masks of ``masks/``, otherwise the table of boxes.
    """
    folders = [path.parent for kind in ('labelled', 'sequences') for path in
               sorted(data.glob(f'{kind}/*/meta.json'))]  # fmt: skip
    for folder in folders:
        labels = next(folder.glob('*boxes.csv'), None)
        if labels is None or (names and folder.name not in names):
            continue
        images = folder / 'images'
        source = open_source(images if images.is_dir() else folder, fps=rate(folder))
        frames = frames_of(itertools.islice(source, most))
        if (folder / 'masks').is_dir():
            blank = [
                TrackedFrame(i, f'{i:05d}', frame.stamp_ns, *frame.shape, Instances.empty())
                for i, frame in enumerate(frames)
            ]
            truth = read_truth(folder / 'masks', blank)
        else:
            truth = boxes_of(labels, frames[0].shape, len(frames))
        yield Recording(folder.name, frames, truth)


def rate(folder: Path) -> float:
    """Frames per second by meta.json, 25 where it does not say."""
    fps = json.loads((folder / 'meta.json').read_text()).get('fps')
    return float(fps or 25)


def boxes_of(labels: Path, shape: tuple[int, int], frames: int) -> list[TrackedFrame]:
    """Read a table of frame, id, x, y, w, h: the frames that it names."""
    by_frame: dict[int, list[list[float]]] = {}
    with labels.open() as file:
        for row in csv.DictReader(file):
            x, y, w, h = (float(row[key]) for key in 'xywh')
            box = [int(row['id']), x, y, x + w, y + h]
            by_frame.setdefault(int(row['frame']), []).append(box)
    truth = []
    for index, rows in by_frame.items():
        if index < frames:
            values = np.array(rows, np.float64)
            instances = Instances(
                boxes=values[:, 1:].astype(np.float32),
                track_ids=values[:, 0].astype(np.int64),
                states=np.full(len(rows), TrackState.TRACKED, np.uint8),
            )
            truth.append(TrackedFrame(index, '', 0, *shape, instances))
    return truth


def recalled(found: list[TrackedFrame], truth: list[TrackedFrame]) -> list[TrackedFrame]:
    """Keep what overlaps the truth: not everything in these sequences is labelled."""
    by_index = {frame.index: frame.instances.boxes for frame in truth}
    kept = []
    for frame in found:
        if frame.index in by_index:
            overlap = ious(frame.instances.boxes, by_index[frame.index])
            chosen = frame.instances[overlap.max(axis=1, initial=0) >= 0.5]
            kept.append(dataclasses.replace(frame, instances=chosen))
    return kept
