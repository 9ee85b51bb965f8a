# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Association for the camera of a robot: by appearance and motion, in seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from masa_ros.tracking import geometry
from masa_ros.tracking.assignment import best_of, first_come
from masa_ros.tracking.config import TrackerConfig
from masa_ros.tracking.matching import appearance_of, best_first, candidates, resumed
from masa_ros.tracking.memory import COASTED, LOST, TENTATIVE, TRACKED, TrackMemory
from masa_ros.tracking.similarity import cosine, lengths
from masa_ros.types import Expected, Instances, Mask

Probe = Callable[[NDArray[np.float32]], Instances]
"""Looks at boxes (N, 4) of the present image and returns the object found at each, in order."""

_CAMERA_PAIRS = 3  # fewer sightings say nothing about how the camera moved
_NEW_ASPECT = 0.9  # cosine below which a sighting shows a track as it was not seen before
_STEADINESS_WEIGHT = 0.2  # of a frame in the share of recent frames with a detection
_VELOCITY_WEIGHT = 0.25  # of the last movement in the running average of the velocity
_VELOCITY_SECONDS = 0.5  # the longer ago, the less the last velocity says of where an object is
_KEPT_SCORE = 0.02  # of what is kept where it should be: somebody said that there is something


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

    @property
    def ids(self) -> list[int]:
        """The tracks in memory."""
        return [] if self._memory is None else self._memory.ids.tolist()

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

    def seen(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the ids and boxes (N, 4) of the tracks in the last frame, tentative ones too."""
        memory = self._memory
        if memory is None:
            return np.zeros(0, np.int64), np.zeros((0, 4))
        there = ~memory.absent
        return memory.ids[there], memory.boxes[there]

    def mask(self, track_id: int) -> Mask | None:
        """Return the mask of a track in the last frame, None where it has none."""
        return self._masks.get(track_id) if track_id in self.seen()[0] else None

    def point(self, seen: Instances, stamp_ns: int) -> Instances:
        """Take what somebody points at: these are tracks from now on that are never forgotten.

        What was known of those that exist, but for the time they began, gives way to this.

        Parameters
        ----------
        seen: described instances, in ``track_ids`` the tracks that they are; 0: new ones.
        stamp_ns: of the frame that they are seen in. Where that is an earlier one than the last,
            the tracks are lost since then: the next frames have to find them.

        Returns
        -------
        The same with ids and history.

        """
        memory = self._prepare(seen)
        ids, new = seen.track_ids.copy(), seen.track_ids == 0
        ids[new] = self._next_id + np.arange(new.sum())
        self._next_id += int(new.sum())
        began = self._begin(seen, ids, stamp_ns)
        began.kept[:] = True
        began.states[:] = TRACKED
        known, rows, old = np.intersect1d(ids, memory.ids, return_indices=True)
        began.first_ns[rows] = memory.first_ns[old]
        made = self._tracks(began, np.arange(len(ids)), seen)
        if stamp_ns < self._now:
            began.states[:], began.missed[:] = LOST, 1
        memory.keep(~np.isin(memory.ids, known))
        memory.append(began)
        return made

    def hold(self, track_id: int) -> None:
        """Never forget a track: somebody points at it."""
        memory = self._memory
        assert memory is not None
        own = memory.ids == track_id
        memory.kept |= own
        memory.states[own & (memory.states == TENTATIVE)] = TRACKED

    def give_way(self, track_id: int) -> None:
        """Forget a track that is the same object as another one, unless somebody pointed at it."""
        memory = self._memory
        if memory is not None and not memory.kept[memory.ids == track_id].any():
            self.remove(track_id)

    def update(
        self,
        detections: Instances,
        stamp_ns: int,
        probe: Probe | None = None,
        *,
        coast: bool = True,
        begin: bool = True,
        places: Expected | None = None,
    ) -> Instances:
        """Continue, start and end tracks with the detections of one frame.

        Parameters
        ----------
        detections: untracked instances in any order, boxes in pixels.
        stamp_ns: of the frame; one that lies before the last frame's counts as the same moment.
        probe: where the model can be asked what is in a box; without it no track coasts.
        coast: False where only tracks that somebody pointed at are looked for with it.
        begin: False where detections start no tracks.
        places: where tracks should be by now, as somebody knows who sees more than boxes.

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
        self._resume(memory, stamp_ns)
        appearance = appearance_of(found.embeddings, memory)
        expected = self._expect(found, memory, appearance, stamp_ns)
        told = np.zeros(len(memory), np.bool_)
        if places is not None:
            _, rows, index = np.intersect1d(memory.ids, places.track_ids, return_indices=True)
            expected[rows], told[rows] = places.boxes[index], True
        matched = self._match(found, memory, appearance, expected, told, stamp_ns)
        self._continue(found, memory, matched, stamp_ns)
        none = np.zeros(0, np.int64)
        fresh = self._start(found, memory, matched, stamp_ns) if begin else none
        # Where each detection ended up: row in the memory, -1 for nowhere.
        matched[fresh] = len(memory) - len(fresh) + np.arange(len(fresh))
        coasted = None
        if probe is not None:
            coasted = self._coast(found, memory, matched, expected, stamp_ns, probe, coast)
        return self._publish(found, memory, matched, coasted)

    def _clean(self, detections: Instances) -> Instances:
        """Finite detections, best first, without duplicates."""
        finite = detections.finite
        self.rejected += int((~finite).sum())
        order = best_first(detections, finite, self.config)
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
        if not set(found.labels.tolist()).issubset(self._labels.tolist()):
            known = np.union1d(self._labels, found.labels)
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
        old = (memory.states == TENTATIVE) & (memory.missed > 1)
        old |= stamp_ns - memory.last_ns > self.config.memory_seconds * 1e9
        if self.config.memory_frames:
            old |= memory.missed >= self.config.memory_frames
        old &= ~memory.kept
        for track_id in memory.ids[old].tolist():
            del self._masks[track_id]
        memory.keep(~old)

    def _resume(self, memory: TrackMemory, stamp_ns: int) -> None:
        """Let kept tracks that are lost go on as others that began since, see ``resumed``."""
        pairs = resumed(memory, self.config, stamp_ns)
        gone = [int(memory.ids[other]) for _, other in pairs]
        for (row, other), track_id in zip(pairs, gone):
            self._masks[int(memory.ids[row])] = self._masks[track_id]
            memory.continue_as(row, other)
        for track_id in gone:
            self.remove(track_id)

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
        gone = memory.drift
        if self.config.predict_motion:
            elapsed = np.minimum(np.maximum(stamp_ns - memory.box_ns, 0) * 1e-9, _VELOCITY_SECONDS)
            gone = gone + memory.velocities * elapsed[:, None]
        expected = memory.boxes + np.hstack((gone, gone))
        if self.config.camera_motion and appearance.size:
            best = appearance.argmax(axis=1)
            look = appearance[np.arange(len(found)), best]
            pair = (look > self.config.reid_score_thr) & self._sure(found) & ~memory.absent[best]
            pair &= look == appearance.max(axis=0)[best]
            if np.count_nonzero(pair) >= _CAMERA_PAIRS:
                off = geometry.centres(found.boxes[pair]) - geometry.centres(expected[best[pair]])
                shift = geometry.median(off)
                spread = geometry.median(np.hypot(*(off - shift).T))
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
        told: NDArray[np.bool_],
        stamp_ns: int,
    ) -> NDArray[np.int64]:
        """Row of each detection's track, -1 for none.

        The detections that could start tracks choose first, then the rest (ByteTrack, Zhang et al.
        2022).
        """
        matched = np.full(len(found), -1, np.int64)
        if not appearance.size:
            return matched
        config = self.config
        pairs = candidates(found, memory, appearance, expected, told, config, stamp_ns)
        choose = best_of if config.optimal_assignment else first_come
        # The sure detections choose first: a shaky one never takes a track from them.
        sure = self._sure(found)[pairs.rows] | (not config.two_stage)
        free = np.ones(len(memory), np.bool_)
        for stage in (sure, ~sure):
            some = pairs.some(stage & free[pairs.columns])
            chosen = some.some(choose(*some))
            matched[chosen.rows] = chosen.columns
            free[chosen.columns] = False
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
        counted = memory.states != COASTED
        counted[rows] = True
        memory.steadiness[counted] *= 1 - _STEADINESS_WEIGHT
        memory.steadiness[rows] += _STEADINESS_WEIGHT
        self._move(memory, rows, found, seen, stamp_ns)
        sighting = found.embeddings[seen]
        stored = memory.embeddings[rows]
        stored += np.float32(config.memo_momentum) * (sighting - stored)
        memory.embeddings[rows] = stored
        memory.lengths[rows] = lengths(stored)
        if config.gallery_size > 1:
            # An aspect that none of those remembered resembles takes the oldest one's place.
            alike = np.matmul(memory.gallery[rows], sighting[:, :, None])[:, :, 0]
            long = lengths(sighting)
            alike /= memory.gallery_lengths[rows] * long[:, None]
            new = (alike.max(axis=1) < _NEW_ASPECT) & self._sure(found)[seen]
            place = memory.stored[rows[new]] % config.gallery_size
            memory.gallery[rows[new], place] = sighting[new]
            memory.gallery_lengths[rows[new], place] = long[new]
            memory.stored[rows[new]] += 1
        memory.votes[rows] += self._votes(found)[seen]
        memory.labels[rows] = found.labels[seen]
        memory.hits[rows] += 1
        memory.missed[rows] = 0
        memory.last_ns[rows] = memory.box_ns[rows]
        confirmed = memory.confirmed
        memory.states[confirmed] = LOST
        confirmed |= memory.hits >= config.confirm_frames
        confirmed |= memory.scores > config.confirm_score
        memory.states[rows[confirmed[rows]]] = TRACKED

    def _move(
        self,
        memory: TrackMemory,
        rows: NDArray[np.int64],
        found: Instances,
        seen: NDArray[np.int64],
        stamp_ns: int,
    ) -> None:
        """Take the boxes, scores and masks of those that are seen in this frame into tracks."""
        last, boxes = memory.box_ns[rows], found.boxes[seen]
        elapsed = (stamp_ns - last) * 1e-9
        moved = geometry.centres(boxes) - geometry.centres(memory.boxes[rows])
        moved -= memory.drift[rows]
        # An average that begins at rest: one shaky box does not throw the expectation off.
        velocities = memory.velocities[rows]
        weight = _VELOCITY_WEIGHT * (elapsed > 0)
        change = moved / np.maximum(elapsed, 1e-3)[:, None] - velocities
        memory.velocities[rows] = velocities + weight[:, None] * change
        memory.boxes[rows] = boxes
        memory.drift[rows] = 0
        memory.scores[rows] = found.scores[seen]
        memory.box_ns[rows] = np.maximum(last, stamp_ns)
        if found.masks is not None:
            masks = [found.masks[i] for i in seen.tolist()]
            self._masks.update(zip(memory.ids[rows].tolist(), masks))

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
        ids = self._next_id + np.arange(len(fresh), dtype=np.int64)
        started = self._begin(new, ids, stamp_ns)
        trusted = (new.scores > config.confirm_score) | (config.confirm_frames <= 1)
        started.states[trusted] = TRACKED
        self._next_id += len(fresh)
        memory.append(started)
        return fresh

    def _begin(self, new: Instances, ids: NDArray[np.int64], stamp_ns: int) -> TrackMemory:
        """Return tentative tracks of instances."""
        self._masks.update(zip(ids.tolist(), new.masks or (None,) * len(new)))
        return TrackMemory.begin(
            ids=ids,
            boxes=new.boxes,
            embeddings=new.embeddings,
            scores=new.scores,
            votes=self._votes(new),
            labels=new.labels,
            gallery_size=self.config.gallery_size,
            stamp_ns=stamp_ns,
        )

    def _coast(
        self,
        found: Instances,
        memory: TrackMemory,
        matched: NDArray[np.int64],
        expected: NDArray[np.float64],
        stamp_ns: int,
        probe: Probe,
        coast: bool,
    ) -> tuple[Instances, NDArray[np.int64]] | None:
        """Look for tracks that were not detected where they should be.

        What is found there continues the track if it scores and looks well enough, resembles no
        other track more, and is not what another detection already stands for. It says where the
        object is, not how it looks: the remembered appearance stays.

        What somebody pointed at is looked for until it is found, and hardly needs a score.

        Returns
        -------
        What was found, and the rows of its tracks in the memory.

        """
        config = self.config
        soon = stamp_ns - memory.last_ns <= config.coast_seconds * 1e9
        soon &= (memory.steadiness > config.coast_steady_thr) & coast & (config.coast_seconds > 0)
        rows = np.flatnonzero((memory.states == LOST) & (soon | memory.kept))
        if not len(rows):
            return None
        there = probe(expected[rows].astype(np.float32))
        cosines = cosine(there.embeddings, memory.embeddings)
        own = cosines[np.arange(len(rows)), rows]
        kept = memory.kept[rows]
        good = there.scores > np.where(kept, _KEPT_SCORE, config.coast_score_thr)
        good &= own > config.coast_look_thr
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
        rows = rows[order]
        self._move(memory, rows, there, order, stamp_ns)
        memory.states[rows] = COASTED
        return there[order], rows

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
            lost = np.flatnonzero(memory.states == LOST)
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
