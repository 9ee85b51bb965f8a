# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A process for several Python nodes, which are loaded and unloaded while it runs.

Serves composition_interfaces as C++ containers do: for ``ros2 component load`` and for
``LoadComposableNodes`` in launch files. Nodes in one container share an executor, and may hand
each other messages as they are.
"""

from __future__ import annotations

import atexit
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import LoggingSeverity
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from masa_ros.errors import ConfigError, MasaError
from masa_ros.nodes.signals import ended_by_signals

GROUP = 'rclpy_components'  # of entry points, by which packages say what can be loaded
_OURS = {'masa_ros::TrackerNode': 'masa_ros.nodes.tracker_node:TrackerNode'}


def component(plugin: str) -> Any:
    """Return the node class that a package offers as 'package::Class'.

    Raises
    ------
    ConfigError
        When no installed package offers it, or it cannot be imported.

    """
    offered = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    for name, value in _OURS.items():  # an ament installation has no entry points
        offered.setdefault(name, importlib.metadata.EntryPoint(name, value, GROUP))
    if plugin not in offered:
        raise ConfigError(f"no component is called '{plugin}'; there are: {', '.join(offered)}")
    try:
        return offered[plugin].load()
    except Exception as error:  # somebody else's module
        raise ConfigError(f"component '{plugin}' cannot be imported: {error}") from error


class Container(Node):
    """Node ``component_container`` that loads others into its executor.

    Attributes
    ----------
    executor_: runs the container and what it has loaded.
    loaded: the nodes by number.
    finished: done when the process shall end.

    """

    def __init__(self, **options: Any) -> None:
        super().__init__(options.pop('node_name', 'component_container'), **options)
        self.executor_ = SingleThreadedExecutor(context=self.context)
        self.executor_.add_node(self)
        self.loaded: dict[int, Node] = {}
        self.finished: Future = Future()
        self._next = 1

    def serve(self) -> None:
        """Offer the services; raises ConfigError without composition_interfaces."""
        try:
            from composition_interfaces.srv import ListNodes, LoadNode, UnloadNode
        except ImportError as error:
            raise ConfigError(
                f'the container needs composition_interfaces ({error}): '
                'sudo apt install ros-$ROS_DISTRO-composition-interfaces'
            ) from error
        self.create_service(LoadNode, '~/_container/load_node', self._on_load)
        self.create_service(UnloadNode, '~/_container/unload_node', self._on_unload)
        self.create_service(ListNodes, '~/_container/list_nodes', self._on_list)

    def load(
        self,
        plugin: str,
        name: str = '',
        namespace: str = '',
        remaps: Sequence[str] = (),
        parameters: Sequence[Parameter] = (),
        log_level: int = 0,
        global_arguments: bool = False,
    ) -> int:
        """Start a node; gives its number.

        Parameters
        ----------
        plugin: see ``component``.
        name, namespace: of the node; '' for its own.
        remaps: rules 'from:=to'.
        parameters: values that stand above its own.
        log_level: of the node, as in rcl_interfaces/msg/Log; 0: as it is.
        global_arguments: whether it obeys the arguments of this process too.

        Raises
        ------
        ConfigError
            When there is no such component, or it refuses its options.

        """
        kind = component(plugin)
        options: dict[str, Any] = {
            'context': self.context,
            'parameter_overrides': list(parameters),
            'use_global_arguments': global_arguments,
            'cli_args': ['--ros-args', *(part for rule in remaps for part in ('-r', rule))],
        }
        options |= {k: v for k, v in (('node_name', name), ('namespace', namespace)) if v}
        try:
            node = kind(**options)
        except Exception as error:  # somebody else's constructor
            raise ConfigError(f"component '{plugin}' does not start: {error}") from error
        if log_level:
            node.get_logger().set_level(LoggingSeverity(log_level))
        number, self._next = self._next, self._next + 1
        self.loaded[number] = node
        self.executor_.add_node(node)
        return number

    def unload(self, number: int) -> None:
        """End a node.

        Raises
        ------
        ConfigError
            When no node has the number.
        MasaError
            When the node fails as it ends; it is not called any more.

        """
        if number not in self.loaded:
            raise ConfigError(f'no node has the number {number}')
        node = self.loaded.pop(number)
        name = node.get_fully_qualified_name()
        self.executor_.remove_node(node)
        try:
            node.destroy_node()
        except Exception as error:  # somebody else's method
            raise MasaError(f'{name} does not end cleanly: {error}') from error

    def destroy_node(self) -> None:
        """End all nodes and the container."""
        for number in list(self.loaded):
            self._try_to_unload(number)
        super().destroy_node()

    def _try_to_unload(self, number: int) -> str:
        """End a node; returns, and logs, why it does not end, '' where it does."""
        try:
            self.unload(number)
        except MasaError as error:
            self.get_logger().error(str(error))
            return str(error)
        return ''

    def _on_load(self, request: Any, response: Any) -> Any:
        try:
            number = self.load(
                request.plugin_name,
                request.node_name,
                request.node_namespace,
                request.remap_rules,
                _parameters(request.parameters),
                _log_level(request.log_level),
                self._extra(request.extra_arguments),
            )
        except MasaError as error:
            self.get_logger().error(str(error))
            response.success, response.error_message = False, str(error)
            return response
        response.success, response.unique_id = True, number
        response.full_node_name = self.loaded[number].get_fully_qualified_name()
        self.get_logger().info(f'loaded {request.plugin_name} as {response.full_node_name}')
        return response

    def _extra(self, messages: Sequence[Any]) -> bool:
        """Return whether global arguments are forwarded; what means nothing here is logged."""
        extra = {parameter.name: parameter.value for parameter in _parameters(messages)}
        forward = bool(extra.pop('forward_global_arguments', False))
        # Nodes of one container hand messages over by ``offer``; rclpy has no other way.
        extra.pop('use_intra_process_comms', None)
        if extra:
            names = ', '.join(extra)
            self.get_logger().warning(f'extra arguments that mean nothing here: {names}')
        return forward

    def _on_unload(self, request: Any, response: Any) -> Any:
        response.error_message = self._try_to_unload(request.unique_id)
        response.success = not response.error_message
        return response

    def _on_list(self, request: Any, response: Any) -> Any:
        response.unique_ids = list(self.loaded)
        response.full_node_names = [n.get_fully_qualified_name() for n in self.loaded.values()]
        return response


def _parameters(messages: Sequence[Any]) -> list[Parameter]:
    """Return the values of rcl_interfaces/msg/Parameter; raises ConfigError for one of no type."""
    try:
        return [Parameter.from_parameter_msg(message) for message in messages]
    except ValueError as error:
        names = ', '.join(message.name for message in messages)
        raise ConfigError(f'a parameter among {names} has no value: {error}') from error


def _log_level(level: int) -> int:
    """Return the level, raises ConfigError where it is none."""
    if level and level not in set(LoggingSeverity):
        known = ', '.join(f'{each.name} {each.value}' for each in LoggingSeverity if each.value)
        raise ConfigError(f'log_level is {level}; it must be one of: {known}')
    return level


def main(args: list[str] | None = None) -> int:
    """Run a container until it is interrupted."""
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    container = Container()
    with ended_by_signals(container.finished):
        try:
            container.serve()
            container.executor_.spin_until_future_complete(container.finished)
        except MasaError as error:
            print(f'component_container: {error}', file=sys.stderr)
            return 2
        finally:
            container.destroy_node()
            rclpy.try_shutdown()
    return 0


def run(args: list[str] | None = None) -> NoReturn:
    """Be the process of the container.

    Ends as that of the tracker node does: to unload torch can take longer than the five seconds
    after which launch files use force. What the nodes' modules want to do at the end is done.
    """
    code = main(args)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
