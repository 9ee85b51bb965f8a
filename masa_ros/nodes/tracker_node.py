# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The tracker node: images in, tracked instances out."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.task import Future
from std_srvs.srv import Trigger

from masa_ros import methods, options
from masa_ros.errors import ConfigError, MasaError
from masa_ros.methods import Log, Method
from masa_ros.models.devices import free_memory
from masa_ros.nodes import diagnostics
from masa_ros.nodes.camera import Listener
from masa_ros.nodes.diagnostics import Statistics
from masa_ros.nodes.parameters import NodeConfig, Parameters
from masa_ros.nodes.prompts import Prompts
from masa_ros.nodes.work import Work

LoadMethod = Callable[[str, Any, Log], Method[Any]]
"""Makes a method of its name and options, and logs."""


class TrackerNode(LifecycleNode):
    """Lifecycle node ``masa_tracker``: one method for one camera or several.

    The executor only stores what arrives; images are tracked and published in a thread of their
    own, see ``Work``.

    Parameters
    ----------
    load: makes the method when the node is configured.
    options: of ``rclpy.node.Node``: context, namespace, parameter_overrides, ...; the name is
        ``node_name``.

    Attributes
    ----------
    finished: done when the node has nothing more to do, with the exit code of its process.
    loading: while a method is loaded.
    listeners: called with the name of the camera, every frame and its tracks, for whoever lives in
        the same process.

    """

    def __init__(self, load: LoadMethod = methods.load, **options: Any) -> None:
        super().__init__(options.pop('node_name', 'masa_tracker'), **options)
        self._load_method = load
        self.finished: Future = Future()
        self.loading = False
        self.listeners: list[Listener] = []
        self._config: NodeConfig | None = None
        self._work: Work | None = None
        self._statistics: dict[str, Statistics] = collections.defaultdict(Statistics)
        self._highest_id = 0
        self._prompts = Prompts(self, lambda: self._work)
        try:
            self._options = Parameters(self)
        except Exception:
            self.destroy_node()
            raise
        self.add_on_set_parameters_callback(self._on_parameters)
        self.create_service(Trigger, '~/reset', self._on_reset)
        self._refuse_transitions_out_of_turn()
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self.create_timer(1.0, self._report)
        self._autostart_timer = None
        if self.get_parameter('autostart').value:
            # From the executor, so that an interrupt during the loading of a model is obeyed.
            self._autostart_timer = self.create_timer(0.0, self._autostart)

    # Lifecycle

    def _refuse_transitions_out_of_turn(self) -> None:
        """Answer them by ``success: false``: in rclpy up to Jazzy's they end the executor."""
        served = self._service_change_state.callback

        def answer(request: Any, response: Any) -> Any:
            try:
                return served(request, response)
            except rclpy_implementation.RCLError as error:
                self.get_logger().error(f'transition {request.transition.id} is refused: {error}')
                response.success = False
                return response

        self._service_change_state.callback = answer

    def _autostart(self) -> None:
        assert self._autostart_timer is not None
        self.destroy_timer(self._autostart_timer)
        configured = self.trigger_configure() == TransitionCallbackReturn.SUCCESS
        if self.get_parameter('build_only').value:
            self._end_when_built()
        elif configured:
            self.trigger_activate()

    def _end_when_built(self) -> None:
        """Build what ``build_only`` asks for, and end."""
        built, status = False, 'failed'
        if self._work is not None and self._config is not None:
            size = options.values_of(self._config.chosen)['camera_size']
            width, height = (int(side) for side in size.split('x'))
            self.loading = True
            try:
                built = self._work.method.prepare(height, width)
                status = str(self._work.method.describe().get('engines', 'nothing to build'))
            except MasaError as error:
                status = str(error)
            finally:
                self.loading = False
        self.get_logger().info(f'build_only: {status}')
        self.finished.set_result(0 if built else 1)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the parameters and load the method."""
        try:
            config = self._options.read()
            self._work = Work(
                *(self, config, self._load, self._statistics, self._highest_id),
                self.listeners,
            )
        except MasaError as error:
            self.get_logger().error(f'cannot start: {error}')
            return TransitionCallbackReturn.FAILURE
        self._config = config
        return TransitionCallbackReturn.SUCCESS

    def _load(self, config: NodeConfig) -> Method[Any]:
        started = time.monotonic()
        self.loading = True
        try:
            method = self._load_method(config.method, config.chosen, self.get_logger().info)
        finally:
            self.loading = False
        loaded = ', '.join(f'{k} {v}' for k, v in method.describe().items())
        self.get_logger().info(f'loaded in {time.monotonic() - started:.1f} s: {loaded}')
        return method

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the cameras."""
        result = super().on_activate(state)
        assert self._work is not None
        try:
            self._work.start()
            self._prompts.listen()
        except ConfigError as error:
            self.get_logger().error(f'cannot start: {error}')
            self._work.stop()
            super().on_deactivate(state)
            return TransitionCallbackReturn.FAILURE
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop listening; the images in work are still published."""
        self._prompts.close()
        if self._work is not None:
            self._work.stop()
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

    def _forget(self) -> None:
        self._prompts.close()
        work, self._work, self._config = self._work, None, None
        if work is not None:
            self._highest_id = max(self._highest_id, work.close())
        free_memory()

    def destroy_node(self) -> None:
        """Publish what is in work, free the model and take the node down."""
        self._forget()
        super().destroy_node()
        if not self.loading:  # else rclpy is in a transition that still needs it
            # It keeps the node in the ROS graph, and rclpy (up to 9.1) leaves it to the garbage
            # collector.
            self.__dict__.pop('_state_machine', None)

    # Images, parameters, services, diagnostics

    def offer(self, message: Any, camera: str = '') -> None:
        """Track a sensor_msgs/Image of a node in the same process, without serialisation.

        As if it had come on the topic of that camera; ignored unless the node is active.
        """
        if self._work is not None:
            self._work.offer(message, camera)

    def _on_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        mine = {p.name: p.value for p in changed if p.name in self._options}
        config, work = self._config, self._work
        if config is None or work is None or not mine:
            return SetParametersResult(successful=True)
        frozen = [name for name in mine if not self._options[name].live]
        if frozen:
            names = ', '.join(frozen)
            reason = f'{names}: read when the node is configured; clean it up first'
            return SetParametersResult(successful=False, reason=reason)
        try:
            config = options.build(NodeConfig, options.values_of(config) | mine)
            work.configure(config)
        except MasaError as error:
            return SetParametersResult(successful=False, reason=str(error))
        except Exception as error:  # must not end the executor
            work.mistake(error)
            return SetParametersResult(successful=False, reason=f'{type(error).__name__}: {error}')
        self._config = config
        return SetParametersResult(successful=True)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        # The worker owns the tracks: it resets them before it takes the next image.
        cameras = self._work.cameras if self._work is not None else []
        for camera in cameras:
            camera.reset_wanted = True
        response.success = bool(cameras)
        response.message = 'tracks are forgotten' if response.success else 'not configured'
        return response

    def _report(self) -> None:
        """Publish diagnostics; also the heartbeat, once a second in every state."""
        work, config = self._work, self._config
        if work is None or config is None:
            name = self.get_fully_qualified_name().lstrip('/')
            stamp, level = self.get_clock().now().to_msg(), DiagnosticStatus.WARN
            self._diagnostics.publish(
                diagnostics.status_message(stamp, name, '', level, 'not configured', {})
            )
            return
        try:
            if work.device_failed:
                work.device_failed = False
                if config.on_device_failure == 'deactivate' and work.active:
                    self.get_logger().error('the device failed: the node becomes unconfigured')
                    self.trigger_deactivate()
                    self.trigger_cleanup()
                    return
            for camera in work.cameras:
                message = camera.report(work.active, work.waiting(camera))
                self._diagnostics.publish(message)
        except Exception as error:  # must not end the executor
            work.mistake(error)
