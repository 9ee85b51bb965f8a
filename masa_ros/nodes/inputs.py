# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a camera of the node subscribes to: images, their calibration, detections made on them."""

from __future__ import annotations

import functools
import importlib
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from masa_ros.errors import ConfigError
from masa_ros.images import Picture
from masa_ros.nodes import detections, messages
from masa_ros.nodes.diagnostics import Statistics
from masa_ros.nodes.parameters import NodeConfig
from masa_ros.nodes.qos import profile
from masa_ros.streams.matching import Matcher, Outcome

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

if TYPE_CHECKING:
    from masa_ros.nodes.decoding import Decoding

# As image_transport names them: the message of each, on the topic of that name below the image's.
_TRANSPORTS = {
    'raw': 'sensor_msgs/Image',
    'compressed': 'sensor_msgs/CompressedImage',
    'ffmpeg': 'ffmpeg_image_transport_msgs/FFMPEGPacket',
    'foxglove': 'foxglove_msgs/CompressedVideo',
}
_VIDEO = ('ffmpeg', 'foxglove')
_VIDEO_QUEUE = 100  # packets: one that the middleware drops costs all up to the next key frame


class Arrival(NamedTuple):
    """An image as it came.

    Attributes
    ----------
    message: sensor_msgs/Image or CompressedImage, or the Picture that a packet of video became.
    at: when it came, time.monotonic().
    arrived_ns: the same by the clock of the node, nanoseconds.
    given: vision_msgs/Detection2DArray of the same image.

    """

    message: Any
    at: float
    arrived_ns: int
    given: Any = None


class Inputs:
    """The subscriptions of one camera.

    Parameters
    ----------
    node: that subscribes.
    prefix: of the topics: '' or the camera's name and a slash.
    config: of the node.
    statistics: count what comes.
    arrived: takes every image, with its detections where they are given.
    reject: takes what costs an image: cause, text.
    event: takes what happens that costs no image: name, text, count.
    fail: takes what is raised by a mistake, for one image.

    Attributes
    ----------
    topic: of the images.
    info: the newest calibration.

    """

    def __init__(
        self,
        node: LifecycleNode,
        prefix: str,
        config: NodeConfig,
        statistics: Statistics,
        arrived: Callable[[Arrival], None],
        reject: Callable[[str, str], None],
        event: Callable[[str, str, int], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self._node, self._prefix, self._config = node, prefix, config
        self._statistics, self._arrived = statistics, arrived
        self._reject, self._event, self._fail = reject, event, fail
        self._subscriptions: list[Any] = []
        self.info: CameraInfo | None = None
        base = node.resolve_topic_name(f'{prefix}image_raw')
        self._info_topic = base.rpartition('/')[0] + '/camera_info'
        transport = config.image_transport
        self.topic = base if transport == 'raw' else f'{base}/{transport}'
        self._decoding: Decoding[Arrival] | None = None
        self._lock = threading.Lock()  # images may also be offered from other threads
        self._matcher: Matcher[Arrival, Any] | None = None
        if config.given_detections:
            slop_ns = round(config.detections_slop * 1e9)
            self._matcher = Matcher(slop_ns, config.detections_queue)

    @property
    def waiting(self) -> int:
        """Number of images that wait to be decoded or for their detections."""
        return sum(len(each) for each in (self._decoding, self._matcher) if each is not None)

    def listen(self) -> None:
        """Subscribe; raises ConfigError when a package for that is missing."""
        node, config = self._node, self._config
        detection_type = detections.message_type() if self._matcher is not None else None
        kind, queue = _message_type(config.image_transport), config.image_queue
        if config.image_transport in _VIDEO:
            self._decoding, queue = self._start_decoding(), max(queue, _VIDEO_QUEUE)
        info = profile(config.image_qos, 1)
        self._subscriptions.append(
            node.create_subscription(CameraInfo, self._info_topic, self._on_info, info)
        )
        self._subscriptions.append(self._subscribe(kind, profile(config.image_qos, queue)))
        if detection_type is None:
            node.get_logger().info(f'tracking {self.topic}')
            return
        topic = node.resolve_topic_name(f'{self._prefix}detections')
        self._subscriptions.append(
            node.create_subscription(
                detection_type, topic, self._on_detections, profile('reliable', 10)
            )
        )
        node.get_logger().info(f'tracking the boxes of {topic} in {self.topic}')

    def _subscribe(self, kind: type, qos: QoSProfile) -> Any:
        subscribe = functools.partial(
            self._node.create_subscription, kind, self.topic, self.take, qos
        )
        try:
            return subscribe(
                event_callbacks=SubscriptionEventCallbacks(message_lost=self._on_lost)
            )
        except UnsupportedEventTypeError:  # by this middleware
            return subscribe()

    def close(self) -> None:
        """End the subscriptions; images that waited for something are skipped."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []
        decoding, self._decoding = self._decoding, None
        if decoding is not None:
            decoding.stop()
        if self._matcher is not None:
            with self._lock:
                waiting = self._matcher.clear()
            for _ in waiting:
                self._statistics.skip()

    def take(self, message: Any) -> None:
        """Take an image, from the topic or from a node in the same process."""
        self._statistics.receive()
        arrived_ns = self._node.get_clock().now().nanoseconds
        arrival = Arrival(message, time.monotonic(), arrived_ns)
        decoding = self._decoding
        if isinstance(message, (Image, CompressedImage)):
            self._match(arrival)
        elif decoding is not None:
            decoding.offer(message, arrival)
        else:
            transport = self._config.image_transport
            text = f'{type(message).__name__} does not fit image_transport: {transport}'
            self._reject('encoding', text)

    def _match(self, arrival: Arrival) -> None:
        """Hand an image on, or keep it until its detections come."""
        if self._matcher is None:
            self._arrived(arrival)
            return
        with self._lock:
            outcome = self._matcher.add_image(_stamp_of(arrival.message), arrival)
        self._settle(outcome)

    def _start_decoding(self) -> Decoding[Arrival]:
        """Begin to decode; raises ConfigError when PyAV is missing."""
        try:
            from masa_ros.nodes.decoding import Decoding
        except ImportError as error:
            transport = self._config.image_transport
            raise ConfigError(
                f'image_transport: {transport} needs PyAV ({error}): pip install av'
            ) from error

        def ready(arrival: Arrival, picture: Picture) -> None:
            self._match(arrival._replace(message=picture))

        def behind(count: int) -> None:
            text = f'decoding takes longer than the video lasts; {count} packets are skipped'
            self._event('slow_decoding', text, 1)

        skip = self._statistics.skip
        return Decoding(ready, self._reject, skip, self._fail, behind)

    def _on_detections(self, message: Any) -> None:
        assert self._matcher is not None
        with self._lock:
            outcome = self._matcher.add_detections(_stamp_of(message), message)
        self._settle(outcome)

    def _settle(self, outcome: Outcome[Arrival, Any]) -> None:
        for _ in outcome.images:
            self._reject('without_detections', 'an image that got no detections is dropped')
        if outcome.detections:
            text = f'{outcome.detections} messages of detections belong to no image'
            self._event('without_image', text, outcome.detections)
        for arrival, given in outcome.pairs:
            self._arrived(arrival._replace(given=given))

    def _on_info(self, message: CameraInfo) -> None:
        self.info = message

    def _on_lost(self, info: Any) -> None:
        text = f'images are lost on the way, {info.total_count} so far: see docs/node.md'
        self._event('lost', text, info.total_count_change)


def _message_type(transport: str) -> type:
    """Return the messages of a transport; raises ConfigError where they are not installed."""
    package, name = _TRANSPORTS[transport].split('/')
    try:
        found: type = getattr(importlib.import_module(f'{package}.msg'), name)
    except ImportError as error:
        raise ConfigError(
            f'image_transport: {transport} needs {package} ({error}): '
            f'sudo apt install ros-$ROS_DISTRO-{package.replace("_", "-")}'
        ) from error
    return found


def _stamp_of(message: Any) -> int:
    return messages.stamp_to_ns(message.header.stamp)
