#!/usr/bin/env python3
# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Write the table of docs/devices.md from docs/devices/*.json, which bench/device.py makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pages import write_between

PAGE = Path(__file__).resolve().parent.parent / 'docs/devices.md'
HEADS = ('device', 'model', 'runs as', 'images/s without loss', '10 Hz', '30 Hz', '60 Hz')


def row(figures: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of a device."""
    device, metrics = figures['device'], figures['metrics']
    name = ', '.join(filter(None, (device['cpu'], f'{device["cores"]} cores', device['gpu'])))
    cells = [f'{metrics["without loss"]["Mean Frame Rate (fps)"]:.1f}']
    for rate in ('10 Hz', '30 Hz', '60 Hz'):
        told = metrics[rate]
        latency = told['Median End-to-End Latency (ms)']
        jitter = told['Frame-to-Frame Jitter Std. Deviation (ms)']
        lost = told['# of Missed Frames'] / told['# of Frames Sent']
        cpu = told['Mean CPU Utilization of the node (%)']
        cells.append(f'{latency:.0f} ms +- {jitter:.0f}, {lost:.0%} lost, {cpu:.0f} %')
    chosen = ' '.join(figures['parameters'])
    runs = figures['engines'] + (f' (`{chosen}`)' if chosen else '')
    return (name, f'`{figures["model"]}`', runs, *cells)


def main() -> None:
    """Write the table."""
    rows = [row(json.loads(path.read_text())) for path in sorted(PAGE.with_suffix('').glob('*'))]
    lines = [HEADS, ('---',) * len(HEADS), *rows]
    table = ''.join(f'| {" | ".join(line)} |\n' for line in lines)
    write_between(PAGE, 'devices', table)


if __name__ == '__main__':
    main()
