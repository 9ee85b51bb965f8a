"""One camera of the node: its topics, its stamps, its tracks, its statistics."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.duration import Duration
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from visualization_msgs.msg import ImageMarker

from masa_ros import overlay
from masa_ros.errors import ImageError
from masa_ros.images import rgb_from_compressed, rgb_from_image
from masa_ros.msg import TrackedInstanceArray
from masa_ros.nodes import diagnostics, messages
from masa_ros.nodes.detections import ClassNames, SynchronisedImages, detections_from_msg
from masa_ros.nodes.diagnostics import Statistics
from masa_ros.nodes.parameters import Settings
from masa_ros.nodes.qos import profile
from masa_ros.pipeline import Pipeline
from masa_ros.types import Frame, Instances

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

RCLError, InvalidHandle = rclpy_implementation.RCLError, rclpy_implementation.InvalidHandle
_LOG_PERIOD = 5.0  # seconds between two lines about the same cause
_LAST = Duration(seconds=0.5)
_LATE_NS = 500_000_000  # further back than this is a jump of time, not an image out of order


Listener = Callable[[str, Frame, Instances], None]
"""Takes the name of a camera, a frame and its tracks, in the worker's thread."""


class Arrival(NamedTuple):
    """An image as it came."""

    message: Any
    at: float  # time.monotonic()
    given: Any = None  # vision_msgs/Detection2DArray of the same image


class Camera:
    """The part of a tracker node that exists once for every camera.

    Lives from the node's configuration to its cleanup. What arrives is stored by the executor;
    ``read``, ``finish`` and ``fail`` are called in the worker's thread.

    Parameters
    ----------
    node: that it belongs to.
    name: prefix of its topics; '' for the only camera of a node.
    place: its number and the number of cameras, for ids in common.
    settings: of the node.
    pipeline: with a track memory of its own.
    statistics: go on when the camera is configured again.
    arrived: takes every image that is to be tracked.
    listeners: called with every frame and its tracks.

    """

    def __init__(
        self,
        node: LifecycleNode,
        name: str,
        place: tuple[int, int],
        settings: Settings,
        pipeline: Pipeline,
        statistics: Statistics,
        arrived: Callable[[Camera, Arrival], None],
        listeners: Sequence[Listener] = (),
    ) -> None:
        self.name, self.pipeline, self.settings = name, pipeline, settings
        self.statistics = statistics
        self.reset_wanted = False
        self.topic = ''
        self._node, self._place, self._arrived = node, place, arrived
        self._listeners = listeners
        self._inputs: list[Any] = []
        self._synchronised: SynchronisedImages | None = None
        self._classes = ClassNames()
        self._matched = 0  # images that came with detections
        self._info: CameraInfo | None = None
        self._logged: dict[str, float] = {}
        self._last_stamp: int | None = None
        self._last_accepted = 0.0
        self._prefix = f'{name}/' if name else ''
        prefix = f'~/{self._prefix}'
        create = node.create_lifecycle_publisher
        results = profile(settings.tracks_qos, 10)
        # Pictures to look at: for viewers that ask for reliability and for those that do not
        # (REP 2003); of the newest alone, so that a slow one holds nothing up.
        view = profile('reliable', 1)
        self._tracks = create(TrackedInstanceArray, f'{prefix}tracks', results)
        self._camera_info = create(CameraInfo, f'{prefix}camera_info', results)
        self._overlay = create(Image, f'{prefix}overlay', view)
        self._label_mask = create(Image, f'{prefix}label_mask', view)
        self._markers = create(ImageMarker, f'{prefix}markers', view)
        self._detections = self._metrics = None
        self._window = node.get_clock().now().to_msg()
        if messages.STATISTICS is not None:
            metrics = messages.STATISTICS.MetricsMessage
            self._metrics = node.create_publisher(metrics, '/statistics', 10)
        if messages.VISION is not None:
            self._detections = create(
                messages.VISION.Detection2DArray, f'{prefix}detections', results
            )

    # What the node tells it

    def listen(self) -> None:
        """Subscribe; raises ConfigError when a package for that is missing."""
        node, settings = self._node, self.settings
        self.statistics.last_received = time.monotonic()
        base = node.resolve_topic_name(f'{self._prefix}image_raw')
        compressed = settings.image_transport == 'compressed'
        self.topic = base + '/compressed' if compressed else base
        message_type = CompressedImage if compressed else Image
        qos = profile(settings.image_qos, settings.image_queue)
        info = profile(settings.image_qos, 1)
        self._inputs.append(
            node.create_subscription(
                CameraInfo, base.rpartition('/')[0] + '/camera_info', self._on_info, info
            )
        )
        if not settings.given_detections:
            self._inputs.append(self._subscription(message_type, qos))
            node.get_logger().info(f'tracking {self.topic}')
            return
        topic = node.resolve_topic_name(f'{self._prefix}detections')
        self._synchronised = SynchronisedImages(
            node,
            (message_type, self.topic, qos),
            topic,
            settings.detections_slop,
            lambda message: self.statistics.receive(),
            self._accept,
        )
        node.get_logger().info(f'tracking the boxes of {topic} in {self.topic}')

    def _subscription(self, kind: type, qos: QoSProfile) -> Any:
        subscribe = functools.partial(
            self._node.create_subscription, kind, self.topic, self.take, qos
        )
        try:
            return subscribe(
                event_callbacks=SubscriptionEventCallbacks(message_lost=self._on_lost)
            )
        except UnsupportedEventTypeError:  # by this middleware
            return subscribe()

    def turn_away(self) -> None:
        """End the subscriptions."""
        for subscription in self._inputs:
            self._node.destroy_subscription(subscription)
        self._inputs = []
        if self._synchronised is not None:
            self._synchronised.destroy()
            self._synchronised = None

    def destroy(self) -> None:
        """End everything; the last tracks get half a second to reach who listens."""
        self.turn_away()
        with contextlib.suppress(RCLError):  # the context may be shut down already
            self._tracks.wait_for_all_acked(_LAST)
        for publisher in (
            *(self._tracks, self._camera_info, self._overlay, self._label_mask),
            *(self._markers, self._detections),
        ):
            if publisher is not None:
                self._node.destroy_lifecycle_publisher(publisher)
        if self._metrics is not None:
            self._node.destroy_publisher(self._metrics)

    def configure(self, settings: Settings) -> None:
        """Take changed parameters."""
        self.settings = settings
        self.pipeline.configure(settings.pipeline)

    # In the executor

    def _on_lost(self, info: Any) -> None:
        text = f'images are lost on the way, {info.total_count} so far: see docs/node.md'
        self.event('lost', text, info.total_count_change)

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message

    def take(self, message: Any) -> None:
        """Take an image."""
        self.statistics.receive()
        self._accept(message)

    def _accept(self, message: Any, given: Any = None) -> None:
        """Hand an image on, with the detections made on it where they are given."""
        self._matched += given is not None
        now = time.monotonic()
        rate = self.settings.max_rate
        if rate and now - self._last_accepted < 0.98 / rate:
            self.statistics.skip()
            return
        self._last_accepted = now
        self._arrived(self, Arrival(message, now, given))

    # In the worker

    def read(self, arrival: Arrival) -> Frame | None:
        """Return the image as a frame; None, counted and logged, when it cannot be used."""
        message = arrival.message
        if self.reset_wanted:
            self.reset_wanted = False
            self.pipeline.reset()
        try:
            if isinstance(message, Image):
                views = self.pipeline.detector.device != 'cpu'
                pixels = rgb_from_image(message, views=views)
            else:
                pixels = rgb_from_compressed(message)
        except ImageError as error:
            self._reject(error.cause, f'image refused: {error}')
            return None
        stamp_ns = messages.stamp_to_ns(message.header.stamp)
        if not stamp_ns:
            stamp_ns = self._node.get_clock().now().nanoseconds
            self.event('no_stamp', 'images have no stamp; the time of their arrival is taken')
        if not self._in_time(stamp_ns):
            return None
        return Frame(pixels, stamp_ns, message.header.frame_id)

    def given(self, arrival: Arrival) -> Instances | None:
        """Return the detections that came with an image; None where the model is asked."""
        if arrival.given is None:
            return None
        given = detections_from_msg(arrival.given, self._classes)
        refused = len(arrival.given.detections) - len(given)
        if refused:
            text = f'{refused} detections of a message have no finite box with an area'
            self.event('bad_detections', text)
        return given

    def finish(self, arrival: Arrival, frame: Frame, tracks: Instances) -> None:
        """Publish the tracks of an image and count it."""
        if self.settings.common_ids:
            number, cameras = self._place
            common = (tracks.track_ids - 1) * cameras + number + 1
            tracks = dataclasses.replace(tracks, track_ids=common)
        try:
            self._publish(frame, tracks, arrival.message.header)
        except (RCLError, InvalidHandle) as error:
            # Shut down by somebody else while we worked. Not asked before: whoever shuts a
            # context down holds its lock while it waits for this thread.
            self.statistics.fail(f'{self.topic}: not published: {error}')
            return
        for listener in self._listeners:
            self._tell(listener, frame, tracks)
        age_ms = (self._node.get_clock().now().nanoseconds - frame.stamp_ns) / 1e6
        plausible = age_ms if 0 <= age_ms < 60_000 else None
        self.statistics.finish((time.monotonic() - arrival.at) * 1e3, plausible)

    def _tell(self, listener: Listener, frame: Frame, tracks: Instances) -> None:
        try:
            listener(self.name, frame, tracks)
        except Exception as error:  # somebody else's code must not end the worker
            self.event('listener', f'a listener failed: {type(error).__name__}: {error}')

    def fail(self, error: Exception) -> None:
        """Count an image on which the model failed."""
        text = f'{self.topic}: the model failed: {type(error).__name__}: {error}'
        self.statistics.fail(text)
        self._warn('model', text)

    def _in_time(self, stamp_ns: int) -> bool:
        """Follow the stamps; False when the image comes after a newer one and must be dropped."""
        last, back = self._last_stamp, 0
        if last is not None:
            back = last - stamp_ns
        if 0 < back <= _LATE_NS:
            self._reject('late', f'an image {back / 1e6:.0f} ms behind a newer one is dropped')
            return False
        self._last_stamp = stamp_ns
        if back > 0:
            action = self.settings.on_time_jump
            self.event('time_jump', f'stamps jump back by {back / 1e9:.1f} s; tracks: {action}')
            if action == 'reset':
                self.pipeline.reset()
        return True

    def _publish(self, frame: Frame, tracks: Instances, header: Header) -> None:
        shape = (frame.image.shape[0], frame.image.shape[1])
        model = self.pipeline.detector.model.name
        names = self._classes.names
        self._tracks.publish(
            messages.tracks_to_msg(
                tracks, header, shape, model, self.settings.publish_embeddings, names
            )
        )
        self._publish_info(header, shape)
        if self._overlay.get_subscription_count():
            drawn = overlay.draw(frame.image, tracks)
            self._overlay.publish(messages.array_to_image(drawn, 'rgb8', header))
        if self._label_mask.get_subscription_count():
            labels = messages.label_mask(tracks, shape)
            self._label_mask.publish(messages.array_to_image(labels, 'mono16', header))
        if self._markers.get_subscription_count():
            self._markers.publish(messages.tracks_to_marker(tracks, header))
        if self._detections is not None and self._detections.get_subscription_count():
            self._detections.publish(messages.tracks_to_detections(tracks, header, names))

    def _publish_info(self, header: Header, shape: tuple[int, int]) -> None:
        """Pass the camera's calibration on, with the stamp of the image that it is for."""
        info = self._info
        if info is None:
            return
        numbers = np.concatenate((info.k, info.d, info.r, info.p))
        if (info.height, info.width) != shape or not np.isfinite(numbers).all():
            self.event(
                'bad_camera_info',
                f'camera_info is for {info.width} x {info.height} pixels or not finite, and is '
                f'not passed on; the image has {shape[1]} x {shape[0]}',
            )
            return
        info.header = header
        self._camera_info.publish(info)

    def _publish_statistics(self) -> None:
        """Publish how old images were when their tracks were published, as topic statistics."""
        start, self._window = self._window, self._node.get_clock().now().to_msg()
        ages = self.statistics.new_ages()
        if self._metrics is not None and ages:
            source = f'{self._node.get_fully_qualified_name()}: {self.topic}'
            self._metrics.publish(messages.ages_to_metrics(ages, source, start, self._window))

    # Words

    def _reject(self, cause: str, text: str) -> None:
        text = f'{self.topic}: {text}'
        self.statistics.reject(cause, text)
        self._warn(cause, text)

    def event(self, name: str, text: str, count: int = 1) -> None:
        """Count and log something worth knowing that costs no image that was received."""
        text = f'{self.topic}: {text}'
        self.statistics.event(name, text, count)
        self._warn(name, text)

    def _warn(self, cause: str, text: str) -> None:
        now = time.monotonic()
        if now - self._logged.get(cause, -math.inf) >= _LOG_PERIOD:
            self._logged[cause] = now
            self._node.get_logger().warning(text)

    def report(self, active: bool, waiting: int) -> DiagnosticArray:
        """Return what diagnostics say about this camera."""
        figures = self.statistics.report()
        figures['waiting'] = waiting
        if self._synchronised is not None:
            figures['without_detections'] = int(figures['received']) - self._matched
        publishers = self._node.count_publishers(self.topic) if active else 0
        figures['publishers'] = publishers
        self._publish_statistics()
        level, text = self.statistics.level(self.settings.silence_seconds, active)
        if active and level == DiagnosticStatus.OK and publishers > 1:
            level, text = DiagnosticStatus.WARN, f'{publishers} publishers on {self.topic}'
        detector, engines = self.pipeline.detector, self.pipeline.engines
        figures |= detector.describe()
        if engines is not None:
            figures['engines'] = engines.status
        figures['tracks_in_memory'] = len(self.pipeline.tracker)
        figures['detections_rejected'] = self.pipeline.tracker.rejected
        name = self._node.get_fully_qualified_name().lstrip('/')
        stamp = self._node.get_clock().now().to_msg()
        name = f'{name}: {self.name}' if self.name else name
        return diagnostics.status_message(stamp, name, detector.device, level, text, figures)
