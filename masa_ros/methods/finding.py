# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What methods share that find objects with one network and follow their masks with another."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from masa_ros import options
from masa_ros.detectors import DETECTORS
from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.detectors.prompted import MasaSegmenter
from masa_ros.detectors.protocol import Detector
from masa_ros.engines.prepare import EngineConfig, Engines
from masa_ros.errors import ConfigError
from masa_ros.methods import pointing
from masa_ros.methods.protocol import Log
from masa_ros.methods.sought import SoughtConfig, Word, answering, names_of
from masa_ros.models.staged import Staged
from masa_ros.options import Variant, group, option, values_of, variants
from masa_ros.types import Frame, Instances, Mask

_PLAIN = 'masa'  # the detector whose options have no prefix: they are those of the method masa


def _detectors() -> dict[str, Variant]:
    return {
        name: Variant(kind.options, '' if name == _PLAIN else f'{name}.')
        for name, kind in DETECTORS.items()
    }


@dataclasses.dataclass(frozen=True)
class FindingConfig(SoughtConfig):
    """Options of what finds objects, see ``masa_ros.options``; ConfigError names a wrong one."""

    device: str = option('auto', "where to run: 'auto', 'cpu', 'cuda' or 'cuda:N'")
    detector: str = option(
        next(iter(DETECTORS)),
        'what finds the objects; masa: the proposals of the model; everything: '
        "SAM's automatic masks, slow; grounding_dino, detic: those inside the "
        'published files, which find what words name; transformers: any of that library',
        choices=lambda: tuple(DETECTORS),
    )
    finder: Any = variants('detector', _detectors)
    engines: EngineConfig = group(EngineConfig)
    detection_every: int = option(
        5, 'frames from one look for objects to the next', 1, 1000, live=True
    )

    def __post_init__(self) -> None:
        """Check every value by itself."""
        options.check(self)


def eye(detector: Detector, device: str) -> MasaSegmenter:
    """Return what answers prompts: the detector itself where it draws what is pointed at."""
    if not isinstance(detector, MasaDetector):
        detector = MasaDetector.load(DetectorConfig(device=device))
    return MasaSegmenter(detector)


class Finding:
    """The part of a ``Method`` that is about what finds objects and answers prompts.

    Parameters
    ----------
    detector: finds the objects; shared by all sessions.
    config: of the method; what concerns loading is taken as it is.
    device: where it runs.
    log: takes lines about engines.
    segmenter: answers prompts; without one only words are understood, if those are.

    """

    name: str
    options: type
    accepts: frozenset[str] = frozenset({'point', 'box', 'mask', 'text'})
    loaded: tuple[str, ...] = ('detector',)
    """Options that are read when the method is loaded, and not later."""

    def __init__(
        self,
        detector: Detector,
        config: Any = None,
        device: str = 'cpu',
        log: Log = lambda text: None,
        segmenter: Any = None,
    ) -> None:
        self.detector, self.segmenter = detector, segmenter
        self.accepts = pointing.kinds(segmenter, detector)
        self.config, self.device = config or self.options(), device
        self.config.fits(detector)
        self.engines: dict[str, Engines] = {}
        self._compile('detector', detector, log)
        self._compile('segmenter', getattr(segmenter, 'detector', None), log)

    def _compile(self, part: str, network: Any, log: Log) -> None:
        """Let a network be compiled from ``begin`` on, where it can be."""
        others = (engines.network for engines in self.engines.values())
        if isinstance(network, Staged) and all(network is not other for other in others):
            self.engines[part] = Engines(network, self.config.engines, log)

    def encode(self, frames: Sequence[Frame]) -> list[Any]:
        """Run the costly part that remembers nothing; see ``Method``."""
        raise NotImplementedError

    def begin(self) -> None:
        """Run everything once, as the first real image must not wait, and begin with the engines.

        Kernels are chosen and memory is taken then.
        """
        camera = self.config.engines.camera
        width, height = camera or (640, 480)
        blank = Frame(np.zeros((height, width, 3), np.uint8), 0)
        self.encode([blank])
        if isinstance(self.detector, MasaDetector):
            self.detector.detect([blank])
        for engines in self.engines.values():
            engines.network.runs = engines.runs
            if camera:
                engines.runs(engines.network.input_shape(height, width))

    def look(self, frame: Frame) -> Instances:
        """Find what is looked for in a frame."""
        return self.named(frame, self.config.sought)

    def named(self, frame: Frame, words: Sequence[Word]) -> Instances:
        """Find what words name in a frame; raises ConfigError for one that is not known."""
        (found,) = self.detector.detect([frame], names_of(words))
        return answering(found, self.detector, words)

    def configure(self, options: Any) -> None:
        """Take new rules and thresholds; the networks and the objects stay."""
        for name in self.loaded:
            if getattr(options, name) != getattr(self.config, name):
                raise ConfigError(f'{name}: read when the method is loaded')
        options.fits(self.detector)
        if isinstance(self.detector, MasaDetector):
            self.detector.configure(options.finder)
        self.config = options

    def parts(self) -> dict[str, Mapping[str, Any]]:
        """Return what the networks tell of themselves, by what each is."""
        return {'detector': self.detector.facts()}

    def describe(self) -> Mapping[str, Any]:
        """Return what was loaded and how it runs."""
        facts = self.parts()
        return {
            'method': self.name,
            # As the messages have it, what found the objects; what follows them is told below.
            'model': values_of(self.config).get('model', self.name),
            'device': self.device,
            **{f'{part}_{key}': value for part in facts for key, value in facts[part].items()},
            'engines': self._status(),
        }

    def _status(self) -> str:
        told = {part: engines.status for part, engines in self.engines.items()}
        if len(set(told.values())) <= 1:
            return next(iter(told.values()), 'eager')
        return '; '.join(f'{part}: {status}' for part, status in told.items())

    def prepare(self, height: int, width: int) -> bool:
        """Wait for all engines; False when a network that should have some runs eagerly."""
        for engines in self.engines.values():
            engines.prepare(engines.network.input_shape(height, width))
        return not any(engines.failed for engines in self.engines.values())

    def interrupt(self) -> None:
        """Let who waits for an engine go on eagerly."""
        for engines in self.engines.values():
            engines.interrupt()

    def close(self) -> None:
        """Give the engines up."""
        for engines in self.engines.values():
            engines.close()


def scaled(
    frame: Frame, seen: dict[int, Mask], shape: tuple[int, int]
) -> tuple[Frame, dict[int, Mask]]:
    """Bring a frame, and masks in it by the ids of their objects, to another size."""
    (height, width), (rows, columns) = frame.shape, shape
    if (height, width) == shape:
        return frame, seen
    image = cv2.resize(np.ascontiguousarray(frame.image), (columns, rows))
    ratio = columns / width, rows / height
    masks = {i: mask.scaled(*ratio).clipped(rows, columns) for i, mask in seen.items()}
    return frame._replace(image=image), masks
