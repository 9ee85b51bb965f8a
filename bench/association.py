"""Milliseconds of one association step, next to the released rules as a loop over detections."""

from __future__ import annotations

import time

import numpy as np
import torch

from masa_ros.tracking import Tracker, TrackerConfig
from masa_ros.types import Instances

SIZES = ((10, 10), (100, 200), (300, 1000))
ROUNDS = 30
EMBEDDING = 256


def looped(embeddings: torch.Tensor, scores: torch.Tensor, memory: torch.Tensor) -> list[int]:
    """Match as the released tracker does: similarity once, then one detection after the other."""
    dots = embeddings @ memory.T
    similarity = (dots.softmax(0) + dots.softmax(1)) / 2
    cosine = torch.nn.functional.normalize(embeddings) @ torch.nn.functional.normalize(memory).T
    similarity = (similarity + cosine) / 2
    ids = []
    for i in range(len(embeddings)):
        confidence, index = torch.max(similarity[i], dim=0)
        if confidence > 0.5 and scores[i] > 0.01:
            ids.append(int(index))
            similarity[:i, index] = 0
            similarity[i + 1 :, index] = 0
        else:
            ids.append(-1)
    return ids


def detections(count: int, rng: np.random.Generator, looks: np.ndarray) -> Instances:
    """Return objects on a grid, so that none is a duplicate of another."""
    place = np.stack(np.meshgrid(np.arange(40), np.arange(40)), -1).reshape(-1, 2)[:count] * 30.0
    place += rng.normal(0, 1, place.shape)
    return Instances(
        boxes=np.hstack((place, place + 24)).astype(np.float32),
        scores=rng.uniform(0.6, 1, count).astype(np.float32),
        labels=np.full(count, -1, np.int32),
        embeddings=(looks[:count] + rng.normal(0, 0.1, (count, EMBEDDING))).astype(np.float32),
    )


def main() -> list[dict[str, float]]:
    """Print the table and return its rows."""
    rng = np.random.default_rng(0)
    print(f'{"detections x tracks":>20}{"ours p50":>10}{"p99":>8}{"loop p50":>10}{"ratio":>7} ms')
    rows = []
    for count, tracks in SIZES:
        looks = rng.normal(0, 1, (tracks, EMBEDDING)) * 0.2
        tracker = Tracker(TrackerConfig(confirm_frames=1))
        tracker.update(detections(tracks, rng, looks), 0)
        assert len(tracker) == tracks
        ours, loop = [], []
        memory = torch.from_numpy(looks).float()
        for i in range(1, ROUNDS + 1):
            found = detections(count, rng, looks)
            start = time.perf_counter()
            tracker.update(found, i * 1_000_000)
            middle = time.perf_counter()
            looped(torch.from_numpy(found.embeddings), torch.from_numpy(found.scores), memory)
            ours.append((middle - start) * 1e3)
            loop.append((time.perf_counter() - middle) * 1e3)
        p50, p99, other = np.median(ours), np.percentile(ours, 99), np.median(loop)
        rows.append(
            {
                'detections': count,
                'tracks': tracks,
                'ours_p50_ms': round(float(p50), 3),
                'ours_p99_ms': round(float(p99), 3),
                'loop_p50_ms': round(float(other), 3),
                'ratio': round(float(other / p50), 1),
            }
        )
        times = f'{p50:>10.2f} {p99:>8.2f} {other:>10.2f} {other / p50:>7.1f}'
        print(f'{count:>12} x {tracks:<5} {times}')
    return rows


if __name__ == '__main__':
    main()
