# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``masa_ros node``: the process of a tracker node."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.signals import SignalHandlerOptions

from masa_ros.nodes.signals import ended_by_signals
from masa_ros.nodes.tracker_node import TrackerNode


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted."""
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = TrackerNode()
    except Exception as error:  # a bad parameter override: one line, no traceback
        print(f'masa_tracker: {error}', file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    # Not rclpy's EventsExecutor, which needs half the time for an image: 9.1 calls a timer again
    # that its own callback has destroyed, Jazzy's runs no coroutines before 7.1.11, and publishers
    # that end with their event callbacks can crash it (ros2/rclpy#1644).
    executor, code = SingleThreadedExecutor(), 0
    executor.add_node(node)
    with ended_by_signals(node.finished, lambda: node.loading):
        try:
            executor.spin_until_future_complete(node.finished)
            code = int(node.finished.result() or 0) if node.finished.done() else 0
        except (KeyboardInterrupt, ExternalShutdownException):
            pass
        except rclpy_implementation.RCLError:
            if rclpy.ok():  # else the end cut a transition off, which rclpy up to Jazzy's tells so
                raise
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
