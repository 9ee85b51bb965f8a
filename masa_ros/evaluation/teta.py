# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""TETA, Track Every Thing Accuracy (Li et al. 2022, "Tracking Every Thing in the Wild").

Localisation, association and classification are scored apart, and what was found where nothing
is labelled costs nothing: fit for truth that does not name everything, which a tracker of
everything finds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

_EPSILON = np.finfo(float).eps
_LOCALISATION = np.arange(0.0, 0.99, 0.05)  # overlaps that count as found, section 4
_CLASSIFICATION = _LOCALISATION >= 0.5 - _EPSILON
_CLUSTER = 0.5  # overlap that makes a track the business of a labelled object


@dataclasses.dataclass(frozen=True)
class Observed:
    """One frame: ids and labels of both sides, overlaps (N, M) of truth and tracks."""

    truth_ids: NDArray[np.int64]
    truth_labels: NDArray[np.int32]
    track_ids: NDArray[np.int64]
    track_labels: NDArray[np.int32]
    overlap: NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Teta:
    """LocA, AssocA, ClsA and their mean; the last two are None where nothing has a class."""

    loca: float
    assoca: float
    clsa: float | None
    teta: float | None


def teta(frames: Sequence[Observed]) -> Teta:
    """Score a sequence; classes of the truth count alike, however many objects they have.

    Ids are any numbers; an id is in a frame at most once.
    """
    classes = sorted({int(label) for f in frames for label in f.truth_labels})
    everything = _global_matches(frames)
    results = {}
    wrong = {label: np.zeros(len(_LOCALISATION)) for label in classes}
    for label in classes:
        results[label] = _of_class(frames, label, everything, wrong)
    if not results:
        return Teta(0.0, 0.0, None, None)
    loca = float(np.mean([r.loca for r in results.values()]))
    assoca = float(np.mean([r.assoca for r in results.values()]))
    named = any((f.track_labels >= 0).any() for f in frames) and min(classes) >= 0
    if not named:
        return Teta(loca, assoca, None, None)
    clsa = float(np.mean([_accuracy(r, wrong[label]) for label, r in results.items()]))
    return Teta(loca, assoca, clsa, (loca + assoca + clsa) / 3)


@dataclasses.dataclass(frozen=True)
class _Class:
    loca: float
    assoca: float
    right: NDArray[np.float64]
    missed: NDArray[np.float64]


def _accuracy(result: _Class, wrong: NDArray[np.float64]) -> float:
    """ClsA: right classes among the localised, missed ones and those wrongly given the class."""
    total = np.maximum(result.right + result.missed + wrong, 1)
    return float(np.mean((result.right / total)[_CLASSIFICATION]))


def _alignment(
    frames: Sequence[Observed],
) -> tuple[NDArray[np.float64], dict[int, int], dict[int, int], list[NDArray[np.float64]]]:
    """How well every object and track fit over the whole sequence, as in HOTA (equation 7)."""
    truth = {v: i for i, v in enumerate(sorted({int(i) for f in frames for i in f.truth_ids}))}
    track = {v: i for i, v in enumerate(sorted({int(i) for f in frames for i in f.track_ids}))}
    together = np.zeros((len(truth), len(track)))
    counts = [np.zeros((len(truth), 1)), np.zeros((1, len(track)))]
    for frame in frames:
        rows = [truth[int(i)] for i in frame.truth_ids]
        columns = [track[int(i)] for i in frame.track_ids]
        sim = frame.overlap
        union = sim.sum(0, keepdims=True) + sim.sum(1, keepdims=True) - sim
        share = np.divide(sim, union, out=np.zeros_like(sim), where=union > _EPSILON)
        together[np.ix_(rows, columns)] += share
        counts[0][rows] += 1
        counts[1][0, columns] += 1
    return together / (counts[0] + counts[1] - together), truth, track, counts


def _matches(
    frame: Observed, fit: NDArray[np.float64], truth: dict[int, int], track: dict[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Pairs of a frame that fit best over the sequence, and their overlaps."""
    rows = [truth[int(i)] for i in frame.truth_ids]
    columns = [track[int(i)] for i in frame.track_ids]
    i, j = linear_sum_assignment(-fit[np.ix_(rows, columns)] * frame.overlap)
    return i, j, frame.overlap[i, j]


def _global_matches(frames: Sequence[Observed]) -> list[dict[int, int]]:
    """Which track each object has in each frame, whatever the classes."""
    fit, truth, track, _ = _alignment(frames)
    matches = []
    for frame in frames:
        i, j, overlap = _matches(frame, fit, truth, track)
        good = overlap >= _CLUSTER - _EPSILON
        matches.append(dict(zip(frame.truth_ids[i[good]].tolist(), frame.track_ids[j[good]])))
    return matches


def _of_class(
    frames: Sequence[Observed],
    label: int,
    everything: list[dict[int, int]],
    wrong: dict[int, NDArray[np.float64]],
) -> _Class:
    """Score the objects of one class; counts wrong classes where they were given."""
    mine, clusters = [], []
    for frame, matched in zip(frames, everything):
        rows = frame.truth_labels == label
        own = set(frame.truth_ids[rows].tolist())
        near = (frame.overlap[rows] >= _CLUSTER).any(axis=0)
        # What is another class's object is not this one's false positive.
        others = [t for g, t in matched.items() if g not in own]
        clusters.append(set(frame.track_ids[near].tolist()) - set(others))
        mine.append(rows)
    concerned = sorted(set().union(*clusters))
    small = []
    for frame, rows in zip(frames, mine):
        columns = np.isin(frame.track_ids, concerned)
        small.append(
            Observed(
                frame.truth_ids[rows],
                frame.truth_labels[rows],
                frame.track_ids[columns],
                frame.track_labels[columns],
                frame.overlap[rows][:, columns],
            )
        )
    fit, truth, track, counts = _alignment(small)
    size = len(_LOCALISATION)
    hit, miss, extra, right, missed = (np.zeros(size) for _ in range(5))
    pairs = [np.zeros_like(fit) for _ in range(size)]
    for frame, cluster in zip(small, clusters):
        if not len(frame.truth_ids):
            continue
        i, j, overlap = _matches(frame, fit, truth, track)
        for a, alpha in enumerate(_LOCALISATION):
            good = overlap >= alpha - _EPSILON
            ids, given = frame.track_ids[j[good]], frame.track_labels[j[good]]
            hit[a] += len(ids)
            miss[a] += len(frame.truth_ids) - len(ids)
            extra[a] += len(cluster - set(ids.tolist()))
            right[a] += (given == label).sum()
            missed[a] += (given != label).sum()
            for other in given[given != label].tolist():
                if other in wrong:
                    wrong[other][a] += 1
            rows = [truth[int(n)] for n in frame.truth_ids[i[good]]]
            np.add.at(pairs[a], (rows, [track[int(n)] for n in ids]), 1)
    loca = np.mean(hit / np.maximum(hit + miss + extra, 1))
    together = [p * p / np.maximum(counts[0] + counts[1] - p, 1) for p in pairs]
    assoca = np.mean([t.sum() / max(h, 1) for t, h in zip(together, hit)])
    return _Class(float(loca), float(assoca), right, missed)
