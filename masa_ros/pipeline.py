"""Frame in, tracked instances out: the only place where models, engines and tracking meet."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import gc
from collections.abc import Callable, Sequence

import numpy as np
import torch

from masa_ros.engines.prepare import EngineConfig, Engines
from masa_ros.models.detector import Detector, DetectorConfig, Encoded
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
        return self.track(frame, self.encode([frame])[0], given)

    def encode(self, frames: Sequence[Frame]) -> list[Encoded]:
        """Run the network's image part on frames of one size, of one camera or of several."""
        if self.engines is not None:
            self.engines.meet(*frames[0].image.shape[:2])
        return self.detector.encode([frame.image for frame in frames])

    def track(self, frame: Frame, encoded: Encoded, given: Instances | None = None) -> Instances:
        """Do the rest: find what is in the frame, or take what is given, and give it ids."""
        if given is not None:
            # Whoever gives the detections decides what there is: nothing is added to them.
            found = self.detector.complete(encoded, given)
            return self.tracker.update(found, frame.stamp_ns)
        found = self.detector.find(encoded)
        probe = functools.partial(self.detector.probe, encoded)
        return self.tracker.update(found, frame.stamp_ns, probe)

    def with_tracker(self, tracker: AnyTracker | None = None) -> Pipeline:
        """Return a pipeline with the same model and another track memory, or an empty one."""
        tracker = make_tracker(self.tracker.config) if tracker is None else tracker
        return Pipeline(self.detector, tracker, self.engines)

    def configure(self, config: PipelineConfig) -> None:
        """Take new thresholds; the model, the kind of association and the tracks stay."""
        self.detector.configure(config.detector)
        self.tracker.config = config.tracker  # type: ignore[assignment]

    def reset(self) -> None:
        """Forget all tracks; ids already given are not given again."""
        self.tracker.reset()

    def close(self) -> None:
        """Give the engines up: what is built for them now is not put to use any more."""
        if self.engines is not None:
            self.engines.give_up('closed')


def free_memory() -> None:
    """Give memory that nothing uses any more back to the other processes, a GPU's too."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)  # of glibc, which keeps it otherwise
    if trim is not None:
        trim(0)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def lost_device(error: Exception) -> bool:
    """Tell whether an error says that a GPU is out of memory or gone."""
    kinds = (torch.cuda.OutOfMemoryError, getattr(torch, 'AcceleratorError', ()))  # torch 2.8
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and 'CUDA' in str(error))
