# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""In-clip consensus: which segments of a few frames are true of the first (DEVA, section 3.2.1).

All segments are brought to one frame and vote for each other. An integer program chooses those
with most support, none of which overlap much. The released code maximises twice the objective of
the paper (equations 4 to 8): the choice is the same. Of a single frame the program would choose
nothing, for lack of support; the consensus of one frame is what was found in it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from masa_ros.methods.deva.segments import Segment, areas_of, intersections

ALPHA = 0.5
"""What a segment must be supported with to be worth choosing (equation 8)."""

_TIE = 1e-6  # float32 sums of IoUs that differ by less may be equal
_PATIENCE = 2000  # choices that are tried for segments that hang together: 0.2 s


def support(frames: Sequence[Sequence[Segment]]) -> NDArray[np.float32]:
    """Return the IoU of every two segments that support each other (equations 5, 6).

    Parameters
    ----------
    frames: the segments of each frame, all brought to one frame.

    Returns
    -------
    (P, P) float32 over all segments in their order: the IoU where it is above 0.5 and the two are
    of different frames and of one kind (thing, stuff), else 0.

    """
    every = [segment for segments in frames for segment in segments]
    masks = [segment.mask for segment in every]
    kinds = np.array([(None, False, True).index(segment.votes.thing) for segment in every])
    origin = np.repeat(np.arange(len(frames)), [len(segments) for segments in frames])
    shared, areas = intersections(masks, masks), areas_of(masks)
    union = areas[:, None] + areas[None] - shared
    # Exactly half supports nothing, and is not to become more by rounding.
    alike = (2 * shared > union) & (origin[:, None] != origin[None])
    alike &= kinds[:, None] == kinds[None]
    return np.where(alike, shared / np.maximum(union, 1), 0).astype(np.float32)


def choose(iou: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Choose the segments that are supported best and do not support each other (equation 4).

    Ties are common: an object that is found in two frames has the same support in both. Of several
    best choices the one is taken that has the first segment, or else the second and so on:
    segments of the first frame, which need not be brought there, come before others.

    Solved exactly for three frames, and wherever segments do not hang together by the dozen: then
    the rest goes to those of most support, one after the other, for no image may wait for long.

    Parameters
    ----------
    iou: (P, P) float32 from ``support``.

    Returns
    -------
    (P,) bool.

    """
    worth = iou.sum(axis=0, dtype=np.float64) - ALPHA
    against = [frozenset(np.flatnonzero(row).tolist()) for row in iou]
    chosen = np.zeros(len(iou), np.bool_)
    # Without support nothing is worth choosing; with any, which is above 0.5, everything is.
    for part in _parts(frozenset(np.flatnonzero(worth > 0).tolist()), against):
        chosen[list(_solve(part, worth.tolist(), against))] = True
    return chosen


def _solve(
    part: frozenset[int], worth: Sequence[float], against: Sequence[frozenset[int]]
) -> frozenset[int]:
    """Find the independent set of most worth; of equal ones the first, see ``choose``.

    Segments of one frame do not overlap, so that a segment has one neighbour in each other frame
    at most: what is left when the one with most of them is taken, or is not, soon falls apart.
    """
    tried = 0

    @functools.cache
    def best(nodes: frozenset[int]) -> tuple[float, frozenset[int]]:
        nonlocal tried
        parts = list(_parts(nodes, against))
        if len(parts) != 1:
            found = [best(each) for each in parts]
            value = sum(value for value, _ in found)
            return value, frozenset[int]().union(*(chosen for _, chosen in found))
        tried += 1
        patient = tried <= _PATIENCE
        ordered = sorted(nodes)
        node = max(ordered, key=lambda i: len(against[i] & nodes) if patient else worth[i])
        value, chosen = best(nodes - against[node] - {node})
        value, chosen = value + worth[node], chosen | {node}
        if len(nodes) == 1 or not patient:
            return value, chosen
        other, others = best(nodes - {node})
        earlier = min(others ^ chosen) in others
        if other > value + _TIE or (other > value - _TIE and earlier):
            return other, others
        return value, chosen

    return best(part)[1]


def _parts(nodes: frozenset[int], against: Sequence[frozenset[int]]) -> Iterator[frozenset[int]]:
    """Give the groups of nodes that hang together."""
    rest = set(nodes)
    while rest:
        part: set[int] = set()
        border = {min(rest)}
        while border:
            part |= border
            border = {j for i in border for j in against[i] if j in rest} - part
        rest -= part
        yield frozenset(part)


def collect(
    frames: Sequence[Sequence[Segment]], iou: NDArray[np.float32], chosen: NDArray[np.bool_]
) -> list[Segment]:
    """Return the chosen segments with the votes of all that support them, in their order."""
    every = [segment for segments in frames for segment in segments]
    votes = [segment.votes for segment in every]
    return [
        Segment(every[i].mask, votes[i].plus([votes[j] for j in np.flatnonzero(iou[i])]))
        for i in np.flatnonzero(chosen)
    ]


def consensus(frames: Sequence[Sequence[Segment]]) -> list[Segment]:
    """Return what the segments of some frames, brought to one frame, agree on.

    The masks may still overlap a little, see ``segments.cut``.
    """
    if len(frames) == 1:
        return list(frames[0])
    iou = support(frames)
    return collect(frames, iou, choose(iou))
