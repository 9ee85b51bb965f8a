# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A hundred thousand images, nearly all of them broken, through real nodes.

    python bench/storm.py [--messages 100000]

Half of them are plain images and half compressed ones, for a node each. They are handed over as a
subscription would do it and go through conversion, the model (where they are whole) and
publication. Printed: what became of them, answers that should not be, and memory.
"""

from __future__ import annotations

import argparse
import array
import threading
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import rclpy
from common import keep, resident_mb
from masa_ros.msg import TrackedInstanceArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header
from tqdm import tqdm

from masa_ros.images import SUPPORTED_ENCODINGS
from masa_ros.models.devices import free_memory
from masa_ros.nodes.diagnostics import Statistics
from masa_ros.nodes.messages import array_to_image, ns_to_stamp, stamp_to_ns
from masa_ros.nodes.tracker_node import TrackerNode
from masa_ros.types import LARGEST_SIDE

WHOLE = 0.04  # share of images that nobody touched
SIZE = (48, 64)
OPTIONS = {'device': 'cpu', 'input_size': 64, 'publish_tentative': True}
Made = tuple[Any, tuple[int, ...] | None]  # a message, and the size of an answer it deserves


def plain(rng: np.random.Generator, header: Header) -> Made:
    """Make an image: whole, with one thing wrong, or with nothing right."""
    message = array_to_image(rng.integers(0, 256, (*SIZE, 3), np.uint8), 'rgb8', header)
    if rng.random() < WHOLE:
        return message, SIZE
    kind = rng.integers(5)
    if kind == 0:
        message.data = array.array('B', rng.bytes(int(rng.integers(0, len(message.data)))))
    elif kind == 1:
        message.step = int(rng.integers(0, 3 * SIZE[1]))
    elif kind == 2:
        message.encoding = rng.bytes(int(rng.integers(0, 12))).decode('latin1')
    elif kind == 3:
        side = ('height', 'width')[rng.integers(2)]
        setattr(message, side, int(rng.choice([0, 1 << 15, (1 << 32) - 1])))
    else:
        message.height, message.width, message.step = (
            int(v) for v in rng.integers(64, 1 << 32, 3)
        )
        message.encoding = str(rng.choice(SUPPORTED_ENCODINGS))
        message.is_bigendian = int(rng.integers(0, 256))
        message.data = array.array('B', rng.bytes(int(rng.integers(0, 4096))))
    return message, None


def compressed(rng: np.random.Generator, header: Header) -> Made:
    """Make a compressed image: whole, cut short, with some bytes changed, or only bytes.

    What OpenCV can still read deserves an answer, whatever it shows.
    """
    kind = ('.jpg', '.png')[rng.integers(2)]
    pixels = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), SIZE[::-1])
    data = cv2.imencode(kind, pixels)[1]
    if rng.random() >= WHOLE:
        damage = rng.integers(3)
        if damage == 0:
            data = data[: rng.integers(0, len(data))]
        elif damage == 1:
            places = rng.integers(0, len(data), int(rng.integers(1, 20)))
            data[places] = rng.integers(0, 256, len(places), np.uint8)
        else:
            data = rng.integers(0, 256, int(rng.integers(0, 4096)), np.uint8)
    message = CompressedImage(header=header, format=kind[1:])
    message.data = array.array('B', data.tobytes())
    seen = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    refused = seen is None or max(seen.shape) > LARGEST_SIDE
    return message, None if refused else seen.shape[:2]


class Target:
    """A node, what it is fed with and what it answers."""

    def __init__(self, name: str, make: Callable[..., Made], listener: Node, **options: Any):
        self.make = make
        self.node = TrackerNode(
            node_name=name,
            parameter_overrides=[Parameter(k, value=v) for k, v in (OPTIONS | options).items()],
        )
        self.expected: dict[int, tuple[int, ...]] = {}
        self.readable = self.answers = self.wrong = 0
        listener.create_subscription(TrackedInstanceArray, f'{name}/tracks', self._hear, 1000)

    def _hear(self, message: TrackedInstanceArray) -> None:
        size = (message.image_height, message.image_width)
        self.answers += 1
        self.wrong += self.expected.pop(stamp_to_ns(message.header.stamp), None) != size

    def ready(self) -> bool:
        """Tell whether the node takes images."""
        return self.node._work is not None and self.node._work.active

    @property
    def statistics(self) -> Statistics:
        """What the node counts."""
        assert self.node._work is not None
        return self.node._work.cameras[0].statistics

    def done(self) -> int:
        """Count the images that something became of."""
        seen = self.statistics
        return seen.processed + seen.failed + seen.rejected.total()

    def feed(self, rng: np.random.Generator, stamp_ns: int) -> None:
        """Hand an image over and wait until something became of it."""
        message, size = self.make(rng, Header(stamp=ns_to_stamp(stamp_ns)))
        if size is not None:
            self.expected[stamp_ns] = size
            self.readable += 1
        before = self.done()
        self.node.offer(message)
        while self.done() == before:
            time.sleep(1e-4)

    def figures(self) -> dict[str, Any]:
        """Say what became of the images."""
        seen = self.statistics
        return {
            'fed': seen.received,
            'readable': self.readable,
            'processed': seen.processed,
            'failed': seen.failed,
            **{f'rejected_{cause}': n for cause, n in sorted(seen.rejected.items())},
            'answers': self.answers,
            'wrong_answers': self.wrong,
        }


def main(quick: bool = False, messages: int = 100_000) -> dict[str, Any]:
    """Print the figures and return them."""
    messages = 200 if quick else messages
    # Signals end the process: rclpy's handlers would end the context alone, under the loop.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    rclpy.logging.set_logger_level('', rclpy.logging.LoggingSeverity.ERROR)
    listener = rclpy.create_node('listener')
    targets = [
        Target('plain', plain, listener),
        Target('compressed', compressed, listener, image_transport='compressed'),
    ]
    executor = SingleThreadedExecutor()
    for node in (listener, *(target.node for target in targets)):
        executor.add_node(node)
    threading.Thread(target=executor.spin, daemon=True).start()
    while not all(target.ready() for target in targets):
        time.sleep(0.1)
    time.sleep(1.0)

    rng, memory = np.random.default_rng(0), []
    for number in tqdm(range(messages), unit='image'):
        targets[number % 2].feed(rng, (number + 1) * 10**8)
        if number % 1000 == 999:
            free_memory()  # what is only kept for later does not count
            memory.append(resident_mb())
    time.sleep(1.0)
    # By then torch holds as many plans for sizes of images as it ever will.
    late = memory[len(memory) // 2 :]
    slope = float(np.polyfit(np.arange(len(late)), late, 1)[0]) * 10 if len(late) > 2 else 0.0
    figures: dict[str, Any] = {t.node.get_name(): t.figures() for t in targets}
    figures |= {'mb': memory[:: max(len(memory) // 10, 1)], 'mb_per_10000': slope}
    for key, value in figures.items():
        if isinstance(value, dict):
            text = ', '.join(f'{k} {v}' for k, v in value.items())
        else:
            text = ', '.join(f'{v:.1f}' for v in np.atleast_1d(value))
        print(f'| {key} | {text} |')
    executor.shutdown()
    for target in targets:
        target.node.destroy_node()
    rclpy.try_shutdown()
    return figures


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--messages', type=int, default=100_000)
    keep('storm', main(messages=parser.parse_args().messages))
