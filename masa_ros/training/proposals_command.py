# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``masa_ros proposals``: what is in a folder of photographs, for training."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from masa_ros import cluster, options
from masa_ros.cluster import ClusterConfig
from masa_ros.errors import ConfigError

# Everything else is imported when the command runs: the help needs no torch.


def add_arguments(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    """Declare the command's arguments."""
    parser.usage = '%(prog)s --images DIR --output DIR [options]'
    parser.add_argument(
        '--images', type=Path, required=True, metavar='DIR', help='images to segment, any depth'
    )
    parser.add_argument(
        '--output', type=Path, required=True, metavar='DIR', help='for the masks: masa_ros train'
    )
    parser.add_argument(
        '--model',
        default='masa_sam_vith',
        help='whose SAM segments everything, or masa_nano2, whose finds must agree (%(default)s)',
    )
    parser.add_argument('--weights', default='', metavar='FILE', help='of masa_nano2')
    parser.add_argument(
        '--teacher',
        action='append',
        default=[],
        metavar='NAME=FILE',
        help='boxes of this detector instead, united with those of others: masa_nano, masa_nano2, '
        'yolox_nano, nanodet_plus. May be given again',
    )
    parser.add_argument(
        '--masks',
        type=Path,
        metavar='DIR',
        help='true masks of one object an image: PNG files named like the images',
    )
    parser.add_argument(
        '--linked',
        action='store_true',
        help='the images of a folder are a recording: objects have one number in all of them',
    )
    parser.add_argument(
        '--every',
        type=int,
        default=2,
        metavar='N',
        help='of videos take every N-th frame, written to OUTPUT/frames (%(default)s)',
    )
    parser.add_argument('--exclude', default='', metavar='PREFIX', help='skip files named so')
    parser.add_argument('--device', default='auto', help='cpu, cuda, cuda:N (%(default)s)')
    parser.add_argument(
        '--spread',
        action='store_true',
        help='over a Ray cluster, or processes of this machine; not with videos and --linked',
    )
    options.add_arguments(parser.add_argument_group('cluster, with --spread'), ClusterConfig)


def run(arguments: argparse.Namespace) -> int:
    """Find what is in every image of a folder."""
    from masa_ros.training.cutouts import image_files
    from masa_ros.training.proposals import extract_frames
    from masa_ros.training.proposals_writing import write_proposals

    root = arguments.images
    videos = sorted(root.glob('*.mp4'))
    if arguments.spread and (videos or arguments.linked):
        raise ConfigError('--spread: objects are numbered through a recording in its order')
    if arguments.spread:
        return _spread(arguments, image_files(root, arguments.exclude))
    locate = _locate(arguments, linked=bool(videos) or arguments.linked)
    if videos:
        root = arguments.output / 'frames'
        files = extract_frames(videos, root, arguments.every)
    else:
        files = image_files(root, arguments.exclude)
    count, unreadable = write_proposals(files, root, arguments.output, locate, _what(arguments))
    _tell(arguments, count, len(files), unreadable)
    return 0


class Proposer:
    """What a worker does with --spread: one file of proposals a task."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments, self._locate = arguments, None

    def begin(self) -> None:
        """Load the networks."""
        self._locate = _locate(self._arguments, linked=False)

    def do(self, task: Any, attempt: int) -> tuple[int, list[str]]:
        """Write the file of a ``Part``."""
        from masa_ros.training.proposals_writing import write_part

        assert self._locate is not None
        return write_part(task, self._arguments.images, self._locate, _what(self._arguments))


def _spread(arguments: argparse.Namespace, files: list[Path]) -> int:
    """Write the files that are missing on a cluster; 1 where some failed."""
    from tqdm import tqdm

    from masa_ros.training.proposals_writing import parts

    config = options.from_arguments(ClusterConfig, arguments)
    for name in ('images', 'output'):
        setattr(arguments, name, getattr(arguments, name).absolute())
    files = [file.absolute() for file in files]
    tasks = {part.target.name: part for part in parts(files, arguments.output)}
    count, unreadable, failed = 0, list[str](), 0
    with cluster.joined(config):
        hidden = not sys.stderr.isatty()
        outcomes = cluster.spread(Proposer(arguments), tasks, config, tqdm.write)
        for outcome in tqdm(outcomes, total=len(tasks), unit='file', disable=hidden):
            if outcome.problem:
                failed += 1
                tqdm.write(f'failed: {outcome.key}: {outcome.problem}')
            else:
                found, bad = outcome.value
                count, unreadable = count + found, unreadable + bad
    _tell(arguments, count, len(files), unreadable)
    return 1 if failed else 0


def _what(arguments: argparse.Namespace) -> str:
    return f'masa_ros proposals, {", ".join(arguments.teacher) or arguments.model}'


def _tell(arguments: argparse.Namespace, count: int, images: int, unreadable: list[str]) -> None:
    print(f'{count} instances of {images} images: {arguments.output}')
    if unreadable:
        print(f'{len(unreadable)} cannot be read: {", ".join(unreadable[:10])}')


def _locate(arguments: argparse.Namespace, linked: bool) -> Any:
    """Return what finds proposals in an image that was read from a file."""
    from masa_ros.models.devices import choose_device
    from masa_ros.training.proposals import Linker, with_known

    find = _finder(arguments, str(choose_device(arguments.device)))
    linker = Linker() if linked else None
    known = with_known(arguments.masks, find) if arguments.masks else None

    def locate(image: Any, path: Path) -> Any:
        found = known(image, path) if known else find(image)
        return linker(found, path) if linker else found

    return locate


def _finder(arguments: argparse.Namespace, device: str) -> Any:
    """Return what finds proposals in an image."""
    from masa_ros.training.command import named_file
    from masa_ros.training.proposals import by_own_model, by_sam
    from masa_ros.training.teachers import by_teachers

    if arguments.teacher:
        pairs = [named_file('--teacher', teacher) for teacher in arguments.teacher]
        return by_teachers([(name, Path(path)) for name, path in pairs], device)
    if arguments.model not in ('masa_nano', 'masa_nano2'):
        return by_sam(arguments.model, device)
    return by_own_model(arguments.model, arguments.weights, device)
