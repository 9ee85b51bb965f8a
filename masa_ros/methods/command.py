# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``masa_ros engines``: build, list, verify and clear compiled engines."""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch

from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.engines import trust
from masa_ros.engines.cache import EngineCache
from masa_ros.engines.prepare import EngineConfig, Engines
from masa_ros.engines.runtimes import RUNTIMES
from masa_ros.errors import EngineError
from masa_ros.models.devices import choose_device
from masa_ros.models.precision import PRECISIONS
from masa_ros.models.staged import Staged
from masa_ros.models.stages import Case, Run
from masa_ros.models.zoo import ZOO
from masa_ros.point_trackers import POINT_TRACKERS
from masa_ros.propagators import PROPAGATORS

_ROUNDS = 20
_FOLLOWERS: dict[str, Any] = {
    **{name: PROPAGATORS[name] for name in ('nano', 'deva', 'deaot')},
    'pips': POINT_TRACKERS['pips'],
}
"""Networks in stages that are no detectors."""


def add_arguments(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    for name, text in (
        ('build', 'build what is not there yet, check it, print what it costs'),
        ('verify', 'compare the engines that are there with float32 once more'),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.usage = '%(prog)s [options]'
        action.add_argument(
            '--model', default='masa_nano', choices=(*ZOO, *_FOLLOWERS), help='(%(default)s)'
        )
        action.add_argument('--weights', default='', metavar='FILE', help='else the known ones')
        action.add_argument('--device', default='auto', help='cpu, cuda, cuda:N (%(default)s)')
        action.add_argument(
            '--camera-size',
            default='640x480',
            metavar='WIDTHxHEIGHT',
            help='of the images (%(default)s)',
        )
        action.add_argument(
            '--input-size',
            type=int,
            default=0,
            metavar='PIXELS',
            help="long side of the network's input; 0: the model's own (%(default)s)",
        )
        action.add_argument(
            '--runtime', default='auto', choices=('auto', *RUNTIMES), help='(%(default)s)'
        )
        action.add_argument(
            '--precision', default='auto', choices=('auto', *PRECISIONS), help='(%(default)s)'
        )
        action.add_argument(
            '--calibration', default='', metavar='DIR', help='own images to check engines on'
        )
    text = 'list the engines that are there'
    actions.add_parser('list', help=text, description=text)
    clear = actions.add_parser('clear', help='delete engines', description='delete engines')
    clear.add_argument('--model', default='', help='only those of this model')


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked; returns the exit code."""
    if arguments.action == 'list':
        return _list(EngineCache())
    if arguments.action == 'clear':
        store = EngineCache()
        print(f'{store.clear(arguments.model)} engines deleted from {store.folder}')
        return 0
    network = _network(arguments)
    config = EngineConfig(
        runtime=arguments.runtime,
        camera_size=arguments.camera_size,
        calibration=arguments.calibration,
    )
    width, height = config.camera or (640, 480)
    engines = Engines(network, config, log=print)
    if engines.runtime.name == 'eager':
        reasons = (RUNTIMES[name].missing(network.device) for name in ('tensorrt', 'openvino'))
        raise EngineError(f'nothing to build on {network.device}: {"; ".join(reasons)}')
    do = _build if arguments.action == 'build' else _verify
    return do(engines, network.input_shape(height, width))


def _network(arguments: argparse.Namespace) -> Staged:
    """Load what is to be compiled."""
    options = {'weights': arguments.weights, 'precision': arguments.precision}
    kind = _FOLLOWERS.get(arguments.model)
    if kind is None:
        own = {'model': arguments.model, 'device': arguments.device}
        size = arguments.input_size
        return MasaDetector.load(DetectorConfig(**own, **options, input_size=size))
    if arguments.input_size:
        options['size'] = arguments.input_size
    network: Staged = kind.load(kind.options(**options), str(choose_device(arguments.device)))
    return network


def _build(engines: Engines, shape: tuple[int, int]) -> int:
    prepared = engines.prepare(shape)
    network, case = engines.network, engines.cases(shape)[0]
    print(f'{"stage":12}{"runtime":10}{"precision":11}{"":9}{"size":>10}{"ms":>9}{"eager":>9}')
    for done in prepared:
        times = [
            f'{_milliseconds(run[done.stage], case, done.stage):9.2f}'
            for run in (engines.runs(shape), network.eager)
        ]
        size = f'{done.size / 2**20:.1f} MiB' if done.size else ''
        print(
            f'{done.stage:12}{done.runtime:10}{done.precision:11}{done.origin:9}{size:>10}'
            + ''.join(times)
        )
    refused = [done.stage for done in prepared if done.refused]
    if refused:
        print(f'refused, run by PyTorch: {", ".join(refused)}')
    if engines.runtime.keeps:
        print(f'kept in {engines.cache.folder}')
    return 1 if engines.failed else 0


@torch.inference_mode()
def _milliseconds(run: Run, case: Case, stage: str) -> float:
    """Median of some calls."""
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        for value in run(**case.inputs[stage]).values():
            if value.is_cuda:
                torch.cuda.synchronize(value.device)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


def _verify(engines: Engines, shape: tuple[int, int]) -> int:
    """Load what is kept, or what is compiled in memory, and compare it with float32."""
    prepared = engines.prepare(shape)
    built = [done.stage for done in prepared if done.origin == 'built']
    if built and engines.runtime.keeps:
        kept = sum(record is not None for _, record in engines.cache.stored()) - len(built)
        print(f'not there before, built now: {", ".join(built)} ({kept} others are kept)')
    good = True
    runs, cases = engines.runs(shape), engines.cases(shape)
    for done in prepared:
        stage = engines.network.stages[done.stage]
        for measure in trust.compare(stage, runs[done.stage], cases):
            good &= measure.good
            verdict = '' if measure.good else '   DISAGREES'
            print(f'{done.stage:12}{done.runtime} {done.precision}: {measure}{verdict}')
    return 0 if good and engines.prepared else 1  # none: one failed when it ran


def _list(store: EngineCache) -> int:
    found = store.stored()
    if not found:
        print(f'no engines in {store.folder}')
        return 0
    heads = ('model', 'stage', 'runtime', 'precision', 'input', 'size', 'built')
    print(''.join(f'{head:16}' for head in heads) + 'gpu')
    for path, record in found:
        if record is None:
            print(f'{path.name}: damaged or not yours, not used')
            continue
        size = f'{record["size"] / 2**20:.1f} MiB' if record['size'] else record['origin']
        shape = 'x'.join(map(str, reversed(record['input'])))
        row = (record['model'], record['stage'], record['runtime'], record['precision'])
        values = (*row, shape, size, record['date'][:10])
        print(''.join(f'{value:16}' for value in values) + record['gpu'])
    total = sum(path.stat().st_size for path, _ in found)
    print(f'{len(found)} engines, {total / 2**20:.0f} MiB in {store.folder}')
    return 0
