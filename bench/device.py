# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a node gives on this device, in the fields of ros2_benchmark.

    python bench/device.py [--name NAME] [--size WIDTHxHEIGHT] [--seconds N]
        [--parameters NAME:=VALUE ...] [--quick]

The node is a process of its own, which gets the demo's images from another one over DDS. First the
highest rate is sought at which at most one image of twenty has no answer, then images come at 10,
30 and 60 a second. Written to out/bench/device.json, or to docs/devices/NAME.json, of which
tools/device_table.py makes the table of docs/devices.md.

The fields are those of ros2_benchmark: latencies from the publication of an image to the arrival
of its tracks; jitter is how much the time between two answers differs from that between the two
before. CPU is that of the node's process alone, 100 for a core.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import rclpy
import torch
from common import keep, resident_mb
from diagnostic_msgs.msg import DiagnosticArray
from masa_ros.msg import TrackedInstanceArray
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from masa_ros.demo import scene as demo_scene
from masa_ros.nodes.messages import array_to_image, ns_to_stamp, stamp_to_ns

NAMESPACE = '/device'
RATES = (10.0, 30.0, 60.0)
FASTEST, PRECISION = 240.0, 1.05  # images a second; where the search for a rate ends
LOSS = 0.05  # of the images, that a rate may have
START, DRAIN = 600.0, 2.0  # seconds: until a node answers with its engines; for the last answers
DEVICES = Path(__file__).resolve().parents[1] / 'docs/devices'


class Rig:
    """A node, and a camera in front of it.

    Parameters
    ----------
    parameters: of the node, as NAME:=VALUE.
    size: width and height of the images.
    images: of the demo that are shown again and again.

    """

    def __init__(self, parameters: Sequence[str], size: tuple[int, int], images: int) -> None:
        chosen = [word for each in parameters for word in ('-p', each)]
        # Reliable, as ros2_benchmark's: what is lost is what the node had no time for.
        arguments = ['-r', f'__ns:={NAMESPACE}', '-p', 'image_qos:=reliable']
        arguments += ['-p', f'camera_size:={size[0]}x{size[1]}']
        command = [sys.executable, '-m', 'masa_ros.cli', 'node', '--ros-args', *arguments, *chosen]
        self.process = subprocess.Popen(command, cwd='/', stderr=subprocess.DEVNULL)
        self.node = rclpy.create_node('camera', namespace=NAMESPACE)
        self.images = self.node.create_publisher(Image, 'image_raw', 5)
        self.node.create_subscription(
            TrackedInstanceArray, 'masa_tracker/tracks', self._on_tracks, 100
        )
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._on_report, 10)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)
        self.thread.start()
        self.messages = [
            array_to_image(cv2.resize(frame.image, size), 'rgb8', Header(frame_id='camera'))
            for frame, _ in demo_scene.render(frames=images)
        ]
        self.report: dict[str, str] = {}
        self.shown = 0
        self.sent: dict[int, float] = {}
        self.received: dict[int, float] = {}

    def _on_tracks(self, message: TrackedInstanceArray) -> None:
        self.received[stamp_to_ns(message.header.stamp)] = time.monotonic()

    def _on_report(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == f'{NAMESPACE[1:]}/masa_tracker':
                self.report = {value.key: value.value for value in status.values}

    def wait(self) -> None:
        """Wait for the first answers, and for the engines that are being built."""
        end = time.monotonic() + START
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise SystemExit(f'the node ended with exit code {self.process.returncode}')
            self.publish()
            time.sleep(0.2)
            # What is being built ends with its seconds.
            if self.received and not self.report.get('engines', ' s').endswith(' s'):
                return
        raise SystemExit('the node is not ready: ' + self.report.get('engines', 'no answer'))

    def publish(self) -> None:
        """Show the next image."""
        self.shown += 1
        message = self.messages[self.shown % len(self.messages)]
        # Of now, as those of a camera are; unlike all others.
        stamp = time.time_ns()
        message.header.stamp = ns_to_stamp(stamp)
        self.sent[stamp] = time.monotonic()
        self.images.publish(message)

    def drive(self, rate: float, seconds: float) -> dict[str, float]:
        """Show images at a rate; returns what came of it in the fields of ros2_benchmark."""
        self.sent, self.received = {}, {}
        watched = psutil.Process(self.process.pid)
        before, begin = watched.cpu_times(), time.monotonic()
        for number in range(max(3, int(rate * seconds))):
            time.sleep(max(0.0, begin + number / rate - time.monotonic()))
            self.publish()
        took, after = time.monotonic() - begin, watched.cpu_times()
        end = time.monotonic() + DRAIN
        while len(self.received) < len(self.sent) and time.monotonic() < end:
            time.sleep(0.01)
        sent, received = dict(self.sent), dict(self.received)
        latencies = [(received[at] - sent[at]) * 1e3 for at in sent if at in received]
        used = after.user + after.system - before.user - before.system
        arrivals = np.array(sorted(received.values())) * 1e3
        jitters = np.abs(np.diff(arrivals, n=2)) if len(arrivals) > 2 else np.zeros(1)
        told = {
            'Mean Playback Frame Rate (fps)': len(sent) / took,
            'Mean Frame Rate (fps)': _rate(arrivals),
            '# of Frames Sent': len(sent),
            '# of Missed Frames': len(sent) - len(latencies),
            'Mean End-to-End Latency (ms)': float(np.mean(latencies or [0])),
            'Median End-to-End Latency (ms)': float(np.median(latencies or [0])),
            'Max. End-to-End Latency (ms)': max(latencies, default=0.0),
            'Mean Frame-to-Frame Jitter (ms)': float(jitters.mean()),
            'Frame-to-Frame Jitter Std. Deviation (ms)': float(jitters.std()),
            'Mean CPU Utilization of the node (%)': used / took * 100,
            'Resident memory of the node (MiB)': resident_mb(self.process.pid),
        }
        return {name: round(value, 2) for name, value in told.items()}

    def fastest(self, seconds: float) -> dict[str, float]:
        """Find the highest rate without loss, and return what came of it."""
        low, high = 1.0, FASTEST
        best = self.drive(low, seconds)
        while high / low > PRECISION:
            rate = (low * high) ** 0.5
            told = self.drive(rate, seconds)
            if told['# of Missed Frames'] <= LOSS * told['# of Frames Sent']:
                low, best = rate, told
            else:
                high = rate
        return best

    def close(self) -> None:
        """End the node, and stop listening."""
        self.executor.shutdown()
        self.thread.join()
        self.node.destroy_node()
        self.process.terminate()
        self.process.wait(30)


def _rate(arrivals: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """Images a second of arrivals in milliseconds."""
    return (len(arrivals) - 1) / np.ptp(arrivals) * 1e3 if len(arrivals) > 1 else 0.0


def described() -> dict[str, Any]:
    """Tell what this device is, and what runs on it."""
    names = [
        line.partition(':')[2].strip()
        for line in Path('/proc/cpuinfo').read_text().splitlines()
        if line.startswith(('model name', 'Model'))
    ]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ''
    return {
        'cpu': names[0] if names else platform.machine(),
        'cores': len(os.sched_getaffinity(0)),
        'memory (GiB)': round(psutil.virtual_memory().total / 2**30),
        'gpu': gpu,
        'python': platform.python_version(),
        'torch': str(torch.__version__),
        'masa_ros': importlib.metadata.version('masa_ros'),
        'rmw': os.environ.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp'),
    }


def main(
    quick: bool = False,
    size: tuple[int, int] = (640, 480),
    seconds: float = 10.0,
    parameters: Sequence[str] = (),
) -> dict[str, Any]:
    """Print the table and return its figures."""
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    rclpy.init(args=[])
    rig = Rig(parameters, size, images=3 if quick else demo_scene.FRAMES)
    try:
        rig.wait()
        told: dict[str, Mapping[str, float]] = {}
        if not quick:
            told['without loss'] = rig.fastest(seconds)
        told |= {f'{rate:g} Hz': rig.drive(rate, 0 if quick else seconds) for rate in RATES}
        report = rig.report
    finally:
        rig.close()
        rclpy.shutdown()
    figures = {
        'date': datetime.date.today().isoformat(),
        'device': described(),
        'images': f'{size[0]}x{size[1]} rgb8, the demo',
        'parameters': list(parameters),
        **{key: report.get(key, '') for key in ('method', 'model', 'precision', 'engines')},
        'metrics': told,
    }
    print(f'{"":44}' + ''.join(f'{name:>14}' for name in told))
    for metric in next(iter(told.values())):
        print(f'{metric:44}' + ''.join(f'{each[metric]:>14.2f}' for each in told.values()))
    return figures


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition('x')
    return int(width), int(height)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--name', default='', help='of the device, for docs/devices')
    parser.add_argument('--size', type=_size, default=(640, 480), metavar='WIDTHxHEIGHT')
    parser.add_argument('--seconds', type=float, default=10.0, help='at each rate (%(default)s)')
    parser.add_argument('--parameters', nargs='*', default=[], metavar='NAME:=VALUE')
    parser.add_argument('--quick', action='store_true', help='see that it runs')
    options = vars(parser.parse_args())
    named = options.pop('name')
    made = main(**options)
    if named:
        DEVICES.mkdir(exist_ok=True)
        (DEVICES / f'{named}.json').write_text(json.dumps(made, indent=1) + '\n')
    elif not options['quick']:
        keep('device', made)
