# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The two trackers released with MASA, detection by detection the same.

They match greedily in the order of scores, by appearance alone, and count time in frames. What
they decide is reproduced with all its peculiarities, so that published numbers can be reproduced;
for a robot's camera take ``Tracker``.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from masa_ros.tracking import geometry
from masa_ros.tracking.assignment import greedy
from masa_ros.tracking.config import ReleasedConfig
from masa_ros.tracking.similarity import bisoftmax, cosine, masa_similarity, softmax
from masa_ros.tracking.tracker import Probe
from masa_ros.types import Instances, TrackState

Array = NDArray[np.floating]


class ReleasedMemory:
    """Tracks in the order of their creation, and backdrops, the newest frame first."""

    def __init__(self) -> None:
        self.ids = np.zeros(0, np.int64)
        self.boxes = np.zeros((0, 4), np.float32)
        self.embeddings = np.zeros((0, 0), np.float32)
        self.labels = np.zeros(0, np.int64)
        self.last_frame = np.zeros(0, np.int64)
        self.first_ns = np.zeros(0, np.int64)
        self.backdrops: list[tuple[Array, Array, NDArray[np.int64]]] = []


class ReleasedTracker:
    """One of the released trackers.

    Attributes
    ----------
    config: may be replaced between frames.
    rejected: detections refused so far because a number in them was not finite.
    created: tracks started since the last reset.

    """

    def __init__(self, config: ReleasedConfig) -> None:
        self.config = config
        self.rejected = 0
        self.created = 0
        self._earlier = 0  # ids given before the last reset
        self._frame = 0
        self.reset()

    def __len__(self) -> int:
        """Return the number of tracks in memory."""
        return len(self.memory.ids)

    @property
    def ids(self) -> list[int]:
        """The tracks in memory."""
        return (self.memory.ids + self._earlier + 1).tolist()

    def reset(self) -> None:
        """Forget everything; ``track`` counts from 0 again, ``update`` goes on counting."""
        self._earlier += self.created
        self.memory = ReleasedMemory()
        self.created = 0

    def rescale(self, x: float, y: float) -> None:
        """Go on with images whose sides are ``x`` and ``y`` times as long, of the same view."""
        for boxes in (self.memory.boxes, *(boxes for boxes, *_ in self.memory.backdrops)):
            boxes *= np.array((x, y, x, y), boxes.dtype)

    def remove(self, track_id: int) -> bool:
        """Forget a track; False where none has this id."""
        kept = self.memory.ids != track_id - self._earlier - 1
        self._keep(kept)
        return not kept.all()

    def update(
        self, detections: Instances, stamp_ns: int, probe: Probe | None = None
    ) -> Instances:
        """Track a frame as ``Tracker.update`` does; the stamp only tells when a track began.

        Ids count from 1 and are never given twice. There are neither tentative nor lost tracks.
        """
        finite = detections.finite
        self.rejected += int((~finite).sum())
        found = detections[finite]
        size = self.memory.embeddings.shape[1]
        if len(self) and len(found) and found.embeddings.shape[1] != size:
            self.reset()
        rows, ids = self.track(
            found.boxes,
            found.scores,
            found.labels.astype(np.int64),
            found.embeddings,
            self._frame,
            stamp_ns,
        )
        self._frame += 1
        rows, ids = rows[ids > -1], ids[ids > -1]
        seen = found[rows]
        known, there = self.memory.ids, np.full(len(seen), stamp_ns, np.int64)
        if len(known):
            # One that memo_tracklet_frames = 0 forgot at once began now.
            place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
            there = np.where(known[place] == ids, self.memory.first_ns[place], there)
        return dataclasses.replace(
            seen,
            track_ids=ids + self._earlier + 1,
            states=np.full(len(seen), TrackState.TRACKED, np.uint8),
            first_seen_ns=there,
        )

    def track(
        self,
        boxes: Array,
        scores: Array,
        labels: NDArray[np.int64],
        embeddings: Array,
        frame: int,
        stamp_ns: int = 0,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Give ids to the detections of one frame.

        Parameters
        ----------
        boxes: (N, 4) xyxy pixels.
        scores, labels: (N,).
        embeddings: (N, C).
        frame: number of the frame; may jump. A frame without detections changes nothing.
        stamp_ns: when tracks that begin now begin.

        Returns
        -------
        Rows of the detections that stay, in the order of their scores, and their ids: from 0, -1
        for untracked ones, -2 for those that are not even background.

        """
        if not len(boxes):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        config, memory = self.config, self.memory
        order = np.argsort(-scores, kind='stable')
        order = order[~self._duplicates(boxes[order], scores[order])]
        boxes, scores = boxes[order], scores[order]
        labels, embeddings = labels[order], embeddings[order]
        ids = np.full(len(order), -1, np.int64)
        if len(memory.ids):
            columns, similarity = self._similarity(boxes, labels, embeddings, frame)
            able = scores > config.obj_score_thr
            best, value = greedy(similarity, columns > -1, config.match_score_thr, able)
            alike = (value > config.match_score_thr) & (columns[best] > -1)
            ids[alike & able] = columns[best][alike & able]
            if config.rules == 'bdd':
                ids[alike & ~able & (value > config.nms_conf_thr)] = -2
        began = self.created
        new = np.flatnonzero((ids == -1) & (scores > config.init_score_thr))
        ids[new] = self.created + np.arange(len(new))
        self.created += len(new)
        self._remember(ids, began, boxes, labels, embeddings, frame, stamp_ns)
        return order, ids

    def _duplicates(self, boxes: Array, scores: Array) -> NDArray[np.bool_]:
        """Boxes that overlap any better one too much, dropped ones included."""
        config = self.config
        overlap = geometry.overlaps_with_better(boxes)
        if config.rules == 'tao':
            return (scores < config.distractor_score_thr) & (overlap > config.distractor_nms_thr)
        low = scores < config.obj_score_thr
        limit = np.where(low, config.nms_backdrop_iou_thr, config.nms_class_iou_thr)
        return overlap > limit

    def _similarity(
        self, boxes: Array, labels: NDArray[np.int64], embeddings: Array, frame: int
    ) -> tuple[NDArray[np.int64], Array]:
        """Ids of the columns, -1 for backdrops, and the similarity (D, T)."""
        config, memory = self.config, self.memory
        old = [memory.embeddings, *(embedding for _, embedding, _ in memory.backdrops)]
        columns = np.full(sum(map(len, old)), -1, np.int64)
        columns[: len(memory.ids)] = memory.ids
        stored = np.concatenate(old)
        if config.rules == 'tao':
            similarity = masa_similarity(embeddings, stored)
            if config.max_distance != -1:
                similarity = similarity * self._nearness(boxes, frame)
            return columns, similarity
        if config.match_metric == 'cosine':
            similarity = cosine(embeddings, stored)
        elif config.match_metric == 'softmax':
            similarity = softmax(embeddings @ stored.T, axis=1)
        else:
            similarity = bisoftmax(embeddings, stored)
        if config.with_cats:
            known = np.concatenate([memory.labels, *(label for *_, label in memory.backdrops)])
            similarity = similarity * (labels[:, None] == known[None])
        return columns, similarity

    def _nearness(self, boxes: Array, frame: int) -> Array:
        """Weight (D, T) that falls with the distance beyond what the gap of frames allows."""
        config, memory = self.config, self.memory
        apart = geometry.centres(boxes)[:, None] - geometry.centres(memory.boxes)[None]
        distance = np.linalg.norm(apart, axis=2)
        limit = config.max_distance * np.exp((frame - memory.last_frame) / (config.fps / 6))
        beyond = np.maximum(distance - limit, 0)
        return np.exp(-beyond / (100 / config.fps)).astype(np.float32)

    def _remember(
        self,
        ids: NDArray[np.int64],
        began: int,
        boxes: Array,
        labels: NDArray[np.int64],
        embeddings: Array,
        frame: int,
        stamp_ns: int,
    ) -> None:
        """Write the detections into their tracks; ids from ``began`` on are new ones."""
        config, memory = self.config, self.memory
        known = np.flatnonzero((ids > -1) & (ids < began))
        rows = np.searchsorted(memory.ids, ids[known])  # ids grow in the order of creation
        momentum = np.float32(config.memo_momentum)
        if len(rows):
            memory.embeddings[rows] = (
                np.float32(1 - config.memo_momentum) * memory.embeddings[rows]
                + momentum * embeddings[known]
            )
            memory.boxes[rows], memory.labels[rows] = boxes[known], labels[known]
            memory.last_frame[rows] = frame
        fresh = np.flatnonzero(ids >= began)
        if not len(memory.ids):
            memory.embeddings = np.zeros((0, embeddings.shape[1]), np.float32)
        memory.ids = np.concatenate((memory.ids, ids[fresh]))
        memory.boxes = np.concatenate((memory.boxes, boxes[fresh]))
        memory.labels = np.concatenate((memory.labels, labels[fresh]))
        memory.embeddings = np.concatenate((memory.embeddings, embeddings[fresh]))
        memory.last_frame = np.concatenate((memory.last_frame, np.full(len(fresh), frame)))
        memory.first_ns = np.concatenate((memory.first_ns, np.full(len(fresh), stamp_ns)))
        if config.rules == 'bdd':
            overlap = geometry.overlaps_with_better(boxes)
            alone = (ids == -1) & (overlap <= config.nms_backdrop_iou_thr)
            memory.backdrops.insert(0, (boxes[alone], embeddings[alone], labels[alone]))
            del memory.backdrops[config.memo_backdrop_frames :]
        self._keep(frame - memory.last_frame < config.memo_tracklet_frames)

    def _keep(self, kept: NDArray[np.bool_]) -> None:
        if kept.all():
            return
        for name in ('ids', 'boxes', 'embeddings', 'labels', 'last_frame', 'first_ns'):
            setattr(self.memory, name, getattr(self.memory, name)[kept])
