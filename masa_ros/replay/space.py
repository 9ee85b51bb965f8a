# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Positions in space of the tracks of a recording, by the same rules as in the node."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from masa_ros.errors import ImageError, SourceError
from masa_ros.options import group
from masa_ros.recordings.depth import DepthFiles, RecordedDepth, Seen, Sensor, open_depth
from masa_ros.recordings.poses import BagTransforms, Poses, Still, open_poses
from masa_ros.recordings.sources import BagSource, Source
from masa_ros.space.config import RecordedSpaceConfig
from masa_ros.space.depth import registered, resized
from masa_ros.space.estimate import Reason
from masa_ros.space.frames import Matrix
from masa_ros.space.locate import Locator, Place, View
from masa_ros.types import Expected, Frame, Result


@dataclasses.dataclass(frozen=True)
class SpaceOptions:
    """The options of a replay with depth."""

    space: RecordedSpaceConfig = group(RecordedSpaceConfig, 'space.')


class RecordedSpace:
    """Positions beside the tracks of one recording.

    Parameters
    ----------
    depth: of the recording.
    poses: where its camera was.
    transforms: of its bag, None where it has none.
    config: thresholds.
    event: takes what goes wrong: name, text, count.

    """

    def __init__(
        self,
        depth: RecordedDepth,
        poses: Poses,
        transforms: BagTransforms | None,
        config: RecordedSpaceConfig,
        event: Callable[[str, str, int], None],
    ) -> None:
        self._depth, self._poses, self._transforms = depth, poses, transforms
        self._config, self._event = config, event
        self._locator = Locator(config)

    def expected(self, index: int, name: str, frame: Frame) -> Expected | None:
        """Return where tracks should be seen in an image, before it is tracked."""
        if not self._config.place_3d or isinstance(self._poses, Still):
            return None
        camera = self._depth.camera
        if camera.shape != frame.shape:
            return None
        try:
            to_target = self._poses.at(index, name, frame)
        except LookupError:
            return None  # ``places`` tells
        return self._locator.foresight.at(frame.stamp_ns, camera, to_target)

    def places(self, index: int, name: str, result: Result) -> list[Place]:
        """Return where every track of an image is."""
        frame = result.frame
        to_target = None
        try:
            to_target = self._poses.at(index, name, frame)
        except LookupError as error:
            self._event('space_transform', str(error), 1)
        view = self._view(index, name, frame)
        return self._locator.locate(result.tracks, frame.stamp_ns, view, to_target)

    def _view(self, index: int, name: str, frame: Frame) -> View | Reason:
        camera, sensor = self._depth.camera, self._depth.sensor
        if camera.shape != frame.shape:
            self._event('space_calibration', 'the camera_info is of images of another size', 1)
            return Reason.NO_CALIBRATION
        try:
            seen = self._depth.at(index, name, frame.stamp_ns)
            if seen is None:
                self._event('space_no_depth', f'{name} has no depth', 1)
                return Reason.NO_DEPTH
            if sensor is None:
                return View(np.ascontiguousarray(resized(seen.depth, frame.shape)), camera)
            return View(
                registered(seen.depth, sensor.camera, self._to_image(seen, sensor, frame), camera),
                camera,
            )
        except ImageError as error:
            self._event('space_bad_depth', str(error), 1)
            return Reason.NO_DEPTH
        except LookupError as error:
            self._event('space_transform', str(error), 1)
            return Reason.NO_TRANSFORM
        except ValueError as error:
            self._event('space_calibration', str(error), 1)
            return Reason.NO_CALIBRATION

    def _to_image(self, seen: Seen, sensor: Sensor, frame: Frame) -> Matrix:
        """Return where the depth camera stands; raises LookupError."""
        if self._config.identity:
            return np.eye(4)
        if sensor.to_image is not None:
            return sensor.to_image
        if self._transforms is None:
            raise LookupError('nothing says where the depth camera stands: see --depth-info')
        return self._transforms.between(seen.frame_id, frame.frame_id, seen.stamp_ns)


def open_space(
    source: Source,
    files: DepthFiles,
    poses: Path | None,
    config: RecordedSpaceConfig,
    event: Callable[[str, str, int], None],
) -> RecordedSpace:
    """Open what says where the tracks of a recording are.

    Parameters
    ----------
    source: the recording.
    files: where its depth is.
    poses: where its camera was, see ``open_poses``.
    config: thresholds.
    event: takes what goes wrong.

    Raises
    ------
    SourceError
        When one of them is not there, or says nothing that can be used.

    """
    depth = open_depth(source, files, round(config.slop * 1e9), config.scale)
    sensor = depth.sensor
    apart = sensor is not None and sensor.to_image is None and not config.identity
    transforms = None
    if apart or (config.target_frame and poses is None):
        if not isinstance(source, BagSource):
            asked = 'to_image in --depth-info' if apart else '--poses'
            raise SourceError(f'the recording is no bag, which could have /tf: see {asked}')
        transforms = BagTransforms(source.path)
    where = open_poses(source, poses, transforms, config.target_frame)
    return RecordedSpace(depth, where, transforms, config, event)
