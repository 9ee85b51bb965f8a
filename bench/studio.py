# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the studio's page costs a node, and how much it shows.

A node gets the images of a camera, and then more than it can track (640 x 480, over DDS). In turns
nobody looks, one headless Chromium does, and one does that hangs: its processes are stopped. The
browser runs on the same cores: on a robot it runs elsewhere.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import device
import numpy as np
import psutil
import rclpy
from playwright.sync_api import sync_playwright

RATES = (30.0, 90.0)  # images a second: of a camera, and more than the node can track
TURNS, SECONDS = 3, 8.0
SETTLES = 10.0  # seconds after which the studio has noticed who looks


@contextmanager
def page_of(address: str, chromium: str) -> Iterator[tuple[Any, list[str]]]:
    """Open the page; gives it, and the pictures that it asked for so far."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=['--no-sandbox', '--disable-gpu']
        )
        page = browser.new_page(viewport={'width': 1300, 'height': 800})
        asked: list[str] = []
        page.on('request', lambda r: asked.append(r.url) if '/picture/' in r.url else None)
        page.goto(address)
        try:
            yield page, asked
        finally:
            browser.close()


def browsers() -> list[psutil.Process]:
    """Return the processes of the browser."""
    own = psutil.Process().children(recursive=True)
    return [each for each in own if 'chrom' in each.name()]


def seconds_of(processes: list[psutil.Process]) -> float:
    """Return the processor time of processes so far."""
    total = 0.0
    for each in processes:
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


class Phase:
    """Drives the node for some seconds, and measures who took what."""

    def __init__(self, rig: device.Rig, studio: int, seconds: float) -> None:
        self._rig, self._studio, self._seconds = rig, psutil.Process(studio), seconds

    def measure(
        self, rate: float, page: Any = None, asked: list[str] | None = None
    ) -> dict[str, float]:
        """Return rates and shares of a core."""
        watched = [self._studio], browsers()
        before, count = [seconds_of(each) for each in watched], len(asked or ())
        begin = time.monotonic()
        told = self._rig.drive(rate, self._seconds)
        if page is not None:
            page.wait_for_timeout(1)  # lets the requests be counted
        took = time.monotonic() - begin
        used = [seconds_of(each) - b for each, b in zip(watched, before)]
        return {
            'images/s of the node': told['Mean Frame Rate (fps)'],
            'pictures/s on the page': (len(asked or ()) - count) / took,
            'CPU % of the node': told['Mean CPU Utilization of the node (%)'],
            'CPU % of the studio': used[0] / took * 100,
            'CPU % of the browser': used[1] / took * 100,
        }


def main(quick: bool = False) -> dict[str, Any]:
    """Print the table and return its figures."""
    chromium = shutil.which('chromium') or shutil.which('chromium-browser')
    if chromium is None:
        raise SystemExit('needs Chromium: apt install chromium')
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    turns, seconds = (1, 0.1) if quick else (TURNS, SECONDS)
    settles = 0.1 if quick else SETTLES
    rclpy.init(args=[])
    rig = device.Rig(['runtime:=eager'] if quick else [], (640, 480), 3 if quick else 150)
    name = f'{device.NAMESPACE}/masa_tracker'
    command = [sys.executable, '-m', 'masa_ros.cli', 'studio', '--ros', '--node', name]
    studio = subprocess.Popen(
        [*command, '--port', '0'], cwd='/', stdout=subprocess.PIPE, text=True
    )
    assert studio.stdout is not None
    figures: dict[float, dict[str, list[dict[str, float]]]] = {
        rate: {'nobody': [], 'a browser': [], 'it hangs': []} for rate in RATES
    }
    try:
        rig.wait()
        found = re.search(r'http://\S+', studio.stdout.readline())
        assert found is not None
        phase = Phase(rig, studio.pid, seconds)
        for _ in range(turns):
            time.sleep(settles)
            for rate, told in figures.items():
                told['nobody'].append(phase.measure(rate))
            with page_of(found[0], chromium) as (page, asked):
                page.get_by_label('picture 0', exact=True).wait_for()
                for _ in range(20):  # images let it show something
                    rig.publish()
                    page.wait_for_timeout(50)
                for rate, told in figures.items():
                    told['a browser'].append(phase.measure(rate, page, asked))
                stopped = browsers()
                for each in stopped:
                    each.send_signal(signal.SIGSTOP)
                time.sleep(settles)
                for rate, told in figures.items():
                    told['it hangs'].append(phase.measure(rate))
                for each in stopped:
                    each.send_signal(signal.SIGCONT)
    finally:
        studio.send_signal(signal.SIGINT)
        rig.close()
        rclpy.shutdown()
        studio.wait(20)
    for rate, told in figures.items():
        _show(rate, told)
    return {f'{rate:g} Hz': told for rate, told in figures.items()}


def _show(rate: float, figures: dict[str, list[dict[str, float]]]) -> None:
    """Print the medians of one rate."""
    medians = {
        case: {key: float(np.median([each[key] for each in told])) for key in told[0]}
        for case, told in figures.items()
    }
    print(f'{f"{rate:g} images/s":24}' + ''.join(f'{case:>12}' for case in medians))
    for key in medians['nobody']:
        print(f'{key:24}' + ''.join(f'{told[key]:12.1f}' for told in medians.values()))
    key = 'images/s of the node'
    left = (told[key] / medians['nobody'][key] for told in medians.values())
    print(f'{"of the rate alone":24}' + ''.join(f'{each:12.2f}' for each in left))


if __name__ == '__main__':
    main()
