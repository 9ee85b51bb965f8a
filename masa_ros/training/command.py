"""``masa_ros train``: self-supervised training on a folder of unlabelled images."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        '--images', type=Path, required=True, metavar='DIR', help='unlabelled images, any depth'
    )
    parser.add_argument('--exclude', default='', metavar='PREFIX', help='skip files named so')
    parser.add_argument('--output', type=Path, required=True, metavar='DIR')
    parser.add_argument('--model', default='masa_nano', help='model (%(default)s)')
    parser.add_argument('--steps', type=int, default=4000, help='(%(default)s)')
    parser.add_argument('--minutes', type=float, default=0.0, help='stop after; 0: no limit')
    parser.add_argument('--pairs', type=int, default=8, help='scenes a step (%(default)s)')
    parser.add_argument('--size', type=int, default=320, help='side of the views (%(default)s)')
    parser.add_argument('--workers', type=int, default=1, help='processes that make scenes')
    parser.add_argument('--threads', type=int, default=0, help='of torch; 0: its own choice')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--resume', action='store_true', help='go on from DIR/checkpoint.pt')


def run(arguments: argparse.Namespace) -> int:
    """Look for whole objects, then train on scenes made of them."""
    import torch

    from masa_ros.training.composites import Composites
    from masa_ros.training.cutouts import image_files, mine
    from masa_ros.training.train import TrainConfig, train

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    photos = [
        p
        for p in image_files(arguments.images)
        if not (arguments.exclude and p.name.startswith(arguments.exclude))
    ]
    library = mine(photos, arguments.output / 'cutouts')
    composites = Composites(library, photos, (arguments.size, arguments.size), arguments.seed)
    config = TrainConfig(
        model=arguments.model,
        output=arguments.output,
        steps=arguments.steps,
        minutes=arguments.minutes,
        pairs=arguments.pairs,
        workers=arguments.workers,
        seed=arguments.seed,
        resume=arguments.resume,
    )
    print(f'weights: {train(config, composites)}')
    return 0
