# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A node under mixed load and faults for as long as you like, watched from outside.

    python bench/soak.py [--minutes 30] [--method masa]

The node is a process of its own; it is fed over DDS with a camera's images, bursts at many times
its rate, refused images, silence, stamps that jump, restarting publishers and restarts by its
lifecycle, in random order. Printed: images in and out, memory, open files, threads, latencies.
"""

from __future__ import annotations

import argparse
import array
import itertools
import math
import os
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

from masa_ros import methods
from masa_ros.demo import scene as demo_scene
from masa_ros.nodes.messages import array_to_image, ns_to_stamp, stamp_to_ns

NAMESPACE = '/soak'
RATE = 10.0  # of the camera, hertz
SAMPLE = 5.0  # seconds between two looks at the process
WATCHED = ('mb', 'files', 'threads', 'memory_kb')
COUNTS = ('received', 'processed', 'skipped', 'rejected', 'failed')


class Soak:
    """The node's process, its camera, and what was seen of them; ``pace`` shortens every phase."""

    def __init__(self, method: str, pace: float = 1.0) -> None:
        self.pace = pace
        arguments = ['-r', f'__ns:={NAMESPACE}', '-p', 'device:=cpu', '-p', f'method:={method}']
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
        count = demo_scene.FRAMES if pace == 1 else 5
        self.frames = [frame.image for frame, _ in demo_scene.render(frames=count)]
        self.phase, self.number = 'start', 0
        self.sent: dict[int, tuple[float, str]] = {}
        self.latencies: list[tuple[float, float, str]] = []  # when, milliseconds, phase
        self.samples: list[dict[str, float]] = []
        self.rates: list[float] = []  # reached in bursts, hertz
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
        while True:
            self.executor.spin_once(timeout_sec=max(end - time.monotonic(), 0.0))
            if time.monotonic() >= end:
                break
        if self.process.poll() is not None:
            raise SystemExit(f'the node ended with exit code {self.process.returncode}')
        if time.monotonic() - self.looked > SAMPLE * self.pace:
            self.looked = time.monotonic()
            self.samples.append({'s': self.looked - self.begin, **self._look()})

    def _look(self) -> dict[str, float]:
        root = Path(f'/proc/{self.process.pid}')
        return {
            'mb': resident_mb(self.process.pid),
            'files': len(list((root / 'fd').iterdir())),
            'threads': len(list((root / 'task').iterdir())),
            'memory_kb': float(self.report.get('memory_bytes', 0)) / 1024,  # of masks carried on
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
            due = time.monotonic() + 1 / rate
            self.publish(self.image())
            self.spin(due - time.monotonic())
        if len(self.sent) > 5000:
            self.sent = dict(list(self.sent.items())[-1000:])

    def burst(self) -> None:
        """Send ten times what the node can take."""
        frame, _ = _percentiles(self._steady())
        before, start = self.published, time.monotonic()
        self.steady(10 * self.pace, 10e3 / frame)
        self.rates.append((self.published - before) / (time.monotonic() - start))

    def refused(self) -> None:
        """Send what must be refused, between good images."""
        for _ in range(round(50 * self.pace)):
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
        self.spin(60 * self.pace)

    def loop(self) -> None:
        """Jump a minute back and return."""
        for back in (60, 0):
            for _ in range(round(30 * self.pace)):
                self.publish(self.image(time.time_ns() - back * 10**9))
                self.spin(1 / RATE)

    def new_publisher(self) -> None:
        """Restart the camera's driver."""
        self.node.destroy_publisher(self.images)
        self.spin(0.5)
        self.images = self._publisher()
        self.steady(5 * self.pace)

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
        self.steady(20 * self.pace)
        while True:
            for phase in random.sample(phases, len(phases)):
                self.phase = phase.__name__
                phase()
                self.phase = 'steady'
                self.steady(20 * self.pace)
            if time.monotonic() - self.begin >= minutes * 60:
                break
        self.spin(3)
        return self.figures()

    def end(self) -> float:
        """Interrupt the node; gives the seconds until its process is gone."""
        start = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise SystemExit('the node does not end') from None
        if code:
            raise SystemExit(f'the node ended with exit code {code}')
        return time.monotonic() - start

    def figures(self) -> dict[str, Any]:
        """Put together what was seen."""
        counts = {key: int(self.report[key]) for key in COUNTS}
        late = [s for s in self.samples if s['s'] > 0.2 * self.samples[-1]['s']]
        hours = [s['s'] / 3600 for s in late]
        slope = float(np.polyfit(hours, [s['mb'] for s in late], 1)[0]) if len(late) > 2 else 0.0
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
            'mb_an_hour': slope,
            'steady_ms': _percentiles(self._steady()),
            'burst_ms': _percentiles(burst),
            'burst_rates': self.rates,
            'over_time': self._over_time(),
        }

    def _steady(self, after: float = 0.0, before: float = math.inf) -> list[float]:
        return [
            ms
            for when, ms, phase in self.latencies
            if phase == 'steady' and after <= when < before
        ]

    def _over_time(self, parts: int = 10) -> list[dict[str, Any]]:
        edges = np.linspace(0, self.samples[-1]['s'] + 1, parts + 1)
        rows = []
        for after, before in itertools.pairwise(edges):
            samples = [s for s in self.samples if after <= s['s'] < before]
            rows.append(
                {'until_minute': before / 60}
                | {k: max((s[k] for s in samples), default=0) for k in WATCHED}
                | dict(zip(('p50_ms', 'p99_ms'), _percentiles(self._steady(after, before))))
            )
        return rows


def _percentiles(values: list[float]) -> list[float]:
    return [float(v) for v in np.percentile(values, (50, 99))] if values else [0.0, 0.0]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f'{value:.1f}'
    if isinstance(value, list):
        return ' / '.join(map(_text, value))
    if isinstance(value, dict):
        return ', '.join(f'{k} {v}' for k, v in value.items())
    return str(value)


def main(quick: bool = False, minutes: float = 30.0, method: str = 'masa') -> dict[str, Any]:
    """Print the report and return its figures."""
    random.seed(0)
    # Else Fast DDS loses most images of a burst before they reach the node.
    os.environ['FASTDDS_BUILTIN_TRANSPORTS'] = 'LARGE_DATA'
    rclpy.init()
    soak = Soak(method, 0.1 if quick else 1.0)
    try:
        figures = soak.run(0.0 if quick else minutes)
        figures['ended_in_s'] = soak.end()
    finally:
        soak.process.kill()
        soak.process.wait()
        rclpy.try_shutdown()
    rows = figures['over_time']
    for key, value in figures.items():
        if value is not rows:
            print(f'| {key} | {_text(value)} |')
    print('\n| ' + ' | '.join(rows[0]) + ' |\n' + '| ---: ' * len(rows[0]) + '|')
    for row in rows:
        print('| ' + ' | '.join(map(_text, row.values())) + ' |')
    return figures


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--minutes', type=float, default=30.0)
    parser.add_argument('--method', choices=methods.names(), default=methods.names()[0])
    parser.add_argument('--quick', action='store_true', help='see that it runs')
    arguments = parser.parse_args()
    seen = main(arguments.quick, arguments.minutes, arguments.method)
    if not arguments.quick:
        keep('soak' if arguments.method == 'masa' else f'soak_{arguments.method}', seen)
