"""A loaded model: RGB image in, untracked instances out."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masa_ros.types import Instances


@dataclasses.dataclass(frozen=True)
class DetectorConfig:
    """Options of a detector; None leaves the model's own value.

    Attributes
    ----------
    model: name in the zoo.
    weights: path of a weights file; '' takes the one the zoo knows.
    device: 'auto', 'cpu', 'cuda' or 'cuda:N'.
    precision: 'auto', 'fp32' or 'fp16'.
    input_size: long side of the network input in pixels, 0 for the model's own.
    score_threshold: instances below it are not returned; 0..1.
    nms_iou: of two boxes that overlap more, the better scored stays; 0..1.
    max_instances: at most that many, the best scored.
    masks: predict masks.

    """

    model: str = 'masa_nano'
    weights: str = ''
    device: str = 'auto'
    precision: str = 'auto'
    input_size: int = 0
    score_threshold: float | None = None
    nms_iou: float | None = None
    max_instances: int | None = None
    masks: bool = True


class Detector:
    """Segment everything in single images. Holds no state between images."""

    config: DetectorConfig
    device: str
    """Where it runs, for example 'cpu' or 'cuda:0'."""

    @classmethod
    def load(cls, config: DetectorConfig) -> Detector:
        """Build the network and read its weights; raises ConfigError or WeightsError."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return what was loaded: model, weights, parameters, device, precision."""
        raise NotImplementedError

    def __call__(self, image: NDArray[np.uint8]) -> Instances:
        """Find instances in an (H, W, 3) uint8 RGB image."""
        raise NotImplementedError
