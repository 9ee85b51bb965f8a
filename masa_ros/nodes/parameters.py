# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The parameters of the tracker node: the options of its parts, declared and read."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.lifecycle import LifecycleNode

from masa_ros import methods, options
from masa_ros.errors import ConfigError
from masa_ros.nodes.qos import PROFILES
from masa_ros.options import Option, group, option, variants
from masa_ros.space.config import SpaceConfig
from masa_ros.streams.stream import StreamConfig


@dataclasses.dataclass(frozen=True)
class NodeConfig:
    """Everything that decides what a tracker node does, see ``masa_ros.options``."""

    autostart: bool = option(True, 'configure and activate without a lifecycle manager')
    method: str = option('masa', 'tracking method', choices=methods.names)
    chosen: Any = variants('method', methods.option_variants)
    build_only: bool = option(False, 'prepare the engines for camera_size and end: for installers')
    stream: StreamConfig = group(StreamConfig)
    publish_embeddings: bool = option(False, 'fill the field embedding', live=True)
    max_rate: float = option(
        0.0, 'process at most so many images per second; 0: all', 0, 1000, live=True
    )
    silence_seconds: float = option(
        2.0, 'diagnostics warn when no image came for so long', 0.1, 3600, live=True
    )
    cameras: list[str] = option(
        [''],
        "names of several cameras for one model: NAME/image_raw in, '~/NAME/tracks' out; empty: "
        'one camera without a name',
    )
    common_ids: bool = option(False, 'ids of different cameras are never the same')
    on_device_failure: str = option(
        'cpu',
        'what to do when the GPU is out of memory or gone: go on on the CPU, become '
        'unconfigured, or try again with the next image',
        choices=('cpu', 'deactivate', 'continue'),
        live=True,
    )
    image_transport: str = option(
        'raw',
        "raw: sensor_msgs/Image on 'image_raw'; on the topic of their own name below it: "
        'compressed: sensor_msgs/CompressedImage, ffmpeg: '
        'ffmpeg_image_transport_msgs/FFMPEGPacket, foxglove: foxglove_msgs/CompressedVideo',
        choices=('raw', 'compressed', 'ffmpeg', 'foxglove'),
    )
    given_detections: bool = option(
        False,
        "track the boxes that come as vision_msgs/Detection2DArray on 'detections' instead of "
        "the model's own",
    )
    detections_slop: float = option(
        0.05, 'seconds by which the stamps of an image and its detections may differ', 0, 10
    )
    detections_queue: int = option(
        30, 'images kept until their detections arrive; more for a slower detector', 1, 1000
    )
    image_qos: str = option('sensor_data', 'QoS of the image topic', choices=tuple(PROFILES))
    image_queue: int = option(
        1, 'images kept by the middleware while the node is busy; of a video always 100', 1, 100
    )
    space: SpaceConfig = group(SpaceConfig, 'space.')
    tracks_qos: str = option('reliable', 'QoS of the tracks', choices=tuple(PROFILES))

    def __post_init__(self) -> None:
        """Refuse values that mean nothing together; raises ConfigError."""
        options.check(self)
        names = [name for name in self.cameras if name]
        wrong = next((n for n in names if not re.fullmatch('[A-Za-z][A-Za-z0-9_]*', n)), None)
        if wrong is not None or len(set(names)) < len(names):
            what = 'names one twice' if wrong is None else f"has '{wrong}', which names no topic"
            raise ConfigError(f'cameras {what}: {", ".join(names)}')
        if self.build_only and not options.values_of(self.chosen).get('camera_size'):
            raise ConfigError('build_only needs camera_size')

    @property
    def camera_names(self) -> list[str]:
        """Names of the cameras; '' for the only one."""
        return [name for name in self.cameras if name] or ['']


def descriptor(each: Option) -> ParameterDescriptor:
    """Return the ROS descriptor of an option."""
    constraints = []
    if each.choices:
        constraints.append('one of: ' + ', '.join(each.choices))
    if not each.live:
        constraints.append('read when the node is configured')
    made = ParameterDescriptor(
        name=each.name,
        description=each.described,
        additional_constraints='; '.join(constraints),
    )
    if each.range and isinstance(each.default, float):
        low, high = each.range
        made.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    elif each.range:
        low, high = (int(limit) for limit in each.range)
        made.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    return made


class Parameters:
    """The declared parameters of a node.

    Those of a method or association that is not chosen are not declared: what is chosen is looked
    at again by every ``read``.
    """

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._declared: dict[str, Option] = {}
        self._declare()

    def __contains__(self, name: str) -> bool:
        """Tell whether a parameter is one of these."""
        return name in self._declared

    def __getitem__(self, name: str) -> Option:
        """Return the option that a parameter is."""
        return self._declared[name]

    def read(self) -> NodeConfig:
        """Return what the parameters say; raises ConfigError naming the one that means nothing."""
        self._declare()
        return options.build(NodeConfig, self._values())

    def _values(self) -> Mapping[str, Any]:
        return {name: self._node.get_parameter(name).value for name in self._declared}

    def _declare(self) -> None:
        node = self._node
        while True:
            wanted = {each.name: each for each in options.listed(NodeConfig, self._values())}
            new = [each for name, each in wanted.items() if self._declared.get(name) != each]
            if not new:
                break
            for each in new:
                self._declare_one(each)
        for name in self._declared.keys() - wanted.keys():
            node.undeclare_parameter(name)
            del self._declared[name]

    def _declare_one(self, each: Option) -> None:
        """Declare a parameter, also anew: methods have options of one name and other defaults."""
        node, value, changed = self._node, each.default, False
        if (old := self._declared.get(each.name)) is not None:
            now = node.get_parameter(each.name).value
            changed = now != old.default
            value = now if changed else value
            node.undeclare_parameter(each.name)
        node.declare_parameter(each.name, value, descriptor(each), ignore_override=changed)
        self._declared[each.name] = each
