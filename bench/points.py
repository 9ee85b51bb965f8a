# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the parts of sam_pt are worth, and what its points cost.

    python bench/points.py [--data DIR] [--kinds KIND ...] [--first N] [--passed N] [--quick]

First every labelled object is boxed once, as in bench/propagation.py, and followed with one option
at a time changed (in the spirit of table 2 of the paper): how many points, how many beside the
object, when they are chosen anew, which ones count. Refinements are passes of SAM's decoder, which
the shipped networks do not have.

Then PIPS, with random weights, by which every point soon has windows of its own: frames that are
encoded once, against those that are encoded for every window, as by the original.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from common import keep
from first_answer import on_cpu
from propagation import by_method, line, mean, measured, recordings, task
from sequences import DATA
from torch import Tensor

from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.methods.sam_pt import SamPt, SamPtConfig
from masa_ros.models.pips import Pips
from masa_ros.point_trackers.pips import PipsConfig, PipsTracker
from masa_ros.point_trackers.protocol import Points
from masa_ros.types import Frame

VARIANTS: dict[str, dict[str, Any]] = {
    'as shipped': {},
    '1 point': {'positives': 1},
    '16 points': {'positives': 16},
    'none beside': {'negatives': 0},
    '8 beside': {'negatives': 8},
    'k-medoids': {'positive': 'kmedoids'},
    'random': {'positive': 'random'},
    'never anew': {'reinit': 'never'},
    'window 4': {'horizon': 4},
    'window 24': {'horizon': 24},
    'likeness .5': {'likeness': 0.5},
}
HEIGHT, WIDTH, POINTS = 240, 320, 8


def variants(
    data: Path, kinds: Sequence[str], first: int | None, quick: bool
) -> dict[str, dict[str, Any]]:
    """Print what each variant makes of the recordings, and return it."""
    loaded = on_cpu('sam_pt')
    assert isinstance(loaded, SamPt) and isinstance(loaded.config, SamPtConfig)
    chosen = dict(list(VARIANTS.items())[:2]) if quick else VARIANTS
    ways = {}
    for name, changes in chosen.items():
        config = dataclasses.replace(loaded.config, **changes)
        method = SamPt(loaded.detector, loaded.segmenter, loaded.tracker, config, loaded.device)
        ways[name] = by_method(method, 'box')
    print(
        'IoU of boxes with the truth, mean, and per cent of the frames above 0.5\n'
        f'{"":22}{"frames":>7}' + ''.join(f'{name:>18}' for name in ways)
    )
    detector = MasaDetector.load(DetectorConfig(device='cpu'))
    rows: dict[str, dict[str, Any]] = {}
    for title, real, several in recordings(data, kinds, first, quick):
        tasks = [each for one in several if (each := task(one, detector)) is not None]
        if tasks:
            row: dict[str, Any] = {'real': real, 'frames': sum(len(t.frames) for t in tasks)}
            row |= {name: measured(way, 'box', tasks) for name, way in ways.items()}
            rows[title] = row
            print(line(title, row, list(ways), 'boxes'), flush=True)
    rows['mean'] = mean(list(rows.values()), list(ways))
    print(line('mean', rows['mean'], list(ways), 'boxes'))
    return rows


class _Anew(PipsTracker):
    """Encodes all frames of a window whenever one is looked at, as the original does."""

    def encode(self, frames: Sequence[Frame]) -> list[Any]:
        """Only hold them."""
        return list(frames)

    def features(self, encoded: Any, points: Points) -> Tensor:
        """See ``PipsTracker``."""
        return super().features(super().encode([encoded])[0], points)

    def window(self, window: Sequence[Any], points: Points, known: Tensor) -> Any:
        """See ``PipsTracker``."""
        return super().window(super().encode(window), points, known)


def pips_costs(count: int) -> dict[str, float]:
    """Print what following points through frames costs, and return it."""
    torch.manual_seed(0)
    network, config = Pips(), PipsConfig()
    random = np.random.default_rng(0)
    image = cv2.GaussianBlur(random.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8), (9, 9), 2)
    frames = [Frame(np.asarray(np.roll(image, t, 1), np.uint8), t) for t in range(count)]
    points = random.uniform(20, 200, (POINTS, 2)).astype(np.float32)
    print(f'\nPIPS, {WIDTH}x{HEIGHT}, {POINTS} points: milliseconds a frame')
    costs, found = {}, []
    for name, kind in (('encoded for every window', _Anew), ('encoded once', PipsTracker)):
        tracker = kind(network, config, 'cpu')
        begin = time.perf_counter()
        chain = tracker.begin(tracker.encode([frames[0]])[0], points)
        seen = [each for frame in frames[1:] for each in chain.step(tracker.encode([frame])[0])]
        seen += chain.rest()
        costs[name] = (time.perf_counter() - begin) * 1e3 / count
        found.append(np.stack([each.points for each in seen]))
        print(f'  {name:26}{costs[name]:10.1f}', flush=True)
    before, after = costs.values()
    costs['times'], costs['pixels'] = before / after, float(np.abs(found[0] - found[1]).max())
    print(
        f'  {costs["times"]:.1f} times; the points differ by at most {costs["pixels"]:.1e} pixels'
    )
    return costs


def main(
    quick: bool = False,
    data: Path = DATA,
    kinds: Sequence[str] = (),
    first: int | None = None,
    passed: int = 40,
) -> dict[str, Any]:
    """Print the tables and return their figures."""
    return {
        'variants': variants(data, kinds, first, quick),
        'pips': pips_costs(9 if quick else passed),
    }


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, default=DATA)
    parser.add_argument('--kinds', nargs='*', default=[])
    parser.add_argument('--first', type=int, metavar='N', help='frames of real sequences')
    parser.add_argument('--passed', type=int, default=40, help='frames for PIPS (%(default)s)')
    parser.add_argument('--quick', action='store_true', help='see that it runs')
    arguments = parser.parse_args()
    figures = main(**vars(arguments))
    if not arguments.quick:
        keep('points', figures)
