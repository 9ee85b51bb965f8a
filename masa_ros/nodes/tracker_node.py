"""The tracker node: images in, tracked instances out."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.task import Future
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from masa_ros import overlay
from masa_ros.errors import ConfigError, ImageError, MasaError
from masa_ros.images import rgb_from_compressed, rgb_from_image
from masa_ros.msg import TrackedInstanceArray
from masa_ros.nodes import diagnostics, messages, parameters
from masa_ros.nodes.detections import ClassNames, SynchronisedImages, detections_from_msg
from masa_ros.nodes.diagnostics import Statistics
from masa_ros.nodes.qos import profile
from masa_ros.nodes.worker import NewestWorker
from masa_ros.pipeline import Pipeline, PipelineConfig
from masa_ros.types import Frame, Instances

_LOG_PERIOD = 5.0  # seconds between two lines about the same cause
_LATE_NS = 500_000_000  # further back than this is a jump of time, not an image out of order


class _Arrival(NamedTuple):
    message: Any
    at: float  # time.monotonic()
    given: Any = None  # vision_msgs/Detection2DArray of the same image


class TrackerNode(LifecycleNode):
    """Lifecycle node ``masa_tracker``.

    Images are converted, tracked and published in a thread of their own that always takes the
    newest one; the executor only stores what arrives.

    Parameters
    ----------
    build: makes the pipeline from its configuration when the node is configured, and logs.
    options: of ``rclpy.node.Node``: context, namespace, parameter_overrides, ...

    Attributes
    ----------
    finished: done when the node has nothing more to do, with the exit code of its process.

    """

    def __init__(
        self,
        build: Callable[[PipelineConfig, Callable[[str], None]], Pipeline] = Pipeline.build,
        **options: Any,
    ) -> None:
        super().__init__(options.pop('node_name', 'masa_tracker'), **options)
        self._build = build
        self.finished: Future = Future()
        self._pipeline: Pipeline | None = None
        self._worker: NewestWorker[_Arrival] | None = None
        self._subscription: Any = None
        self._synchronised: SynchronisedImages | None = None
        self._classes = ClassNames()
        self._matched = 0  # images that came with detections
        self._topic = ''
        self._statistics = Statistics()
        self._logged: dict[str, float] = {}
        self._last_stamp: int | None = None
        self._last_accepted = 0.0
        self._reset_wanted = False
        parameters.declare(self)
        self._settings: parameters.Settings | None = None
        self.add_on_set_parameters_callback(self._on_parameters)
        self.create_service(Trigger, '~/reset', self._on_reset)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self.create_timer(1.0, self._report)
        self._autostart_timer = None
        if self.get_parameter('autostart').value:
            # From the executor, so that an interrupt during the loading of a model is obeyed.
            self._autostart_timer = self.create_timer(0.0, self._autostart)

    # Lifecycle

    def _autostart(self) -> None:
        assert self._autostart_timer is not None
        self.destroy_timer(self._autostart_timer)
        configured = self.trigger_configure() == TransitionCallbackReturn.SUCCESS
        if self.get_parameter('build_only').value:
            self._build_timer = self.create_timer(0.2, self._end_when_built)
        elif configured:
            self.trigger_activate()

    def _end_when_built(self) -> None:
        engines = self._pipeline.engines if self._pipeline is not None else None
        if engines is not None and engines.busy:
            return
        self._build_timer.cancel()
        status = engines.status if engines is not None else 'failed'
        self.get_logger().info(f'build_only: {status}')
        self.finished.set_result(0 if engines is not None and not engines.failed else 1)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the parameters and load the model."""
        try:
            self._settings = parameters.read(self)
            started = time.monotonic()
            self._pipeline = self._build(self._settings.pipeline, self.get_logger().info)
        except MasaError as error:
            self.get_logger().error(f'cannot start: {error}')
            return TransitionCallbackReturn.FAILURE
        loaded = ', '.join(f'{k} {v}' for k, v in self._pipeline.detector.describe().items())
        self.get_logger().info(f'loaded in {time.monotonic() - started:.1f} s: {loaded}')
        tracks = profile(self._settings.tracks_qos, 10)
        self._tracks = self.create_lifecycle_publisher(TrackedInstanceArray, '~/tracks', tracks)
        # Pictures to look at: a slow viewer must not hold anything up.
        view = profile('sensor_data', 1)
        self._overlay = self.create_lifecycle_publisher(Image, '~/overlay', view)
        self._label_mask = self.create_lifecycle_publisher(Image, '~/label_mask', view)
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the camera."""
        assert self._settings is not None
        result = super().on_activate(state)
        self._statistics.last_received = time.monotonic()
        self._worker = NewestWorker(self._process)
        compressed = self._settings.image_transport == 'compressed'
        self._topic = self.resolve_topic_name('image_raw') + ('/compressed' if compressed else '')
        message_type = CompressedImage if compressed else Image
        qos = profile(self._settings.image_qos, self._settings.image_queue)
        if not self._settings.given_detections:
            self._subscription = self.create_subscription(
                message_type, self._topic, self._on_image, qos
            )
            self.get_logger().info(f'tracking {self._topic}')
            return result
        topic = self.resolve_topic_name('detections')
        try:
            self._synchronised = SynchronisedImages(
                self,
                (message_type, self._topic, qos),
                topic,
                self._settings.detections_slop,
                lambda message: self._statistics.receive(),
                self._accept,
            )
        except ConfigError as error:
            self.get_logger().error(f'cannot start: {error}')
            self._stop()
            return TransitionCallbackReturn.FAILURE
        self.get_logger().info(f'tracking the boxes of {topic} in {self._topic}')
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop listening; the image in work is still published."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model."""
        self._stop()
        self._pipeline = None
        self._settings = None
        self._last_stamp = None
        for publisher in (self._tracks, self._overlay, self._label_mask):
            self.destroy_publisher(publisher)
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop listening."""
        self._stop()
        return TransitionCallbackReturn.SUCCESS

    def _stop(self) -> None:
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        if self._synchronised is not None:
            self._synchronised.destroy()
            self._synchronised = None
        if self._worker is not None:
            worker, self._worker = self._worker, None
            if worker.stop():
                self._statistics.skip()

    # Images

    def _on_image(self, message: Any) -> None:
        self._statistics.receive()
        self._accept(message)

    def _accept(self, message: Any, given: Any = None) -> None:
        """Hand an image to the worker, with the detections made on it where they are given."""
        self._matched += given is not None
        worker, settings = self._worker, self._settings
        now = time.monotonic()
        if worker is None or settings is None:
            self._statistics.skip()
            return
        if settings.max_rate and now - self._last_accepted < 0.98 / settings.max_rate:
            self._statistics.skip()
            return
        self._last_accepted = now
        if worker.offer(_Arrival(message, now, given)):
            self._statistics.skip()

    def _process(self, arrival: _Arrival) -> None:
        """Track and publish one image; runs in the worker's thread."""
        pipeline, settings, message = self._pipeline, self._settings, arrival.message
        assert pipeline is not None and settings is not None
        try:
            if self._reset_wanted:
                self._reset_wanted = False
                pipeline.reset()
            stamp_ns = messages.stamp_to_ns(message.header.stamp)
            if not self._in_time(stamp_ns):
                return
            if isinstance(message, Image):
                pixels = rgb_from_image(message, views=pipeline.detector.device != 'cpu')
            else:
                pixels = rgb_from_compressed(message)
            frame = Frame(pixels, stamp_ns, message.header.frame_id)
        except ImageError as error:
            text = f'{self._topic}: image refused: {error}'
            self._statistics.reject(error.cause, text)
            self._warn(error.cause, text)
            return
        try:
            given = None
            if arrival.given is not None:
                given = detections_from_msg(arrival.given, self._classes)
                refused = len(arrival.given.detections) - len(given)
                if refused:
                    text = f'detections: {refused} of a message have no finite box with an area'
                    self._statistics.event('bad_detections', text)
                    self._warn('bad_detections', text)
            tracks = pipeline(frame, given)
        except Exception as error:  # a model may fail in any way: the node goes on
            text = f'{self._topic}: the model failed: {type(error).__name__}: {error}'
            self._statistics.fail(text)
            self._warn('model', text)
            return
        self._publish(frame, tracks, message.header, settings)
        age_ms = (self.get_clock().now().nanoseconds - stamp_ns) / 1e6
        plausible = age_ms if 0 <= age_ms < 60_000 else None
        self._statistics.finish((time.monotonic() - arrival.at) * 1e3, plausible)

    def _in_time(self, stamp_ns: int) -> bool:
        """Follow the stamps; False when the image comes after a newer one and must be dropped."""
        assert self._pipeline is not None and self._settings is not None
        last, back = self._last_stamp, 0
        if last is not None:
            back = last - stamp_ns
        if 0 < back <= _LATE_NS:
            text = f'{self._topic}: an image {back / 1e6:.0f} ms behind a newer one is dropped'
            self._statistics.reject('late', text)
            self._warn('late', text)
            return False
        self._last_stamp = stamp_ns
        if back > 0:
            action = self._settings.on_time_jump
            text = f'{self._topic}: stamps jump back by {back / 1e9:.1f} s; tracks: {action}'
            self._statistics.event('time_jump', text)
            self._warn('time_jump', text)
            if action == 'reset':
                self._pipeline.reset()
        return True

    def _publish(
        self, frame: Frame, tracks: Instances, header: Header, settings: parameters.Settings
    ) -> None:
        assert self._pipeline is not None
        shape = (frame.image.shape[0], frame.image.shape[1])
        model = self._pipeline.detector.model.name
        self._tracks.publish(
            messages.tracks_to_msg(
                tracks, header, shape, model, settings.publish_embeddings, self._classes.names
            )
        )
        if self._overlay.get_subscription_count():
            drawn = overlay.draw(frame.image, tracks)
            self._overlay.publish(messages.array_to_image(drawn, 'rgb8', header))
        if self._label_mask.get_subscription_count():
            labels = messages.label_mask(tracks, shape)
            self._label_mask.publish(messages.array_to_image(labels, 'mono16', header))

    # Parameters, services, diagnostics

    def _on_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        mine = {p.name: p.value for p in changed if p.name in parameters.BY_NAME}
        if self._settings is None or not mine:
            return SetParametersResult(successful=True)
        frozen = [name for name in mine if not parameters.BY_NAME[name].live]
        if frozen:
            names = ', '.join(frozen)
            reason = f'{names}: read when the node is configured; clean it up first'
            return SetParametersResult(successful=False, reason=reason)
        try:
            settings = parameters.Settings.from_values(self._settings.values | mine)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        assert self._pipeline is not None
        self._pipeline.configure(settings.pipeline)
        self._settings = settings
        return SetParametersResult(successful=True)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        # The worker owns the tracks: it resets them before it takes the next image.
        self._reset_wanted = True
        response.success = self._pipeline is not None
        response.message = 'tracks are forgotten' if response.success else 'not configured'
        return response

    def _warn(self, cause: str, text: str) -> None:
        now = time.monotonic()
        if now - self._logged.get(cause, -_LOG_PERIOD) >= _LOG_PERIOD:
            self._logged[cause] = now
            self.get_logger().warning(text)

    def _report(self) -> None:
        figures = self._statistics.report()
        figures['waiting'] = self._worker.waiting if self._worker is not None else 0
        if self._synchronised is not None:
            figures['without_detections'] = int(figures['received']) - self._matched
        pipeline, settings = self._pipeline, self._settings
        if pipeline is None or settings is None:
            level, text = DiagnosticStatus.WARN, 'not configured'
        elif self._worker is None:
            level, text = DiagnosticStatus.OK, 'inactive'
        else:
            level, text = self._statistics.level(settings.silence_seconds)
        hardware = ''
        if pipeline is not None:
            hardware = pipeline.detector.device
            figures |= pipeline.detector.describe()
            if pipeline.engines is not None:
                figures['engines'] = pipeline.engines.status
            figures['tracks_in_memory'] = len(pipeline.tracker)
            figures['detections_rejected'] = pipeline.tracker.rejected
        name = self.get_fully_qualified_name().lstrip('/')
        stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(
            diagnostics.status_message(stamp, name, hardware, level, text, figures)
        )

    def destroy_node(self) -> None:
        """Stop the worker and take the node down."""
        self._stop()
        super().destroy_node()


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted."""
    rclpy.init(args=args)
    try:
        node = TrackerNode()
    except Exception as error:  # a bad parameter override: one line, no traceback
        print(f'masa_tracker: {error}', file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    executor, code = SingleThreadedExecutor(), 0
    executor.add_node(node)
    try:
        executor.spin_until_future_complete(node.finished)
        code = int(node.finished.result() or 0) if node.finished.done() else 0
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        # A signal between two steps of the executor makes rclpy raise what it likes.
        if rclpy.ok():
            raise
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return code
