"""Detections of another node (vision_msgs/Detection2DArray), synchronised with the images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile

from masa_ros.errors import ConfigError
from masa_ros.types import Instances


class ClassNames:
    """Numbers for the class names of detections, in the order in which they are met.

    Detectors that send numbers as class ids keep them.
    """

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self._labels: dict[str, int] = {}

    def label(self, class_id: str) -> int:
        """Return the number of a class, -1 for the empty one."""
        if not class_id:
            return -1
        if class_id.isdecimal() and len(class_id) < 10:
            return int(class_id)
        if class_id not in self._labels:
            label = len(self._labels)
            self._labels[class_id], self.names[label] = label, class_id
        return self._labels[class_id]


def detections_from_msg(message: Any, classes: ClassNames) -> Instances:
    """Return the boxes of a vision_msgs/Detection2DArray with their best hypotheses.

    A rotated box counts as the upright one around it; a detection without hypotheses has score 1
    and no class; one without a finite box that has an area is left out.
    """
    boxes, scores, labels = [], [], []
    for detection in message.detections:
        centre = detection.bbox.center
        at = getattr(centre, 'position', centre)  # before vision_msgs 4 a plain Pose2D
        cosine, sine = abs(math.cos(centre.theta)), abs(math.sin(centre.theta))
        width, height = detection.bbox.size_x, detection.bbox.size_y
        half_x, half_y = (width * cosine + height * sine) / 2, (width * sine + height * cosine) / 2
        if not (half_x > 0 and half_y > 0 and math.isfinite(half_x + half_y + at.x + at.y)):
            continue
        best = max(
            (result.hypothesis for result in detection.results),
            key=lambda hypothesis: hypothesis.score,
            default=None,
        )
        boxes.append((at.x - half_x, at.y - half_y, at.x + half_x, at.y + half_y))
        scores.append(1.0 if best is None else best.score)
        labels.append(-1 if best is None else classes.label(best.class_id))
    return Instances(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        labels=np.array(labels, np.int32),
    )


class SynchronisedImages:
    """Subscription of images together with the detections made on them.

    Parameters
    ----------
    node: that subscribes.
    image: message type, topic and QoS of the images.
    topic: of the detections.
    slop: seconds by which the two stamps may differ.
    received: called with every image.
    matched: called with every image and its detections.

    Raises
    ------
    ConfigError
        When message_filters or vision_msgs is not installed.

    """

    def __init__(
        self,
        node: Node,
        image: tuple[Any, str, QoSProfile],
        topic: str,
        slop: float,
        received: Callable[[Any], None],
        matched: Callable[[Any, Any], None],
    ) -> None:
        try:
            import message_filters
            from vision_msgs.msg import Detection2DArray
        except ImportError as error:
            raise ConfigError(
                f'given_detections needs message_filters and vision_msgs ({error}): '
                'sudo apt install ros-$ROS_DISTRO-message-filters ros-$ROS_DISTRO-vision-msgs'
            ) from error
        self._node = node
        message_type, image_topic, qos = image
        self._filters = [
            message_filters.Subscriber(node, message_type, image_topic, qos_profile=qos),
            message_filters.Subscriber(
                node, Detection2DArray, topic, qos_profile=QoSProfile(depth=10)
            ),
        ]
        self._filters[0].registerCallback(received)
        self._synchroniser = message_filters.ApproximateTimeSynchronizer(self._filters, 10, slop)
        self._synchroniser.registerCallback(matched)

    def destroy(self) -> None:
        """Stop listening."""
        for part in self._filters:
            self._node.destroy_subscription(part.sub)
