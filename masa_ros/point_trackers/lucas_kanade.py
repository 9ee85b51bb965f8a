# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pixelsal Lucas-Kanade with a check forward and backward: no weights, every frame at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from masa_ros import options
from masa_ros.options import option
from masa_ros.point_trackers.protocol import Points, Seen
from masa_ros.types import Frame

Pixels = NDArray[np.uint8]
"""An image. OpenCV takes no pyramids that were made before, not from Python."""


@dataclasses.dataclass(frozen=True)
class LucasKanadeConfig:
    """Options of Lucas-Kanade; raises ConfigError naming one that is wrong."""

    window: int = option(21, 'side of the patch around a point that is compared, pixels', 5, 101)
    levels: int = option(3, 'times that the image is halved for large motions', 0, 8)
    back: float = option(
        1.0,
        'pixels from where a point was to where it comes back to when followed backward; '
        'beyond, it is lost',
        0.01,
        100,
    )

    def __post_init__(self) -> None:
        """Check every value by itself."""
        options.check(self)


class LucasKanade:
    """See ``PointTracker``."""

    late = 0

    def __init__(self, config: LucasKanadeConfig | None = None) -> None:
        self.config = config or LucasKanadeConfig()
        self.patch = self.config.window

    @classmethod
    def load(cls, config: LucasKanadeConfig, device: str) -> LucasKanade:
        """Make it; it runs on the CPU whatever the device."""
        return cls(config)

    def encode(self, frames: Sequence[Frame]) -> list[Pixels]:
        """Take the pixels; see ``PointTracker``."""
        # With its colours: a body may be as bright as what lies behind it.
        return [np.ascontiguousarray(frame.image) for frame in frames]

    def begin(self, encoded: Pixels, points: Points) -> LucasKanadeChain:
        """Begin with points of a frame; see ``PointTracker``."""
        return LucasKanadeChain(self.config, encoded, points)

    def facts(self) -> Mapping[str, Any]:
        """Return what runs, for diagnostics."""
        return {'model': 'Lucas-Kanade', 'device': 'cpu'}


class LucasKanadeChain:
    """See ``Chain``. A point that was lost once stays where it was seen last, hidden."""

    def __init__(self, config: LucasKanadeConfig, encoded: Pixels, points: Points) -> None:
        self._config, self._before = config, encoded
        self._points = np.array(points, np.float32).reshape(-1, 2)
        self._visible = np.ones(len(points), np.bool_)

    def step(self, encoded: Pixels) -> list[Seen]:
        """Follow the points into the next frame; see ``Chain``."""
        live = np.flatnonzero(self._visible)
        if len(live):
            old = self._points[live]
            new, there = self._follow(self._before, encoded, old)
            back, here = self._follow(encoded, self._before, new)
            height, width = encoded.shape[:2]
            good = there & here & (np.hypot(*(back - old).T) <= self._config.back)
            good &= ((new > -0.5) & (new < (width - 0.5, height - 0.5))).all(1)
            self._points[live[good]] = new[good]
            self._visible[live] = good
        self._before = encoded
        return [Seen(self._points.copy(), self._visible.copy())]

    def _follow(
        self, before: Pixels, after: Pixels, points: Points
    ) -> tuple[Points, NDArray[np.bool_]]:
        side = self._config.window
        # More levels than fit are left out by OpenCV.
        moved, found, _ = cv2.calcOpticalFlowPyrLK(
            before,
            after,
            points[:, None],
            np.empty_like(points[:, None]),
            winSize=(side, side),
            maxLevel=self._config.levels,
        )
        return moved[:, 0], found[:, 0] > 0

    def rest(self) -> list[Seen]:
        """No frame is ever open."""
        return []

    def keep(self, index: NDArray[np.intp]) -> None:
        """Follow only these points; see ``Chain``."""
        self._points, self._visible = self._points[index], self._visible[index]
