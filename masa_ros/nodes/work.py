# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A configured node: its method and its cameras, and what is done with their images.

Nothing that happens to an image ends the thread or the node: what fails is counted where it did.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from rclpy.lifecycle import LifecycleNode

from masa_ros import options
from masa_ros.errors import PromptError
from masa_ros.methods import Method
from masa_ros.models.devices import free_memory, lost_device
from masa_ros.nodes import diagnostics
from masa_ros.nodes.camera import Camera, Listener
from masa_ros.nodes.diagnostics import Statistics
from masa_ros.nodes.inputs import Arrival
from masa_ros.nodes.parameters import NodeConfig
from masa_ros.nodes.worker import NewestWorker
from masa_ros.streams.numbering import Numbering
from masa_ros.streams.stream import Stream
from masa_ros.types import Frame

T = TypeVar('T')
Load = Callable[[NodeConfig], Method[Any]]
"""Makes the method that a configuration asks for."""


class Work:
    """One method for one camera or several.

    Images are tracked and published in a thread of their own, from ``start`` to ``stop``, that
    always takes the newest one of every camera.

    Parameters
    ----------
    node: that it belongs to.
    config: of the node.
    load: makes the method.
    statistics: of every camera by name.
    highest_id: no id up to this one is given again, by whatever camera.
    listeners: called with every frame and its tracks.

    Raises
    ------
    ConfigError, WeightsError
        When the method cannot be loaded.

    Attributes
    ----------
    method: that tracks.
    cameras: of the node.
    device_failed: since a device was out of memory or gone, until somebody sets it back.

    """

    def __init__(
        self,
        node: LifecycleNode,
        config: NodeConfig,
        load: Load,
        statistics: Mapping[str, Statistics],
        highest_id: int,
        listeners: Sequence[Listener],
    ) -> None:
        self._node, self._config, self._load = node, config, load
        self.method = load(config)
        self.device_failed = False
        self.cameras: list[Camera] = []
        names = config.camera_names
        for place, name in enumerate(names):
            numbering = Numbering(highest_id + 1)
            if config.common_ids:
                numbering = Numbering(highest_id + 1 + place, len(names))
            self.cameras.append(
                Camera(
                    *(node, name, config, self.method, numbering, statistics[name]),
                    *(self._arrived, listeners),
                )
            )
        self._batches = True
        self._worker: NewestWorker[Camera, Arrival] | None = None
        self._mistake_logged = -math.inf

    # In the executor

    @property
    def active(self) -> bool:
        """Whether images are taken."""
        return self._worker is not None

    def start(self) -> None:
        """Subscribe to the cameras; raises ConfigError when a package for that is missing."""
        self._worker = NewestWorker(self._process, self.mistake)
        for camera in self.cameras:
            camera.listen()

    def stop(self) -> None:
        """Stop listening; the images in work are still published."""
        for camera in self.cameras:
            camera.inputs.close()
        worker, self._worker = self._worker, None
        if worker is None:
            return
        self.method.interrupt()  # an image may be waiting for an engine
        for camera in worker.stop():
            camera.statistics.skip()
        for camera in self.cameras:
            camera.end()

    def close(self) -> int:
        """Stop, and free everything; returns the highest id that was given."""
        self.method.close()
        self.stop()
        for camera in self.cameras:
            camera.destroy()
        return max(camera.stream.highest_id for camera in self.cameras)

    def configure(self, config: NodeConfig) -> None:
        """Take changed parameters, all or none; raises ConfigError naming one that cannot."""
        self.method.configure(config.chosen)
        self._config = config
        for camera in self.cameras:
            camera.configure(config)

    def offer(self, message: Any, name: str) -> None:
        """Take an image of a node in the same process; ignored unless active."""
        for camera in self.cameras:
            if camera.name == name and self.active:
                camera.inputs.take(message)

    def ask(self, camera: Camera, job: Callable[[Stream[Any]], T]) -> concurrent.futures.Future[T]:
        """Let something be done with a camera's stream, between two images.

        Raises
        ------
        PromptError
            When the node is not active or too much is asked for; in the future when it cannot be
            done.

        """
        if self._worker is None:
            raise PromptError('the node is not active')
        return self._worker.submit(lambda: self._ask(camera, job))

    def waiting(self, camera: Camera) -> int:
        """Return how many images of a camera wait for their turn."""
        return self._worker.waiting(camera) if self._worker is not None else 0

    def _arrived(self, camera: Camera, arrival: Arrival) -> None:
        worker = self._worker
        if worker is None or not worker.offer(camera, arrival):
            camera.statistics.skip()

    # In the worker

    def mistake(self, error: Exception) -> None:
        """Count and log a mistake in the program that no image answers for."""
        text = f'a mistake in the program: {type(error).__name__}: {error}'
        for camera in self.cameras:
            camera.statistics.mistake(text)
        now = time.monotonic()
        if now - self._mistake_logged >= 5.0:
            self._mistake_logged = now
            self._node.get_logger().error(diagnostics.with_trace(text, error))

    def _ask(self, camera: Camera, job: Callable[[Stream[Any]], T]) -> T:
        try:
            return camera.ask(job)
        except Exception as error:
            if lost_device(error.__cause__ or error):
                self._on_device_failure(error)
            raise

    def _process(self, arrivals: dict[Camera, Arrival]) -> None:
        """Read, encode, track and publish an image of each of these cameras."""
        by_size: dict[tuple[int, int], list[tuple[Camera, Arrival, Frame]]] = {}
        for camera, arrival in arrivals.items():
            try:
                with camera.statistics.timed('read'):
                    frame = camera.read(arrival)
            except Exception as error:
                camera.fail(error)
                continue
            if frame is not None:
                by_size.setdefault(frame.shape, []).append((camera, arrival, frame))
        for together in by_size.values():
            begin = time.monotonic()
            encoded = self._encode([frame for _, _, frame in together])
            took = (time.monotonic() - begin) * 1e3
            for (camera, arrival, frame), made in zip(together, encoded):
                camera.statistics.took('encode', took)
                self._track(camera, arrival, frame, made)

    def _track(self, camera: Camera, arrival: Arrival, frame: Frame, encoded: Any) -> None:
        """Do the step of one camera, which nothing leaves but in its counters."""
        try:
            if isinstance(encoded, Exception):
                raise encoded
            camera.track(arrival, frame, encoded)
        except Exception as error:
            camera.fail(error)
            if lost_device(error):
                self._on_device_failure(error)

    def _encode(self, frames: list[Frame]) -> list[Any]:
        """Run the network on a batch, or, where that fails, on one image after the other.

        Returns
        -------
        What the method made of each, or the exception that it raised instead.

        """
        if len(frames) == 1 or self._batches:
            try:
                return list(self.method.encode(frames))
            except Exception as error:
                if len(frames) == 1:
                    return [error]
                self._batches = not lost_device(error)  # else one of the images may be at fault
                text = f'{len(frames)} images at once failed ({error}); now one after the other'
            # Outside the handler, which would keep the memory of the call alive.
            for camera in self.cameras:
                camera.event('batch', text)
            with contextlib.suppress(Exception):  # a GPU that is gone has no memory to free
                free_memory()
        return [made for frame in frames for made in self._encode([frame])]

    def _on_device_failure(self, error: Exception) -> None:
        """Look for a way to go on after the device failed."""
        if self.device_failed:
            return
        self.device_failed = True
        action = self._config.on_device_failure
        for camera in self.cameras:
            camera.event('device_failure', f'the device failed ({error}); {action}')
        if action == 'cpu':
            chosen = options.replace(
                self._config.chosen, device='cpu', precision='auto', runtime='eager'
            )
            self._move(dataclasses.replace(self._config, chosen=chosen))

    def _move(self, config: NodeConfig) -> None:
        """Load the method again as configured; the tracks stay."""
        try:
            method = self._load(config)
        except Exception as error:  # whatever it is, the next image is tried
            self._node.get_logger().error(f'cannot go on on the CPU: {error}')
            return
        for camera in self.cameras:
            camera.move(method)
        self.method.close()
        self.method, self._batches = method, True
