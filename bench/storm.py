"""A hundred thousand images, nearly all of them broken, through the real node.

    python bench/storm.py [--messages 100000]

They are handed to the node as a subscription would hand them over and go through conversion,
the model (where they are whole) and publication. Printed: what became of them, answers that
should not be, and memory by number of messages.
"""

from __future__ import annotations

import argparse
import array
import threading
import time
from typing import Any

import numpy as np
import rclpy
from common import keep, resident_mb
from masa_ros.msg import TrackedInstanceArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from tqdm import tqdm

from masa_ros.images import SUPPORTED_ENCODINGS
from masa_ros.nodes.messages import array_to_image, ns_to_stamp, stamp_to_ns
from masa_ros.nodes.tracker_node import TrackerNode

WHOLE = 0.04  # share of images that are not broken
SIZE = (48, 64)
OPTIONS = {'device': 'cpu', 'input_size': 64, 'publish_tentative': True}


def whole(rng: np.random.Generator, header: Header) -> Image:
    """Make an image of noise that can be used."""
    return array_to_image(rng.integers(0, 256, (*SIZE, 3), np.uint8), 'rgb8', header)


def broken(rng: np.random.Generator, header: Header) -> Image:
    """Make an image that cannot be used: one thing wrong, or nothing right."""
    message = whole(rng, header)
    kind = rng.integers(5)
    if kind == 0:
        size = int(rng.integers(0, len(message.data)))
        message.data = array.array('B', rng.bytes(size))
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
    return message


def main() -> dict[str, Any]:
    """Print the figures and return them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--messages', type=int, default=100_000)
    arguments = parser.parse_args()
    rclpy.init()
    rclpy.logging.set_logger_level('masa_tracker', rclpy.logging.LoggingSeverity.ERROR)
    node = TrackerNode(parameter_overrides=[Parameter(k, value=v) for k, v in OPTIONS.items()])
    listener = rclpy.create_node('listener')
    answers: dict[int, tuple[int, int]] = {}

    def on_tracks(message: TrackedInstanceArray) -> None:
        stamp = stamp_to_ns(message.header.stamp)
        answers[stamp] = (message.image_height, message.image_width)

    listener.create_subscription(TrackedInstanceArray, 'masa_tracker/tracks', on_tracks, 1000)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    executor.add_node(listener)
    threading.Thread(target=executor.spin, daemon=True).start()
    while not (node._cameras and node._worker and node._cameras[0].topic):
        time.sleep(0.1)
    time.sleep(1.0)
    statistics = node._cameras[0].statistics

    def done() -> int:
        return statistics.processed + statistics.failed + sum(statistics.rejected.values())

    rng, expected, memory = np.random.default_rng(0), set(), []
    for number in tqdm(range(arguments.messages), unit='image'):
        header = Header(stamp=ns_to_stamp((number + 1) * 10**8))
        good = rng.random() < WHOLE
        if good:
            expected.add(stamp_to_ns(header.stamp))
        node.offer((whole if good else broken)(rng, header))
        while (
            sum((statistics.processed, statistics.failed, statistics.rejected.total())) <= number
        ):
            time.sleep(0)
        if number % 1000 == 999:
            memory.append(resident_mb())
    time.sleep(1.0)
    late = memory[len(memory) // 5 :]
    slope = float(np.polyfit(np.arange(len(late)), late, 1)[0]) * 10 if len(late) > 2 else 0.0
    figures = {
        'messages': arguments.messages,
        'whole': len(expected),
        'processed': statistics.processed,
        'failed': statistics.failed,
        'rejected': dict(statistics.rejected),
        'answers': len(answers),
        'wrong_answers': sum(s not in expected or v != SIZE for s, v in answers.items()),
        'mb_first': memory[0],
        'mb_last': memory[-1],
        'mb_per_10000': slope,
    }
    for key, value in figures.items():
        print(f'{key:16}{round(value, 2) if isinstance(value, float) else value}')
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()
    return figures


if __name__ == '__main__':
    keep('storm', main())
