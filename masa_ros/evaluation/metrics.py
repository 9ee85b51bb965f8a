# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tracks against the truth: HOTA, IDF1, MOTA, J&F and track AP by TrackEval, and TETA."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from masa_ros.errors import SourceError
from masa_ros.evaluation.teta import Observed, teta
from masa_ros.masks import coco_rle
from masa_ros.recordings.tracks_file import Position, TrackedFrame
from masa_ros.tracking.geometry import ious
from masa_ros.types import Instances

_MAX_TRACKS = 100  # of AR100


@dataclasses.dataclass(frozen=True)
class Scores:
    """Figures in 0..1 (MOTA may be negative), counts of frames, objects and events.

    Attributes
    ----------
    similarity: 'mask' or 'box': what the overlap of a track and the truth was taken of.
    frames, objects, tracks: what was compared.
    hota, deta, assa: Luiten et al. 2020, means over the thresholds.
    idf1: Ristani et al. 2016.
    mota, id_switches: Bernardin and Stiefelhagen 2008.
    loca, assoca, clsa, teta: Li et al. 2022; the last two are None where tracks or truth have no
        classes, all four for several recordings.
    track_ap, track_ap50, ar100: Yang et al. 2019: whole tracks as detections, class-agnostic.
    j, f, jf: Perazzi et al. 2016, of masks; None without.

    """

    similarity: str
    frames: int
    objects: int
    tracks: int
    hota: float
    deta: float
    assa: float
    idf1: float
    mota: float
    id_switches: int
    loca: float | None
    assoca: float | None
    clsa: float | None
    teta: float | None
    track_ap: float | None
    track_ap50: float | None
    ar100: float | None
    j: float | None
    f: float | None
    jf: float | None

    def rounded(self) -> dict[str, float]:
        """Return the figures that are shares, to four digits."""
        values = dataclasses.asdict(self)
        return {name: round(v, 4) for name, v in values.items() if isinstance(v, float)}


Parts = dict[str, dict[str, Any]]
"""What TrackEval counted in one recording, by metric: what figures of several are made of.

Numbers, and lists of them, as JSON holds them.
"""


@dataclasses.dataclass(frozen=True)
class Pair:
    """What is claimed about one frame, and what is true.

    Attributes
    ----------
    frame: with all that was tracked, and the names of its classes.
    truth, claims: what is compared.
    overlap: (N, M) of truth and claims.
    truth_names: of the classes of the truth.
    truth_positions: where in space objects of the truth are, by their ids.

    """

    frame: TrackedFrame
    truth: Instances
    claims: Instances
    overlap: NDArray[np.float64]
    truth_names: Mapping[int, str]
    truth_positions: Mapping[int, Position] = dataclasses.field(default_factory=dict)


def pair(found: Sequence[TrackedFrame], truth: Sequence[TrackedFrame]) -> tuple[list[Pair], str]:
    """Pair the frames that both sides have, by index; also say what 'mask' or 'box' overlaps are.

    Tentative and lost tracks make no claim about the frame and are left out. Masks are compared
    when every instance of both sides has one, otherwise boxes.

    Raises
    ------
    SourceError
        When no frame is on both sides, or a frame's sizes differ.

    """
    by_index = {frame.index: frame for frame in truth}
    both = [(frame, by_index[frame.index]) for frame in found if frame.index in by_index]
    if not both:
        raise SourceError('tracks and ground truth have no frame in common')
    for ours, theirs in both:
        if (ours.height, ours.width) != (theirs.height, theirs.width):
            raise SourceError(
                f'frame {ours.index} has {ours.width} x {ours.height} pixels in the tracks and '
                f'{theirs.width} x {theirs.height} in the ground truth'
            )
    sides = [(t.instances[t.instances.present], o.instances[o.instances.present]) for o, t in both]
    masks = all(
        one.masks is not None and all(m is not None for m in one.masks)
        for side in sides
        for one in side
    )
    pairs = [
        Pair(ours, *side, _overlap(ours, *side, masks), theirs.class_names, theirs.positions)
        for (ours, theirs), side in zip(both, sides)
    ]
    return pairs, 'mask' if masks else 'box'


def evaluate(
    found: Sequence[TrackedFrame], truth: Sequence[TrackedFrame], detailed: bool = True
) -> Scores:
    """Score tracks over the frames that both sides have; see ``pair`` and ``score``."""
    return score(*pair(found, truth), detailed)


def score(pairs: list[Pair], similarity: str, detailed: bool = True) -> Scores:
    """Score what ``pair`` returned.

    Without ``detailed`` track AP and J&F, which take most of the time, are left out as None.
    """
    return measure(pairs, similarity, detailed)[0]


def measure(pairs: list[Pair], similarity: str, detailed: bool = True) -> tuple[Scores, Parts]:
    """Score what ``pair`` returned, and keep what ``combine`` needs of it."""
    masks = similarity == 'mask'
    truth_ids = _consecutive([p.truth for p in pairs])
    track_ids = _consecutive([p.claims for p in pairs])
    data: dict[str, Any] = {
        'num_timesteps': len(pairs),
        'gt_ids': truth_ids,
        'tracker_ids': track_ids,
        'num_gt_ids': _count(truth_ids),
        'num_tracker_ids': _count(track_ids),
        'num_gt_dets': sum(map(len, truth_ids)),
        'num_tracker_dets': sum(map(len, track_ids)),
        'similarity_scores': [p.overlap for p in pairs],
    }
    results: dict[str, dict[Any, Any]] = {}
    with contextlib.redirect_stdout(io.StringIO()):  # they print their configuration
        for name in ('HOTA', 'Identity', 'CLEAR'):
            results[name] = _metric(name).eval_sequence(data)
        if detailed:
            results['TrackMAP'] = _whole_tracks(pairs, masks)
        if masks and detailed and data['num_gt_ids']:
            results['JAndF'] = _region_and_boundary(pairs, data)
        of_tracks = {'': results['TrackMAP']} if detailed else {}
        figures = _figures(results | _combined('TrackMAP', of_tracks))
    everything = teta([_observed(p) for p in pairs])
    scores = Scores(
        similarity=similarity,
        frames=len(pairs),
        objects=data['num_gt_ids'],
        tracks=data['num_tracker_ids'],
        loca=everything.loca,
        assoca=everything.assoca,
        clsa=everything.clsa,
        teta=everything.teta,
        **figures,
    )
    return scores, {name: _plain(result) for name, result in results.items()}


def combine(recordings: Mapping[str, tuple[Scores, Parts]]) -> Scores:
    """Score recordings as one set, by the rules by which TrackEval combines sequences.

    Counts are added up, AssA is weighted by true positives, J and F by objects, and track AP is
    of the tracks of all recordings. TrackEval has no rule for TETA, so its figures are None.
    """
    every = [scores for scores, _ in recordings.values()]
    kinds = {scores.similarity for scores in every}
    results: dict[str, dict[Any, Any]] = {}
    with contextlib.redirect_stdout(io.StringIO()):  # they print their configuration
        for name in ('HOTA', 'Identity', 'CLEAR', 'TrackMAP', 'JAndF'):
            found = {key: parts[name] for key, (_, parts) in recordings.items() if name in parts}
            results |= _combined(name, {key: _arrays(part) for key, part in found.items()})
    return Scores(
        similarity=kinds.pop() if len(kinds) == 1 else 'mask and box',
        frames=sum(scores.frames for scores in every),
        objects=sum(scores.objects for scores in every),
        tracks=sum(scores.tracks for scores in every),
        loca=None,
        assoca=None,
        clsa=None,
        teta=None,
        **_figures(results),
    )


def _metric(name: str) -> Any:
    from trackeval import metrics  # slow to import

    everything = {'USE_AREA_RANGES': False, 'USE_TIME_RANGES': False}
    return getattr(metrics, name)(*([everything] if name == 'TrackMAP' else []))


def _combined(name: str, sequences: Mapping[str, dict[Any, Any]]) -> dict[str, dict[Any, Any]]:
    """Return what a metric says of several sequences, by its name; nothing where none has it."""
    return {name: _metric(name).combine_sequences(sequences)} if sequences else {}


def _figures(results: Mapping[str, dict[Any, Any]]) -> dict[str, Any]:
    """Return the figures that TrackEval's results hold."""
    hota, clear = results['HOTA'], results['CLEAR']
    tracks, regions = results.get('TrackMAP'), results.get('JAndF')
    # Without any object they are -1 there.
    average = None if tracks is None else np.maximum(tracks['AP_all'], 0)
    return {
        'hota': float(np.mean(hota['HOTA'])),
        'deta': float(np.mean(hota['DetA'])),
        'assa': float(np.mean(hota['AssA'])),
        'idf1': float(results['Identity']['IDF1']),
        'mota': float(clear['MOTA']),
        'id_switches': int(clear['IDSW']),
        'track_ap': None if average is None else float(np.mean(average)),
        'track_ap50': None if average is None else float(average[0]),
        'ar100': None if tracks is None else float(np.mean(np.maximum(tracks['AR_all'], 0))),
        'j': None if regions is None else float(regions['J-Mean']),
        'f': None if regions is None else float(regions['F-Mean']),
        'jf': None if regions is None else float(regions['J&F']),
    }


def _plain(value: Any) -> Any:
    """Return arrays and their numbers as JSON holds them."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _arrays(value: Any) -> Any:
    """Return what ``_plain`` made of results as TrackEval has them."""
    if isinstance(value, dict):
        numbered = ((int(key) if key.isdigit() else key, each) for key, each in value.items())
        return {key: _arrays(each) for key, each in numbered}
    return np.array(value) if isinstance(value, list) else value


def _observed(p: Pair) -> Observed:
    return Observed(
        p.truth.track_ids, p.truth.labels, p.claims.track_ids, p.claims.labels, p.overlap
    )


def _whole_tracks(pairs: list[Pair], masks: bool) -> dict[Any, Any]:
    """Match whole tracks at overlaps 0.5 .. 0.95, the best 100 of each side."""
    data: dict[str, Any] = {'iou_type': 'mask' if masks else 'bbox', 'boxformat': 'x0y0x1y1'}
    for side, name in (('gt', 'truth'), ('dt', 'claims')):
        tracks: dict[int, dict[int, Any]] = {}
        scores: dict[int, list[float]] = {}
        for p in pairs:
            instances = getattr(p, name)
            shapes = _encoded(p.frame, instances) if masks else instances.boxes.astype(float)
            for track_id, shape, score in zip(
                instances.track_ids.tolist(), shapes, instances.scores.tolist()
            ):
                tracks.setdefault(track_id, {})[p.frame.index] = shape
                scores.setdefault(track_id, []).append(score)
        mean = np.array([np.mean(scores[key]) for key in tracks])
        order = np.argsort(-mean, kind='stable')[:_MAX_TRACKS]
        keys = list(tracks)
        data[f'{side}_tracks'] = [tracks[keys[i]] for i in order]
        data[f'{side}_track_ids'] = list(range(1, len(order) + 1))
        data[f'{side}_track_scores'] = mean[order]
    result: dict[Any, Any] = _metric('TrackMAP').eval_sequence(data)
    return result


def _region_and_boundary(pairs: list[Pair], data: dict[str, Any]) -> dict[str, Any]:
    """J, F and their mean, each object given the track that fits it best."""
    masks = {
        'gt_dets': [_encoded(p.frame, p.truth) for p in pairs],
        'tracker_dets': [_encoded(p.frame, p.claims) for p in pairs],
    }
    result: dict[str, Any] = _metric('JAndF').eval_sequence(data | masks)
    return result


def _consecutive(frames: list[Instances]) -> list[NDArray[np.int64]]:
    """Ids of each frame, numbered 0, 1, ... as TrackEval wants them."""
    known = {int(i) for frame in frames for i in frame.track_ids}
    number = {track_id: n for n, track_id in enumerate(sorted(known))}
    return [np.array([number[int(i)] for i in f.track_ids], np.int64) for f in frames]


def _count(ids: list[NDArray[np.int64]]) -> int:
    return max((int(frame.max()) + 1 for frame in ids if len(frame)), default=0)


def _encoded(frame: TrackedFrame, instances: Instances) -> list[dict[str, Any]]:
    return [coco_rle(m, frame.height, frame.width) for m in instances.masks or () if m is not None]


def _overlap(
    frame: TrackedFrame, truth: Instances, claims: Instances, masks: bool
) -> NDArray[np.float64]:
    """Return the overlap (N, M) of every pair."""
    if not len(truth) or not len(claims):
        return np.zeros((len(truth), len(claims)))
    if not masks:
        return np.asarray(ious(truth.boxes.astype(np.float64), claims.boxes.astype(np.float64)))
    sides = _encoded(frame, truth), _encoded(frame, claims)
    return np.asarray(coco.iou(*sides, [0] * len(claims)))


def text_of(value: object) -> str:
    """Return a figure as it is shown: three digits of a share, a dash where there is none."""
    if value is None:
        return '-'
    return f'{value:.3f}' if isinstance(value, float) else str(value)


def table(scores: Scores) -> str:
    """Return the figures as lines of text."""
    return '\n'.join(
        f'  {name:<12} {text_of(value):>8}' for name, value in dataclasses.asdict(scores).items()
    )
