"""How good a network is while it learns: recall of proposals, retrieval by looks, tracking."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from masa_ros.evaluation.metrics import evaluate
from masa_ros.evaluation.recall import Found
from masa_ros.evaluation.truth import from_masks
from masa_ros.masks import crop
from masa_ros.models.configs import ModelConfig
from masa_ros.models.detector import Detector, DetectorConfig
from masa_ros.models.network import MasaNetwork
from masa_ros.pipeline import Pipeline
from masa_ros.tracking import TrackerConfig, make_tracker
from masa_ros.tracks_file import TrackedFrame
from masa_ros.training.composites import Composites
from masa_ros.training.views import Sample
from masa_ros.types import Frame, Instances

_CLIP_FRAMES, _CLIP_STEP_NS = 16, 100_000_000

Clip = list[tuple[Frame, TrackedFrame]]
"""Frames with what is true of them."""


def hundred_best(**options: Any) -> DetectorConfig:
    """Return options of a detector that gives its hundred best finds, however poor."""
    return DetectorConfig(
        score_threshold=0.0, nms_iou=0.7, mask_share=1.0, max_instances=100, **options
    )


def pictures(scene: Sample) -> Iterator[tuple[np.ndarray, Instances]]:
    """Give the two views of a scene as images (H, W, 3) uint8 with the objects in them."""
    for pixels, boxes, masks in zip(scene.images, scene.boxes, scene.masks):
        truth = Instances(boxes.numpy(), masks=tuple(crop(mask) for mask in masks.numpy()))
        yield pixels.permute(1, 2, 0).contiguous().numpy(), truth


def clip(source: Composites, index: int) -> Clip:
    """Make clip number ``index`` of a source, ten frames a second."""
    made = []
    for number, seen in enumerate(source.clip(index, _CLIP_FRAMES)):
        stamp_ns = (number + 1) * _CLIP_STEP_NS
        truth = from_masks(number, stamp_ns, seen.masks, seen.ids)
        made.append((Frame(seen.image, stamp_ns), truth))
    return made


def evaluator(
    model: ModelConfig, scenes: Sequence[Sample], clips: Sequence[Clip], device: str
) -> Callable[[MasaNetwork], dict[str, float]]:
    """Return what measures a network on scenes and clips that it does not learn from."""
    config = hundred_best(model=model.name, device=device, precision='fp32')

    def measure(network: MasaNetwork) -> dict[str, float]:
        detector = Detector(model, network, config, device)
        found = Found()
        again = retrieval(detector, scenes, found)
        boxes, masks = found.boxes(), found.masks()
        detector.configure(DetectorConfig(model.name))
        figures = {'ar': boxes.ar, 'r50': boxes.r50, 'mask_ar': masks.ar, 'retrieval': again}
        return figures | tracking(detector, clips)

    return measure


def retrieval(detector: Detector, scenes: Sequence[Sample], found: Found | None = None) -> float:
    """Share of objects that their embedding finds again.

    Of the objects that are in both views of a scene: how many embeddings of first views have, of
    all objects of all second views, their own as the nearest. ``found`` takes what the detector
    finds in the same images.
    """
    looks = []
    for scene in scenes:
        in_views = []
        for image, truth in pictures(scene):
            (encoded,) = detector.encode([image])
            if found is not None:
                found.add(detector.find(encoded), truth, image.shape[:2])
            in_views.append(detector.complete(encoded, truth).embeddings)
        looks.append((in_views[0], in_views[1]))
    return nearest_is_own(looks, [scene.ids for scene in scenes])


def nearest_is_own(
    looks: Sequence[tuple[np.ndarray, np.ndarray]],
    ids: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> float:
    """Do the counting of ``retrieval``, by embeddings (N, E) and ids (N,) of both views."""
    pool = np.concatenate([second for _, second in looks])
    pool /= np.maximum(np.linalg.norm(pool, axis=1, keepdims=True), 1e-9)
    right = asked = start = 0
    for (first, second), (ours, theirs) in zip(looks, ids):
        place = {number: start + i for i, number in enumerate(theirs.tolist())}
        for look, number in zip(first, ours.tolist()):
            if number in place:
                asked += 1
                right += int(np.argmax(pool @ look) == place[number])
        start += len(second)
    return right / asked if asked else 0.0


def tracking(detector: Detector, clips: Iterable[Clip]) -> dict[str, float]:
    """HOTA and IDF1, means over clips, with the default association."""
    pipeline = Pipeline(detector, make_tracker(TrackerConfig()))
    scores = []
    for made in clips:
        pipeline.reset()
        found = [dataclasses.replace(truth, instances=pipeline(frame)) for frame, truth in made]
        scores.append(evaluate(found, [truth for _, truth in made], detailed=False))
    return {key: float(np.mean([getattr(s, key) for s in scores])) for key in ('hota', 'idf1')}
