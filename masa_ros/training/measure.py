"""How good a network is while it learns: recall of its proposals, and retrieval by looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from masa_ros.evaluation.recall import Found
from masa_ros.masks import crop
from masa_ros.models.configs import ModelConfig
from masa_ros.models.detector import Detector, DetectorConfig
from masa_ros.models.network import MasaNetwork
from masa_ros.training.views import Sample
from masa_ros.types import Instances


def hundred_best(**options: Any) -> DetectorConfig:
    """Return options of a detector that gives its hundred best finds, however poor."""
    return DetectorConfig(
        score_threshold=0.0, nms_iou=0.7, mask_share=1.0, max_instances=100, **options
    )


def evaluator(
    model: ModelConfig, scenes: Sequence[Sample], device: str
) -> Callable[[MasaNetwork], dict[str, float]]:
    """Return what measures a network on scenes that it does not learn from."""
    config = hundred_best(model=model.name, device=device, precision='fp32')

    def evaluate(network: MasaNetwork) -> dict[str, float]:
        return measure(Detector(model, network, config, device), scenes)

    return evaluate


def measure(detector: Detector, scenes: Sequence[Sample]) -> dict[str, float]:
    """Measure a detector on scenes.

    Returns
    -------
    ``ar``, ``r50``: recall of boxes by the hundred best proposals, ``mask_ar`` of masks, see
    ``evaluation.recall``. ``retrieval``: share of objects seen in both views whose embedding in
    the second view is, among all objects of all second views, the nearest to that in the first.

    """
    found = Found()
    looks: list[tuple[np.ndarray, np.ndarray]] = []
    for scene in scenes:
        in_views = []
        for view in (0, 1):
            image = scene.images[view].permute(1, 2, 0).contiguous().numpy()
            truth = _truth(scene, view)
            (encoded,) = detector.encode([image])
            found.add(detector.find(encoded), truth, image.shape[:2])
            in_views.append(detector.complete(encoded, truth).embeddings)
        looks.append((in_views[0], in_views[1]))
    boxes, masks = found.boxes(), found.masks()
    figures = {'ar': boxes.ar, 'r50': boxes.r50, 'mask_ar': masks.ar}
    return figures | {'retrieval': retrieval(looks, [scene.ids for scene in scenes])}


def retrieval(
    looks: Sequence[tuple[np.ndarray, np.ndarray]],
    ids: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> float:
    """Share of embeddings (N, E) of first views whose nearest of all second views is their own."""
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


def _truth(scene: Sample, view: int) -> Instances:
    count = len(scene.ids[view])
    return Instances(
        boxes=scene.boxes[view].numpy(),
        scores=np.ones(count, np.float32),
        labels=np.full(count, -1, np.int32),
        embeddings=np.zeros((count, 0), np.float32),
        masks=tuple(crop(mask) for mask in scene.masks[view].numpy()),
    )
