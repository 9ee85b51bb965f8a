# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What can be chosen about positions in space."""

from __future__ import annotations

import dataclasses

from masa_ros import options
from masa_ros.errors import ConfigError
from masa_ros.options import group, option


@dataclasses.dataclass(frozen=True)
class EstimateConfig:
    """How the depth of an object becomes a position."""

    near: float = option(0.1, 'metres; nearer depth is none', 0.001, 1000)
    far: float = option(20.0, 'metres; farther depth is none', 0.01, 1000)
    least_points: int = option(
        20, 'an object with fewer depth points has no position', 3, 1_000_000
    )
    noise: float = option(
        0.004,
        'standard deviation of one depth value at one metre, in metres; it grows with the square '
        'of the distance',
        0,
        1,
    )
    bias: float = option(
        0.005,
        'standard deviation of what all depth of an image is wrong by, as a share of the distance',
        0,
        1,
    )


@dataclasses.dataclass(frozen=True)
class FilterConfig:
    """How positions become motion."""

    acceleration: float = option(
        2.0, 'metres per square second by which objects change their velocity', 0.001, 1000
    )
    keep_seconds: float = option(2.0, 'an object without depth is predicted for so long', 0, 3600)


@dataclasses.dataclass(frozen=True)
class RecordedSpaceConfig:
    """What becomes of depth, live or recorded."""

    slop: float = option(
        0.02, 'seconds by which the stamps of an image and its depth may differ', 0, 10
    )
    scale: float = option(
        0.0,
        'metres a unit of a depth image',
        1e-6,
        1000,
        special=(0.0, 'millimetres in 16 bits, metres in floats (REP 118)'),
    )
    registered: bool = option(
        True,
        'every pixel of the depth is that pixel of the image; otherwise it is seen by a camera of '
        "its own, which has a 'camera_info' beside it",
    )
    identity: bool = option(
        False, 'the depth sensor stands where the camera stands: no transform is asked for'
    )
    target_frame: str = option(
        '',
        'frame that stands still (odom, map), by the transforms of /tf: velocities are told in '
        "it; empty: the camera's, which stands still",
    )
    place_3d: bool = option(
        True,
        'where the camera is known to move, tracks are looked for where they must be seen from '
        'where it is now; methods that do not associate by place take no notice',
    )
    estimate: EstimateConfig = group(EstimateConfig)
    motion: FilterConfig = group(FilterConfig)

    def __post_init__(self) -> None:
        """Refuse values that mean nothing together; raises ConfigError."""
        options.check(self)
        if self.estimate.near >= self.estimate.far:
            raise ConfigError('space.near is not less than space.far')


@dataclasses.dataclass(frozen=True)
class SpaceConfig(RecordedSpaceConfig):
    """Where depth comes from in a node, and what becomes of it."""

    depth: str = option(
        'off',
        'positions in space from depth beside the image: raw: sensor_msgs/Image on '
        "'depth/image_raw', compressedDepth: sensor_msgs/CompressedImage on the topic of that "
        "name below it, points: sensor_msgs/PointCloud2 on 'depth/points'",
        choices=('off', 'raw', 'compressedDepth', 'points'),
    )
    wait: int = option(
        3, 'tracked images that may wait for their depth; one more, and the first has none', 0, 100
    )
    tf_objects: list[str] = option(
        [''], 'names or ids of the objects whose position is sent to tf2; empty: none'
    )
