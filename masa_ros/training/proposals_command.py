# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``masa_ros proposals``: masks of everything in a folder of photographs, for training."""

from __future__ import annotations

import argparse
from pathlib import Path

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
        help='whose SAM segments everything, or masa_nano, whose finds must agree (%(default)s)',
    )
    parser.add_argument('--weights', default='', metavar='FILE', help='of masa_nano')
    parser.add_argument('--exclude', default='', metavar='PREFIX', help='skip files named so')
    parser.add_argument('--device', default='auto', help='cpu, cuda, cuda:N (%(default)s)')


def run(arguments: argparse.Namespace) -> int:
    """Segment every image of a folder."""
    from masa_ros.detectors.masa import DetectorConfig, MasaDetector
    from masa_ros.models.devices import choose_device
    from masa_ros.training.cutouts import image_files
    from masa_ros.training.proposals import by_agreement, by_sam, write_proposals

    device = str(choose_device(arguments.device))
    if arguments.model == 'masa_nano':
        config = DetectorConfig(
            weights=arguments.weights, device=device, score_threshold=0.3, nms_iou=0.7
        )
        segment = by_agreement(MasaDetector.load(config))
    else:
        segment = by_sam(arguments.model, device)
    files = image_files(arguments.images, arguments.exclude)
    count, unreadable = write_proposals(
        files,
        arguments.images,
        arguments.output,
        segment,
        f'masa_ros proposals, {arguments.model}',
    )
    print(f'{count} instances of {len(files)} images: {arguments.output}')
    if unreadable:
        print(f'{len(unreadable)} cannot be read: {", ".join(unreadable[:10])}')
    return 0
