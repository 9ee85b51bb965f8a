"""Association of detections over time by appearance and motion."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from masa_ros.errors import ConfigError
from masa_ros.tracking import geometry
from masa_ros.tracking.memory import TrackMemory
from masa_ros.tracking.similarity import masa_similarity
from masa_ros.types import Instances, TrackState


@dataclasses.dataclass(frozen=True)
class TrackerConfig:
    """Options of the association; names and meanings follow MASA's where it has them.

    Attributes
    ----------
    init_score_thr: an unmatched detection above this score starts a track; 0..1.
    obj_score_thr: a detection must score above this to continue a track; 0..1.
    match_score_thr: a pair must score above this to be the same object; 0..1.
    reid_score_thr: the same where the place does not speak for it: an object that comes back
        somewhere else; 0..1.
    distractor_score_thr, distractor_nms_thr: detections below that score that overlap a better
        one by more than that IoU are taken for duplicates; 0..1.
    memo_momentum: weight of the new embedding in a track's average; 0..1.
    memory_seconds: a track unseen for longer is forgotten.
    memory_frames: the same in frames; 0 for no such limit.
    motion_weight: share of place and size, against looks, in the score of a pair; 0..1.
    max_distance: how far an object may be from where it is expected, in units of its own side,
        before its place speaks against it.
    max_resize: logarithm of the factor by which its side may differ before that speaks against it.
    max_speed: how much that distance grows for every second without a sighting, in sides.
    confirm_frames: sightings after which a track is no longer tentative.
    confirm_score: a detection above it is trusted at first sight; 0..1.
    publish_tentative, publish_lost: return these tracks too.

    """

    init_score_thr: float = 0.5
    obj_score_thr: float = 0.3
    match_score_thr: float = 0.35
    reid_score_thr: float = 0.7
    distractor_score_thr: float = 0.5
    distractor_nms_thr: float = 0.5
    memo_momentum: float = 0.8
    memory_seconds: float = 10.0
    memory_frames: int = 0
    motion_weight: float = 0.5
    max_distance: float = 0.8
    max_resize: float = 0.5
    max_speed: float = 1.5
    confirm_frames: int = 2
    confirm_score: float = 0.9
    publish_tentative: bool = False
    publish_lost: bool = False

    def __post_init__(self) -> None:
        """Refuse values that mean nothing; raises ConfigError."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            unit = field.name.endswith(('_thr', '_score', '_momentum', '_weight'))
            if not np.isfinite(value) or value < 0 or (unit and value > 1):
                limits = 'in 0..1' if unit else 'not negative'
                raise ConfigError(f'{field.name} is {value}; it must be {limits}')


class Tracker:
    """Give the objects of one camera ids that stay.

    Attributes
    ----------
    rejected: detections refused so far because a number in them was not finite.

    """

    def __init__(self, config: TrackerConfig | None = None) -> None:
        self.config = config or TrackerConfig()
        self.rejected = 0
        self._next_id = 1
        self._memory: TrackMemory | None = None

    def __len__(self) -> int:
        """Return the number of tracks in memory."""
        return 0 if self._memory is None else len(self._memory)

    def reset(self) -> None:
        """Forget all tracks. Ids already given are not given again."""
        self._memory = None

    def update(self, detections: Instances, stamp_ns: int) -> Instances:
        """Continue, start and end tracks with the detections of one frame.

        Parameters
        ----------
        detections: untracked instances in any order, boxes in pixels.
        stamp_ns: of the frame; one that lies before the last frame's counts as the same moment.

        Returns
        -------
        The tracks of this frame as ``TrackerConfig`` asks for, best score first, lost ones last.

        """
        found = self._clean(detections)
        if self._memory is None or self._memory.embeddings.shape[1] != found.embeddings.shape[1]:
            self._memory = TrackMemory.empty(found.embeddings.shape[1])
        memory = self._memory
        self._forget(memory, stamp_ns)
        matched = self._match(found, memory, stamp_ns)
        self._continue(found, memory, matched, stamp_ns)
        fresh = self._start(found, memory, matched, stamp_ns)
        # Where each detection ended up: row in the memory, -1 for nowhere.
        matched[fresh] = len(memory) - len(fresh) + np.arange(len(fresh))
        return self._publish(found, memory, matched)

    def _clean(self, detections: Instances) -> Instances:
        """Finite detections, best first, without duplicates."""
        finite = (
            np.isfinite(detections.boxes).all(axis=1)
            & np.isfinite(detections.embeddings).all(axis=1)
            & np.isfinite(detections.scores)
        )
        self.rejected += int((~finite).sum())
        found = detections[finite]
        found = found[np.argsort(-found.scores, kind='stable')]
        overlap = np.tril(geometry.ious(found.boxes, found.boxes), k=-1)
        duplicate = (overlap > self.config.distractor_nms_thr).any(axis=1)
        return found[~(duplicate & (found.scores < self.config.distractor_score_thr))]

    def _forget(self, memory: TrackMemory, stamp_ns: int) -> None:
        """Drop tracks that were not seen for too long; a tentative one may miss one frame."""
        old = (memory.states == TrackState.TENTATIVE) & (memory.missed > 1)
        old |= stamp_ns - memory.last_ns > self.config.memory_seconds * 1e9
        if self.config.memory_frames:
            old |= memory.missed >= self.config.memory_frames
        memory.keep(~old)

    def _match(self, found: Instances, memory: TrackMemory, stamp_ns: int) -> NDArray[np.int64]:
        """Row of each detection's track, -1 for none.

        The score of a pair is MASA's similarity (J.4) averaged with how near the detection is to
        where the track should be by now; the assignment maximises the sum of the scores, first
        over the detections that could start tracks, then over the rest (ByteTrack, Zhang et al.
        2022).
        """
        matched = np.full(len(found), -1, np.int64)
        if not len(found) or not len(memory):
            return matched
        config = self.config
        looks = masa_similarity(found.embeddings.astype(np.float64), memory.embeddings)
        elapsed = np.maximum(stamp_ns - memory.last_ns, 0) * 1e-9
        # The longer ago, the less the last velocity says about where an object is.
        travelled = memory.velocities * np.minimum(elapsed, 0.5)[:, None]
        expected = memory.boxes + np.tile(travelled, 2)
        side = geometry.sides(memory.boxes)
        shift = geometry.centres(found.boxes)[:, None] - geometry.centres(expected)[None]
        distance = np.linalg.norm(shift, axis=2) / side
        resize = np.abs(np.log(geometry.sides(found.boxes)[:, None] / side))
        reach = config.max_distance + config.max_speed * elapsed
        growth = config.max_resize + config.max_speed * elapsed / 2
        place = np.exp(-((distance / reach) ** 2) - (resize / growth) ** 2)
        score = (1 - config.motion_weight) * looks + config.motion_weight * place

        here = (distance <= 2 * reach) & (resize <= 2 * growth) & (score > config.match_score_thr)
        # After an absence another object may stand there, or the same one elsewhere: looks decide.
        absent = memory.missed > 0
        here &= ~absent | (looks > config.match_score_thr)
        again = absent & memory.confirmed & (looks > config.reid_score_thr)
        possible = (here | again) & (found.scores > config.obj_score_thr)[:, None]
        # The sure detections choose first: a shaky one never takes a track from them.
        sure = found.scores > config.init_score_thr
        for stage in (sure, ~sure):
            allowed = possible & stage[:, None]
            allowed[:, matched[matched >= 0]] = False
            rows, columns = linear_sum_assignment(np.where(allowed, score, -1.0), maximize=True)
            accepted = allowed[rows, columns]
            matched[rows[accepted]] = columns[accepted]
        return matched

    def _continue(
        self, found: Instances, memory: TrackMemory, matched: NDArray[np.int64], stamp_ns: int
    ) -> None:
        """Write the matched detections into their tracks and age the others."""
        config = self.config
        memory.missed += 1
        seen = np.flatnonzero(matched >= 0)
        rows = matched[seen]
        elapsed = (stamp_ns - memory.last_ns[rows]) * 1e-9
        moved = geometry.centres(found.boxes[seen]) - geometry.centres(memory.boxes[rows])
        velocity = moved / np.maximum(elapsed, 1e-3)[:, None]
        # An average over the last sightings: one shaky box does not throw the expectation off.
        weight = np.where(memory.hits[rows] > 1, 0.5, 1.0)[:, None]
        moving = (elapsed > 0)[:, None]
        memory.velocities[rows] += np.where(
            moving, weight * (velocity - memory.velocities[rows]), 0
        )
        memory.embeddings[rows] += config.memo_momentum * (
            found.embeddings[seen] - memory.embeddings[rows]
        )
        memory.boxes[rows] = found.boxes[seen]
        memory.scores[rows] = found.scores[seen]
        memory.labels[rows] = found.labels[seen]
        memory.hits[rows] += 1
        memory.missed[rows] = 0
        memory.last_ns[rows] = np.maximum(memory.last_ns[rows], stamp_ns)
        for detection, row in zip(seen, rows):
            memory.masks[row] = found.masks[detection] if found.masks is not None else None
        trusted = (memory.hits >= config.confirm_frames) | (memory.scores > config.confirm_score)
        promoted = (memory.missed == 0) & (trusted | memory.confirmed)
        memory.states[promoted] = TrackState.TRACKED

    def _start(
        self, found: Instances, memory: TrackMemory, matched: NDArray[np.int64], stamp_ns: int
    ) -> NDArray[np.int64]:
        """Start tracks for good unmatched detections; return the rows of these detections."""
        config = self.config
        free = (matched < 0) & (found.scores > config.init_score_thr)
        # Not on top of an object that is tracked already.
        taken = found.boxes[matched >= 0]
        if len(taken):
            free &= (geometry.ious(found.boxes, taken) <= config.distractor_nms_thr).all(axis=1)
        fresh = np.flatnonzero(free)
        count = len(fresh)
        new = found[fresh]
        trusted = (new.scores > config.confirm_score) | (config.confirm_frames <= 1)
        memory.append(
            TrackMemory(
                ids=self._next_id + np.arange(count, dtype=np.int64),
                states=np.where(trusted, TrackState.TRACKED, TrackState.TENTATIVE).astype(
                    np.uint8
                ),
                boxes=new.boxes.astype(np.float64),
                velocities=np.zeros((count, 2)),
                embeddings=new.embeddings.astype(np.float64),
                scores=new.scores.copy(),
                labels=new.labels.copy(),
                hits=np.ones(count, np.int64),
                first_ns=np.full(count, stamp_ns, np.int64),
                last_ns=np.full(count, stamp_ns, np.int64),
                missed=np.zeros(count, np.int64),
                masks=list(new.masks) if new.masks is not None else [None] * count,
            )
        )
        self._next_id += count
        return fresh

    def _publish(
        self, found: Instances, memory: TrackMemory, matched: NDArray[np.int64]
    ) -> Instances:
        """Return the tracks seen in this frame and, where asked for, the lost ones."""
        memory.states[(memory.missed > 0) & memory.confirmed] = TrackState.LOST
        seen = np.flatnonzero(matched >= 0)
        if not self.config.publish_tentative:
            seen = seen[memory.confirmed[matched[seen]]]
        rows = matched[seen]
        boxes, scores, labels = found.boxes[seen], found.scores[seen], found.labels[seen]
        masks = None if found.masks is None else [found.masks[i] for i in seen]
        embeddings = found.embeddings[seen]
        if self.config.publish_lost:
            lost = np.flatnonzero(memory.states == TrackState.LOST)
            lost = lost[np.argsort(-memory.scores[lost], kind='stable')]
            rows = np.concatenate((rows, lost))
            boxes = np.concatenate((boxes, memory.boxes[lost].astype(np.float32)))
            scores = np.concatenate((scores, memory.scores[lost]))
            labels = np.concatenate((labels, memory.labels[lost]))
            last = memory.embeddings[lost].astype(np.float32)
            embeddings = np.concatenate((embeddings, last))
            if masks is not None:
                masks += [memory.masks[i] for i in lost]
        return Instances(
            boxes=boxes,
            scores=scores,
            labels=labels,
            embeddings=embeddings,
            masks=None if masks is None else tuple(masks),
            track_ids=memory.ids[rows],
            states=memory.states[rows],
            first_seen_ns=memory.first_ns[rows],
            frames_since_seen=memory.missed[rows].astype(np.int32),
        )
