# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a camera of the node publishes: tracks, and pictures for who looks at them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from rclpy.duration import Duration
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import ImageMarker, MarkerArray

from masa_ros import overlay
from masa_ros.msg import TrackedInstanceArray
from masa_ros.nodes import messages
from masa_ros.nodes.qos import profile
from masa_ros.types import Instances, Result

_LAST = Duration(seconds=0.5)


class Outputs:
    """The publishers of one camera, from the node's configuration to its cleanup.

    Parameters
    ----------
    node: that publishes.
    prefix: of the topics: '' or the camera's name and a slash.
    tracks_qos: profile of the tracks by name.
    event: takes what happens that costs no image: name, text, count.

    Attributes
    ----------
    rectified: whether the images are, by the name of their topic.

    """

    def __init__(
        self,
        node: LifecycleNode,
        prefix: str,
        tracks_qos: str,
        event: Callable[[str, str, int], None],
    ) -> None:
        self._node, self._event = node, event
        image = node.resolve_topic_name(f'{prefix}image_raw')
        self.rectified = 'rect' in image.rpartition('/')[2]  # as image_proc names them
        self._names: dict[int, str] = {}
        self._told = False
        self._all: list[Any] = []
        prefix = f'~/{prefix}'

        def create(kind: type, name: str, qos: QoSProfile) -> Any:
            self._all.append(node.create_lifecycle_publisher(kind, f'{prefix}{name}', qos))
            return self._all[-1]

        results = profile(tracks_qos, 10)
        # Pictures to look at: for viewers that ask for reliability and for those that do not
        # (REP 2003); of the newest alone, so that a slow one holds nothing up.
        view = profile('reliable', 1)
        self._tracks = create(TrackedInstanceArray, 'tracks', results)
        self._camera_info = create(CameraInfo, 'camera_info', results)
        self._overlay = create(Image, 'overlay', view)
        self._label_mask = create(Image, 'label_mask', view)
        self._points = create(PointCloud2, 'points', view)
        self._markers = create(ImageMarker, 'markers', view)
        self._marker_array = create(MarkerArray, 'marker_array', view)
        self._detections = self._label_info = self._annotations = self._metrics = None
        self._window = node.get_clock().now().to_msg()
        if messages.STATISTICS is not None:
            metrics = messages.STATISTICS.MetricsMessage
            self._metrics = node.create_publisher(metrics, '/statistics', 10)
        if messages.VISION is not None:
            self._detections = create(messages.VISION.Detection2DArray, 'detections', results)
            if hasattr(messages.VISION, 'LabelInfo'):  # from vision_msgs 4 on
                latched = profile('transient_local', 1)
                self._label_info = create(messages.VISION.LabelInfo, 'label_info', latched)
        if messages.FOXGLOVE is not None:
            self._annotations = create(messages.FOXGLOVE.ImageAnnotations, 'annotations', view)

    def publish(
        self, result: Result, model: str, embeddings: bool, info: CameraInfo | None
    ) -> None:
        """Publish the tracks of an image under its header, and what is listened to.

        Raises
        ------
        RCLError, InvalidHandle
            When somebody else has shut the context down.

        """
        frame, tracks, names = result
        header = messages.header_of(frame)
        shape = frame.shape
        self._tracks.publish(
            messages.tracks_to_msg(tracks, header, shape, model, embeddings, names)
        )
        if info is not None and not self._publish_info(info, header, shape):
            info = None
        self._publish_names(names, header)
        if self._overlay.get_subscription_count():
            drawn = overlay.draw(frame.image, tracks, names)
            self._overlay.publish(messages.array_to_image(drawn, 'rgb8', header))
        if self._label_mask.get_subscription_count():
            labels = messages.label_mask(tracks, shape)
            self._label_mask.publish(messages.array_to_image(labels, 'mono16', header))
        if tracks.points is not None and self._points.get_subscription_count():
            self._points.publish(messages.tracks_to_points(tracks, header))
        if self._markers.get_subscription_count():
            self._markers.publish(messages.tracks_to_marker(tracks, header))
        if self._detections is not None and self._detections.get_subscription_count():
            self._detections.publish(messages.tracks_to_detections(tracks, header, names))
        if self._annotations is not None and self._annotations.get_subscription_count():
            drawn = messages.tracks_to_annotations(tracks, header, shape, names)
            self._annotations.publish(drawn)
        if self._marker_array.get_subscription_count():
            self._publish_marker_array(tracks, header, info, names)

    def _publish_names(self, names: Mapping[int, str], header: Header) -> None:
        """Publish the names of the classes when there are new ones; late joiners get them too."""
        if self._label_info is None or not self._label_info.is_activated:
            return  # an inactive publisher would drop them
        known = {**self._names, **names}
        if known != self._names:
            self._names = known
            self._label_info.publish(messages.names_to_label_info(known, header))

    def _publish_marker_array(
        self,
        tracks: Instances,
        header: Header,
        info: CameraInfo | None,
        names: Mapping[int, str],
    ) -> None:
        """Publish the tracks for RViz, or say once why that cannot be."""
        problem = 'there is no camera_info for the images'
        if info is not None:
            try:
                markers = messages.tracks_to_marker_array(
                    tracks, header, info, self.rectified, names
                )
            except ValueError as error:
                problem = str(error)
            else:
                self._marker_array.publish(markers)
                return
        if not self._told:
            self._told = True
            text = f'{self._marker_array.topic_name} stays empty: {problem}'
            self._event('no_camera_info', text, 1)

    def _publish_info(self, info: CameraInfo, header: Header, shape: tuple[int, int]) -> bool:
        """Pass the camera's calibration on, with the stamp of the image that it is for.

        Returns
        -------
        Whether it is one for this image.

        """
        numbers = np.concatenate((info.k, info.d, info.r, info.p))
        if (info.height, info.width) != shape or not np.isfinite(numbers).all():
            text = (
                f'camera_info is for {info.width} x {info.height} pixels or not finite, and is '
                f'not passed on; the image has {shape[1]} x {shape[0]}'
            )
            self._event('bad_camera_info', text, 1)
            return False
        info.header = header
        self._camera_info.publish(info)
        return True

    def publish_ages(self, ages_ms: list[float], topic: str) -> None:
        """Publish how old images were when their tracks were published, as topic statistics."""
        start, self._window = self._window, self._node.get_clock().now().to_msg()
        if self._metrics is not None and ages_ms:
            source = f'{self._node.get_fully_qualified_name()}: {topic}'
            self._metrics.publish(messages.ages_to_metrics(ages_ms, source, start, self._window))

    def destroy(self) -> None:
        """End everything; the last tracks get half a second to reach who listens."""
        gone = (rclpy_implementation.RCLError, rclpy_implementation.InvalidHandle)
        with contextlib.suppress(*gone):  # the context may be shut down
            self._tracks.wait_for_all_acked(_LAST)
        for publisher in self._all:
            self._node.destroy_lifecycle_publisher(publisher)
        if self._metrics is not None:
            self._node.destroy_publisher(self._metrics)
