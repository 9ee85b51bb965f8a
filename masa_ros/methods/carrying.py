# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What methods share that find objects with one network and carry their masks on with another."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from masa_ros import options
from masa_ros.detectors import DETECTORS
from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.protocol import Detector
from masa_ros.engines.prepare import EngineConfig, Engines
from masa_ros.errors import ConfigError
from masa_ros.methods.protocol import Log
from masa_ros.models.devices import choose_device
from masa_ros.options import Variant, group, option, values_of, variants
from masa_ros.propagators import PROPAGATORS
from masa_ros.propagators.protocol import Propagator
from masa_ros.types import Frame, Mask

_PLAIN = 'masa'  # the detector whose options have no prefix: they are those of the method masa


def _detectors() -> dict[str, Variant]:
    return {
        name: Variant(kind.options, '' if name == _PLAIN else f'{name}.')
        for name, kind in DETECTORS.items()
    }


def _propagators() -> dict[str, Variant]:
    return {name: Variant(kind.options, f'{name}.') for name, kind in PROPAGATORS.items()}


@dataclasses.dataclass(frozen=True)
class CarryingConfig:
    """Options of both networks, see ``masa_ros.options``; ConfigError names a wrong one."""

    device: str = option('auto', "where to run: 'auto', 'cpu', 'cuda' or 'cuda:N'")
    detector: str = option(
        next(iter(DETECTORS)),
        'what finds the objects; masa: the proposals of the model; everything: '
        "SAM's automatic masks, slow",
        choices=lambda: tuple(DETECTORS),
    )
    finder: Any = variants('detector', _detectors)
    engines: EngineConfig = group(EngineConfig)
    propagator: str = option(
        next(iter(PROPAGATORS)),
        'what carries masks from frame to frame',
        choices=lambda: tuple(PROPAGATORS),
    )
    carrier: Any = variants('propagator', _propagators)
    detection_every: int = option(
        5, 'frames from one look for objects to the next', 1, 1000, live=True
    )

    def __post_init__(self) -> None:
        """Check every value by itself."""
        options.check(self)


def networks(chosen: CarryingConfig) -> tuple[Detector, Propagator[Any], str]:
    """Load what finds objects and what carries their masks on; returns also their device."""
    device = str(choose_device(chosen.device))
    propagator = PROPAGATORS[chosen.propagator].load(chosen.carrier, device)
    detector = DETECTORS[chosen.detector].load(chosen.finder, device)
    return detector, propagator, device


class Carrying:
    """The part of a ``Method`` that is about its networks and not about its rules.

    Parameters
    ----------
    detector: finds the objects; shared by all sessions, as is the propagator.
    propagator: carries their masks on.
    config: of the method; what concerns loading is taken as it is.
    device: where both run.
    log: takes lines about engines.

    """

    name: str
    options: type

    def __init__(
        self,
        detector: Detector,
        propagator: Propagator[Any],
        config: Any = None,
        device: str = 'cpu',
        log: Log = lambda text: None,
    ) -> None:
        self.detector, self.propagator = detector, propagator
        self.config, self.device = config or self.options(), device
        self.engines: Engines | None = None
        if isinstance(detector, MasaDetector):
            self.engines = Engines(detector, self.config.engines, log)
            detector.runs = self.engines.runs

    def begin(self) -> None:
        """Run both once, as the first real image must not wait, and begin with the engines.

        Kernels are chosen and memory is taken then.
        """
        camera = self.config.engines.camera
        width, height = camera or (640, 480)
        blank = Frame(np.zeros((height, width, 3), np.uint8), 0)
        self.propagator.encode([blank])
        if self.engines is None or not isinstance(self.detector, MasaDetector):
            return
        self.detector.detect([blank])
        if camera:
            self.engines.runs(self.detector.input_shape(height, width))

    def encode(self, frames: Sequence[Frame]) -> list[Any]:
        """Run the propagator's image part; objects are looked for when it is time for it."""
        return self.propagator.encode(frames)

    def configure(self, options: Any) -> None:
        """Take new rules and thresholds; the networks and the objects stay."""
        for name in ('detector', 'propagator'):
            if getattr(options, name) != getattr(self.config, name):
                raise ConfigError(f'{name}: read when the method is loaded')
        if isinstance(self.detector, MasaDetector):
            self.detector.configure(options.finder)
        self.config = options

    def describe(self) -> Mapping[str, Any]:
        """Return what was loaded and how it runs."""
        facts = {'propagator': self.propagator.facts(), 'detector': self.detector.facts()}
        return {
            'method': self.name,
            # As the messages have it, what found the objects; what carries them is told below.
            'model': values_of(self.config).get('model', self.name),
            'device': self.device,
            **{f'{part}_{key}': value for part in facts for key, value in facts[part].items()},
            'engines': self.engines.status if self.engines else 'eager',
        }

    def prepare(self, height: int, width: int) -> bool:
        """Wait for the detector's engines; False when one runs eagerly."""
        if self.engines is None or not isinstance(self.detector, MasaDetector):
            return True
        self.engines.prepare(self.detector.input_shape(height, width))
        return not self.engines.failed

    def interrupt(self) -> None:
        """Let who waits for an engine go on eagerly."""
        if self.engines is not None:
            self.engines.interrupt()

    def close(self) -> None:
        """Give the engines up."""
        if self.engines is not None:
            self.engines.close()


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
