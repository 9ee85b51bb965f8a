# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Every benchmark still runs: on next to nothing, for no figures."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / 'bench'
NAMES = sorted(
    file.stem for file in BENCH.glob('*.py') if file.stem not in ('common', 'run', 'clips')
)


@pytest.mark.parametrize('name', NAMES)
def test_a_benchmark_runs(name, tmp_path):
    result = subprocess.run(
        [sys.executable, BENCH / 'run.py', '--quick', name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    assert len(result.stdout.splitlines()) > 2, 'it prints nothing'
    assert not list(tmp_path.iterdir()), 'it leaves something behind'
