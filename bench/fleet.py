# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Recordings of the demo's generator on clusters of this machine.

Printed: what is done, and how often, when a node and then the whole cluster are killed; recordings
a minute beside a plain loop; what Ray costs a recording; memory of a worker; sizes.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before Ray and torch are imported: no port is open to others, and every process has one thread.
os.environ |= {'RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER': '0', 'RAY_USAGE_STATS_ENABLED': '0'}
os.environ['OMP_NUM_THREADS'] = '1'

import cv2
import numpy as np
import torch
from common import keep
from ray.cluster_utils import Cluster

from masa_ros import methods, options
from masa_ros.cluster import ClusterConfig, joined, spread
from masa_ros.demo import scene
from masa_ros.fleet.sources import find_recordings
from masa_ros.fleet.work import Begun, Recording, Tracker
from masa_ros.methods.masa import MasaConfig
from masa_ros.recordings.bags import IMAGE_TYPE, BagWriter
from masa_ros.recordings.fleet_folder import FleetFolder
from masa_ros.recordings.sources import open_source
from masa_ros.replay.recording import Output, record, track_here
from masa_ros.streams.stream import StreamConfig

SIZE = (320, 240)  # width, height
WORDS = ('--device', 'cpu', '--input-size', '320')
MEMORY = 80 << 20  # bytes of an object store


class Nothing:
    """Work that does nothing: what is left is what Ray costs."""

    def begin(self) -> None:
        """Load nothing."""

    def do(self, task: Any, attempt: int) -> Any:
        """Return the task."""
        return task


@dataclasses.dataclass
class Together(Tracker):
    """Workers that begin when all of them have loaded, so that loading takes no time of others.

    Attributes
    ----------
    workers: how many there are.

    """

    workers: int = 1

    def begin(self) -> Begun:
        """Load, and wait for the others."""
        begun = super().begin()
        (self.folder / f'loaded-{os.getpid()}').touch()
        while len(list(self.folder.glob('loaded-*'))) < self.workers:
            time.sleep(0.05)
        return begun


def make(folder: Path, count: int, frames: int) -> int:
    """Write so many bags; returns their bytes."""
    folder.mkdir()
    pictures = [
        (cv2.resize(frame.image, SIZE, interpolation=cv2.INTER_AREA), frame.stamp_ns)
        for frame, _ in scene.render(frames=frames + 10)
    ]
    for number in range(count):
        with BagWriter(folder / f'r{number:02}.mcap', '/camera/image_raw', IMAGE_TYPE) as bag:
            first = number % 10
            for image, stamp_ns in pictures[first : first + frames]:
                # No two are alike, as no two recordings are.
                bag.write_image(np.roll(image, number, axis=1), stamp_ns, 'camera')
    return sum(file.stat().st_size for file in folder.iterdir())


def started(nodes: int) -> Cluster:
    """Start a head without room for workers, and nodes with room for one each."""
    head = {'num_cpus': 0, 'object_store_memory': MEMORY, 'include_dashboard': False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(nodes):
        cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    cluster.wait_for_nodes()
    return cluster


def killed(source: Path, output: Path, plain: Path, count: int, nodes: int) -> dict[str, Any]:
    """Kill a node, then the cluster; start again; compare with the plain loop."""
    folder = FleetFolder(output)
    words = [sys.executable, '-m', 'masa_ros.cli', 'fleet', str(source), '--output', str(output)]

    def until(condition: Callable[[], bool], driver: subprocess.Popen[Any]) -> None:
        while driver.poll() is None and not condition():
            time.sleep(0.02)

    cluster = started(nodes)
    environment = os.environ | {'RAY_gcs_rpc_server_reconnect_timeout_s': '5'}
    there = ['--address', cluster.address, '--workers', str(nodes), *WORDS]
    driver = subprocess.Popen([*words, *there], env=environment, stdout=subprocess.DEVNULL)
    until(lambda: len(folder.done()) >= count // 4, driver)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    until(lambda: len(folder.done()) >= count // 2, driver)
    cluster.shutdown()
    try:
        code: int | str = driver.wait(90)
    except subprocess.TimeoutExpired:
        driver.kill()
        code = 'it hung'
    before = {name: folder.of(name).stat() for name in folder.done()}
    cluster = started(nodes)
    there[1] = cluster.address
    again = subprocess.run([*words, *there], check=True, capture_output=True, text=True).stdout
    cluster.shutdown()
    kept = sum(
        (now.st_ino, now.st_mtime_ns) == (old.st_ino, old.st_mtime_ns)
        for name, old in before.items()
        for now in [folder.of(name).stat()]
    )
    rows = [json.loads(line) for line in (output / 'manifest.jsonl').read_text().splitlines()]
    equal = sum(
        all(
            (folder.of(row['recording']) / file).read_bytes()
            == (plain / row['recording'] / file).read_bytes()
            for file in ('tracks.json', 'tracks.mcap')
        )
        for row in rows
    )
    print(again.strip())
    return {
        'recordings': count,
        'done before everything was killed': len(before),
        'the command then ended with': code,
        'of these as they were': kept,
        'done in the end': sum(row['state'] == 'done' for row in rows),
        'equal to the plain loop': equal,
    }


def loop(tracker: Tracker, recordings: dict[str, Recording], output: Path) -> tuple[float, float]:
    """Track them one after the other as ``masa_ros replay`` does; returns seconds, and of CPU."""
    method = methods.load(tracker.method, tracker.chosen)
    start, cpu = time.perf_counter(), time.process_time()
    for name, recording in recordings.items():
        source = open_source(Path(recording.place))
        track = functools.partial(track_here, source, method, tracker.rules)
        record(source, name, Output(output / name, 'masa_nano', overlay=False), track)
    return time.perf_counter() - start, time.process_time() - cpu


def spread_over(
    tracker: Tracker, recordings: dict[str, Recording], workers: int
) -> tuple[float, list[dict[str, Any]]]:
    """Track them on workers of this machine; returns seconds without loading, and manifests."""
    config = ClusterConfig(workers=workers, worker_cpus=min(1.0, 2 / workers))
    loaded: list[float] = []
    with joined(config):
        outcomes = spread(
            *(tracker, recordings, config), began=lambda _: loaded.append(time.perf_counter())
        )
        rows = [outcome.value for outcome in outcomes]
        return time.perf_counter() - loaded[0], rows


def new_tracker(folder: Path, workers: int = 1) -> Tracker:
    """Return what workers do, for an empty folder."""
    values = {'runtime': 'eager', 'warm_start': False, 'device': 'cpu', 'input_size': 320}
    chosen = options.build(MasaConfig, values)
    run = FleetFolder(folder).begin({})['run']
    return Together(folder, run, 'masa', chosen, StreamConfig(), workers=workers)


def main(
    quick: bool = False, count: int = 64, frames: int = 10, kills: bool = True
) -> dict[str, Any]:
    """Print what was measured and return it."""
    torch.set_num_threads(1)
    if quick:
        count, frames = 3, 3
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        sent = make(root / 'source', count, frames)
        places = find_recordings([str(root / 'source')])
        recordings = {key: Recording(key, place) for key, place in places.items()}
        first, cpu = loop(new_tracker(root / 'none'), recordings, root / 'plain')
        seconds = {'plain loop': first}
        of_cpu = {'plain loop': round(cpu / count, 3)}
        rows: dict[int, list[dict[str, Any]]] = {}
        for workers in (1,) if quick else (1, 2, 4):
            tracker = new_tracker(root / f'out{workers}', workers)
            taken, rows[workers] = spread_over(tracker, recordings, workers)
            seconds[f'{workers} workers'] = taken
            each = float(np.mean([row['cpu_seconds'] for row in rows[workers]]))
            of_cpu[f'{workers} workers'] = round(each, 3)
            print(f'{workers} workers: {taken:.1f} s, {each:.3f} s of CPU a recording', flush=True)
        again, cpu_again = loop(new_tracker(root / 'none'), recordings, root / 'plain')
        seconds['plain loop again'] = again
        of_cpu['plain loop again'] = round(cpu_again / count, 3)
        config = ClusterConfig(workers=1)
        with joined(config):
            tasks = {f'{i}': i for i in range(20 if quick else 1000)}
            outcomes = spread(Nothing(), tasks, config)
            next(outcomes)
            start = time.perf_counter()
            left = sum(1 for _ in outcomes)
            cost = (time.perf_counter() - start) / left * 1e3
        survived = (
            {}
            if not kills
            else killed(
                *(root / 'source', root / 'fleet', root / 'plain'), count, 1 if quick else 3
            )
        )
    one = rows[1]
    memory = [row['memory_mib'] for row in one]
    plain = (seconds['plain loop'] + again) / 2
    figures: dict[str, Any] = {
        'recordings': count,
        'images a recording': frames,
        **survived,
        'seconds': {key: round(value, 1) for key, value in seconds.items()},
        'times the plain loop': {
            key: round(plain / value, 2) for key, value in seconds.items() if 'worker' in key
        },
        'Ray, ms a recording': round(cost, 2),
        'CPU seconds a recording': of_cpu,
        'load of the machine': os.getloadavg(),
        'MiB of a worker after recording 1, 10, 50': [
            memory[min(i, len(memory) - 1)] for i in (0, 9, 49)
        ],
        'bytes an image in': round(sent / count / frames),
        'bytes an image out': round(sum(row['bytes'] for row in one) / count / frames),
    }
    print('| | |\n| --- | --- |')
    for key, value in figures.items():
        if isinstance(value, dict):
            value = ', '.join(f'{k}: {v}' for k, v in value.items())
        print(f'| {key} | {value} |')
    return figures


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--recordings', type=int, default=64)
    parser.add_argument('--frames', type=int, default=10)
    parser.add_argument('--no-kills', action='store_true', help='measure only')
    chosen = parser.parse_args()
    keep('fleet', main(False, chosen.recordings, chosen.frames, not chosen.no_kills))
