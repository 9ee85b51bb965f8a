# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``masa_ros train-propagator``: train the small propagation network on still images."""

from __future__ import annotations

import argparse
from pathlib import Path

from masa_ros.training.command import add_sources, mine_library, readable, unrelated

COMMON = (
    *('images', 'proposals', 'output', 'weights', 'device', 'steps', 'minutes'),
    *('evaluate_every', 'resume'),
)


def add_arguments(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    """Declare the command's arguments."""
    parser.usage = '%(prog)s --images DIR --output DIR [options]'
    add_sources(
        parser,
        'true masks in these images, one for each --images in their order: COCO instances, '
        'or from masa_ros proposals',
    )
    parser.add_argument(
        '--output', type=Path, required=True, metavar='DIR', help='for weights and checkpoints'
    )
    parser.add_argument('--weights', default='', metavar='FILE', help='to start from')
    parser.add_argument('--device', default='auto', help='cpu, cuda, cuda:N (%(default)s)')
    parser.add_argument(
        '--learning-rate', type=float, default=1e-3, metavar='RATE', help='(%(default)s)'
    )
    parser.add_argument('--steps', type=int, default=6000, help='of training (%(default)s)')
    parser.add_argument('--minutes', type=float, default=0.0, help='stop after; 0: no limit')
    parser.add_argument('--recordings', type=int, default=4, help='a step (%(default)s)')
    parser.add_argument('--frames', type=int, default=4, help='of a recording (%(default)s)')
    parser.add_argument(
        '--objects', type=int, default=3, help='of a recording, at most (%(default)s)'
    )
    parser.add_argument(
        '--size', type=int, default=320, help='side of the images, a multiple of 32 (%(default)s)'
    )
    parser.add_argument(
        '--evaluate-every',
        type=int,
        default=0,
        metavar='STEPS',
        help='measure the overlap on held-out recordings; 0: never',
    )
    parser.add_argument('--workers', type=int, default=1, help='that make them (%(default)s)')
    parser.add_argument('--threads', type=int, default=0, help='of torch; 0: its own choice')
    parser.add_argument('--seed', type=int, default=0, help='of all that is random (%(default)s)')
    parser.add_argument('--resume', action='store_true', help='go on from the checkpoint')


def run(arguments: argparse.Namespace) -> int:
    """Look for whole objects, then train on recordings made of them."""
    import torch

    from masa_ros.errors import ConfigError
    from masa_ros.models.nano_propagation import NanoPropagation
    from masa_ros.training.propagation import PropagationConfig, train
    from masa_ros.training.proposals import read_proposals
    from masa_ros.training.sequences import Sequences

    for name, least in (('frames', 2), ('objects', 1), ('recordings', 1), ('size', 64)):
        if getattr(arguments, name) < least:
            raise ConfigError(f'--{name} must be at least {least}')
    if arguments.size % NanoPropagation.STRIDE:
        raise ConfigError(f'--size {arguments.size} is no multiple of {NanoPropagation.STRIDE}')
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    photos = readable(arguments, print)
    known = {
        entry.path.resolve(): entry
        for folder, path in zip(arguments.images, arguments.proposals)
        for entry in read_proposals(path, folder, print)
    }
    single = unrelated(photos, known)
    library = arguments.output / 'cutouts'
    mine_library(single, known, library)
    size = (arguments.size, arguments.size)
    config = PropagationConfig(
        output=arguments.output,
        weights=arguments.weights,
        steps=arguments.steps,
        minutes=arguments.minutes,
        recordings=arguments.recordings,
        frames=arguments.frames,
        objects=arguments.objects,
        learning_rate=arguments.learning_rate,
        device=arguments.device,
        workers=arguments.workers,
        evaluate_every=arguments.evaluate_every,
        seed=arguments.seed,
        resume=arguments.resume,
    )
    held_out = None
    if arguments.evaluate_every:
        held_out = Sequences(library, single, size, arguments.seed, held_out=True)
    weights = train(config, Sequences(library, single, size, arguments.seed), held_out)
    print(f'weights: {weights}')
    return 0
