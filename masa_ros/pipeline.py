"""Frame in, tracked instances out: the only place where models, engines and tracking meet."""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from masa_ros.models.detector import Detector, DetectorConfig
from masa_ros.tracking import Tracker, TrackerConfig
from masa_ros.types import Frame, Instances


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """Everything that decides what a pipeline does."""

    detector: DetectorConfig = dataclasses.field(default_factory=DetectorConfig)
    tracker: TrackerConfig = dataclasses.field(default_factory=TrackerConfig)


class Pipeline:
    """Segment and track everything in a stream of frames of one camera.

    ``detector`` and ``tracker`` can be used and replaced on their own; a detector holds no
    state between frames, so that several pipelines may share one.
    """

    def __init__(self, detector: Detector, tracker: Tracker) -> None:
        self.detector = detector
        self.tracker = tracker
        self.timings_ms: dict[str, float] = {}
        """Milliseconds of the last frame's stages: ``detect`` and ``associate``."""

    @classmethod
    def build(cls, config: PipelineConfig) -> Pipeline:
        """Load the model and make an empty track memory.

        Raises
        ------
        ConfigError, WeightsError
            With a text that names the option or file.

        """
        detector = Detector.load(config.detector)
        # The first real image must not wait for kernels to be chosen and memory to be taken.
        detector(np.zeros((480, 640, 3), np.uint8))
        return cls(detector, Tracker(config.tracker))

    def __call__(self, frame: Frame, given: Instances | None = None) -> Instances:
        """Return the tracks of this frame; frames must come in the order of their stamps.

        With ``given`` these detections are tracked instead of the model's own.
        """
        start = time.perf_counter()
        found = self.detector(frame.image, given)
        middle = time.perf_counter()
        tracks = self.tracker.update(found, frame.stamp_ns)
        end = time.perf_counter()
        self.timings_ms = {'detect': (middle - start) * 1e3, 'associate': (end - middle) * 1e3}
        return tracks

    def configure(self, config: PipelineConfig) -> None:
        """Take new thresholds; the model and the tracks stay."""
        self.detector.configure(config.detector)
        self.tracker.config = config.tracker

    def reset(self) -> None:
        """Forget all tracks; ids already given are not given again."""
        self.tracker.reset()
