"""Play a recording over DDS to a tracker node in a process of its own, and collect its tracks."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from tqdm import tqdm

from masa_ros.errors import ImageError, MasaError
from masa_ros.msg import TrackedInstanceArray
from masa_ros.nodes import messages, parameters
from masa_ros.nodes.qos import profile
from masa_ros.pipeline import PipelineConfig
from masa_ros.replay.recorder import Recorder
from masa_ros.replay.sources import Source
from masa_ros.types import Frame

_START_SECONDS = 120.0  # torch alone may need half of it on a small machine
_PATIENCE_SECONDS = 10.0


class PlayerError(MasaError):
    """The node did not do its part."""


def _node_arguments(config: PipelineConfig, namespace: str) -> list[str]:
    detector = config.detector
    if detector.weights:
        path = str(Path(detector.weights).resolve())
        config = dataclasses.replace(config, detector=dataclasses.replace(detector, weights=path))
    # A recording comes whole: best effort loses images larger than the transport's buffers.
    arguments = ['--ros-args', '-r', f'__ns:={namespace}', '-p', 'image_qos:=reliable']
    arguments += ['-p', 'image_queue:=10']
    for name, value in parameters.overrides(config).items():
        arguments += ['-p', f'{name}:={json.dumps(value)}']  # JSON is YAML
    return arguments


def play(
    source: Source, config: PipelineConfig, recorder: Recorder, max_frames: int = 0
) -> tuple[list[float], dict[str, Any]]:
    """Play a recording at the pace of its stamps.

    Returns
    -------
    Milliseconds from the publication of each tracked image to the arrival of its tracks, and
    the figures frames_in, frames_skipped and device.

    Raises
    ------
    PlayerError
        When the node does not start, dies, or answers nothing.

    """
    namespace = f'/masa_ros_replay_{os.getpid()}'
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    command = [sys.executable, '-m', 'masa_ros.cli', 'node', *_node_arguments(config, namespace)]
    # -m puts the working folder first on the path: a checkout there would hide the messages.
    process = subprocess.Popen(command, cwd='/')
    try:
        return _Player(namespace, context, process).run(source, recorder, max_frames)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        rclpy.try_shutdown(context=context)


class _Player:
    def __init__(
        self, namespace: str, context: rclpy.Context, process: subprocess.Popen[bytes]
    ) -> None:
        self._process = process
        self._node = rclpy.create_node('player', namespace=namespace, context=context)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self._node)
        reliable = profile('reliable', 100)
        self._images = self._node.create_publisher(Image, 'image_raw', profile('reliable', 10))
        self._node.create_subscription(
            TrackedInstanceArray, 'masa_tracker/tracks', self._on_tracks, reliable
        )
        self._state = self._node.create_client(GetState, 'masa_tracker/get_state')
        self._arrived: dict[int, tuple[TrackedInstanceArray, float]] = {}

    def _on_tracks(self, message: TrackedInstanceArray) -> None:
        stamp_ns = messages.stamp_to_ns(message.header.stamp)
        self._arrived[stamp_ns] = (message, time.monotonic())

    def _spin_until(self, when: float) -> None:
        """Handle what arrives until time.monotonic() is ``when``."""
        while (left := when - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def _check_alive(self) -> None:
        code = self._process.poll()
        if code is not None:
            raise PlayerError(f'the node ended with exit code {code}; its last lines are above')

    def _wait_until_active(self) -> None:
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            self._check_alive()
            if self._state.service_is_ready():
                future = self._state.call_async(GetState.Request())
                self._executor.spin_until_future_complete(future, timeout_sec=5.0)
                done = future.result() if future.done() else None
                active = done is not None and done.current_state.id == State.PRIMARY_STATE_ACTIVE
                if active and self._images.get_subscription_count():
                    return
            self._spin_until(time.monotonic() + 0.2)
        raise PlayerError(f'the node was not active within {_START_SECONDS:.0f} s')

    def run(
        self, source: Source, recorder: Recorder, max_frames: int
    ) -> tuple[list[float], dict[str, Any]]:
        self._wait_until_active()
        sent: dict[int, tuple[int, str, float]] = {}
        start: tuple[int, float] | None = None
        for index, item in enumerate(tqdm(source, unit='image', disable=not sys.stderr.isatty())):
            if max_frames and index >= max_frames:
                break
            if isinstance(item.frame, ImageError):
                recorder.refuse(item.name, str(item.frame))
                continue
            stamp_ns = item.frame.stamp_ns
            if stamp_ns in sent:
                recorder.refuse(item.name, 'an earlier image has the same stamp')
                continue
            header = Header(stamp=messages.ns_to_stamp(stamp_ns), frame_id=item.frame.frame_id)
            message = messages.array_to_image(item.frame.image, 'rgb8', header)
            start = start or (stamp_ns, time.monotonic())
            self._spin_until(start[1] + (stamp_ns - start[0]) * 1e-9)
            self._check_alive()
            sent[stamp_ns] = (index, item.name, time.monotonic())
            self._images.publish(message)
        self._drain(len(sent))
        if not self._arrived:
            raise PlayerError(f'{len(sent)} images were sent, no tracks came back')
        latencies = self._record(source, sent, recorder)
        device = str(self._device())
        skipped = len(sent) - len(self._arrived)
        return latencies, {'frames_in': len(sent), 'frames_skipped': skipped, 'device': device}

    def _drain(self, count: int) -> None:
        """Wait for the last tracks: until all are here, or none came for a while."""
        seen, quiet_since = -1, time.monotonic()
        while len(self._arrived) < count and time.monotonic() - quiet_since < 2.0:
            if len(self._arrived) != seen:
                seen, quiet_since = len(self._arrived), time.monotonic()
            self._spin_until(time.monotonic() + 0.1)

    def _record(
        self, source: Source, sent: dict[int, tuple[int, str, float]], recorder: Recorder
    ) -> list[float]:
        latencies = []
        for item in source:
            frame = item.frame
            if not isinstance(frame, Frame) or frame.stamp_ns not in self._arrived:
                continue
            index, name, at = sent[frame.stamp_ns]
            if name != item.name:
                continue
            message, arrived = self._arrived[frame.stamp_ns]
            latencies.append((arrived - at) * 1e3)
            recorder.add(index, name, frame, messages.tracks_from_msg(message))
        return latencies

    def _device(self) -> str:
        """Ask the node's diagnostics where the model runs."""
        found: list[str] = []
        name = f'{self._node.get_namespace().lstrip("/")}/masa_tracker'

        def on_diagnostics(message: DiagnosticArray) -> None:
            found.extend(s.hardware_id for s in message.status if s.name == name)

        subscription = self._node.create_subscription(
            DiagnosticArray, '/diagnostics', on_diagnostics, 10
        )
        end = time.monotonic() + 3.0
        while not found and time.monotonic() < end:
            self._spin_until(time.monotonic() + 0.1)
        self._node.destroy_subscription(subscription)
        if not found:
            raise PlayerError('the node publishes no diagnostics')
        return found[0]
