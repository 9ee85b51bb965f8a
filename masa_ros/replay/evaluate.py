"""Tracks against the truth: HOTA, IDF1, MOTA, by TrackEval."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from masa_ros.errors import SourceError
from masa_ros.masks import coco_rle
from masa_ros.replay.tracks_file import TrackedFrame, read_tracks
from masa_ros.tracking.geometry import ious
from masa_ros.types import Instances


@dataclasses.dataclass(frozen=True)
class Scores:
    """Figures in 0..1 (MOTA may be negative), counts of frames and objects.

    ``similarity`` is 'mask' or 'box': what the overlap of a track and the truth was taken of.
    """

    similarity: str
    frames: int
    hota: float
    deta: float
    assa: float
    idf1: float
    mota: float
    id_switches: int
    objects: int
    tracks: int

    def rounded(self) -> dict[str, float]:
        """Return the figures that are shares, to four digits."""
        values = dataclasses.asdict(self)
        return {name: round(v, 4) for name, v in values.items() if isinstance(v, float)}


def evaluate(found: list[TrackedFrame], truth: list[TrackedFrame]) -> Scores:
    """Score tracks over the frames that both sides have, paired by index.

    Tentative and lost tracks make no claim about the frame and are left out. Masks are compared
    when every instance of both sides has one, otherwise boxes.

    Raises
    ------
    SourceError
        When no frame is on both sides, or a frame's sizes differ.

    """
    by_index = {frame.index: frame for frame in truth}
    pairs = [(frame, by_index[frame.index]) for frame in found if frame.index in by_index]
    if not pairs:
        raise SourceError('tracks and ground truth have no frame in common')
    for ours, theirs in pairs:
        if (ours.height, ours.width) != (theirs.height, theirs.width):
            raise SourceError(
                f'frame {ours.index} has {ours.width} x {ours.height} pixels in the tracks and '
                f'{theirs.width} x {theirs.height} in the ground truth'
            )
    sides = [(_claims(ours), _claims(theirs), (ours.height, ours.width)) for ours, theirs in pairs]
    masks = all(
        one.masks is not None and all(m is not None for m in one.masks)
        for ours, theirs, _ in sides
        for one in (ours, theirs)
    )
    truth_ids = _consecutive([theirs for _, theirs, _ in sides])
    track_ids = _consecutive([ours for ours, _, _ in sides])
    data: dict[str, Any] = {
        'num_timesteps': len(sides),
        'gt_ids': truth_ids,
        'tracker_ids': track_ids,
        'num_gt_ids': _count(truth_ids),
        'num_tracker_ids': _count(track_ids),
        'num_gt_dets': sum(map(len, truth_ids)),
        'num_tracker_dets': sum(map(len, track_ids)),
        'similarity_scores': [_overlap(t, o, shape, masks) for o, t, shape in sides],
    }
    hota, identity, clear = _trackeval(data)
    return Scores(
        similarity='mask' if masks else 'box',
        frames=len(sides),
        hota=float(np.mean(hota['HOTA'])),
        deta=float(np.mean(hota['DetA'])),
        assa=float(np.mean(hota['AssA'])),
        idf1=float(identity['IDF1']),
        mota=float(clear['MOTA']),
        id_switches=int(clear['IDSW']),
        objects=data['num_gt_ids'],
        tracks=data['num_tracker_ids'],
    )


def _trackeval(data: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    from trackeval.metrics import CLEAR, HOTA, Identity  # slow to import

    with contextlib.redirect_stdout(io.StringIO()):  # they print their configuration
        metrics = (HOTA(), Identity(), CLEAR())
    return tuple(metric.eval_sequence(data) for metric in metrics)


def _claims(frame: TrackedFrame) -> Instances:
    return frame.instances[frame.instances.present]


def _consecutive(frames: list[Instances]) -> list[NDArray[np.int64]]:
    """Ids of each frame, numbered 0, 1, ... as TrackEval wants them."""
    known = {int(i) for frame in frames for i in frame.track_ids}
    number = {track_id: n for n, track_id in enumerate(sorted(known))}
    return [np.array([number[int(i)] for i in f.track_ids], np.int64) for f in frames]


def _count(ids: list[NDArray[np.int64]]) -> int:
    return max((int(frame.max()) + 1 for frame in ids if len(frame)), default=0)


def _overlap(
    truth: Instances, tracks: Instances, shape: tuple[int, int], masks: bool
) -> NDArray[np.float64]:
    """Return the overlap (N, M) of every pair."""
    if not len(truth) or not len(tracks):
        return np.zeros((len(truth), len(tracks)))
    if not masks:
        return np.asarray(ious(truth.boxes, tracks.boxes), np.float64)

    def encoded(instances: Instances) -> list[dict[str, Any]]:
        return [coco_rle(m, *shape) for m in instances.masks or () if m is not None]

    return np.asarray(coco.iou(encoded(truth), encoded(tracks), [0] * len(tracks)))


def table(scores: Scores) -> str:
    """Return the figures as lines of text."""
    rows = []
    for field in dataclasses.fields(scores):
        value = getattr(scores, field.name)
        text = f'{value:.3f}' if isinstance(value, float) else str(value)
        rows.append(f'  {field.name:<12} {text:>8}')
    return '\n'.join(rows)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('tracks', type=Path, metavar='TRACKS', help='tracks.json')
    parser.add_argument(
        '--ground-truth', type=Path, required=True, metavar='GT', help='the truth, as tracks.json'
    )
    parser.add_argument('--output', type=Path, help='write the figures to this json file too')


def run(arguments: argparse.Namespace) -> int:
    """Print the figures."""
    scores = evaluate(read_tracks(arguments.tracks), read_tracks(arguments.ground_truth))
    print(table(scores))
    if arguments.output:
        arguments.output.write_text(json.dumps(dataclasses.asdict(scores), indent=1))
    return 0
