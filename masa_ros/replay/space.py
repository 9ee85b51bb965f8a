# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Positions in space of the tracks of a recording, by the same rules as in the node."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from masa_ros.errors import ImageError
from masa_ros.options import group
from masa_ros.recordings.depth import RecordedDepth
from masa_ros.space.config import RecordedSpaceConfig
from masa_ros.space.depth import resized
from masa_ros.space.estimate import Reason
from masa_ros.space.locate import Locator, Place, View
from masa_ros.types import Result


@dataclasses.dataclass(frozen=True)
class SpaceOptions:
    """The options of a replay with depth."""

    space: RecordedSpaceConfig = group(RecordedSpaceConfig, 'space.')


class RecordedSpace:
    """Positions beside the tracks of one recording; its camera is said to stand still.

    Parameters
    ----------
    depth: of the recording, registered to its images.
    config: thresholds.
    event: takes what goes wrong: name, text, count.

    """

    def __init__(
        self,
        depth: RecordedDepth,
        config: RecordedSpaceConfig,
        event: Callable[[str, str, int], None],
    ) -> None:
        self._depth, self._event = depth, event
        self._locator = Locator(config)

    def places(self, index: int, name: str, result: Result) -> list[Place]:
        """Return where every track of an image is."""
        frame = result.frame
        view = self._view(index, name, frame.stamp_ns, frame.shape)
        return self._locator.locate(result.tracks, frame.stamp_ns, view, np.eye(4))

    def _view(self, index: int, name: str, stamp_ns: int, shape: tuple[int, int]) -> View | Reason:
        camera = self._depth.camera
        if camera is None or camera.shape != shape:
            self._event('space_calibration', 'the camera_info is of images of another size', 1)
            return Reason.NO_CALIBRATION
        try:
            depth = self._depth.at(index, name, stamp_ns)
            if depth is None:
                self._event('space_no_depth', f'{name} has no depth', 1)
                return Reason.NO_DEPTH
            return View(np.ascontiguousarray(resized(depth, shape)), camera)
        except ImageError as error:
            self._event('space_bad_depth', str(error), 1)
            return Reason.NO_DEPTH
