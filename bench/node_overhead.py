# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the node costs beside its network, next to the bare DDS round trip of the same image."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import rclpy
from masa_ros.msg import TrackedInstanceArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from masa_ros.methods.masa import MasaConfig
from masa_ros.nodes.messages import array_to_image, ns_to_stamp
from masa_ros.nodes.tracker_node import TrackerNode
from masa_ros.tracking import make_tracker
from masa_ros.types import Frame, Instances, Mask, Result

FRAMES = 60
OBJECTS = 20


class Canned:
    """A method that sees the same objects in every image at once: what is left is our own time."""

    name, options, accepts, device = 'canned', MasaConfig, frozenset[str](), 'cpu'

    def __init__(self, config: MasaConfig) -> None:
        rng = np.random.default_rng(0)
        place = np.stack(np.meshgrid(np.arange(5), np.arange(4)), -1).reshape(-1, 2) * 160.0
        yy, xx = np.mgrid[:120, :120]
        disc = (yy - 60) ** 2 + (xx - 60) ** 2 < 3500
        self.found = Instances(
            boxes=np.hstack((place, place + 120)).astype(np.float32),
            scores=np.full(OBJECTS, 0.95, np.float32),
            embeddings=rng.normal(0, 1, (OBJECTS, 128)).astype(np.float32),
            masks=tuple(Mask(int(x), int(y), disc) for x, y in place),
        )
        self.tracker = make_tracker(config.tracker)

    def encode(self, frames: Sequence[Frame]) -> list[None]:
        """Do nothing."""
        return [None] * len(frames)

    def session(self, after: Any = None) -> Canned:
        """Be the only session."""
        return self

    def update(self, frame: Frame, encoded: None, given: Instances | None = None) -> list[Result]:
        """Track the objects."""
        found = dataclasses.replace(self.found)
        return [Result(frame, self.tracker.update(found, frame.stamp_ns))]

    def finish(self) -> list[Result]:
        """Have nothing left."""
        return []

    def figures(self) -> dict[str, int]:
        """Tell nothing."""
        return {}

    def describe(self) -> dict[str, str]:
        """Return nothing of interest."""
        return {'model': 'canned'}

    def interrupt(self) -> None:
        """Build nothing."""

    close = interrupt


class RoundTrips:
    """Publishes an image and waits for what comes back on another topic."""

    def __init__(self, context: rclpy.Context) -> None:
        self.node = rclpy.create_node('bench', context=context)
        self.arrived = threading.Event()
        pixels = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), dtype=np.uint8)
        self.message = array_to_image(pixels, 'rgb8', Header(frame_id='camera'))
        self._stamp = 0

    def measure(self, topic: str, kind: type, answer: str, rounds: int) -> list[float]:
        """Return milliseconds from the publication of an image to the answer to it."""
        publisher = self.node.create_publisher(Image, topic, qos_profile_sensor_data)
        subscription = self.node.create_subscription(
            kind, answer, lambda _: self.arrived.set(), qos_profile_sensor_data
        )
        while not publisher.get_subscription_count():
            time.sleep(0.05)
        times = []
        for i in range(rounds + 5):
            self._stamp += 100_000_000
            self.message.header.stamp = ns_to_stamp(self._stamp)
            self.arrived.clear()
            start = time.perf_counter()
            publisher.publish(self.message)
            if not self.arrived.wait(10.0):
                raise RuntimeError(f'no answer to {topic} on {answer}')
            if i >= 5:  # the first ones warm up
                times.append((time.perf_counter() - start) * 1e3)
        self.node.destroy_subscription(subscription)
        self.node.destroy_publisher(publisher)
        return times


def main(quick: bool = False) -> dict[str, float]:
    """Print the table and return its figures."""
    frames = 6 if quick else FRAMES
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    trips = RoundTrips(context)
    echo = rclpy.create_node('echo', context=context)
    back = echo.create_publisher(Image, 'echo_back', qos_profile_sensor_data)
    small = array_to_image(np.zeros((1, 1, 3), np.uint8), 'rgb8', Header())
    echo.create_subscription(Image, 'echo', lambda _: back.publish(small), qos_profile_sensor_data)
    node = TrackerNode(
        load=lambda name, config, log: Canned(config),  # type: ignore[arg-type, return-value]
        context=context,
        parameter_overrides=[Parameter('tracks_qos', value='sensor_data')],
    )
    executors, threads = [], []
    for member in (trips.node, echo, node):
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(member)
        executors.append(executor)
        threads.append(threading.Thread(target=executor.spin, daemon=True))
        threads[-1].start()
    # Interleaved halves, so that a slow moment of the machine hits both.
    bare, ours = [], []
    for _ in range(2):
        bare += trips.measure('echo', Image, 'echo_back', frames // 2)
        ours += trips.measure(
            'image_raw', TrackedInstanceArray, '/masa_tracker/tracks', frames // 2
        )
    figures = {
        'width': 1280,
        'height': 720,
        'objects': OBJECTS,
        'frames': len(ours),
        'bare_round_trip_ms': round(float(np.median(bare)), 2),
        'node_without_network_ms': round(float(np.median(ours)), 2),
        'ratio': round(float(np.median(ours) / np.median(bare)), 2),
    }
    print(f'  1280x720 rgb8, {OBJECTS} objects with masks, {len(ours)} images, medians')
    print(f'  bare DDS round trip of the image        {figures["bare_round_trip_ms"]:>8.2f} ms')
    print(
        f'  image to tracks, network taking no time {figures["node_without_network_ms"]:>8.2f} ms'
    )
    print(f'  ratio                                   {figures["ratio"]:>8.2f}')
    for executor, thread in zip(executors, threads):
        executor.shutdown()
        thread.join()  # what it spins must not be destroyed under it
    for member in (trips.node, echo, node):
        member.destroy_node()
    rclpy.shutdown(context=context)
    return figures


if __name__ == '__main__':
    main()
