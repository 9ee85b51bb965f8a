"""Frame in, tracked instances out: the only place where models, engines and tracking meet."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from masa_ros.engines.prepare import EngineConfig, Engines
from masa_ros.models.detector import Detector, DetectorConfig
from masa_ros.tracking import AnyConfig, AnyTracker, TrackerConfig, make_tracker
from masa_ros.types import Frame, Instances


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """Everything that decides what a pipeline does."""

    detector: DetectorConfig = dataclasses.field(default_factory=DetectorConfig)
    tracker: AnyConfig = dataclasses.field(default_factory=TrackerConfig)
    engines: EngineConfig = dataclasses.field(default_factory=EngineConfig)


class Pipeline:
    """Segment and track everything in a stream of frames of one camera.

    ``detector`` and ``tracker`` can be used and replaced on their own; a detector holds no
    state between frames, so that several pipelines may share one. With ``engines`` the detector
    is compiled for the image sizes that it meets.
    """

    def __init__(
        self, detector: Detector, tracker: AnyTracker, engines: Engines | None = None
    ) -> None:
        self.detector = detector
        self.tracker = tracker
        self.engines = engines
        self.timings_ms: dict[str, float] = {}
        """Milliseconds of the last frame's stages: ``detect`` and ``associate``."""

    @classmethod
    def build(
        cls, config: PipelineConfig, log: Callable[[str], None] = lambda text: None
    ) -> Pipeline:
        """Load the model, prepare its engines and make an empty track memory.

        Engines wait for the first image where the configuration does not tell its size; ``log``
        takes lines about them.

        Raises
        ------
        ConfigError, WeightsError
            With a text that names the option or file.

        """
        detector = Detector.load(config.detector)
        engines = Engines(detector, config.engines, log)
        width, height = engines.camera or (640, 480)
        if engines.camera:
            engines.meet(height, width)
        # The first real image must not wait for kernels to be chosen and memory to be taken.
        detector(np.zeros((height, width, 3), np.uint8))
        return cls(detector, make_tracker(config.tracker), engines)

    def __call__(self, frame: Frame, given: Instances | None = None) -> Instances:
        """Return the tracks of this frame; frames must come in the order of their stamps.

        With ``given`` these detections are tracked instead of the model's own.
        """
        probing = 0.0
        start = time.perf_counter()
        if self.engines is not None:
            self.engines.meet(*frame.image.shape[:2])
        encoded = self.detector.encode([frame.image])[0]

        def probe(boxes: NDArray[np.float32]) -> Instances:
            nonlocal probing
            begin = time.perf_counter()
            there = self.detector.probe(encoded, boxes)
            probing += time.perf_counter() - begin
            return there

        if given is None:
            found = self.detector.find(encoded)
        else:
            found = self.detector.complete(encoded, given)
        middle = time.perf_counter()
        # Whoever gives the detections decides what there is: nothing is added to them.
        tracks = self.tracker.update(found, frame.stamp_ns, probe if given is None else None)
        total = time.perf_counter() - start
        detect = middle - start + probing
        self.timings_ms = {'detect': detect * 1e3, 'associate': (total - detect) * 1e3}
        return tracks

    def configure(self, config: PipelineConfig) -> None:
        """Take new thresholds; the model, the kind of association and the tracks stay."""
        self.detector.configure(config.detector)
        self.tracker.config = config.tracker  # type: ignore[assignment]

    def reset(self) -> None:
        """Forget all tracks; ids already given are not given again."""
        self.tracker.reset()
