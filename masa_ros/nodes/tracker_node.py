"""The tracker node: images in, tracked instances out."""

from __future__ import annotations

import collections
import dataclasses
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from std_srvs.srv import Trigger

from masa_ros.errors import ConfigError, EngineError, MasaError
from masa_ros.models.detector import Encoded
from masa_ros.nodes import diagnostics, parameters
from masa_ros.nodes.camera import Arrival, Camera, Listener
from masa_ros.nodes.diagnostics import Statistics
from masa_ros.nodes.signals import ended_by_signals
from masa_ros.nodes.worker import NewestWorker
from masa_ros.pipeline import Pipeline, PipelineConfig, free_memory, lost_device
from masa_ros.types import Frame

Build = Callable[[PipelineConfig, Callable[[str], None]], Pipeline]


class TrackerNode(LifecycleNode):
    """Lifecycle node ``masa_tracker``: one model for one camera or several.

    Images are converted, tracked and published in a thread of their own that always takes the
    newest one of every camera; the executor only stores what arrives.

    Parameters
    ----------
    build: makes the pipeline from its configuration when the node is configured, and logs.
    options: of ``rclpy.node.Node``: context, namespace, parameter_overrides, ...; the name is
        ``node_name``.

    Attributes
    ----------
    finished: done when the node has nothing more to do, with the exit code of its process.
    loading: while a model is loaded.
    listeners: called with the name of the camera, every frame and its tracks, for whoever lives in
        the same process.

    """

    def __init__(self, build: Build = Pipeline.build, **options: Any) -> None:
        super().__init__(options.pop('node_name', 'masa_tracker'), **options)
        self._build = build
        self.finished: Future = Future()
        self._pipeline: Pipeline | None = None
        self._cameras: list[Camera] = []
        self._worker: NewestWorker[Camera, Arrival] | None = None
        self._statistics: dict[str, Statistics] = collections.defaultdict(Statistics)
        self._device_failed = False
        self._batches = True
        self.loading = False
        self.listeners: list[Listener] = []
        self._settings: parameters.Settings | None = None
        try:
            parameters.declare(self)
        except Exception:
            self.destroy_node()
            raise
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
            self._load(self._settings.pipeline)
        except MasaError as error:
            self.get_logger().error(f'cannot start: {error}')
            self._settings = None
            return TransitionCallbackReturn.FAILURE
        assert self._pipeline is not None
        names = [name for name in self._settings.cameras if name] or ['']
        for number, name in enumerate(names):
            pipeline = self._pipeline.with_tracker() if number else self._pipeline
            place = (number, len(names))
            statistics = self._statistics[name]
            self._cameras.append(
                Camera(
                    *(self, name, place, self._settings, pipeline, statistics),
                    *(self._arrived, self.listeners),
                )
            )
        return TransitionCallbackReturn.SUCCESS

    def _load(self, config: PipelineConfig) -> None:
        started = time.monotonic()
        self.loading = True
        try:
            self._pipeline = self._build(config, self.get_logger().info)
            self._batches = True
        finally:
            self.loading = False
        loaded = ', '.join(f'{k} {v}' for k, v in self._pipeline.detector.describe().items())
        self.get_logger().info(f'loaded in {time.monotonic() - started:.1f} s: {loaded}')

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the cameras."""
        result = super().on_activate(state)
        self._worker = NewestWorker(self._process)
        try:
            for camera in self._cameras:
                camera.listen()
        except ConfigError as error:
            self.get_logger().error(f'cannot start: {error}')
            self._stop()
            super().on_deactivate(state)
            return TransitionCallbackReturn.FAILURE
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop listening; the images in work are still published."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model."""
        self._forget()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop listening and free the model."""
        self._forget()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to where the node can be configured again."""
        self._forget()
        return TransitionCallbackReturn.SUCCESS

    def _stop(self) -> None:
        for camera in self._cameras:
            camera.turn_away()
        if self._worker is not None:
            worker, self._worker = self._worker, None
            for camera in worker.stop():
                camera.statistics.skip()

    def _forget(self) -> None:
        self._stop()
        for camera in self._cameras:
            camera.destroy()
        self._cameras = []
        if self._pipeline is not None:
            self._pipeline.close()
        self._pipeline = None
        self._settings = None
        free_memory()

    # Images

    def offer(self, message: Any, camera: str = '') -> None:
        """Track a sensor_msgs/Image of a node in the same process, without serialisation.

        As if it had come on the topic of that camera; ignored unless the node is active.
        """
        for one in self._cameras:
            if one.name == camera and self._worker is not None:
                one.take(message)

    def _arrived(self, camera: Camera, arrival: Arrival) -> None:
        worker = self._worker
        if worker is None or worker.offer(camera, arrival):
            camera.statistics.skip()

    def _process(self, arrivals: dict[Camera, Arrival]) -> None:
        """Track and publish an image of every camera that has one; in the worker's thread."""
        by_size: dict[tuple[int, ...], list[tuple[Camera, Arrival, Frame]]] = {}
        for camera, arrival in arrivals.items():
            frame = camera.read(arrival)
            if frame is not None:
                by_size.setdefault(frame.image.shape, []).append((camera, arrival, frame))
        for together in by_size.values():
            encoded = self._encode([frame for _, _, frame in together])
            for (camera, arrival, frame), made in zip(together, encoded):
                try:
                    if isinstance(made, Exception):
                        raise made
                    tracks = camera.pipeline.track(frame, made, camera.given(arrival))
                except Exception as error:  # a model may fail in any way: the node goes on
                    camera.fail(error)
                    self._on_failure(error)
                    continue
                camera.finish(arrival, frame, tracks)

    def _encode(self, frames: list[Frame]) -> list[Encoded | Exception]:
        """Run the network on a batch, or, where that fails, on one image after the other."""
        assert self._pipeline is not None
        if len(frames) == 1 or self._batches:
            try:
                return list(self._pipeline.encode(frames))
            except Exception as error:
                if len(frames) == 1:
                    return [error]
                self._batches = not lost_device(error)  # else one of the images may be at fault
                text = f'{len(frames)} images at once failed ({error}); now one after the other'
                for camera in self._cameras:
                    camera.event('batch', text)
            free_memory()
        return [made for frame in frames for made in self._encode([frame])]

    def _on_failure(self, error: Exception) -> None:
        """Look for a way to go on after the model failed; in the worker's thread."""
        pipeline, settings = self._pipeline, self._settings
        assert pipeline is not None and settings is not None
        if isinstance(error, EngineError) and pipeline.engines is not None:
            pipeline.engines.give_up(str(error))
        elif lost_device(error) and not self._device_failed:
            self._device_failed = True
            action = settings.on_device_failure
            for camera in self._cameras:
                camera.event('device_failure', f'the device failed ({error}); {action}')
            if action == 'cpu':
                self._move_to_cpu(settings.pipeline)

    def _move_to_cpu(self, config: PipelineConfig) -> None:
        """Load the model again, on the CPU; the tracks stay."""
        detector = dataclasses.replace(config.detector, device='cpu', precision='auto')
        engines = dataclasses.replace(config.engines, runtime='eager')
        try:
            self._load(dataclasses.replace(config, detector=detector, engines=engines))
        except MasaError as error:
            self.get_logger().error(f'cannot go on on the CPU: {error}')
            return
        assert self._pipeline is not None
        for camera in self._cameras:
            camera.pipeline = self._pipeline.with_tracker(camera.pipeline.tracker)

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
        self._settings = settings
        for camera in self._cameras:
            camera.configure(settings)
        return SetParametersResult(successful=True)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        # The worker owns the tracks: it resets them before it takes the next image.
        for camera in self._cameras:
            camera.reset_wanted = True
        response.success = bool(self._cameras)
        response.message = 'tracks are forgotten' if response.success else 'not configured'
        return response

    def _report(self) -> None:
        """Publish diagnostics; also the heartbeat, once a second in every state."""
        settings, worker = self._settings, self._worker
        if worker is not None:
            worker.check()  # a bug shall end the process, not leave it idle
        if self._device_failed and settings is not None:
            self._device_failed = False
            if settings.on_device_failure == 'deactivate' and worker is not None:
                self.get_logger().error('the device failed: the node becomes unconfigured')
                self.trigger_deactivate()
                self.trigger_cleanup()
                worker = None
        for camera in self._cameras:
            waiting = worker.waiting(camera) if worker is not None else 0
            self._diagnostics.publish(camera.report(worker is not None, waiting))
        if not self._cameras:
            name = self.get_fully_qualified_name().lstrip('/')
            stamp = self.get_clock().now().to_msg()
            self._diagnostics.publish(
                diagnostics.status_message(
                    stamp, name, '', DiagnosticStatus.WARN, 'not configured', {}
                )
            )

    def destroy_node(self) -> None:
        """Publish what is in work, free the model and take the node down."""
        self._forget()
        super().destroy_node()
        if not self.loading:  # else rclpy is in a transition that still needs it
            # It keeps the node in the ROS graph, and rclpy (up to 9.1) leaves it to the garbage
            # collector.
            self.__dict__.pop('_state_machine', None)


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted."""
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = TrackerNode()
    except Exception as error:  # a bad parameter override: one line, no traceback
        print(f'masa_tracker: {error}', file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    executor, code = SingleThreadedExecutor(), 0
    executor.add_node(node)
    with ended_by_signals(node.finished, lambda: node.loading):
        try:
            executor.spin_until_future_complete(node.finished)
            code = int(node.finished.result() or 0) if node.finished.done() else 0
        except (KeyboardInterrupt, ExternalShutdownException):
            pass
        finally:
            node.destroy_node()
            rclpy.try_shutdown()
    return code


def run(args: list[str] | None = None) -> NoReturn:
    """Be the process of the node.

    Ends without the interpreter's own farewell: everything is closed by then, and to unload
    torch would take over a second.
    """
    code = main(args)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
