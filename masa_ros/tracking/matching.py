# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which detections count, and what speaks for one, or a younger track, being a track."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from masa_ros.tracking import geometry
from masa_ros.tracking.assignment import optimal
from masa_ros.tracking.config import TrackerConfig
from masa_ros.tracking.memory import TrackMemory
from masa_ros.tracking.similarity import bisoftmax_of, cosine, dots_and_cosines_of
from masa_ros.types import Instances


def best_first(detections: Instances, config: TrackerConfig) -> NDArray[np.int64]:
    """Return the rows of finite detections, best first, without duplicates."""
    order = np.flatnonzero(detections.finite)
    order = order[np.argsort(-detections.scores[order], kind='stable')]
    weak = detections.scores[order] < config.distractor_score_thr
    if weak.any():
        boxes = detections.boxes[order]
        overlap = geometry.ious(boxes[weak], boxes)
        overlap[np.arange(len(order)) >= np.flatnonzero(weak)[:, None]] = 0
        duplicate = (overlap > config.distractor_nms_thr).any(axis=1)
        order = np.delete(order, np.flatnonzero(weak)[duplicate])
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
        gallery = memory.gallery[absent].swapaxes(0, 1)
        long = memory.gallery_lengths[absent].T.ravel()
        others = dots_and_cosines_of(embeddings, gallery.reshape(-1, gallery.shape[2]), long)
        for values, more in zip((dots, cosines), others):
            best = more.reshape(len(embeddings), -1, len(absent)).max(axis=1)
            values[:, absent] = np.maximum(values[:, absent], best)
    appearance = bisoftmax_of(dots)
    appearance += cosines
    appearance *= 0.5
    return appearance


def off_place(
    boxes: NDArray[np.floating],
    memory: TrackMemory,
    expected: NDArray[np.float64],
    config: TrackerConfig,
    stamp_ns: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return how far boxes are from where tracks should be, and how much they differ in size.

    Parameters
    ----------
    boxes: (D, 4).
    memory: of T tracks.
    expected: (T, 4) their boxes by now.
    config: how far an object may be.
    stamp_ns: now.

    Returns
    -------
    Squares (D, T) of distance and resize, in units of what is allowed: beyond 4 it is another
    object.

    """
    elapsed = np.maximum(stamp_ns - memory.box_ns, 0) * 1e-9
    side = geometry.sides(memory.boxes)
    reach = side * (config.max_distance + config.max_speed * elapsed) + 1e-6
    growth = config.max_resize + config.max_speed / 2 * elapsed + 1e-6
    distance = geometry.squares(geometry.centres(boxes), geometry.centres(expected), reach)
    resize = geometry.squares(np.log(geometry.sides(boxes))[:, None], np.log(side), growth)
    return distance, resize


def resumed(memory: TrackMemory, config: TrackerConfig, stamp_ns: int) -> list[tuple[int, int]]:
    """Find out as what other tracks kept ones go on that are lost.

    What looks alike and is near enough, and had no track of its own when the kept one was seen
    last, is the same object: it was pointed at before it was first detected, or came back unknown.

    Returns
    -------
    Rows of kept tracks, and of those that they are.

    """
    lost = np.flatnonzero(memory.kept & memory.absent)
    new = np.flatnonzero(~memory.kept & ~memory.absent)
    if not (len(lost) and len(new)):
        return []
    look = cosine(memory.embeddings[new], memory.embeddings[lost])
    expected = memory.boxes + np.tile(memory.drift, 2)
    distance, resize = off_place(memory.boxes[new], memory, expected, config, stamp_ns)
    same = ((distance <= 4) & (resize <= 4))[:, lost] & (look > config.coast_look_thr)
    same &= memory.first_ns[new][:, None] > memory.last_ns[lost]
    rows, columns = optimal(look, same)
    return list(zip(lost[columns].tolist(), new[rows].tolist()))
