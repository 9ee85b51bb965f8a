# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which detections count, and what speaks for one, or a younger track, being a track."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from masa_ros.tracking import geometry
from masa_ros.tracking.assignment import optimal
from masa_ros.tracking.config import TrackerConfig
from masa_ros.tracking.memory import TrackMemory
from masa_ros.tracking.similarity import bisoftmax_of, cosine, dots_and_cosines_of
from masa_ros.types import Instances

_TOLD_SECONDS = 0.2  # for which the doubt where a track is grows, where its place is known
_TOLD_LOOK = 0.5  # share of the appearance that is enough there
_NEAR = 4  # squares of distance and resize, in units of what is allowed, beyond which none matches


class Pairs(NamedTuple):
    """Detections and tracks that may be the same.

    Attributes
    ----------
    rows: (P,) int64 of the detections.
    columns: (P,) int64 of the tracks.
    scores: (P,) float32, how well they fit.

    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    scores: NDArray[np.float32]

    def some(self, index: NDArray[np.generic]) -> Pairs:
        """Return some of them."""
        return Pairs(self.rows[index], self.columns[index], self.scores[index])


def best_first(
    detections: Instances, finite: NDArray[np.bool_], config: TrackerConfig
) -> NDArray[np.int64]:
    """Return the rows of finite detections, best first, without duplicates."""
    order = np.flatnonzero(finite)
    order = order[np.argsort(-detections.scores[order], kind='stable')]
    # The weak ones come last; one of them may be the double of any that comes before it.
    good = np.count_nonzero(detections.scores[order] >= config.distractor_score_thr)
    if good < len(order):
        boxes = detections.boxes[order]
        double = geometry.ious(boxes[good:], boxes) > config.distractor_nms_thr
        double &= np.arange(len(order)) < np.arange(good, len(order))[:, None]
        order = np.concatenate((order[:good], order[good:][~double.any(axis=1)]))
    return order


def appearance_of(embeddings: NDArray[np.float32], memory: TrackMemory) -> NDArray[np.float32]:
    """Return MASA's similarity (D, T): the mean of bi-softmax and cosine (J.4).

    A track that was not seen in the last frame may come back under another aspect: what is most
    like the detection of all in its gallery stands for it.

    Parameters
    ----------
    embeddings: (D, C) of detections.
    memory: of T tracks.

    """
    dots, cosines = dots_and_cosines_of(embeddings, memory.embeddings, memory.lengths)
    # Without a second aspect the gallery only repeats the first sighting.
    absent = np.flatnonzero(memory.absent & (memory.stored > 1))
    if len(absent) and len(embeddings):
        # Those with the most aspects first: that place of the gallery is used by so many.
        absent = absent[np.argsort(-memory.stored[absent], kind='stable')]
        used = np.arange(memory.gallery.shape[1])[:, None] < memory.stored[absent]
        place, own = used.nonzero()
        aspects = absent[own], place
        others = dots_and_cosines_of(
            embeddings, memory.gallery[aspects], memory.gallery_lengths[aspects]
        )
        best, begin = (dots[:, absent], cosines[:, absent]), 0
        for count in used.sum(axis=1).tolist():
            for values, more in zip(best, others):
                some = values[:, :count]
                np.maximum(some, more[:, begin : begin + count], out=some)
            begin += count
        dots[:, absent], cosines[:, absent] = best
    appearance = bisoftmax_of(dots)
    appearance += cosines
    appearance *= 0.5
    return appearance


def places_of(boxes: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return x and y of the centres and the logarithm of the side (3, D) of boxes (D, 4)."""
    x0, y0, x1, y1 = boxes.T
    side = np.log(geometry.sides(boxes))
    return np.array(((x0 + x1) / 2, (y0 + y1) / 2, side), np.float32)


class Sought(NamedTuple):
    """Where tracks should be by now.

    Attributes
    ----------
    places: (3, T) float32, see ``places_of``.
    reach, growth: (T,) float32, one by how far away they may be, in pixels, and by how much the
        logarithm may differ.

    """

    places: NDArray[np.float32]
    reach: NDArray[np.float32]
    growth: NDArray[np.float32]

    @classmethod
    def of(
        cls,
        memory: TrackMemory,
        expected: NDArray[np.float64],
        config: TrackerConfig,
        stamp_ns: int,
        told: NDArray[np.bool_] | None = None,
    ) -> Sought:
        """Return those of all tracks, expected in these boxes (T, 4); see ``candidates``."""
        elapsed = np.maximum(stamp_ns - memory.box_ns, 0) * 1e-9
        if told is not None:
            elapsed[told] = np.minimum(elapsed[told], _TOLD_SECONDS)
        side = geometry.sides(memory.boxes)
        reach = side * (config.max_distance + config.max_speed * elapsed) + 1e-6
        growth = config.max_resize + config.max_speed / 2 * elapsed + 1e-6
        x0, y0, x1, y1 = expected.T
        values = (x0 + x1) / 2, (y0 + y1) / 2, np.log(side), 1 / reach, 1 / growth
        together = np.array(values, np.float32)
        return cls(together[:3], together[3], together[4])

    def some(self, index: NDArray[np.generic]) -> Sought:
        """Return those of some tracks."""
        return Sought(self.places[:, index], self.reach[index], self.growth[index])

    def distance(self, places: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return how far places (3, T) or (3, D, 1) are from there, squared: 1 is allowed."""
        total = _squares(places[0], self.places[0], self.reach)
        total += _squares(places[1], self.places[1], self.reach)
        return total

    def resize(self, places: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return how much their sides differ, squared: 1 is allowed."""
        return _squares(places[2], self.places[2], self.growth)


def _squares(
    a: NDArray[np.float32], b: NDArray[np.float32], scale: NDArray[np.float32]
) -> NDArray[np.float32]:
    off = np.asarray(a - b)
    off *= scale
    off *= off
    return off


def candidates(
    found: Instances,
    memory: TrackMemory,
    appearance: NDArray[np.float32],
    expected: NDArray[np.float64],
    told: NDArray[np.bool_],
    config: TrackerConfig,
    stamp_ns: int,
) -> Pairs:
    """Find the detections and tracks that may be the same, and how well they fit.

    The score is the mean, by ``motion_weight``, of appearance (D, T) and of how near the detection
    is to where the track should be by now. Only few pairs are near, or of one appearance: those
    are looked for first.

    Parameters
    ----------
    found: D detections.
    memory: T tracks.
    appearance: (D, T), see ``appearance_of``.
    expected: (T, 4) boxes of the tracks by now.
    told: (T,) of which tracks these are known from their places in space: such a box is as good
        after an absence as before it.
    config: see there.
    stamp_ns: of the frame.

    """
    places, sought = places_of(found.boxes), Sought.of(memory, expected, config, stamp_ns, told)
    absent = memory.absent
    # After an absence another object may stand there, or the same one elsewhere: appearance alone
    # must exceed the first, and above the second the place does not matter.
    least = np.where(absent, config.match_score_thr, -np.inf).astype(np.float32)
    least[told & absent] *= _TOLD_LOOK
    enough = np.where(absent & memory.confirmed, config.reid_score_thr, np.inf).astype(np.float32)
    there = np.flatnonzero(~absent)
    rows, columns = _true(sought.some(there).distance(places[:, :, None]) <= _NEAR)
    columns = there[columns]
    if len(there) < len(memory):
        asked = np.where(absent, np.minimum(least, enough), np.float32(np.inf))
        alike = _true(appearance > asked)
        rows, columns = np.concatenate(((rows, columns), alike), axis=1)
    look, places, sought = appearance[rows, columns], places[:, rows], sought.some(columns)
    distance, resize = sought.distance(places), sought.resize(places)
    place = np.exp(-(distance + resize))
    scores = look + np.float32(config.motion_weight) * (place - look)
    possible = (distance <= _NEAR) & (resize <= _NEAR) & (scores > config.match_score_thr)
    possible &= look > least[columns]
    possible |= look > enough[columns]
    possible &= found.scores[rows] > config.obj_score_thr
    return Pairs(rows, columns, scores).some(possible)


def _true(pairs: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns of what is true, as ``nonzero`` does, in a fraction of the time."""
    return np.divmod(np.flatnonzero(pairs), max(pairs.shape[1], 1))


def resumed(memory: TrackMemory, config: TrackerConfig, stamp_ns: int) -> list[tuple[int, int]]:
    """Find out as what other tracks kept ones go on that are lost.

    What looks alike and is near enough, and had no track of its own when the kept one was seen
    last, is the same object: it was pointed at before it was first detected, or came back unknown.

    Returns
    -------
    Rows of kept tracks, and of those that they are.

    """
    if not memory.kept.any():
        return []
    lost = np.flatnonzero(memory.kept & memory.absent)
    new = np.flatnonzero(~memory.kept & ~memory.absent)
    if not (len(lost) and len(new)):
        return []
    look = cosine(memory.embeddings[new], memory.embeddings[lost])
    expected = memory.boxes + np.tile(memory.drift, 2)
    sought = Sought.of(memory, expected, config, stamp_ns).some(lost)
    places = places_of(memory.boxes[new])[:, :, None]
    same = (sought.distance(places) <= _NEAR) & (sought.resize(places) <= _NEAR)
    same &= look > config.coast_look_thr
    same &= memory.first_ns[new][:, None] > memory.last_ns[lost]
    rows, columns = optimal(look, same)
    return list(zip(lost[columns].tolist(), new[rows].tolist()))
