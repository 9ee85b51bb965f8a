# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Play a recording over DDS to a tracker node in a process of its own, and collect its tracks."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from tqdm import tqdm

from masa_ros import options
from masa_ros.errors import ImageError, MasaError
from masa_ros.msg import TrackedInstanceArray
from masa_ros.nodes import messages
from masa_ros.nodes.parameters import NodeConfig
from masa_ros.nodes.qos import profile
from masa_ros.recordings.prompts import PromptAnswer, RecordedPrompt, answered, every_answer
from masa_ros.recordings.recorder import Recorder
from masa_ros.recordings.sources import Source
from masa_ros.srv import AddObject, CorrectObject
from masa_ros.types import Frame, Prompt, Result

_START_SECONDS = 120.0  # torch alone may need half of it on a small machine
_PATIENCE_SECONDS = 10.0
_QUIET_SECONDS = 2.0  # after which no more tracks are awaited
_SHIFT_NS = 1_000_000_000  # a recording that begins at 0: no stamp, to ROS

_HEAD = struct.Struct('<qdq')  # before each message in the file: number, milliseconds, bytes


class PlayerError(MasaError):
    """The node did not do its part."""


class _Sent(NamedTuple):
    """An image that was published: its number in the recording, its stamp, time.monotonic()."""

    number: int
    stamp_ns: int
    at: float


class _Answer(NamedTuple):
    """The tracks of an image: its number, milliseconds that they took, the message as CDR."""

    number: int
    latency_ms: float
    data: bytes


def _node_arguments(config: NodeConfig, namespace: str) -> list[str]:
    # A recording comes whole: best effort loses images larger than the transport's buffers.
    arguments = ['--ros-args', '-r', f'__ns:={namespace}', '-p', 'image_qos:=reliable']
    arguments += ['-p', 'image_queue:=10']
    defaults = options.values_of(NodeConfig())
    for name, value in options.values_of(config).items():
        if name.rpartition('.')[2] in ('weights', 'calibration') and value:
            value = str(Path(value).expanduser().resolve())
        if value != defaults.get(name):
            arguments += ['-p', f'{name}:={json.dumps(value)}']  # JSON is YAML
    return arguments


def play(
    source: Source,
    config: NodeConfig,
    recorder: Recorder,
    max_frames: int = 0,
    prompts: Sequence[RecordedPrompt] = (),
) -> dict[str, Any]:
    """Play a recording at the pace of its stamps, then record what came back.

    Prompts are made when the tracks of their image have come; until then the recording waits.
    Answers wait in a temporary file, so that neither pictures nor files take the processor
    from the node while it works.

    Returns
    -------
    The figures frames_in, frames_skipped and device; where prompts are given, what became of each:
    the fields of ``PromptAnswer``. The recorder takes the milliseconds from the publication of
    each tracked image to the arrival of its tracks.

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
    with tempfile.TemporaryFile() as spool:
        try:
            player = _Player(namespace, context, process, spool)
            figures = player.run(source, max_frames, prompts)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(_PATIENCE_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
            rclpy.try_shutdown(context=context)
        spool.seek(0)
        _record(source, _read(spool), recorder, max_frames)
    return figures


def _read(spool: IO[bytes]) -> Iterator[_Answer]:
    """Give what ``_Player`` wrote to its file."""
    while head := spool.read(_HEAD.size):
        number, latency_ms, size = _HEAD.unpack(head)
        yield _Answer(number, latency_ms, spool.read(size))


def _record(
    source: Source, answers: Iterator[_Answer], recorder: Recorder, max_frames: int
) -> None:
    answer = next(answers, None)
    for index, item in enumerate(source):
        if max_frames and index >= max_frames:
            break
        if not isinstance(item.frame, Frame):
            recorder.refuse(item.name, str(item.frame))
            continue
        if answer is None or answer.number != index:
            recorder.refuse(item.name, 'skipped or refused by the node')
            continue
        message = deserialize_message(answer.data, TrackedInstanceArray)
        names = {i.class_id: i.class_name for i in message.instances if i.class_name}
        recorder.took(answer.latency_ms)
        recorder.add(
            index, item.name, Result(item.frame, messages.tracks_from_msg(message), names)
        )
        answer = next(answers, None)


class _Player:
    def __init__(
        self,
        namespace: str,
        context: rclpy.Context,
        process: subprocess.Popen[bytes],
        spool: IO[bytes],
    ) -> None:
        self._process, self._spool = process, spool
        self._node = rclpy.create_node('player', namespace=namespace, context=context)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self._node)
        reliable = profile('reliable', 100)
        self._images = self._node.create_publisher(Image, 'image_raw', profile('reliable', 10))
        self._node.create_subscription(
            TrackedInstanceArray, 'masa_tracker/tracks', self._on_tracks, reliable
        )
        self._state = self._node.create_client(GetState, 'masa_tracker/get_state')
        self._change = self._node.create_client(ChangeState, 'masa_tracker/change_state')
        self._add = self._node.create_client(AddObject, 'masa_tracker/add_object')
        self._correct = self._node.create_client(CorrectObject, 'masa_tracker/correct_object')
        self._sent: collections.deque[_Sent] = collections.deque()
        self._answers = 0
        self._prompts: dict[int, PromptAnswer] = {}

    def _on_tracks(self, message: TrackedInstanceArray) -> None:
        now = time.monotonic()
        stamp_ns = messages.stamp_to_ns(message.header.stamp)
        # Answers come in the order of the images; what stands before the one that is answered
        # never will be.
        place = next((i for i, s in enumerate(self._sent) if s.stamp_ns == stamp_ns), None)
        if place is None:
            return
        for _ in range(place):
            self._sent.popleft()
        sent = self._sent.popleft()
        data = serialize_message(message)
        self._spool.write(_HEAD.pack(sent.number, (now - sent.at) * 1e3, len(data)) + data)
        self._answers += 1

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

    def _ask(self, index: int, prompt: Prompt, stamp: Any) -> None:
        """Let the node do what prompt number ``index`` asks about an image that it has tracked."""
        fields = messages.prompt_fields(prompt, stamp)
        if prompt.track_id:
            request = CorrectObject.Request(track_id=prompt.track_id, **fields)
            future = self._correct.call_async(request)
        else:
            future = self._add.call_async(AddObject.Request(text=prompt.text, **fields))
        self._executor.spin_until_future_complete(future, timeout_sec=_START_SECONDS)
        answer = future.result() if future.done() else None
        if answer is None:
            raise PlayerError(f'a prompt was not answered within {_START_SECONDS:.0f} s')
        if answer.success:
            ids = np.array([each.track_id for each in answer.instances], np.int64)
            self._prompts[index] = answered(index, ids)
        else:
            self._prompts[index] = PromptAnswer(index, 0, answer.message)

    def run(
        self, source: Source, max_frames: int, prompts: Sequence[RecordedPrompt]
    ) -> dict[str, Any]:
        self._wait_until_active()
        count, shift_ns = 0, 0
        last_ns, due = 0, 0.0
        for index, item in enumerate(tqdm(source, unit='image', disable=not sys.stderr.isatty())):
            if max_frames and index >= max_frames:
                break
            if isinstance(item.frame, ImageError):
                continue
            recorded_ns = item.frame.stamp_ns or item.arrived_ns
            if not count:
                shift_ns = 0 if recorded_ns else _SHIFT_NS
                last_ns, due = recorded_ns, time.monotonic()
            # A recording that begins again goes on at once.
            due += max(recorded_ns - last_ns, 0) * 1e-9
            last_ns = recorded_ns
            stamp_ns = item.frame.stamp_ns
            if stamp_ns or not item.arrived_ns:
                stamp_ns += shift_ns
            stamp = messages.ns_to_stamp(stamp_ns)
            header = Header(stamp=stamp, frame_id=item.frame.frame_id)
            message = messages.array_to_image(item.frame.image, 'rgb8', header)
            self._spin_until(due)
            self._check_alive()
            self._sent.append(_Sent(index, stamp_ns, time.monotonic()))
            self._images.publish(message)
            count += 1
            asked = [i for i, recorded in enumerate(prompts) if recorded.frame == index]
            if asked:
                self._drain(_START_SECONDS)
                for i in asked:
                    self._ask(i, prompts[i].prompt, stamp)
                due = time.monotonic()
        self._drain(_QUIET_SECONDS)
        if self._sent:
            self._deactivate()
            self._drain(_QUIET_SECONDS)
        if not self._answers:
            raise PlayerError(f'{count} images were sent, no tracks came back')
        device = str(self._device())
        skipped = count - self._answers
        figures = {'frames_in': count, 'frames_skipped': skipped, 'device': device}
        if not prompts:
            return figures
        answers = every_answer(self._prompts, len(prompts))
        return figures | {'prompts': [dataclasses.asdict(answer) for answer in answers]}

    def _drain(self, patience: float) -> None:
        """Wait for the last tracks: until all are here, or none came for so many seconds."""
        seen, quiet_since = -1, time.monotonic()
        while self._sent and time.monotonic() - quiet_since < patience:
            if self._answers != seen:
                seen, quiet_since = self._answers, time.monotonic()
            self._spin_until(time.monotonic() + 0.1)

    def _deactivate(self) -> None:
        """Let the node answer the images for which it awaits later ones."""
        transition = Transition(id=Transition.TRANSITION_DEACTIVATE)
        future = self._change.call_async(ChangeState.Request(transition=transition))
        self._executor.spin_until_future_complete(future, timeout_sec=_PATIENCE_SECONDS)

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
