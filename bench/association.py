# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Milliseconds of one association step, next to the same rules as a loop over detections.

The time that the processor spent on it in this thread, which other work on the machine disturbs
less than the time that passed. Beside it what no step can do without: the dot products of all
embeddings, and these with their bi-softmax. Then how a step of ``robot`` grows with the tracks in
memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchvision

from masa_ros.tracking import ReleasedConfig, ReleasedTracker, Tracker, TrackerConfig
from masa_ros.tracking.similarity import bisoftmax_of
from masa_ros.types import Instances

SIZES = ((10, 10), (100, 200), (300, 1000))
GROWTH = (100, 200, 400, 800, 1600)  # tracks
ROUNDS = 100
EMBEDDING = 256
RULES = ReleasedConfig(
    init_score_thr=0.1, obj_score_thr=0.01, match_score_thr=0.5, memo_tracklet_frames=10**6
)


class Looped:
    """The rules of ``ReleasedTracker`` ('tao') the way the released code goes about them.

    Tensors of one frame, a dictionary of tracks, and Python loops over detections and tracks.
    """

    def __init__(self, config: ReleasedConfig) -> None:
        self.config = config
        self.tracks: dict[int, dict[str, Any]] = {}
        self.count = 0

    def update(
        self, boxes: torch.Tensor, scores: torch.Tensor, embeddings: torch.Tensor, frame: int
    ) -> torch.Tensor:
        """Return the ids of the detections that stay, best score first."""
        config = self.config
        scores, order = scores.sort(descending=True, stable=True)
        boxes, embeddings = boxes[order], embeddings[order]
        valid = torch.ones(len(boxes), dtype=torch.bool)
        overlap = torchvision.ops.box_iou(boxes, boxes)
        for i in range(1, len(boxes)):
            if scores[i] < config.distractor_score_thr and (
                (overlap[i, :i] > config.distractor_nms_thr).any()
            ):
                valid[i] = False
        boxes, scores, embeddings = boxes[valid], scores[valid], embeddings[valid]
        ids = torch.full((len(boxes),), -1, dtype=torch.long)
        if self.tracks:
            memory = torch.cat([track['embedding'][None] for track in self.tracks.values()])
            known = torch.tensor(list(self.tracks))
            dots = embeddings @ memory.t()
            both = (dots.softmax(1) + dots.softmax(0)) / 2
            cosine = torch.nn.functional.normalize(embeddings) @ (
                torch.nn.functional.normalize(memory).t()
            )
            match = (both + cosine) / 2
            for i in range(len(boxes)):
                value, column = match[i].max(0)
                if value > config.match_score_thr and scores[i] > config.obj_score_thr:
                    ids[i] = known[column]
                    match[:i, column] = 0
                    match[i + 1 :, column] = 0
        new = (ids == -1) & (scores > config.init_score_thr)
        count = int(new.sum())
        ids[new] = torch.arange(self.count, self.count + count)
        self.count += count
        for track_id, box, embedding in zip(ids.tolist(), boxes, embeddings):
            if track_id in self.tracks:
                track = self.tracks[track_id]
                momentum = config.memo_momentum
                track['embedding'] = (1 - momentum) * track['embedding'] + momentum * embedding
                track |= {'box': box, 'frame': frame}
            elif track_id > -1:
                self.tracks[track_id] = {'box': box, 'embedding': embedding, 'frame': frame}
        limit = frame - config.memo_tracklet_frames
        for track_id in [k for k, v in self.tracks.items() if v['frame'] <= limit]:
            del self.tracks[track_id]
        return ids


def detections(count: int, rng: np.random.Generator, appearance: np.ndarray) -> Instances:
    """Return objects on a grid, so that none is a duplicate of another."""
    place = np.stack(np.meshgrid(np.arange(40), np.arange(40)), -1).reshape(-1, 2)[:count] * 30.0
    place += rng.normal(0, 1, place.shape)
    scores = rng.uniform(0.35, 1, count).astype(np.float32)
    noise = rng.normal(0, 0.1, (count, EMBEDDING))
    return Instances(
        boxes=np.hstack((place, place + 24)).astype(np.float32),
        scores=scores,
        embeddings=(appearance[:count] + noise).astype(np.float32),
    )


def times_ms(step: Callable[[Instances, int], object], frames: list[Instances]) -> list[float]:
    """Milliseconds of each frame after the first, which only fills the memory."""
    times = []
    for i, found in enumerate(frames):
        start = time.thread_time()
        step(found, i)
        times.append((time.thread_time() - start) * 1e3)
    return times[1:]


def recording(count: int, tracks: int, rounds: int) -> list[Instances]:
    """Return frames of ``count`` detections each, behind a first one that begins all tracks."""
    rng = np.random.default_rng(0)
    appearance = rng.normal(0, 1, (tracks, EMBEDDING)) * 0.2
    return [detections(count if i else tracks, rng, appearance) for i in range(rounds + 1)]


def robot() -> Tracker:
    """Return a tracker that begins tracks as those of ``RULES`` do."""
    return Tracker(TrackerConfig(confirm_frames=1, init_score_thr=0.1))


def main(quick: bool = False) -> list[dict[str, float]]:
    """Print the tables and return the rows of the first, then those of the second."""
    rounds = 2 if quick else ROUNDS
    torch.set_num_threads(1)  # else the loop's time is that of other threads as well
    names = ['robot p50', 'p99', 'tao p50', 'p99', 'loop p50', 'p99']
    names += ['loop/robot', 'loop/tao', 'dots', '+softmax', 'loop/least']
    print(f'{"milliseconds":>19}' + ''.join(f'{name:>11}' for name in names))
    rows = []
    for count, tracks in SIZES[:1] if quick else SIZES:
        frames = recording(count, tracks, rounds)
        ours, tao, loop = robot(), ReleasedTracker(RULES), Looped(RULES)

        def looped(found: Instances, i: int, loop: Looped = loop) -> torch.Tensor:
            boxes, scores = torch.from_numpy(found.boxes), torch.from_numpy(found.scores)
            return loop.update(boxes, scores, torch.from_numpy(found.embeddings), i)

        row: dict[str, float] = {'detections': count, 'tracks': tracks}
        known = frames[0].embeddings

        def dots(found: Instances, i: int, known: Any = known) -> Any:
            return found.embeddings @ known.T

        def least(found: Instances, i: int, known: Any = known) -> Any:
            return bisoftmax_of(found.embeddings @ known.T)

        for name, step in (('robot', ours.update), ('tao', tao.update), ('loop', looped)):
            p50, p99 = np.percentile(times_ms(step, frames), [50, 99])
            row |= {f'{name}_p50_ms': round(p50, 3), f'{name}_p99_ms': round(p99, 3)}
        assert len(ours) == len(tao) == len(loop.tracks) == tracks
        row['loop_by_robot'] = round(row['loop_p50_ms'] / row['robot_p50_ms'], 1)
        row['loop_by_tao'] = round(row['loop_p50_ms'] / row['tao_p50_ms'], 1)
        for name, part in (('dots', dots), ('least', least)):
            row[f'{name}_ms'] = round(float(np.median(times_ms(part, frames))), 3)
        row['loop_by_least'] = round(row['loop_p50_ms'] / row['least_ms'], 1)
        rows.append(row)
        figures = ''.join(f'{value:>11.2f}' for value in list(row.values())[2:])
        print(f'{count:>11} x {tracks:<6}' + figures)
    count = 10 if quick else GROWTH[0]
    print(f'\n{count} detections{"p50":>16}{"p99":>11}')
    for tracks in GROWTH[:1] if quick else GROWTH:
        p50, p99 = np.percentile(
            times_ms(robot().update, recording(count, tracks, rounds)), [50, 99]
        )
        growth = {'robot_p50_ms': round(p50, 3), 'robot_p99_ms': round(p99, 3)}
        rows.append({'detections': count, 'tracks': tracks, **growth})
        print(f'{tracks:>11} tracks{p50:>12.2f}{p99:>11.2f}')
    return rows


if __name__ == '__main__':
    main()
