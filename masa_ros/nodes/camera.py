# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One camera of the node: what comes in, its stream, what goes out, its statistics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image

from masa_ros.errors import ImageError, MasaError, PromptError
from masa_ros.images import Picture, rgb_from_compressed, rgb_from_image, rgb_from_picture
from masa_ros.methods import Method
from masa_ros.nodes import diagnostics, messages
from masa_ros.nodes.detections import detections_from_msg
from masa_ros.nodes.diagnostics import Statistics
from masa_ros.nodes.inputs import Arrival, Inputs
from masa_ros.nodes.outputs import Outputs
from masa_ros.nodes.parameters import NodeConfig
from masa_ros.nodes.space import space_beside
from masa_ros.streams.numbering import Numbering
from masa_ros.streams.stream import Refused, Stream
from masa_ros.types import Frame, Instances, Result

T = TypeVar('T')

_LOG_PERIOD = 5.0  # seconds between two lines about the same cause
_SHUT_DOWN = (rclpy_implementation.RCLError, rclpy_implementation.InvalidHandle)

Listener = Callable[[str, Frame, Instances], None]
"""Takes the name of a camera, a frame and its tracks, in the worker's thread."""


class Camera:
    """The part of a tracker node that exists once for every camera.

    Lives from the node's configuration to its cleanup. What arrives is stored by the executor;
    ``read``, ``track`` and ``fail`` are called in the worker's thread.

    Parameters
    ----------
    node: that it belongs to.
    name: prefix of its topics; '' for the only camera of a node.
    config: of the node.
    method: tracks.
    numbering: gives the ids.
    statistics: go on when the camera is configured again.
    arrived: takes every image that is to be tracked.
    listeners: called with every frame and its tracks.

    """

    def __init__(
        self,
        node: LifecycleNode,
        name: str,
        config: NodeConfig,
        method: Method[Any],
        numbering: Numbering,
        statistics: Statistics,
        arrived: Callable[[Camera, Arrival], None],
        listeners: Sequence[Listener] = (),
    ) -> None:
        self.name, self.config, self.statistics = name, config, statistics
        self.reset_wanted = False
        self._node, self._arrived, self._listeners = node, arrived, listeners
        self._logged: dict[str, float] = {}
        self._last_accepted = -math.inf
        self.stream = Stream(method, config.stream, numbering, self.event)
        self._model = _model_of(method)
        prefix = name and f'{name}/'
        self.inputs = Inputs(
            *(node, prefix, config, statistics, self._accept),
            *(self._reject, self.event, self.fail),
        )
        self.outputs = Outputs(node, prefix, config.tracks_qos, self.event)
        self.space = space_beside(
            *(node, prefix, config, self.outputs.rectified, lambda: self.inputs.info),
            *(self.event, self._mistake),
        )

    @property
    def topic(self) -> str:
        """Of its images."""
        return self.inputs.topic

    # In the executor

    def listen(self) -> None:
        """Subscribe; raises ConfigError when a package for that is missing."""
        self.statistics.last_received = time.monotonic()
        self.inputs.listen()
        if self.space is not None:
            self.space.listen()

    def end(self) -> None:
        """Publish what is still open; no more images come, or not soon."""
        try:
            self.publish(self.stream.finish())
        except Exception as error:
            # Those images are counted already, as processed.
            what = 'open images are not published'
            mistake, text = _judged(error)
            if mistake:
                self._mistake(error, what)
            else:
                self.event('finish', f'{what}: {text}')
        if self.space is not None:
            self.space.close()

    def destroy(self) -> None:
        """End everything."""
        self.inputs.close()
        if self.space is not None:
            self.space.destroy()
        self.outputs.destroy()

    def configure(self, config: NodeConfig) -> None:
        """Take changed parameters."""
        self.config = config
        self.stream.config = config.stream

    def _accept(self, arrival: Arrival) -> None:
        """Hand an image on, unless it comes sooner than the rate allows."""
        rate = self.config.max_rate
        if rate and arrival.at - self._last_accepted < 0.98 / rate:
            self.statistics.skip()
            return
        self._last_accepted = arrival.at
        self._arrived(self, arrival)

    # In the worker

    def read(self, arrival: Arrival) -> Frame | None:
        """Return the image as a frame; None, counted and logged, when it cannot be used."""
        message = arrival.message
        self._reset_if_wanted()
        try:
            if isinstance(message, Image):
                views = self.stream.method.device != 'cpu'
                pixels = rgb_from_image(message, views=views)
            elif isinstance(message, Picture):
                pixels = rgb_from_picture(message)
            else:
                pixels = rgb_from_compressed(message)
        except ImageError as error:
            self._reject(error.cause, f'image refused: {error}')
            return None
        header = message.header
        frame = Frame(pixels, messages.stamp_to_ns(header.stamp), header.frame_id)
        admitted = self.stream.admit(frame, arrival.arrived_ns)
        if isinstance(admitted, Refused):
            self._reject(*admitted)
            return None
        return admitted

    def _reset_if_wanted(self) -> None:
        if self.reset_wanted:
            self.reset_wanted = False
            self.stream.reset()

    def ask(self, job: Callable[[Stream[Any]], T]) -> T:
        """Do with the stream what somebody asked for.

        Raises
        ------
        PromptError
            When it cannot be done.
        MasaError
            When that failed, counted and logged.

        """
        try:
            self._reset_if_wanted()
            done = job(self.stream)
        except PromptError:
            raise
        except Exception as error:
            mistake, text = _judged(error)
            if mistake:
                self._mistake(error)
            else:
                self.event('prompt_failed', f'a prompt is not followed: {text}')
            raise MasaError(text) from error
        self.statistics.prompt()
        return done

    def track(self, arrival: Arrival, frame: Frame, encoded: Any) -> None:
        """Track an image, publish what is decided by it, and count it."""
        given = None
        if arrival.given is not None:
            given = detections_from_msg(arrival.given, self.stream.classes)
        try:
            with self.statistics.timed('track'):
                expected = partial(self.space.expected, frame) if self.space else None
                results = self.stream.update(frame, encoded, given, expected)
            with self.statistics.timed('publish'):
                self.publish(results)
        except _SHUT_DOWN as error:
            # By somebody else while we worked. Not asked before: whoever shuts a context down
            # holds its lock while it waits for this thread.
            self.statistics.fail(f'{self.topic}: not published: {error}')
            return
        self.statistics.finish((time.monotonic() - arrival.at) * 1e3)

    def publish(self, results: Iterable[Result]) -> None:
        """Publish tracks, each under the header of its image."""
        for result in results:
            embeddings = self.config.publish_embeddings
            self.outputs.publish(result, self._model, embeddings, self.inputs.info)
            if self.space is not None:
                self.space.offer(result)
            for listener in self._listeners:
                self._tell(listener, result)
            now = self._node.get_clock().now().nanoseconds
            age_ms = (now - result.frame.stamp_ns) / 1e6
            if 0 <= age_ms < 60_000:  # else the clocks are not the same
                self.statistics.publish(age_ms)

    def _tell(self, listener: Listener, result: Result) -> None:
        try:
            listener(self.name, result.frame, result.tracks)
        except Exception as error:  # somebody else's code must not cost our image
            self.event('listener', f'a listener failed: {type(error).__name__}: {error}')

    def move(self, method: Method[Any]) -> None:
        """Go on with another method; the tracks stay."""
        self.stream.move(method)
        self._model = _model_of(method)

    def fail(self, error: Exception) -> None:
        """Count an image on which the model failed, or the program by a mistake in it."""
        mistake, text = _judged(error)
        text = f'{self.topic}: {text}'
        self.statistics.fail(text, mistake)
        self._warn('mistake' if mistake else 'model', text, error if mistake else None)

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

    def _mistake(self, error: Exception, what: str = 'a mistake in the program') -> None:
        """Count and log a mistake in the program that cost no image."""
        text = f'{self.topic}: {what}: {type(error).__name__}: {error}'
        self.statistics.mistake(text)
        self._warn('mistake', text, error)

    def _warn(self, cause: str, text: str, mistake: Exception | None = None) -> None:
        now = time.monotonic()
        if now - self._logged.get(cause, -math.inf) < _LOG_PERIOD:
            return
        self._logged[cause] = now
        if mistake is None:
            self._node.get_logger().warning(text)
        else:
            self._node.get_logger().error(diagnostics.with_trace(text, mistake))

    def report(self, active: bool, waiting: int) -> DiagnosticArray:
        """Return what diagnostics say about this camera."""
        figures = self.statistics.report()
        publishers = self._node.count_publishers(self.topic) if active else 0
        figures |= {'waiting': waiting + self.inputs.waiting, 'publishers': publishers}
        self.outputs.publish_ages(self.statistics.new_ages(), self.topic)
        level, text = self.statistics.level(self.config.silence_seconds, active)
        if active and level == DiagnosticStatus.OK and publishers > 1:
            level, text = DiagnosticStatus.WARN, f'{publishers} publishers on {self.topic}'
        method, space = self.stream.method, self.space.figures() if self.space is not None else {}
        figures |= {'topic': self.topic, **method.describe(), **self.stream.figures(), **space}
        name = self._node.get_fully_qualified_name().lstrip('/')
        stamp = self._node.get_clock().now().to_msg()
        name = f'{name}: {self.name}' if self.name else name
        return diagnostics.status_message(stamp, name, method.device, level, text, figures)


def _judged(error: Exception) -> tuple[bool, str]:
    """Whether an error is a mistake in the code, not torch's or the system's; and its text."""
    mistake = not isinstance(error, (MasaError, RuntimeError, OSError, MemoryError))
    what = 'a mistake in the program' if mistake else 'the model failed'
    return mistake, f'{what}: {type(error).__name__}: {error}'


def _model_of(method: Method[Any]) -> str:
    return str(method.describe().get('model', method.name))
