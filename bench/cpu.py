# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Milliseconds of every stage under every runtime of a CPU, and agreement with float32.

    python bench/cpu.py [MODEL ...] [--camera WxH] [--rounds N] [--boxes N] [--stages NAME ...]
        [--compiled] [--alone]

All run in turns on the same inputs, by as many threads as PyTorch takes (OMP_NUM_THREADS). Given
are medians of the time that passed, and of what the processor spent on it in all threads: other
work on the machine disturbs that less. What does not agree is measured too and marked; ``runtime:
auto`` would not take it. Weights are random but for masa_nano: times do not depend on them,
agreement does.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import keep
from models import random_detector

from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.engines import trust
from masa_ros.engines.calibration_set import calibration_images
from masa_ros.engines.runtimes import RUNTIMES
from masa_ros.errors import EngineError
from masa_ros.models.precision import storage
from masa_ros.models.stages import run_rows

MODELS = ('masa_nano', 'masa_r50')
PLANS = (('openvino', 'bf16'), ('openvino', 'fp32'))
COMPILED = (('compile', 'bf16'), ('compile', 'fp32'))


@torch.inference_mode()
def in_turns(
    calls: Sequence[Callable[[], object]], rounds: int
) -> list[list[tuple[float, float]]]:
    """Milliseconds, and those of the processor, of calls of each after one that counts not."""
    times: list[list[tuple[float, float]]] = [[] for _ in calls]
    for i in range(rounds + 1):
        for call, measured in zip(calls, times):
            start = time.perf_counter(), time.process_time()
            call()
            if i:
                end = time.perf_counter(), time.process_time()
                measured.append(((end[0] - start[0]) * 1e3, (end[1] - start[1]) * 1e3))
    return times


def measure(
    detector: MasaDetector,
    plans: Sequence[tuple[str, str]],
    camera: tuple[int, int],
    rounds: int,
    boxes: int = 0,
    chosen: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Rows of one model: a stage under a runtime each."""
    shape = detector.input_shape(camera[1], camera[0])
    cases = detector.cases(calibration_images(shape)[:2])
    rows: list[dict[str, Any]] = []
    for name, eager in detector.eager.items():
        if chosen and name not in chosen:
            continue
        found: list[dict[str, Any]] = [{'runtime': 'eager', 'precision': 'fp32', 'agrees': True}]
        runs = [eager]
        for runtime, precision in plans:
            row: dict[str, Any] = {'runtime': runtime, 'precision': precision}
            stage, dtype = detector.stages_in(precision)[name], storage(precision)
            start = time.perf_counter()
            try:
                inputs = stage.arrange(cases[0].inputs[name], dtype)
                data = RUNTIMES[runtime].build(stage, inputs)
                run = RUNTIMES[runtime].load(stage, data, dtype, 'cpu')
                measures = trust.compare(stage, run, cases)
            except (EngineError, RuntimeError) as error:
                rows.append({'stage': name, **row, 'not_run': str(error).splitlines()[0]})
                continue
            row['build_s'] = round(time.perf_counter() - start, 1)
            row['agrees'] = all(each.good for each in measures)
            row['agreement'] = [str(each) for each in measures]
            found.append(row)
            runs.append(run)
        whole, given = detector.stages[name], cases[0].inputs[name]
        calls: list[Callable[[], object]] = [functools.partial(run, **given) for run in runs]
        if boxes and whole.rows:  # those it has, again and again
            again = torch.arange(boxes) % len(given[whole.rows[0]])
            given = {**given, **{each: given[each][again] for each in whole.rows}}
            calls = [functools.partial(run_rows, whole, run, given) for run in runs]
        for row, times in zip(found, in_turns(calls, rounds)):
            wall, processor = (statistics.median(each) for each in zip(*times))
            figures = {'ms': wall, 'processor_ms': processor}
            rows.append({'stage': name, **row, **figures})
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table of one model."""
    eager = {row['stage']: row for row in rows if row['runtime'] == 'eager'}
    heads = ('ms', 'x eager', 'CPU ms', 'x eager')
    print(f'{"stage":12}{"runtime":10}{"":6}' + ''.join(f'{head:>11}' for head in heads))
    for row in rows:
        line = f'{row["stage"]:12}{row["runtime"]:10}{row["precision"]:6}'
        if 'not_run' in row:
            print(f'{line}   not run: {row["not_run"]}')
            continue
        beside = eager[row['stage']]
        for key in ('ms', 'processor_ms'):
            line += f'{row[key]:11.1f}{beside[key] / row[key]:11.2f}'
        print(line + ('' if row['agrees'] else f'   DISAGREES: {"; ".join(row["agreement"])}'))


def main(
    models: Sequence[str] = (),
    camera: str = '640x480',
    rounds: int = 15,
    boxes: int = 0,
    stages: Sequence[str] = (),
    compiled: bool = False,
    alone: bool = False,
    quick: bool = False,
) -> dict[str, Any]:
    """Print the tables and return their figures."""
    if quick:
        models, camera, rounds = ['masa_nano'], '160x120', 1
    plans = [*PLANS, *COMPILED] if compiled else list(PLANS[quick:])
    missing = {runtime: RUNTIMES[runtime].missing('cpu') for runtime, _ in plans}
    for runtime, why in missing.items():
        if why:
            print(f'{runtime} is not run: {why}')
    plans = [plan for plan in plans if not missing[plan[0]]]
    width, height = map(int, camera.split('x'))
    print(f'camera {camera}, {torch.get_num_threads()} threads, {rounds} rounds')
    figures = {}
    for name in models or MODELS:
        known = name == 'masa_nano'
        detector = (
            MasaDetector.load(DetectorConfig(device='cpu'))
            if known
            else random_detector(name, alone)
        )
        print(f'\n{name}, input {detector.input_shape(height, width)}', flush=True)
        figures[name] = measure(detector, plans, (width, height), rounds, boxes, stages)
        show(figures[name])
    return {
        'threads': torch.get_num_threads(),
        'camera': camera,
        'boxes': boxes,
        'models': figures,
    }


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('models', nargs='*', metavar='MODEL', default=[])
    parser.add_argument('--camera', default='640x480', help='(%(default)s)')
    parser.add_argument('--rounds', type=int, default=15, help='(%(default)s)')
    parser.add_argument(
        '--boxes', type=int, default=0, help='of the stages behind the image; else what is found'
    )
    parser.add_argument('--stages', nargs='+', metavar='NAME', default=[], help='else all')
    parser.add_argument('--compiled', action='store_true', help='torch.compile too: minutes')
    parser.add_argument(
        '--alone', action='store_true', help='models on SAM without what finds objects'
    )
    keep('cpu', main(**vars(parser.parse_args())))
