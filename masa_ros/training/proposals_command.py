# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``masa_ros proposals``: what is in a folder of photographs, for training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

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


def run(arguments: argparse.Namespace) -> int:
    """Find what is in every image of a folder."""
    from masa_ros.models.devices import choose_device
    from masa_ros.training.cutouts import image_files
    from masa_ros.training.proposals import (
        Linker,
        extract_frames,
        with_known,
        write_proposals,
    )

    root, find = arguments.images, _finder(arguments, str(choose_device(arguments.device)))
    videos = sorted(root.glob('*.mp4'))
    if videos:
        root = arguments.output / 'frames'
        files = extract_frames(videos, root, arguments.every)
    else:
        files = image_files(root, arguments.exclude)
    linker = Linker() if videos or arguments.linked else None
    known = with_known(arguments.masks, find) if arguments.masks else None

    def locate(image: Any, path: Path) -> Any:
        found = known(image, path) if known else find(image)
        return linker(found, path) if linker else found

    what = ', '.join(arguments.teacher) or arguments.model
    count, unreadable = write_proposals(
        files, root, arguments.output, locate, f'masa_ros proposals, {what}'
    )
    print(f'{count} instances of {len(files)} images: {arguments.output}')
    if unreadable:
        print(f'{len(unreadable)} cannot be read: {", ".join(unreadable[:10])}')
    return 0


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
