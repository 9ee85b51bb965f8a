# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Positions in space beside the tracks of a camera.

Nothing here delays an image or costs one: results are taken as they were published, and worked on
in a thread of their own. What goes wrong is counted, and the object has a reason in place of a
position.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from masa_ros.errors import ImageError
from masa_ros.msg import TrackedInstance3DArray
from masa_ros.nodes import messages, space_messages
from masa_ros.nodes.parameters import NodeConfig
from masa_ros.nodes.qos import profile
from masa_ros.nodes.transforms import Transforms
from masa_ros.nodes.worker import NewestWorker
from masa_ros.space import depth as depths
from masa_ros.space.cameras import Camera
from masa_ros.space.config import SpaceConfig
from masa_ros.space.estimate import Estimate, Reason
from masa_ros.space.locate import Locator, Place, View
from masa_ros.streams.depth import DepthMatcher
from masa_ros.types import Expected, Frame, Instances, Result

_KINDS: dict[str, type] = {'raw': Image, 'compressedDepth': CompressedImage, 'points': PointCloud2}
_SHUT_DOWN = (rclpy_implementation.RCLError, rclpy_implementation.InvalidHandle)
_PENDING = 8  # images whose depth is decided that may wait for the thread
_WINDOW = 200  # images that the time is taken over


class _Waiting(NamedTuple):
    """A tracked image without its pixels."""

    header: Header
    stamp_ns: int
    shape: tuple[int, int]
    tracks: Instances
    class_names: Any


class _Item(NamedTuple):
    """An image whose depth is decided: none is None."""

    number: int
    waiting: _Waiting
    depth: Any


class _Known(NamedTuple):
    """A camera, and what it was made of."""

    numbers: Any
    camera: Camera


class _NoViewError(Exception):
    """Why an image has no depth that can be used."""

    def __init__(self, reason: Reason, event: str, text: str) -> None:
        super().__init__(text)
        self.reason, self.event = reason, event


class Space:
    """What a camera of the node knows of space, from its configuration to its cleanup.

    Parameters
    ----------
    node: that it belongs to.
    prefix: of the topics: '' or the camera's name and a slash.
    config: where depth comes from.
    qos: names of the profiles of depth and of what is published.
    rectified: whether the images are.
    info: gives the calibration of the images, None as long as there is none.
    event: takes what happens: name, text, count.
    mistake: takes what is raised by a mistake in the program.

    """

    def __init__(
        self,
        node: LifecycleNode,
        prefix: str,
        config: SpaceConfig,
        qos: tuple[str, str],
        rectified: bool,
        info: Callable[[], CameraInfo | None],
        event: Callable[[str, str, int], None],
        mistake: Callable[[Exception], None],
    ) -> None:
        self._node, self._config, self._qos = node, config, qos
        self._rectified, self._info = rectified, info
        self._event, self._mistake = event, mistake
        self._depth_info: CameraInfo | None = None
        self._lock = threading.Lock()
        self._matcher: DepthMatcher[_Waiting, Any] = DepthMatcher(
            round(config.slop * 1e9), config.wait
        )
        self._locator, self._transforms = Locator(config), Transforms(node)
        self._cameras: dict[str, _Known] = {}
        self._counts: collections.Counter[str] = collections.Counter()
        self._times_ms: collections.deque[float] = collections.deque(maxlen=_WINDOW)
        self._worker: NewestWorker[int, _Item] | None = None
        self._number = 0
        self._subscriptions: list[Any] = []
        self._wanted = {name for name in config.tf_objects if name}
        name = 'depth/points' if config.depth == 'points' else 'depth/image_raw'
        base = node.resolve_topic_name(f'{prefix}{name}')
        self._info_topic = base.rpartition('/')[0] + '/camera_info'
        self.topic = f'{base}/compressedDepth' if config.depth == 'compressedDepth' else base
        self._all: list[Any] = []

        def create(kind: type, name: str, profile_name: str, depth: int) -> Any:
            made = node.create_lifecycle_publisher(
                kind, f'~/{prefix}{name}', profile(profile_name, depth)
            )
            self._all.append(made)
            return made

        self._tracks = create(TrackedInstance3DArray, 'tracks_3d', qos[1], 10)
        self._markers = create(MarkerArray, 'marker_array_3d', 'reliable', 1)
        self._cloud = create(PointCloud2, 'object_points', 'reliable', 1)
        self._detections = None
        if messages.VISION is not None:
            kind = messages.VISION.Detection3DArray
            self._detections = create(kind, 'detections_3d', qos[1], 10)

    # In the executor

    def listen(self) -> None:
        """Subscribe."""
        self._worker = NewestWorker(self._work, self._mistake)
        self._transforms.listen()
        kind, node = _KINDS[self._config.depth], self._node
        self._subscriptions = [
            node.create_subscription(kind, self.topic, self.take, profile(self._qos[0], 5))
        ]
        if not self._config.registered and kind is not PointCloud2:
            info = profile(self._qos[0], 1)
            self._subscriptions.append(
                node.create_subscription(CameraInfo, self._info_topic, self._on_info, info)
            )
        node.get_logger().info(f'positions by the depth of {self.topic}')

    def close(self) -> None:
        """End the subscriptions; images that waited for depth are forgotten."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.stop()  # first: it asks for transforms
        self._transforms.close()
        with self._lock:
            self._matcher.clear()

    def destroy(self) -> None:
        """End everything."""
        self.close()
        for publisher in self._all:
            self._node.destroy_lifecycle_publisher(publisher)

    def take(self, message: Any) -> None:
        """Take depth, from the topic or from a node in the same process."""
        try:
            self._settle(
                lambda: self._matcher.add_depth(
                    messages.stamp_to_ns(message.header.stamp), message
                )
            )
        except Exception as error:  # must not end the executor
            self._mistake(error)

    def _on_info(self, message: CameraInfo) -> None:
        self._depth_info = message

    def figures(self) -> dict[str, Any]:
        """Return what diagnostics say of it."""
        counts = {f'space_{name}': count for name, count in sorted(self._counts.items())}
        ages = list(self._times_ms)
        return {
            **counts,
            'space_late': self._matcher.late,
            'space_ms_p50': round(float(np.median(ages)), 1) if ages else 0.0,
        }

    # In the worker of the images

    def offer(self, result: Result) -> None:
        """Take the tracks of an image; never raises and never waits."""
        try:
            frame = result.frame
            waiting = _Waiting(
                *(messages.header_of(frame), frame.stamp_ns, frame.shape),
                *(result.tracks, result.class_names),
            )
            self._settle(lambda: self._matcher.add_image(frame.stamp_ns, waiting))
        except Exception as error:
            self._mistake(error)

    def expected(self, frame: Frame) -> Expected | None:
        """Return where tracks should be seen in an image; never raises and never waits."""
        if not (self._config.place_3d and self._config.target_frame):
            return None
        known = self._cameras.get('image')
        if known is None or known.camera.shape != frame.shape:
            return None  # no position yet, or the thread of the positions says what is wrong
        try:
            to_target = self._transforms.at_once(
                frame.frame_id, self._config.target_frame, frame.stamp_ns
            )
            made = self._locator.foresight.at(frame.stamp_ns, known.camera, to_target)
        except LookupError:
            self._counts['place_unknown'] += 1
            return None
        except Exception as error:
            self._mistake(error)
            return None
        self._counts['place_known'] += 1
        return made

    def _settle(self, add: Callable[[], list[tuple[_Waiting, Any]]]) -> None:
        behind, worker = 0, self._worker
        with self._lock:  # in the order of the images, whichever thread decides them
            late = self._matcher.late
            for waiting, depth in add():
                number = self._number = self._number + 1
                if worker is not None:
                    item = _Item(number, waiting, depth)
                    behind += not worker.offer(number % _PENDING, item)
            late = self._matcher.late - late
        if late:
            text = f'depth of {self.topic} came after its image was given up: see space.wait'
            self._event('space_late', text, late)
        if behind:
            self._event('space_behind', 'positions take longer than images last', behind)

    # In a thread of its own

    def _work(self, items: dict[int, _Item]) -> None:
        for item in sorted(items.values(), key=lambda each: each.number):
            started = time.perf_counter()
            try:
                places = self._locate(item.waiting, item.depth)
                self._publish(item.waiting, item.depth, places)
            except Exception as error:
                self._mistake(error)
            self._times_ms.append((time.perf_counter() - started) * 1e3)

    def _locate(self, waiting: _Waiting, depth: Any) -> list[Place]:
        try:
            view: View | Reason = self._view(waiting, depth)
        except _NoViewError as problem:
            view = problem.reason
            self._event(problem.event, str(problem), 1)
        to_target = None
        try:
            camera = waiting.header.frame_id
            target = self._config.target_frame or camera
            to_target = self._transforms.between(camera, target, waiting.stamp_ns)
        except LookupError as error:
            self._event('space_transform', str(error), 1)
        places = self._locator.locate(waiting.tracks, waiting.stamp_ns, view, to_target)
        for place in places:
            measured = isinstance(place.measured, Estimate)
            self._counts['measured' if measured else place.reason.name.lower()] += 1
        return places

    def _view(self, waiting: _Waiting, message: Any) -> View:
        """Return the depth of an image as its camera sees it; raises _NoViewError."""
        config = self._config
        if message is None:
            text = f'an image has no depth of {self.topic} within {config.slop:g} s'
            raise _NoViewError(Reason.NO_DEPTH, 'space_no_depth', text)
        camera = self._camera('image', self._info(), self._rectified, waiting.shape)
        try:
            if isinstance(message, PointCloud2):
                points = depths.points_from_cloud(message)
                ours = config.identity or message.header.frame_id == waiting.header.frame_id
                if config.registered and ours and points.shape[:2] == waiting.shape:
                    return View(np.ascontiguousarray(points[..., 2]), camera)
                transform = self._to_image(message, waiting)
                return View(depths.projected(points, transform, camera), camera, sparse=True)
            read = depths.depth_from_image
            if isinstance(message, CompressedImage):
                read = depths.depth_from_compressed
            depth = read(message, config.scale)
            if config.registered:
                depth = depths.resized(depth, waiting.shape)
                return View(np.ascontiguousarray(depth), camera)
        except ImageError as error:
            raise _NoViewError(
                Reason.NO_DEPTH, 'space_bad_depth', f'{self.topic}: {error}'
            ) from error
        other = self._camera('depth', self._depth_info, False, depth.shape)
        transform = self._to_image(message, waiting)
        return View(depths.registered(depth, other, transform, camera), camera)

    def _to_image(self, message: Any, waiting: _Waiting) -> NDArray[np.float64]:
        if self._config.identity:
            return np.eye(4)
        source, target = message.header.frame_id, waiting.header.frame_id
        stamp_ns = messages.stamp_to_ns(message.header.stamp)
        try:
            return self._transforms.between(source, target, stamp_ns)
        except LookupError as error:
            raise _NoViewError(Reason.NO_TRANSFORM, 'space_transform', str(error)) from error

    def _camera(
        self, what: str, info: CameraInfo | None, rectified: bool, shape: tuple[int, int]
    ) -> Camera:
        """Return the camera of the image or of the depth, made anew only when it changes."""
        event, reason = 'space_calibration', Reason.NO_CALIBRATION
        if info is None:
            raise _NoViewError(reason, event, f'there is no camera_info of the {what}')
        if (info.height, info.width) != shape:
            text = (
                f'the camera_info of the {what} is of {info.width} x {info.height} pixels, the '
                f'{what} has {shape[1]} x {shape[0]}'
            )
            raise _NoViewError(reason, event, text)
        numbers = tuple(info.p) if rectified else (*info.k, *info.d)
        known = (shape, numbers, info.distortion_model)
        if what in self._cameras and self._cameras[what].numbers == known:
            return self._cameras[what].camera
        try:
            camera = Camera.of_info(info, rectified)
            camera.grid  # noqa: B018  it may not be computable either
        except ValueError as error:
            raise _NoViewError(reason, event, f'camera_info of the {what}: {error}') from error
        self._cameras[what] = _Known(known, camera)
        return camera

    def _publish(self, waiting: _Waiting, depth: Any, places: list[Place]) -> None:
        header, tracks, names = waiting.header, waiting.tracks, waiting.class_names
        depth_ns = messages.stamp_to_ns(depth.header.stamp) if depth is not None else 0
        try:
            self._tracks.publish(
                space_messages.places_to_msg(
                    tracks, places, header, self._config.target_frame, depth_ns, names
                )
            )
            if self._markers.get_subscription_count():
                made = space_messages.places_to_markers(tracks, places, header, names)
                self._markers.publish(made)
            if self._cloud.get_subscription_count():
                self._cloud.publish(space_messages.places_to_cloud(tracks, places, header))
            if self._detections is not None and self._detections.get_subscription_count():
                found = space_messages.places_to_detections(tracks, places, header, names)
                self._detections.publish(found)
            if self._wanted:
                self._send(waiting, places)
        except _SHUT_DOWN as error:  # by somebody else while we worked
            self._event('space_shut_down', f'positions are not published: {error}', 1)

    def _send(self, waiting: _Waiting, places: list[Place]) -> None:
        prefix = self._node.get_name()
        made = space_messages.places_to_transforms(
            waiting.tracks, places, waiting.header, self._wanted, prefix
        )
        if made and not self._transforms.send(made):
            self._event('space_transform', 'space.tf_objects needs tf2_ros', 1)


def space_beside(
    node: LifecycleNode,
    prefix: str,
    config: NodeConfig,
    rectified: bool,
    info: Callable[[], CameraInfo | None],
    event: Callable[[str, str, int], None],
    mistake: Callable[[Exception], None],
) -> Space | None:
    """Return what a camera knows of space, see ``Space``; None where nobody asks for it."""
    if config.space.depth == 'off':
        return None
    qos = (config.image_qos, config.tracks_qos)
    return Space(node, prefix, config.space, qos, rectified, info, event, mistake)
