# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Recordings for the studio, and the studio as a process of its own with a browser before it."""

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest

from masa_ros.demo import scene
from masa_ros.recordings.bags import IMAGE_TYPE, BagWriter
from masa_ros.recordings.tracks_file import write_tracks

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser'))), None)
SECONDS = 60  # for anything to happen on a busy machine
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason='needs Chromium: apt install chromium'
)


def write_recording(folder, frames=60):
    """Write recording.mcap, and ground_truth.json beside it; returns the truth."""
    truth = []
    with BagWriter(folder / 'recording.mcap', '/camera/image_raw', IMAGE_TYPE) as bag:
        for frame, true in scene.render(frames=frames):
            bag.write_image(frame.image, frame.stamp_ns, frame.frame_id)
            truth.append(true)
    write_tracks(folder / 'ground_truth.json', 'truth', truth)
    return truth


@contextlib.contextmanager
def studio(*arguments):
    """Run ``masa_ros studio`` on a free port; gives its address and the process."""
    command = [sys.executable, '-P', '-m', 'masa_ros.cli', 'studio', '--port', '0']
    process = subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {'OMP_NUM_THREADS': '1'},
    )
    said = []
    try:
        end = time.monotonic() + 2 * SECONDS
        while time.monotonic() < end and not (said and 'http' in said[-1]):
            if select.select([process.stdout], [], [], 1)[0]:
                line = process.stdout.readline()
                if not line:
                    break
                said.append(line)
        found = re.search(r'http://\S+', ''.join(said))
        assert found, ''.join(said)
        yield found[0], process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        process.stdout.close()


@contextlib.contextmanager
def browser():
    """Give a headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        made = play.chromium.launch(
            executable_path=CHROMIUM, args=['--no-sandbox', '--disable-gpu']
        )
        try:
            yield made
        finally:
            made.close()


def until(what, seconds=SECONDS):
    """Return what ``what`` returns as soon as that is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError('it did not happen in time')
