"""A node under mixed load and faults for as long as you like, watched from outside.

    python bench/soak.py [--minutes 30]

The node is a process of its own; it is fed over DDS with a camera's images, bursts at many times
its rate, refused images, silence, stamps that jump, restarting publishers and restarts by its
lifecycle, in random order. Printed: images in and out, memory, open files, threads, latencies.
"""

from __future__ import annotations

import argparse
import array
import itertools
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from common import keep, resident_mb
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from masa_ros.msg import TrackedInstanceArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from masa_ros.nodes.messages import array_to_image, ns_to_stamp, stamp_to_ns
from masa_ros.replay import demo_scene

NAMESPACE = '/soak'
RATE = 10.0  # of the camera, hertz
SAMPLE = 5.0  # seconds between two looks at the process
COUNTS = ('received', 'processed', 'skipped', 'rejected', 'failed')


class Soak:
    """The node's process, its camera, and what was seen of them."""

    def __init__(self) -> None:
        arguments = ['-r', f'__ns:={NAMESPACE}', '-p', 'device:=cpu']
        command = [sys.executable, '-m', 'masa_ros.cli', 'node', '--ros-args', *arguments]
        self.process = subprocess.Popen(command, cwd='/', stderr=subprocess.DEVNULL)
        self.node = rclpy.create_node('camera', namespace=NAMESPACE)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.images = self._publisher()
        self.node.create_subscription(
            TrackedInstanceArray, 'masa_tracker/tracks', self._on_tracks, 10
        )
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._on_report, 10)
        self.change = self.node.create_client(ChangeState, 'masa_tracker/change_state')
        self.frames = [frame.image for frame, _ in demo_scene.render()]
        self.phase, self.number = 'start', 0
        self.sent: dict[int, tuple[float, str]] = {}
        self.latencies: list[tuple[float, float, str]] = []  # when, milliseconds, phase
        self.samples: list[dict[str, float]] = []
        self.report: dict[str, str] = {}
        self.answers = self.wrong = self.published = self.restarts = 0
        self.begin = self.looked = time.monotonic()

    def _publisher(self) -> Any:
        return self.node.create_publisher(Image, 'image_raw', qos_profile_sensor_data)

    def _on_tracks(self, message: TrackedInstanceArray) -> None:
        now = time.monotonic()
        self.answers += 1
        at, phase = self.sent.pop(stamp_to_ns(message.header.stamp), (0.0, ''))
        size = (message.image_height, message.image_width)
        self.wrong += not at or size != self.frames[0].shape[:2]
        if at:
            self.latencies.append((now - self.begin, (now - at) * 1e3, phase))

    def _on_report(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == f'{NAMESPACE[1:]}/masa_tracker' and status.values:
                self.report = {value.key: value.value for value in status.values}

    def spin(self, seconds: float) -> None:
        """Handle what arrives for a while; look at the process now and then."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.executor.spin_once(timeout_sec=left)
        if self.process.poll() is not None:
            raise SystemExit(f'the node ended with exit code {self.process.returncode}')
        if time.monotonic() - self.looked > SAMPLE:
            self.looked = time.monotonic()
            self.samples.append({'s': self.looked - self.begin, **self._look()})

    def _look(self) -> dict[str, float]:
        root = Path(f'/proc/{self.process.pid}')
        return {
            'mb': resident_mb(self.process.pid),
            'files': len(list((root / 'fd').iterdir())),
            'threads': len(list((root / 'task').iterdir())),
        }

    def image(self, stamp_ns: int = 0) -> Image:
        """Make the camera's next image."""
        self.number += 1
        header = Header(stamp=ns_to_stamp(stamp_ns or time.time_ns()), frame_id='camera')
        return array_to_image(self.frames[self.number % len(self.frames)], 'rgb8', header)

    def publish(self, message: Image, good: bool = True) -> None:
        """Publish, remembering what deserves an answer."""
        if good:
            self.sent[stamp_to_ns(message.header.stamp)] = (time.monotonic(), self.phase)
        self.images.publish(message)
        self.published += 1

    def steady(self, seconds: float, rate: float = RATE) -> None:
        """Be a camera."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.publish(self.image())
            self.spin(1 / rate)
        if len(self.sent) > 5000:
            self.sent = dict(list(self.sent.items())[-1000:])

    def burst(self) -> None:
        """Send ten times what the node can take."""
        self.steady(10, 200.0)

    def refused(self) -> None:
        """Send what must be refused, between good images."""
        for _ in range(50):
            message = self.image()
            field, value = random.choice(
                [
                    *(('data', array.array('B', bytes(99))), ('encoding', '32FC1'), ('step', 3)),
                    *(('height', 0), ('width', 2**31)),
                ]
            )
            setattr(message, field, value)
            self.publish(message, good=False)
            self.spin(0.1)
            self.publish(self.image())
            self.spin(0.1)

    def silence(self) -> None:
        """Send nothing for a minute."""
        self.spin(60)

    def loop(self) -> None:
        """Jump a minute back and return."""
        for back in (60, 0):
            for _ in range(30):
                self.publish(self.image(time.time_ns() - back * 10**9))
                self.spin(1 / RATE)

    def new_publisher(self) -> None:
        """Restart the camera's driver."""
        self.node.destroy_publisher(self.images)
        self.spin(0.5)
        self.images = self._publisher()
        self.steady(5)

    def restart(self) -> None:
        """Bring the node down and up again by its lifecycle."""
        for transition in (
            *(Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP),
            *(Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE),
        ):
            request = ChangeState.Request(transition=Transition(id=transition))
            future = self.change.call_async(request)
            end = time.monotonic() + 30
            while not future.done() and time.monotonic() < end:
                self.spin(0.05)
            if not future.done() or not future.result().success:
                raise SystemExit(f'transition {transition} failed')
        self.restarts += 1

    def run(self, minutes: float) -> dict[str, Any]:
        """Soak and return the figures."""
        while not self.images.get_subscription_count():
            self.spin(0.2)
        self.begin = self.looked = time.monotonic()
        phases: list[Callable[[], None]] = [
            *(self.burst, self.refused, self.silence, self.loop, self.new_publisher),
            self.restart,
        ]
        self.phase = 'steady'
        self.steady(20)
        while time.monotonic() - self.begin < minutes * 60:
            for phase in random.sample(phases, len(phases)):
                self.phase = phase.__name__
                phase()
                self.phase = 'steady'
                self.steady(20)
        self.spin(3)
        return self.figures()

    def figures(self) -> dict[str, Any]:
        """Put together what was seen."""
        counts = {key: int(self.report[key]) for key in COUNTS}
        late = [s for s in self.samples if s['s'] > 0.2 * self.samples[-1]['s']]
        hours = [s['s'] / 3600 for s in late]
        slope = float(np.polyfit(hours, [s['mb'] for s in late], 1)[0]) if len(late) > 2 else 0.0
        edges = np.linspace(0, self.samples[-1]['s'] + 1, 11)
        steady = [(when, ms) for when, ms, phase in self.latencies if phase == 'steady']
        tenths = [
            [ms for when, ms in steady if a <= when < b] for a, b in itertools.pairwise(edges)
        ]
        burst = [ms for _, ms, phase in self.latencies if phase == 'burst']
        return {
            'minutes': self.samples[-1]['s'] / 60,
            'published': self.published,
            'answers': self.answers,
            'wrong_answers': self.wrong,
            **counts,
            'unaccounted': counts['received'] - sum(list(counts.values())[1:]),
            'events': {k[6:]: int(v) for k, v in self.report.items() if k.startswith('event_')},
            'restarts': self.restarts,
            'mb': {k: f([s['mb'] for s in late]) for k, f in (('least', min), ('most', max))},
            'mb_an_hour': slope,
            'files': [int(f(s['files'] for s in late)) for f in (min, max)],
            'threads': [int(f(s['threads'] for s in late)) for f in (min, max)],
            'steady_ms': [
                [round(float(np.percentile(t, p)), 1) for p in (50, 99)] if t else None
                for t in tenths
            ],
            'burst_ms': [round(float(np.percentile(burst, p)), 1) for p in (50, 99)],
        }


def main() -> dict[str, Any]:
    """Print the report and return its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--minutes', type=float, default=30.0)
    arguments = parser.parse_args()
    random.seed(0)
    rclpy.init()
    soak = Soak()
    try:
        figures = soak.run(arguments.minutes)
    finally:
        soak.process.send_signal(signal.SIGINT)
        soak.process.wait(10)
        rclpy.try_shutdown()
    for key, value in figures.items():
        print(f'{key:16}{value if isinstance(value, (int, list, dict)) else round(value, 2)}')
    return figures


if __name__ == '__main__':
    keep('soak', main())
