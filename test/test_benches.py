# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Every benchmark still runs: on next to nothing, for no figures."""

import importlib
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from studio_kit import needs_chromium

from masa_ros.evaluation.truth import from_masks
from masa_ros.types import Instances

BENCH = Path(__file__).resolve().parents[1] / 'bench'


def benchmarks():
    """The names that bench/run.py knows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCH)
        return importlib.import_module('run').names()


NAMES = benchmarks()
COMMANDS = {name: ('run.py', '--quick', name) for name in NAMES}
COMMANDS['soak deva'] = ('soak.py', '--quick', '--method', 'deva')


PARAMETERS = [pytest.param(n, marks=needs_chromium) if n == 'studio' else n for n in COMMANDS]


@pytest.mark.timeout(960)
@pytest.mark.parametrize('name', PARAMETERS)
def test_a_benchmark_runs(name, tmp_path):
    file, *arguments = COMMANDS[name]
    result = subprocess.run(
        [sys.executable, BENCH / file, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    assert len(result.stdout.splitlines()) > 2, 'it prints nothing'
    assert not list(tmp_path.iterdir()), 'it leaves something behind'


def test_flickering_takes_each_object_away_in_short_runs(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    clips = importlib.import_module('clips')
    masks = np.zeros((2, 40, 60), bool)
    masks[0, 5:15, 5:15] = masks[1, 20:35, 30:50] = True
    truth = [from_masks(i, i, masks, (1, 2)) for i in range(300)]
    off = Instances(np.array([[50, 0, 59, 9]], np.float32))  # lies on no object
    found = [Instances.concatenate((frame.instances, off)) for frame in truth]
    kept = clips.flickering(found, truth, 3)
    assert kept == clips.flickering(found, truth, 3) != clips.flickering(found, truth, 4)
    assert all(0 in one.track_ids for one in kept)
    there = {i: [i in one.track_ids for one in kept] for i in (1, 2)}
    assert there[1] != there[2]
    for seen in there.values():
        runs = [(key, len(list(run))) for key, run in groupby(seen)][:-1]
        assert {length for key, length in runs if key} == set(range(1, 9))
        assert {length for key, length in runs if not key} == {1, 2, 3, 4}
