# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A detector inside of a method, with its engines where it is compiled to any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.protocol import Detector
from masa_ros.engines.prepare import EngineConfig, Engines
from masa_ros.methods.protocol import Log
from masa_ros.types import Frame


class Finder:
    """A detector that a method looks for objects with, ready for images of the camera's size.

    Parameters
    ----------
    detector: finds the objects.
    engines: of the method's options.
    log: takes lines about engines.

    """

    def __init__(self, detector: Detector, engines: EngineConfig, log: Log) -> None:
        self.detector = detector
        self.engines: Engines | None = None
        if isinstance(detector, MasaDetector):
            self.engines = Engines(detector, engines, log)
            detector.runs = self.engines.runs

    def begin(self, camera: tuple[int, int] | None) -> None:
        """Run once, as the first real image must not wait, and begin with the engines.

        ``camera``: width and height where they are known.
        """
        if self.engines is None or not isinstance(self.detector, MasaDetector):
            return
        self.detector.detect([blank(camera)])
        if camera:
            width, height = camera
            self.engines.runs(self.detector.input_shape(height, width))

    def prepare(self, height: int, width: int) -> bool:
        """See ``Method``."""
        if self.engines is None or not isinstance(self.detector, MasaDetector):
            return True
        self.engines.prepare(self.detector.input_shape(height, width))
        return not self.engines.failed

    def configure(self, options: Any) -> None:
        """Take new thresholds."""
        if isinstance(self.detector, MasaDetector):
            self.detector.configure(options)

    @property
    def status(self) -> str:
        """How it runs, for diagnostics."""
        return self.engines.status if self.engines else 'eager'

    def facts(self) -> Mapping[str, Any]:
        """Return what was loaded, every name with ``detector_`` before it."""
        return {f'detector_{key}': value for key, value in self.detector.facts().items()}

    def interrupt(self) -> None:
        """See ``Method``."""
        if self.engines is not None:
            self.engines.interrupt()

    def close(self) -> None:
        """See ``Method``."""
        if self.engines is not None:
            self.engines.close()


def blank(camera: tuple[int, int] | None) -> Frame:
    """Return an image to run a network on once: kernels are chosen, and memory taken, then."""
    width, height = camera or (640, 480)
    return Frame(np.zeros((height, width, 3), np.uint8), 0)
