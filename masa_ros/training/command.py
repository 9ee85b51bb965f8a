# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``masa_ros train``: self-supervised training on a folder of unlabelled images."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from masa_ros import cluster, options
from masa_ros.cluster import ClusterConfig
from masa_ros.errors import ConfigError, SourceError
from masa_ros.options import group

if TYPE_CHECKING:
    from masa_ros.training.proposals import Entry

_SCENES, _CLIPS = 50, 10  # that are evaluated
_MOST_KNOWN = 400  # objects with true masks that composites are made of
_MOST_SEARCHED = 400  # photographs that are searched for such

COMMON = (
    *('images', 'proposals', 'output', 'model', 'weights', 'device', 'steps', 'minutes'),
    *('evaluate_every', 'resume'),
)


@dataclasses.dataclass(frozen=True)
class SpreadOptions:
    """The options of training on a cluster; --workers is another one here."""

    cluster: ClusterConfig = group(ClusterConfig, 'cluster.')


def add_arguments(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    """Declare the command's arguments."""
    parser.usage = '%(prog)s --images DIR --output DIR [options]'
    add_sources(
        parser,
        'what is in these images, one for each --images in their order: from masa_ros '
        'proposals, of SA-1B, or COCO instances',
    )
    parser.add_argument(
        '--share',
        type=float,
        default=0.5,
        help='of the scenes that are photographs with proposals, the others are composites '
        '(%(default)s)',
    )
    parser.add_argument(
        '--exhaustive', action='store_true', help='what no proposal covers is background'
    )
    parser.add_argument(
        '--output', type=Path, required=True, metavar='DIR', help='for weights and checkpoints'
    )
    parser.add_argument('--model', default='masa_nano', help='to be trained (%(default)s)')
    parser.add_argument('--weights', default='', metavar='FILE', help='to start from')
    parser.add_argument(
        '--anew',
        nargs='*',
        default=(),
        metavar='PART',
        help='parts that begin with random weights all the same, see --freeze',
    )
    parser.add_argument(
        '--closed-form',
        action='store_true',
        help='nothing learns step by step: the embeddings are discriminants of all scenes',
    )
    parser.add_argument(
        '--tutor',
        default='',
        metavar='NAME=FILE',
        help='a network whose embeddings are imitated',
    )
    parser.add_argument('--device', default='auto', help='cpu, cuda, cuda:N (%(default)s)')
    parser.add_argument(
        '--precision', default='auto', choices=('auto', 'bf16', 'fp32'), help='(%(default)s)'
    )
    parser.add_argument(
        '--learning-rate', type=float, default=2e-3, metavar='RATE', help='(%(default)s)'
    )
    parser.add_argument(
        '--freeze',
        nargs='*',
        metavar='PART',
        help='parts that do not learn: backbone, pyramid, fusion, proposals, proposals.known, '
        'boxes, appearance, embed, masks, or parts of these, such as backbone.stem',
    )
    parser.add_argument(
        '--gentle',
        nargs='*',
        default=(),
        metavar='PART',
        help='parts that learn at a tenth of the rate',
    )
    parser.add_argument(
        '--heads-after',
        type=float,
        default=1.0,
        metavar='SHARE',
        help='of the run, after which only the embedding head learns (%(default)s)',
    )
    parser.add_argument(
        '--plain-after',
        type=float,
        default=1.0,
        metavar='SHARE',
        help='of the run, after which photographs are not blended any more (%(default)s)',
    )
    parser.add_argument(
        '--one-camera',
        action='store_true',
        help='the images show the same things again: contrast the objects of an image only',
    )
    parser.add_argument('--steps', type=int, default=4000, help='of training (%(default)s)')
    parser.add_argument('--minutes', type=float, default=0.0, help='stop after; 0: no limit')
    parser.add_argument('--pairs', type=int, default=8, help='scenes a step (%(default)s)')
    parser.add_argument('--size', type=int, default=320, help='side of the views (%(default)s)')
    parser.add_argument(
        '--evaluate-every',
        type=int,
        default=0,
        metavar='STEPS',
        help='measure recall, retrieval and tracking on held-out composites; 0: never',
    )
    parser.add_argument('--workers', type=int, default=1, help='that make scenes (%(default)s)')
    parser.add_argument('--threads', type=int, default=0, help='of torch; 0: its own choice')
    parser.add_argument('--seed', type=int, default=0, help='of all that is random (%(default)s)')
    parser.add_argument('--resume', action='store_true', help='go on from the checkpoint')
    parser.add_argument(
        '--spread', action='store_true', help='in --cluster-workers processes of a Ray cluster'
    )
    options.add_arguments(parser.add_argument_group('cluster, with --spread'), SpreadOptions)


def add_sources(parser: argparse.ArgumentParser, about_proposals: str) -> None:
    """Declare where images, and what is known of them, come from."""
    parser.add_argument(
        '--images',
        type=Path,
        required=True,
        nargs='+',
        metavar='DIR',
        help='unlabelled images, any depth',
    )
    parser.add_argument('--exclude', default='', metavar='PREFIX', help='skip files named so')
    parser.add_argument(
        '--proposals',
        type=Path,
        nargs='+',
        default=[],
        metavar='PATH',
        help=about_proposals,
    )


def named_file(option: str, text: str) -> tuple[str, str]:
    """Take NAME=FILE apart; raises ConfigError."""
    name, _, file = text.partition('=')
    if not (name and file):
        raise ConfigError(f'{option} takes NAME=FILE')
    return name, file


def _evenly(files: list[Path], most: int) -> list[Path]:
    """Take at most so many files, from the beginning to the end of the list."""
    return files[:: max(1, -(-len(files) // most))]


def readable(arguments: argparse.Namespace, say: Callable[[str], None]) -> list[Path]:
    """Return the images of a command; raises SourceError where a folder has none."""
    from masa_ros.training.cutouts import image_files, part_readable

    if len(arguments.proposals) > len(arguments.images):
        raise SourceError('more --proposals than --images: they belong together, in order')
    photos: list[Path] = []
    for folder in arguments.images:
        good, bad = part_readable(image_files(folder, arguments.exclude))
        if bad:
            listed = ', '.join(str(file.relative_to(folder)) for file in bad[:10])
            say(f'{len(bad)} of {len(good) + len(bad)} files are no images: {listed}')
        if not good:
            raise SourceError(f'{folder} holds no image that can be read')
        photos += good
    return photos


def unrelated(photos: list[Path], known: Mapping[Path, Entry]) -> list[Path]:
    """Leave out frames of recordings, which show the same things again."""
    about = ((photo, known.get(photo.resolve())) for photo in photos)
    return [photo for photo, entry in about if entry is None or not entry.linked]


def mine_library(photos: list[Path], known: Mapping[Path, Entry], library: Path) -> None:
    """Look for whole objects in photographs, and write them to a library."""
    from masa_ros.training import parallel
    from masa_ros.training.cutouts import mine

    whole = ((p, entry.only_mask) for p in photos if (entry := known.get(p.resolve())))
    cuts = {path: cut for path, cut in whole if cut is not None}
    # Thousands of one kind would drown the others; searching takes half a second each.
    searched = _evenly([p for p in photos if p not in cuts], _MOST_SEARCHED)
    searched += _evenly(list(cuts), _MOST_KNOWN)
    parallel.first_alone(lambda: mine(searched, library, cuts))


def run(arguments: argparse.Namespace) -> int:
    """Look for whole objects, then train on scenes made of them."""
    if arguments.spread:
        config = options.from_arguments(SpreadOptions, arguments).cluster
        arguments.spread = False
        arguments.output = arguments.output.absolute()
        arguments.images = [path.absolute() for path in arguments.images]
        arguments.proposals = [path.absolute() for path in arguments.proposals]
        cluster.together(_Part(arguments), config, arguments.output)
        return 0
    import torch

    from masa_ros.models.devices import choose_device
    from masa_ros.training import parallel

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with parallel.started(str(choose_device(arguments.device))) as device:
        _train(arguments, device)
    return 0


class _Part:
    """One process of several that Ray Train started."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments

    def __call__(self, device: str) -> None:
        self._arguments.device = device
        run(self._arguments)


def _train(arguments: argparse.Namespace, device: str) -> None:
    """Train in this process, one of those that were started."""
    from masa_ros.models.zoo import model_config
    from masa_ros.training import parallel
    from masa_ros.training.composites import Composites
    from masa_ros.training.cutouts import is_held_out
    from masa_ros.training.data import Mixture, Photographs, Scenes
    from masa_ros.training.measure import clip, evaluator
    from masa_ros.training.proposals import read_proposals
    from masa_ros.training.targets import LossConfig
    from masa_ros.training.train import Evaluate, TrainConfig, train
    from masa_ros.training.views import ViewConfig

    def say(text: str) -> None:
        if parallel.rank() == 0:
            print(text)

    photos = readable(arguments, say)
    size = (arguments.size, arguments.size)
    last = arguments.plain_after * arguments.steps * arguments.pairs
    names = {photo.resolve() for photo in photos if not is_held_out(photo.stem)}
    known: dict[Path, Entry] = {}
    photographs: list[tuple[float, Scenes]] = []
    for folder, path in zip(arguments.images, arguments.proposals):
        entries = read_proposals(path, folder, say)
        known |= {entry.path.resolve(): entry for entry in entries}
        entries = [entry for entry in entries if entry.path.resolve() in names]
        if not entries:
            continue
        views = ViewConfig(size=size)
        source = Photographs(entries, views, arguments.exhaustive, arguments.seed, last)
        photographs.append((source.weight, source))
    parts: list[tuple[float, Scenes]] = []
    if arguments.proposals:
        if not photographs:
            raise SourceError('none of the photographs to learn from has proposals')
        parts.append((arguments.share, Mixture(photographs, arguments.seed + 1)))
    library = arguments.output / 'cutouts'
    single = unrelated(photos, known)
    if not parts or arguments.share < 1 or arguments.evaluate_every:
        mine_library(single, known, library)
    if not parts or arguments.share < 1:
        composites = Composites(library, single, size, arguments.seed)
        parts.append((1 - arguments.share if parts else 1.0, composites))
    config = TrainConfig(
        model=arguments.model,
        output=arguments.output,
        weights=arguments.weights,
        anew=tuple(arguments.anew),
        closed_form=arguments.closed_form,
        tutor=named_file('--tutor', arguments.tutor) if arguments.tutor else ('', ''),
        device=device,
        precision=arguments.precision,
        learning_rate=arguments.learning_rate,
        freeze=None if arguments.freeze is None else tuple(arguments.freeze),
        gentle=tuple(arguments.gentle),
        heads_after=arguments.heads_after,
        steps=arguments.steps,
        minutes=arguments.minutes,
        pairs=arguments.pairs,
        workers=arguments.workers,
        evaluate_every=arguments.evaluate_every,
        seed=arguments.seed,
        losses=LossConfig(one_camera=arguments.one_camera),
        resume=arguments.resume,
    )
    evaluate: Evaluate | None = None
    if arguments.evaluate_every and parallel.rank() == 0:
        held_out = Composites(library, single, size, arguments.seed, held_out=True)
        pairs = [held_out.pair(i) for i in range(_SCENES)]
        clips = [clip(held_out, i) for i in range(_CLIPS)]
        evaluate = evaluator(model_config(arguments.model), pairs, clips, device)
    say(f'weights: {train(config, Mixture(parts, arguments.seed), evaluate, say)}')
