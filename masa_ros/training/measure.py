# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How good a network is while it learns: recall of proposals, retrieval, tracking."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.engines.prepare import EngineConfig
from masa_ros.evaluation.metrics import evaluate
from masa_ros.evaluation.recall import Found
from masa_ros.evaluation.truth import from_masks
from masa_ros.masks import crop
from masa_ros.methods import Method
from masa_ros.methods.masa import Masa, MasaConfig
from masa_ros.models.configs import ModelConfig
from masa_ros.models.network import MasaNetwork
from masa_ros.recordings.tracks_file import TrackedFrame
from masa_ros.streams.stream import Stream
from masa_ros.training.composites import Composites
from masa_ros.training.views import ViewPair
from masa_ros.types import Frame, Instances

_CLIP_FRAMES, _CLIP_STEP_NS = 16, 100_000_000

Clip = list[tuple[Frame, TrackedFrame]]
"""Frames with what is true of them."""


def hundred_best(**options: Any) -> DetectorConfig:
    """Return options of a detector that gives its hundred best finds, however poor."""
    return DetectorConfig(
        score_threshold=0.0,
        nms_iou=0.7,
        mask_share=1.0,
        mask_iou=1.0,
        max_instances=100,
        **options,
    )


def eager(detector: MasaDetector) -> Masa:
    """Return the method MASA with a network as it is, without engines."""
    return Masa(detector, MasaConfig(detector.config, EngineConfig(runtime='eager')))


def pictures(pair: ViewPair) -> Iterator[tuple[NDArray[np.uint8], Instances]]:
    """Give the two views of a scene as images (H, W, 3) uint8 with the objects in them."""
    for pixels, boxes, masks in zip(pair.images, pair.boxes, pair.masks):
        truth = Instances(boxes.numpy(), masks=tuple(crop(mask) for mask in masks.numpy()))
        yield pixels.permute(1, 2, 0).contiguous().numpy(), truth


def clip(composites: Composites, index: int) -> Clip:
    """Make clip number ``index``, ten frames a second."""
    made = []
    for number, seen in enumerate(composites.clip(index, _CLIP_FRAMES)):
        stamp_ns = (number + 1) * _CLIP_STEP_NS
        truth = from_masks(number, stamp_ns, seen.masks, seen.ids)
        made.append((Frame(seen.image, stamp_ns), truth))
    return made


def evaluator(
    model: ModelConfig, pairs: Sequence[ViewPair], clips: Sequence[Clip], device: str
) -> Callable[[MasaNetwork], dict[str, float]]:
    """Return what measures a network on scenes and clips that it does not learn from."""
    config = hundred_best(model=model.name, device=device, precision='fp32')

    def measure(network: MasaNetwork) -> dict[str, float]:
        detector = MasaDetector(model, network, config, device)
        found = Found()
        again = retrieval(detector, pairs, found)
        boxes, masks = found.boxes(), found.masks()
        detector.configure(DetectorConfig(model.name))
        figures = {'ar': boxes.ar, 'r50': boxes.r50, 'mask_ar': masks.ar, 'retrieval': again}
        return figures | tracking(eager(detector), clips)

    return measure


def retrieval(
    detector: MasaDetector, pairs: Sequence[ViewPair], found: Found | None = None
) -> float:
    """Share of objects that their embedding finds again.

    Of the objects that are in both views of a scene: how many embeddings of first views have, of
    all objects of all second views, their own as the nearest. ``found`` takes what the detector
    finds in the same images.
    """
    embeddings = []
    for pair in pairs:
        in_views = []
        for image, truth in pictures(pair):
            (encoded,) = detector.encode([image])
            if found is not None:
                found.add(detector.find(encoded), truth, image.shape[:2])
            in_views.append(detector.describe(encoded, truth).embeddings)
        embeddings.append((in_views[0], in_views[1]))
    return nearest_is_own(embeddings, [pair.ids for pair in pairs])


def nearest_is_own(
    embeddings: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
    ids: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> float:
    """Do the counting of ``retrieval``, by embeddings (N, E) and ids (N,) of both views."""
    pool = np.concatenate([second for _, second in embeddings])
    pool /= np.maximum(np.linalg.norm(pool, axis=1, keepdims=True), 1e-9)
    right = asked = start = 0
    for (first, second), (ours, theirs) in zip(embeddings, ids):
        place = {number: start + i for i, number in enumerate(theirs.tolist())}
        for embedding, number in zip(first, ours.tolist()):
            if number in place:
                asked += 1
                right += int(np.argmax(pool @ embedding) == place[number])
        start += len(second)
    return right / asked if asked else 0.0


def tracking(method: Method[Any], clips: Iterable[Clip]) -> dict[str, float]:
    """HOTA and IDF1, means over clips."""
    scores = []
    for made in clips:
        stream = Stream(method)
        results = [result for frame, _ in made for result in stream.track(frame)]
        tracks = {r.frame.stamp_ns: r.tracks for r in [*results, *stream.finish()]}
        found = [
            dataclasses.replace(truth, instances=tracks.get(frame.stamp_ns, Instances.empty()))
            for frame, truth in made
        ]
        scores.append(evaluate(found, [truth for _, truth in made], detailed=False))
    return {key: float(np.mean([getattr(s, key) for s in scores])) for key in ('hota', 'idf1')}
