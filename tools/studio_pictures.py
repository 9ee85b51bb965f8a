#!/usr/bin/env python3
# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Make the pictures of docs/studio.md: the studio before the demo's recording, in Chromium.

.venv/bin/python tools/studio_pictures.py out/demo/recording.mcap
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).resolve().parents[1] / 'docs'
IMAGE = 40  # of the recording
CHROMIUM = '/usr/bin/chromium'


def keep(page: Page, name: str) -> None:
    """Write what the page shows to docs/NAME."""
    path = DOCS / name
    page.screenshot(path=path.with_suffix('.png'))
    Image.open(path.with_suffix('.png')).convert('RGB').save(path, quality=88)
    path.with_suffix('.png').unlink()


def place(page: Page, number: int) -> None:
    """Wait until an image stands, and all that belongs to it."""
    there = page.get_by_label('place', exact=True)
    there.filter(has_text=re.compile(f'^{number} /')).wait_for()
    page.wait_for_timeout(2500)


def pictures(page: Page) -> None:
    """Click a cup and follow it; then compare two methods."""
    page.get_by_label('play', exact=True).wait_for()
    for _ in range(IMAGE):
        page.keyboard.press('ArrowRight')
        page.wait_for_timeout(120)
    place(page, IMAGE)
    box: Any = page.get_by_label('picture 0', exact=True).locator('img').first.bounding_box()
    # The cup in its saucer; where it stands in this image.
    page.mouse.click(box['x'] + box['width'] * 0.62, box['y'] + box['height'] * 0.58)
    page.wait_for_timeout(1000)
    page.get_by_role('button', name='Click on it').click()
    keep(page, 'studio.jpg')
    page.get_by_role('tab', name='Files').click()
    page.get_by_label('with the method').click()
    page.get_by_role('option', name='deva').click()
    page.get_by_role('button', name='Show it beside').click()
    page.get_by_label('picture 1', exact=True).wait_for()
    place(page, IMAGE)
    page.get_by_role('tab', name='Options').click()
    page.wait_for_timeout(2500)
    keep(page, 'studio_beside.jpg')


def main() -> int:
    """Start the studio and look at it."""
    command = [sys.executable, '-P', '-m', 'masa_ros.cli', 'studio', sys.argv[1], '--port', '0']
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        found = re.search(r'http://\S+', process.stdout.readline())
        assert found is not None
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM, args=['--no-sandbox', '--disable-gpu']
            )
            page = browser.new_page(viewport={'width': 1360, 'height': 800})
            page.goto(found[0])
            pictures(page)
            browser.close()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)
    return 0


if __name__ == '__main__':
    sys.exit(main())
