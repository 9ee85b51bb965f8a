"""What a camera of the node subscribes to: images, their calibration, detections made on them."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from masa_ros.nodes import detections, messages
from masa_ros.nodes.diagnostics import Statistics
from masa_ros.nodes.parameters import NodeConfig
from masa_ros.nodes.qos import profile
from masa_ros.streams.matching import Matcher, Outcome

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError


class Arrival(NamedTuple):
    """An image as it came.

    Attributes
    ----------
    message: sensor_msgs/Image or CompressedImage.
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
    ) -> None:
        self._node, self._prefix, self._config = node, prefix, config
        self._statistics, self._arrived = statistics, arrived
        self._reject, self._event = reject, event
        self._subscriptions: list[Any] = []
        self.info: CameraInfo | None = None
        base = node.resolve_topic_name(f'{prefix}image_raw')
        self._info_topic = base.rpartition('/')[0] + '/camera_info'
        self._compressed = config.image_transport == 'compressed'
        self.topic = base + '/compressed' if self._compressed else base
        self._lock = threading.Lock()  # images may also be offered from other threads
        self._matcher: Matcher[Arrival, Any] | None = None
        if config.given_detections:
            slop_ns = round(config.detections_slop * 1e9)
            self._matcher = Matcher(slop_ns, config.detections_queue)

    @property
    def waiting(self) -> int:
        """Number of images that wait for their detections."""
        return len(self._matcher) if self._matcher is not None else 0

    def listen(self) -> None:
        """Subscribe; raises ConfigError when a package for that is missing."""
        node, config = self._node, self._config
        detection_type = detections.message_type() if self._matcher is not None else None
        info = profile(config.image_qos, 1)
        self._subscriptions.append(
            node.create_subscription(CameraInfo, self._info_topic, self._on_info, info)
        )
        qos = profile(config.image_qos, config.image_queue)
        kind = CompressedImage if self._compressed else Image
        self._subscriptions.append(self._subscribe(kind, qos))
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
        """End the subscriptions; images that waited for detections are skipped."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []
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
        if self._matcher is None:
            self._arrived(arrival)
            return
        with self._lock:
            outcome = self._matcher.add_image(_stamp_of(message), arrival)
        self._settle(outcome)

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


def _stamp_of(message: Any) -> int:
    return messages.stamp_to_ns(message.header.stamp)
