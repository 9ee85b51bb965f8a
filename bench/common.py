# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What several benchmarks need."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).resolve().parents[1] / 'out/bench'


def keep(name: str, figures: dict[str, Any]) -> None:
    """Write the figures of a benchmark to out/bench."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / f'{name}.json').write_text(json.dumps(figures, indent=1) + '\n')


def resident_mb(process: int | str = 'self') -> float:
    """Return the resident memory of a process."""
    pages = int(Path(f'/proc/{process}/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 2**20
