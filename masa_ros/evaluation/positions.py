# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Positions in space against the truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from masa_ros.evaluation.metrics import Pair
from masa_ros.tracking.assignment import optimal

_LEAST_OVERLAP = 0.5  # of a track and the object that its position is compared with
_CHI2_95 = 7.815  # what the squared distance of three normal numbers exceeds 5 times in 100


@dataclasses.dataclass(frozen=True)
class PositionScores:
    """Errors of positions: the distance to the true one.

    Attributes
    ----------
    objects: objects with a true position that a track lies on, over all frames.
    found: share of these whose track has a position.
    median_m, p95_m: metres.
    median_share, p95_share: of the distance from the camera.
    beyond_covariance: share of the errors outside the 95 % region of their covariance.

    """

    objects: int
    found: float
    median_m: float
    p95_m: float
    median_share: float
    p95_share: float
    beyond_covariance: float


def score_positions(pairs: Sequence[Pair]) -> PositionScores | None:
    """Score the positions of tracks on objects whose true position is known; None without any.

    In every frame tracks and objects are paired one to one by their overlap, whatever their ids.
    Both positions are of the same quantity, the centre of the visible surface, in the optical
    frame of the camera.
    """
    objects = 0
    errors: list[tuple[float, float, float]] = []
    for pair in pairs:
        rows, columns = optimal(pair.overlap, pair.overlap >= _LEAST_OVERLAP)
        for row, column in zip(rows.tolist(), columns.tolist()):
            true = pair.truth_positions.get(int(pair.truth.track_ids[row]))
            if true is None:
                continue
            objects += 1
            said = pair.frame.positions.get(int(pair.claims.track_ids[column]))
            if said is None:
                continue
            error = said[0] - true[0]
            distance = float(error @ np.linalg.pinv(said[1]) @ error)
            errors.append((float(np.linalg.norm(error)), float(np.linalg.norm(true[0])), distance))
    if not errors:
        return None
    length, far, distance_squared = np.array(errors).T
    share = length / np.maximum(far, 1e-9)
    return PositionScores(
        objects=objects,
        found=len(errors) / objects,
        median_m=float(np.median(length)),
        p95_m=float(np.percentile(length, 95)),
        median_share=float(np.median(share)),
        p95_share=float(np.percentile(share, 95)),
        beyond_covariance=float((distance_squared > _CHI2_95).mean()),
    )


def line_of(scores: PositionScores) -> str:
    """Return the figures as a line of text."""
    return (
        f'  positions of {scores.objects} objects: {scores.found:.1%} found, error '
        f'{scores.median_m * 100:.1f} cm (median, {scores.median_share:.2%} of the distance), '
        f'{scores.p95_m * 100:.1f} cm (p95, {scores.p95_share:.2%}), '
        f'{scores.beyond_covariance:.1%} beyond their covariance'
    )
