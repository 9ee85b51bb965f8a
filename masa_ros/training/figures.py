# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a training run notes down of its steps."""

from __future__ import annotations

import contextlib
import csv
from pathlib import Path
from typing import Any


class Figures:
    """Figures by step: a csv of each kind, and events for TensorBoard where it is installed.

    What the folder has of later steps, from a run that is resumed or begun again, is dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._folder = folder
        for kind in ('metrics', 'evaluation'):
            _drop_later(folder / f'{kind}.csv', step)
        self._events: Any = None
        with contextlib.suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(folder / 'events'), purge_step=step + 1)

    def write(self, kind: str, step: int, figures: dict[str, float]) -> None:
        """Add a row."""
        path = self._folder / f'{kind}.csv'
        new = not path.is_file()
        with path.open('a', newline='') as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(['step', *figures])
            writer.writerow([step, *(f'{value:.5g}' for value in figures.values())])
        if self._events is not None:
            for name, value in figures.items():
                self._events.add_scalar(f'{kind}/{name}', value, step)

    def close(self) -> None:
        """Write what is still in memory."""
        if self._events is not None:
            self._events.close()


def _drop_later(path: Path, step: int) -> None:
    """Keep the whole rows of a csv up to a step; without any the file is deleted."""
    if not path.is_file():
        return
    with path.open(newline='', errors='replace') as file:
        head, *rows = file.readlines() or ['']

    def good(row: str) -> bool:
        number = row.partition(',')[0]
        whole = row.endswith('\n') and row.count(',') == head.count(',')
        return whole and number.isdecimal() and int(number) <= step

    kept = [row for row in rows if good(row)]
    if not kept:
        path.unlink()
        return
    temporary = path.with_suffix('.tmp')
    with temporary.open('w', newline='') as file:
        file.writelines((head, *kept))
    temporary.replace(path)
