# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How long a node takes to answer who points at something, over DDS, while a camera plays.

    python bench/prompting.py [--rounds 10] [--rate 10]

The node is a process of its own. A round adds three objects of the demo's scene, by a click, a box
and a stroke on an image of half a second ago, corrects one, keeps one and removes it.
"""

from __future__ import annotations

import argparse
import collections
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np
import rclpy
from common import keep
from masa_ros.msg import TrackedInstanceArray
from masa_ros.srv import AddObject, CorrectObject, KeepOnly, RemoveObject
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from masa_ros.demo import scene as demo_scene
from masa_ros.demo.pointing import innermost
from masa_ros.masks import mask_from_msg
from masa_ros.nodes.messages import array_to_image, ns_to_stamp, stamp_to_ns
from masa_ros.types import Mask

NAMESPACE = '/prompting'
BEHIND = 0.5  # seconds that a hand is behind the eye


class Camera:
    """Plays the scene to a node, and asks it for things meanwhile."""

    def __init__(self, method: str, rate: float, frames: int) -> None:
        self.rate, self.truth = rate, list(demo_scene.render(frames=frames))
        arguments = ['-r', f'__ns:={NAMESPACE}', '-p', 'device:=cpu', '-p', f'method:={method}']
        command = [sys.executable, '-m', 'masa_ros.cli', 'node', '--ros-args', *arguments]
        self.process = subprocess.Popen(command, cwd='/', stderr=subprocess.DEVNULL)
        self.node = rclpy.create_node('hand', namespace=NAMESPACE)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.images = self.node.create_publisher(Image, 'image_raw', qos_profile_sensor_data)
        self.tracks: list[TrackedInstanceArray] = []
        self.node.create_subscription(
            TrackedInstanceArray, 'masa_tracker/tracks', self.tracks.append, 10
        )
        kinds = (AddObject, CorrectObject, KeepOnly, RemoveObject)
        names = ('add_object', 'correct_object', 'keep_only', 'remove_object')
        self.clients = {
            kind: self.node.create_client(kind, f'masa_tracker/{name}')
            for kind, name in zip(kinds, names)
        }
        self.shown: collections.deque[tuple[int, int]] = collections.deque(maxlen=100)
        self._due = time.monotonic()

    def play(self, until: Any) -> None:
        """Publish images at their rate until something is true."""
        while not until():
            now = time.monotonic()
            if now >= self._due:
                self._due = max(self._due + 1 / self.rate, now)
                turn = 2 * len(self.truth) - 2  # there and back: nothing jumps
                place = (self.shown[-1][1] + 1) % turn if self.shown else 0
                stamp = time.time_ns()
                self.shown.append((stamp, place))
                frame, _ = self.truth[min(place, turn - place)]
                header = Header(stamp=ns_to_stamp(stamp), frame_id='camera')
                self.images.publish(array_to_image(frame.image, 'rgb8', header))
            self.executor.spin_once(timeout_sec=max(self._due - time.monotonic(), 0.0))
            if self.process.poll() is not None:
                raise SystemExit(f'the node ended with exit code {self.process.returncode}')

    def ids(self) -> set[int]:
        """Return what is tracked in an image that is shown half a second from now."""
        after = time.time_ns() + round(BEHIND * 1e9)
        self.play(lambda: bool(self.tracks) and stamp_to_ns(self.tracks[-1].header.stamp) >= after)
        return {i.track_id for i in self.tracks[-1].instances}

    def ask(self, kind: Any, **fields: Any) -> tuple[Any, float]:
        """Return the answer to a request, and the milliseconds that it took."""
        start = time.monotonic()
        future = self.clients[kind].call_async(kind.Request(**fields))
        self.play(future.done)
        return future.result(), (time.monotonic() - start) * 1e3

    def seen(self) -> tuple[Any, list[tuple[int, Mask]]]:
        """Return the stamp of the image of half a second ago, and what is in it, largest first."""
        stamp, place = self.shown[-1 - round(BEHIND * self.rate)]
        objects = self.truth[min(place, 2 * len(self.truth) - 2 - place)][1].instances
        pairs = [(int(i), mask) for i, mask in zip(objects.track_ids, objects.masks or ()) if mask]
        return ns_to_stamp(stamp), sorted(pairs, key=lambda pair: -pair[1].pixels.sum())

    def close(self) -> None:
        """End both."""
        self.process.terminate()
        self.process.wait(30)
        self.executor.shutdown()
        self.node.destroy_node()


def stroke_on(mask: Mask) -> list[float]:
    """Return five points along the middle row of a mask."""
    row = int(mask.pixels.sum(axis=1).argmax())
    columns = np.flatnonzero(mask.pixels[row])
    chosen = columns[np.linspace(0, len(columns) - 1, 7).astype(int)[1:-1]]
    return [float(v) for x in chosen for v in (mask.x + x + 0.5, mask.y + row + 0.5)]


def agreement(answer: Any, mask: Mask) -> float:
    """Return the IoU of what was answered with the truth, 0 for nothing."""
    found = mask_from_msg(answer.instances[0]) if answer.success else None
    if found is None:
        return 0.0
    rows = max(found.y + found.height, mask.y + mask.height)
    columns = max(found.x + found.width, mask.x + mask.width)
    ours, theirs = found.full(rows, columns), mask.full(rows, columns)
    return float((ours & theirs).sum() / (ours | theirs).sum())


def one_round(camera: Camera, times: dict[str, list[float]], fits: dict[str, list[float]]) -> int:
    """Ask for everything once; returns how many answers were not as they should be."""
    wrong, ids = 0, []
    stamp, objects = camera.seen()
    pointing = {
        'click': lambda mask: {'points': innermost(mask).tolist()},
        'box': lambda mask: {'box': [float(v) for v in mask.box]},
        'stroke': lambda mask: {'points': stroke_on(mask)},
    }
    for (how, fields), (_, mask) in zip(pointing.items(), objects):
        answer, took = camera.ask(AddObject, stamp=stamp, name=how, **fields(mask))
        times[how].append(took)
        fits[how].append(agreement(answer, mask))
        ids += [i.track_id for i in answer.instances]
        wrong += not answer.success
    if not ids:
        return wrong
    stamp, objects = camera.seen()
    box = [float(v) for v in objects[0][1].box]
    answer, took = camera.ask(CorrectObject, track_id=ids[0], stamp=stamp, box=box)
    times['correct'].append(took)
    wrong += not answer.success or answer.instances[0].track_id != ids[0]
    wrong += not camera.ids() <= set(ids)
    answer, took = camera.ask(KeepOnly, track_ids=ids[:1])
    times['keep only'].append(took)
    wrong += sorted(answer.removed) != sorted(ids[1:])
    answer, took = camera.ask(RemoveObject, track_id=ids[0])
    times['remove'].append(took)
    return wrong + (not answer.success or bool(camera.ids()))


def main(
    quick: bool = False, method: str = 'sam_track', rounds: int = 10, rate: float = 10.0
) -> dict[str, Any]:
    """Print the table and return its figures."""
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    rclpy.init()
    camera = Camera(method, rate, 12 if quick else demo_scene.FRAMES)
    times: dict[str, list[float]] = collections.defaultdict(list)
    fits: dict[str, list[float]] = collections.defaultdict(list)
    try:
        camera.play(lambda: len(camera.tracks) > 10)
        wrong = sum(one_round(camera, times, fits) for _ in range(1 if quick else rounds))
    finally:
        camera.close()
        rclpy.shutdown()
    figures: dict[str, Any] = {'rounds': rounds, 'rate_hz': rate, 'wrong': wrong}
    height, width = camera.truth[0][0].shape
    print(f'  {method}, {width}x{height} at {rate:g} Hz, {rounds} rounds, {wrong} wrong answers')
    print(f'  {"":<10}{"median ms":>10}{"worst ms":>10}{"IoU":>8}')
    for what, values in times.items():
        fit = f'{np.mean(fits[what]):>8.2f}' if what in fits else ''
        median, worst = float(np.median(values)), max(values)
        print(f'  {what:<10}{median:>10.0f}{worst:>10.0f}{fit}')
        figures[what] = {'median_ms': round(median, 1), 'worst_ms': round(worst, 1)}
        if what in fits:
            figures[what]['iou'] = round(float(np.mean(fits[what])), 3)
    return figures


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--method', default='sam_track')
    parser.add_argument('--rounds', type=int, default=10)
    parser.add_argument('--rate', type=float, default=10.0, help='images per second')
    given = vars(parser.parse_args())
    keep('prompting', main(**given))
