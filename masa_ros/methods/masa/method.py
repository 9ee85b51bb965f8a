# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The method ``masa``: one network pass finds, describes and draws; association gives ids."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from masa_ros.detectors import DETECTORS
from masa_ros.detectors.masa import Encoded, MasaDetector
from masa_ros.detectors.protocol import Detector
from masa_ros.engines.prepare import Engines
from masa_ros.errors import ConfigError, PromptError
from masa_ros.methods.masa.options import OWN, MasaConfig
from masa_ros.methods.protocol import Log, Session
from masa_ros.tracking import AnyTracker, make_tracker
from masa_ros.types import Frame, Instances, Prompt, Result


class MasaEncoded(NamedTuple):
    """A frame behind the network's image part, and what another detector found in it."""

    image: Encoded
    found: Instances | None


class Masa:
    """Segment and track everything (Li et al., CVPR 2024); see ``Method``.

    Parameters
    ----------
    detector: the network; shared by all sessions.
    config: of the method; what concerns loading is taken as it is.
    finder: finds the objects instead of the network's own proposals.
    log: takes lines about engines.

    """

    name: str = 'masa'
    options: type = MasaConfig
    accepts: frozenset[str] = frozenset()

    def __init__(
        self,
        detector: MasaDetector,
        config: MasaConfig | None = None,
        finder: Detector | None = None,
        log: Log = lambda text: None,
    ) -> None:
        self.detector, self.config, self.finder = detector, config or MasaConfig(), finder
        self.device = detector.device
        self.engines = Engines(detector, self.config.engines, log)
        detector.runs = self.engines.runs

    @classmethod
    def load(cls, options: MasaConfig, log: Log) -> Masa:
        """Load the network and begin with its engines where the size of the images is known.

        Raises
        ------
        ConfigError, WeightsError
            With a text that names the option or file.

        """
        detector = MasaDetector.load(options.network)
        finder = None
        if options.detector != OWN:
            finder = DETECTORS[options.detector].load(options.finder, detector.device)
        camera = options.engines.camera
        width, height = camera or (640, 480)
        # The first real image must not wait for kernels to be chosen and memory to be taken.
        blank = np.zeros((height, width, 3), np.uint8)
        detector.find(detector.encode([blank])[0])
        method = cls(detector, options, finder, log)
        if camera:
            method.engines.runs(detector.input_shape(height, width))
        return method

    def encode(self, frames: Sequence[Frame]) -> list[MasaEncoded]:
        """Run the network's image part, and the other detector where there is one."""
        encoded = self.detector.encode([frame.image for frame in frames])
        found: Sequence[Instances | None] = [None] * len(frames)
        if self.finder is not None:
            found = self.finder.detect(frames)
        return [MasaEncoded(*pair) for pair in zip(encoded, found)]

    def session(self, after: Session[Any] | None = None) -> MasaSession:
        """Begin a session; ``after`` hands its tracks over."""
        tracker = after.tracker if isinstance(after, MasaSession) else None
        return MasaSession(self, tracker)

    def configure(self, options: MasaConfig) -> None:
        """Take new thresholds; the network, the kind of association and the tracks stay."""
        if type(options.tracker) is not type(self.config.tracker):
            raise ConfigError('association: read when the method is loaded')
        self.detector.configure(options.network)
        self.config = options

    def describe(self) -> Mapping[str, Any]:
        """Return what was loaded and how it runs."""
        finder = {} if self.finder is None else dict(self.finder.facts())
        return {
            'method': self.name,
            **self.detector.facts(),
            **{f'detector_{name}': value for name, value in finder.items()},
            'engines': self.engines.status,
        }

    def prepare(self, height: int, width: int) -> bool:
        """Wait for the engines of images of this size; False when one runs eagerly."""
        self.engines.prepare(self.detector.input_shape(height, width))
        return not self.engines.failed

    def interrupt(self) -> None:
        """Let who waits for an engine go on eagerly."""
        self.engines.interrupt()

    def close(self) -> None:
        """Give the engines up: what is built for them now is not put to use any more."""
        self.engines.close()


class MasaSession:
    """See ``Session``: every frame is answered at once.

    Parameters
    ----------
    method: whose network and options are used.
    tracker: that goes on; a new one without.

    """

    def __init__(self, method: Masa, tracker: AnyTracker | None = None) -> None:
        self.method = method
        self.tracker = make_tracker(method.config.tracker) if tracker is None else tracker
        self._shape: tuple[int, int] | None = None

    def update(
        self, frame: Frame, encoded: MasaEncoded, given: Instances | None = None
    ) -> list[Result]:
        """Find, describe and associate; what is given is all there is."""
        detector, tracker = self.method.detector, self.tracker
        tracker.config = self.method.config.tracker  # type: ignore[assignment]
        self._follow_size(frame.shape)
        described, probe = given if given is not None else encoded.found, None
        names: Mapping[int, str] = MappingProxyType({})
        if described is not None:
            # Whoever finds the objects decides what there is: nothing is added to them.
            found = detector.describe(encoded.image, described)
        else:
            found = detector.find(encoded.image)
            probe, names = functools.partial(detector.probe, encoded.image), detector.class_names
        return [Result(frame, tracker.update(found, frame.stamp_ns, probe), names)]

    def _follow_size(self, shape: tuple[int, int]) -> None:
        """Bring the tracks to the size of the image: most cameras keep the view and scale it."""
        if self._shape is not None and self._shape != shape:
            height, width = self._shape
            self.tracker.rescale(shape[1] / width, shape[0] / height)
        self._shape = shape

    def prompt(self, frame: Frame, encoded: MasaEncoded, prompt: Prompt) -> Instances:
        """Refuse: detections alone begin tracks."""
        raise PromptError('the method masa takes no prompts')

    def remove(self, track_id: int) -> bool:
        """Forget a track; False where none has this id."""
        return self.tracker.remove(track_id)

    def finish(self) -> list[Result]:
        """Return nothing: every frame is answered."""
        return []

    def reset(self) -> None:
        """Forget all tracks."""
        self.tracker.reset()

    def figures(self) -> Mapping[str, Any]:
        """Return how many tracks are remembered, and detections that were not finite."""
        return {
            'tracks_in_memory': len(self.tracker),
            'detections_rejected': self.tracker.rejected,
        }
