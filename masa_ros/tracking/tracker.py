# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Association for the camera of a robot: by appearance and motion, in seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from masa_ros.tracking import geometry
from masa_ros.tracking.assignment import greedy, optimal
from masa_ros.tracking.config import TrackerConfig
from masa_ros.tracking.memory import TrackMemory
from masa_ros.tracking.similarity import bisoftmax_of, cosine, dots_and_cosines, unit
from masa_ros.types import Instances, Mask, TrackState

Probe = Callable[[NDArray[np.float32]], Instances]
"""Looks at boxes (N, 4) of the present image and returns the object found at each, in order."""

_CAMERA_PAIRS = 3  # fewer sightings say nothing about how the camera moved
_NEW_ASPECT = 0.9  # cosine below which a sighting shows a track as it was not seen before
_STEADINESS_WEIGHT = 0.2  # of a frame in the share of recent frames with a detection
_VELOCITY_WEIGHT = 0.25  # of the last movement in the running average of the velocity
_VELOCITY_SECONDS = 0.5  # the longer ago, the less the last velocity says of where an object is


class Tracker:
    """Give the objects of one camera ids that stay.

    Attributes
    ----------
    config: may be replaced between frames.
    rejected: detections refused so far because a number in them was not finite.

    """

    def __init__(self, config: TrackerConfig | None = None) -> None:
        self.config = config or TrackerConfig()
        self.rejected = 0
        self._next_id = 1
        self.reset()

    def __len__(self) -> int:
        """Return the number of tracks in memory."""
        return 0 if self._memory is None else len(self._memory)

    def reset(self) -> None:
        """Forget all tracks. Ids already given are not given again."""
        self._memory: TrackMemory | None = None
        self._masks: dict[int, Mask | None] = {}
        self._labels = np.zeros(0, np.int32)
        self._now = 0

    def rescale(self, x: float, y: float) -> None:
        """Go on with images whose sides are ``x`` and ``y`` times as long, of the same view."""
        if self._memory is not None:
            self._memory.rescale(x, y)
            masks = self._masks.items()
            self._masks = {i: mask and mask.scaled(x, y) for i, mask in masks}

    def remove(self, track_id: int) -> bool:
        """Forget a track; False where none has this id."""
        memory = self._memory
        if memory is None or track_id not in memory.ids:
            return False
        memory.keep(memory.ids != track_id)
        del self._masks[track_id]
        return True

    def update(
        self, detections: Instances, stamp_ns: int, probe: Probe | None = None
    ) -> Instances:
        """Continue, start and end tracks with the detections of one frame.

        Parameters
        ----------
        detections: untracked instances in any order, boxes in pixels.
        stamp_ns: of the frame; one that lies before the last frame's counts as the same moment.
        probe: where the model can be asked what is in a box; without it no track coasts.

        Returns
        -------
        The tracks of this frame as ``TrackerConfig`` asks for, best score first; lost ones come
        last.

        """
        found = self._clean(detections)
        memory = self._prepare(found)
        if stamp_ns < self._now:
            # No time has passed: what is remembered is as old as it was.
            memory.shift(stamp_ns - self._now)
        self._now = stamp_ns
        self._forget(memory, stamp_ns)
        appearance = self._appearance(found, memory)
        expected = self._expect(found, memory, appearance, stamp_ns)
        matched = self._match(found, memory, appearance, expected, stamp_ns)
        self._continue(found, memory, matched, stamp_ns)
        fresh = self._start(found, memory, matched, stamp_ns)
        # Where each detection ended up: row in the memory, -1 for nowhere.
        matched[fresh] = len(memory) - len(fresh) + np.arange(len(fresh))
        coasted = None
        if probe is not None and self.config.coast_seconds > 0:
            coasted = self._coast(found, memory, matched, expected, stamp_ns, probe)
        return self._publish(found, memory, matched, coasted)

    def _clean(self, detections: Instances) -> Instances:
        """Finite detections, best first, without duplicates."""
        finite = detections.finite
        self.rejected += int((~finite).sum())
        order = np.flatnonzero(finite)
        order = order[np.argsort(-detections.scores[order], kind='stable')]
        weak = detections.scores[order] < self.config.distractor_score_thr
        if weak.any():
            boxes = detections.boxes[order]
            overlap = geometry.ious(boxes[weak], boxes)
            overlap[np.arange(len(order)) >= np.flatnonzero(weak)[:, None]] = 0
            duplicate = (overlap > self.config.distractor_nms_thr).any(axis=1)
            order = np.delete(order, np.flatnonzero(weak)[duplicate])
        if not len(order) and self._memory is not None:
            # Nothing has no size of embeddings either.
            return Instances.empty(self._memory.embeddings.shape[1])
        return detections[order]

    def _prepare(self, found: Instances) -> TrackMemory:
        """Return the memory, with room for the embeddings and labels of these detections."""
        size, config, memory = found.embeddings.shape[1], self.config, self._memory
        if memory is None or memory.gallery.shape[1:] != (config.gallery_size, size):
            self.reset()
            memory = TrackMemory.empty(size, 0, config.gallery_size)
            self._memory = memory
        known = np.union1d(self._labels, found.labels)
        if len(known) > len(self._labels):
            votes = np.zeros((len(memory), len(known)), np.float32)
            votes[:, np.searchsorted(known, self._labels)] = memory.votes
            memory.votes, self._labels = votes, known
        return memory

    def _votes(self, found: Instances) -> NDArray[np.float32]:
        """Each detection's vote (N, L): its score for its label, nothing for an unknown one."""
        weight = np.where(found.labels < 0, np.float32(0), found.scores)
        return np.asarray((found.labels[:, None] == self._labels) * weight[:, None], np.float32)

    def _forget(self, memory: TrackMemory, stamp_ns: int) -> None:
        """Drop tracks that were not seen for too long; a tentative one may miss one frame."""
        old = (memory.states == TrackState.TENTATIVE) & (memory.missed > 1)
        old |= stamp_ns - memory.last_ns > self.config.memory_seconds * 1e9
        if self.config.memory_frames:
            old |= memory.missed >= self.config.memory_frames
        for track_id in memory.ids[old].tolist():
            del self._masks[track_id]
        memory.keep(~old)

    def _appearance(self, found: Instances, memory: TrackMemory) -> NDArray[np.float32]:
        """MASA's similarity (D, T): the mean of bi-softmax and cosine (J.4).

        A track that was not seen in the last frame may come back under another aspect: what is
        most like the detection of all in its gallery stands for it.
        """
        dots, cosines = dots_and_cosines(found.embeddings, memory.embeddings)
        # Without a second aspect the gallery only repeats the first sighting.
        absent = np.flatnonzero(_absent(memory) & (memory.stored > 1))
        if len(absent) and len(found):
            gallery = memory.gallery[absent].swapaxes(0, 1)
            others = dots_and_cosines(found.embeddings, gallery.reshape(-1, gallery.shape[2]))
            for values, more in zip((dots, cosines), others):
                best = more.reshape(len(found), -1, len(absent)).max(axis=1)
                values[:, absent] = np.maximum(values[:, absent], best)
        appearance = bisoftmax_of(dots)
        appearance += cosines
        appearance *= 0.5
        return appearance

    def _expect(
        self,
        found: Instances,
        memory: TrackMemory,
        appearance: NDArray[np.float32],
        stamp_ns: int,
    ) -> NDArray[np.float64]:
        """Boxes (T, 4) where the tracks should be by now.

        What the sure sightings are off in common is the camera's movement; it carries all tracks
        along, also those that are not in view.
        """
        expected = memory.boxes + np.tile(memory.drift, 2)
        if self.config.predict_motion:
            elapsed = np.clip((stamp_ns - memory.box_ns) * 1e-9, 0, _VELOCITY_SECONDS)
            expected += np.tile(memory.velocities * elapsed[:, None], 2)
        if self.config.camera_motion and appearance.size:
            best = appearance.argmax(axis=1)
            rows = np.arange(len(found))
            pair = (appearance.argmax(axis=0)[best] == rows) & ~_absent(memory)[best]
            pair &= (appearance[rows, best] > self.config.reid_score_thr) & self._sure(found)
            if pair.sum() >= _CAMERA_PAIRS:
                off = geometry.centres(found.boxes[pair]) - geometry.centres(expected[best[pair]])
                shift = np.median(off, axis=0)
                spread = np.median(np.hypot(*(off - shift).T))
                if spread < np.hypot(*shift) / 2:  # it is the same for most
                    memory.drift += shift
                    expected += np.tile(shift, 2)
        return expected

    def _sure(self, found: Instances) -> NDArray[np.bool_]:
        return np.asarray(found.scores > self.config.init_score_thr)

    def _match(
        self,
        found: Instances,
        memory: TrackMemory,
        appearance: NDArray[np.float32],
        expected: NDArray[np.float64],
        stamp_ns: int,
    ) -> NDArray[np.int64]:
        """Row of each detection's track, -1 for none.

        The score of a pair is MASA's similarity (J.4) averaged with how near the detection is to
        where the track should be by now. The detections that could start tracks choose first, then
        the rest (ByteTrack, Zhang et al. 2022).
        """
        matched = np.full(len(found), -1, np.int64)
        if not appearance.size:
            return matched
        config = self.config
        elapsed = np.maximum(stamp_ns - memory.box_ns, 0) * 1e-9
        side = geometry.sides(memory.boxes)
        reach = side * (config.max_distance + config.max_speed * elapsed) + 1e-6
        growth = config.max_resize + config.max_speed / 2 * elapsed + 1e-6
        # Squares of distance and resize in units of what is allowed.
        distance = _squares(geometry.centres(found.boxes), geometry.centres(expected), reach)
        resize = _squares(np.log(geometry.sides(found.boxes))[:, None], np.log(side), growth)
        place = np.exp(-(distance + resize))
        score = appearance + np.float32(config.motion_weight) * (place - appearance)

        possible = (distance <= 4) & (resize <= 4) & (score > config.match_score_thr)
        # After an absence another object may stand there, or the same one elsewhere:
        # appearance decides.
        absent = _absent(memory)
        if absent.any():
            possible &= ~absent | (appearance > config.match_score_thr)
            possible |= (absent & memory.confirmed) & (appearance > config.reid_score_thr)
        possible &= (found.scores > config.obj_score_thr)[:, None]
        # The sure detections choose first: a shaky one never takes a track from them.
        sure = self._sure(found)
        stages = (sure, ~sure) if config.two_stage else (np.ones_like(sure),)
        for stage in map(np.flatnonzero, stages):
            allowed = possible[stage]
            allowed[:, matched[matched >= 0]] = False
            if config.optimal_assignment:
                rows, columns = optimal(score[stage], allowed)
            else:
                free, able = np.ones(len(memory), bool), np.ones(len(stage), bool)
                best, value = greedy(np.where(allowed, score[stage], 0), free, 0.0, able)
                rows = np.flatnonzero(value > 0)
                columns = best[rows]
            matched[stage[rows]] = columns
        return matched

    def _continue(
        self, found: Instances, memory: TrackMemory, matched: NDArray[np.int64], stamp_ns: int
    ) -> None:
        """Write the matched detections into their tracks and age the others."""
        config = self.config
        memory.missed += 1
        seen = np.flatnonzero(matched >= 0)
        rows = matched[seen]
        # A coasting track is neither detected nor missed until it is lost or back.
        counted = memory.states != TrackState.COASTED
        counted[rows] = True
        memory.steadiness[counted] *= 1 - _STEADINESS_WEIGHT
        memory.steadiness[rows] += _STEADINESS_WEIGHT
        self._move(memory, rows, found[seen], stamp_ns)
        sighting = found.embeddings[seen]
        stored = memory.embeddings[rows]
        stored += np.float32(config.memo_momentum) * (sighting - stored)
        memory.embeddings[rows] = stored
        if config.gallery_size > 1:
            # An aspect that none of those remembered resembles takes the oldest one's place.
            gallery = memory.gallery[rows]
            new = np.einsum('nkc,nc->nk', unit(gallery), unit(sighting)).max(axis=1) < _NEW_ASPECT
            new &= self._sure(found)[seen]
            place = memory.stored[rows[new]] % config.gallery_size
            memory.gallery[rows[new], place] = sighting[new]
            memory.stored[rows[new]] += 1
        memory.votes[rows] += self._votes(found)[seen]
        memory.labels[rows] = found.labels[seen]
        memory.hits[rows] += 1
        memory.missed[rows] = 0
        memory.last_ns[rows] = memory.box_ns[rows]
        trusted = (memory.hits >= config.confirm_frames) | (memory.scores > config.confirm_score)
        promoted = (memory.missed == 0) & (trusted | memory.confirmed)
        memory.states[promoted] = TrackState.TRACKED
        memory.states[(memory.missed > 0) & memory.confirmed] = TrackState.LOST

    def _move(
        self, memory: TrackMemory, rows: NDArray[np.int64], seen: Instances, stamp_ns: int
    ) -> None:
        """Take the boxes, scores and masks of this frame into tracks."""
        elapsed = (stamp_ns - memory.box_ns[rows]) * 1e-9
        moved = geometry.centres(seen.boxes) - geometry.centres(memory.boxes[rows])
        velocity = (moved - memory.drift[rows]) / np.maximum(elapsed, 1e-3)[:, None]
        # An average that begins at rest: one shaky box does not throw the expectation off.
        weight = _VELOCITY_WEIGHT * (elapsed > 0)
        memory.velocities[rows] += weight[:, None] * (velocity - memory.velocities[rows])
        memory.boxes[rows] = seen.boxes
        memory.drift[rows] = 0
        memory.scores[rows] = seen.scores
        memory.box_ns[rows] = np.maximum(memory.box_ns[rows], stamp_ns)
        if seen.masks is not None:
            self._masks.update(zip(memory.ids[rows].tolist(), seen.masks))

    def _start(
        self, found: Instances, memory: TrackMemory, matched: NDArray[np.int64], stamp_ns: int
    ) -> NDArray[np.int64]:
        """Start tracks for good unmatched detections; return the rows of these detections."""
        config = self.config
        free = (matched < 0) & self._sure(found)
        # Not on top of an object that is tracked already.
        taken = found.boxes[matched >= 0]
        fresh = np.flatnonzero(free)
        if len(taken) and len(fresh):
            overlap = geometry.ious(found.boxes[fresh], taken)
            fresh = fresh[(overlap <= config.distractor_nms_thr).all(axis=1)]
        if not len(fresh):
            return fresh
        new = found[fresh]
        started = TrackMemory.begin(
            ids=self._next_id + np.arange(len(fresh), dtype=np.int64),
            boxes=new.boxes,
            embeddings=new.embeddings,
            scores=new.scores,
            votes=self._votes(new),
            labels=new.labels,
            gallery_size=config.gallery_size,
            stamp_ns=stamp_ns,
        )
        trusted = (new.scores > config.confirm_score) | (config.confirm_frames <= 1)
        started.states[trusted] = TrackState.TRACKED
        self._next_id += len(fresh)
        self._masks.update(zip(started.ids.tolist(), new.masks or (None,) * len(fresh)))
        memory.append(started)
        return fresh

    def _coast(
        self,
        found: Instances,
        memory: TrackMemory,
        matched: NDArray[np.int64],
        expected: NDArray[np.float64],
        stamp_ns: int,
        probe: Probe,
    ) -> tuple[Instances, NDArray[np.int64]] | None:
        """Look for tracks that were not detected where they should be.

        What is found there continues the track if it scores and looks well enough, resembles no
        other track more, and is not what another detection already stands for. It says where the
        object is, not how it looks: the remembered appearance stays.

        Returns
        -------
        What was found, and the rows of its tracks in the memory.

        """
        config = self.config
        missing = memory.states == TrackState.LOST
        missing &= stamp_ns - memory.last_ns <= config.coast_seconds * 1e9
        missing &= memory.steadiness > config.coast_steady_thr
        rows = np.flatnonzero(missing)
        if not len(rows):
            return None
        there = probe(expected[rows].astype(np.float32))
        cosines = cosine(there.embeddings, memory.embeddings)
        own = cosines[np.arange(len(rows)), rows]
        good = (there.scores > config.coast_score_thr) & (own > config.coast_look_thr)
        good &= own >= cosines.max(axis=1)
        # The object may be hidden behind another one, which is what is there now.
        good &= (
            geometry.ious(there.boxes, found.boxes[matched >= 0]).max(axis=1, initial=0)
            <= config.distractor_nms_thr
        )
        order = np.flatnonzero(good)
        order = order[np.argsort(-there.scores[order], kind='stable')]
        overlap = geometry.overlaps_with_better(there.boxes[order])
        order = order[overlap <= config.distractor_nms_thr]
        there, rows = there[order], rows[order]
        self._move(memory, rows, there, stamp_ns)
        memory.states[rows] = TrackState.COASTED
        return there, rows

    def _publish(
        self,
        found: Instances,
        memory: TrackMemory,
        matched: NDArray[np.int64],
        coasted: tuple[Instances, NDArray[np.int64]] | None,
    ) -> Instances:
        """Return the tracks seen in this frame and, where asked for, the lost ones."""
        seen = np.flatnonzero(matched >= 0)
        if not self.config.publish_tentative:
            seen = seen[memory.confirmed[matched[seen]]]
        parts = [self._tracks(memory, matched[seen], found[seen])]
        if coasted is not None and len(coasted[0]):
            here = Instances.concatenate((*parts, self._tracks(memory, coasted[1], coasted[0])))
            parts = [here[np.argsort(-here.scores, kind='stable')]]
        if self.config.publish_lost:
            lost = np.flatnonzero(memory.states == TrackState.LOST)
            lost = lost[np.argsort(-memory.scores[lost], kind='stable')]
            last = Instances(
                boxes=memory.boxes[lost].astype(np.float32),
                scores=memory.scores[lost],
                labels=memory.labels[lost],
                embeddings=memory.embeddings[lost],
                masks=tuple(self._masks[i] for i in memory.ids[lost].tolist()),
            )
            parts.append(self._tracks(memory, lost, last))
        return Instances.concatenate(parts)

    def _tracks(self, memory: TrackMemory, rows: NDArray[np.int64], seen: Instances) -> Instances:
        """Return instances with the identity and history of their tracks."""
        labels = seen.labels
        if self.config.vote_labels and len(rows):
            votes = memory.votes[rows]
            voted = self._labels[votes.argmax(axis=1)]
            labels = np.where(votes.any(axis=1), voted, labels)
        return dataclasses.replace(
            seen,
            labels=labels,
            track_ids=memory.ids[rows],
            states=memory.states[rows],
            first_seen_ns=memory.first_ns[rows],
            frames_since_seen=memory.missed[rows].astype(np.int32),
        )


def _absent(memory: TrackMemory) -> NDArray[np.bool_]:
    """Return True (T,) where the last frame had no sight of the track."""
    return (memory.missed > 0) & (memory.states != TrackState.COASTED)


def _squares(
    found: NDArray[np.floating], tracks: NDArray[np.floating], allowed: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Squared distances (D, T) of points (D, n), (T, n) or (T,), in units of ``allowed`` (T,)."""
    found, tracks = found.astype(np.float32), tracks.astype(np.float32).reshape(len(tracks), -1)
    scale = (1 / allowed).astype(np.float32)
    total = np.zeros((len(found), len(tracks)), np.float32)
    for axis in range(found.shape[1]):
        off = found[:, axis, None] - tracks[:, axis]
        off *= scale
        off *= off
        total += off
    return total
