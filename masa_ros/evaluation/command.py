# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``masa_ros evaluate``: tracks against the truth, or a recording against itself backwards."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from masa_ros import options
from masa_ros.errors import ConfigError, SourceError
from masa_ros.evaluation import metrics
from masa_ros.evaluation.page import page
from masa_ros.evaluation.positions import PositionScores, line_of, score_positions
from masa_ros.evaluation.truth import check_tracks, read_truth
from masa_ros.recordings.sources import Source, frames_of, images_of, open_source
from masa_ros.recordings.tracks_file import TrackedFrame, read_tracks

COMMON = (
    *('tracks', 'ground_truth', 'palindrome', 'fleet', 'output', 'page', 'images'),
    'max_frames',
    *('method', 'model', 'device'),
)
ABSENT = 'those of a method, a detector and an association are for --palindrome'


def add_arguments(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    """Declare the command's arguments; those of a method where one is to run."""
    parser.usage = (
        '%(prog)s TRACKS --ground-truth GT [options]\n'
        '       %(prog)s SOURCE --palindrome [options]\n'
        '       %(prog)s --fleet DIR [options]'
    )
    parser.add_argument(
        'tracks',
        type=Path,
        metavar='TRACKS',
        help='tracks.json; for --palindrome a recording, for --fleet its folder',
    )
    fleet = '--fleet' in arguments
    parser.add_argument(
        '--fleet', action='store_true', help='all recordings of a masa_ros fleet as one set'
    )
    kind = parser.add_mutually_exclusive_group(required=not fleet)
    kind.add_argument(
        '--ground-truth',
        type=Path,
        metavar='GT',
        help='MOTChallenge txt, COCO-video / TAO / scalabel json, tracks.json, folder of PNG ids',
    )
    kind.add_argument(
        '--palindrome',
        action='store_true',
        help='needs no truth: track the recording forwards and back, compare the ids',
    )
    parser.add_argument(
        '--video', default='', metavar='NAME', help='which video of a ground truth of several'
    )
    parser.add_argument(
        '--output', type=Path, metavar='FILE', help='write the figures to this json file too'
    )
    parser.add_argument(
        '--page', type=Path, metavar='FILE', help='write timelines and frames to this html file'
    )
    parser.add_argument(
        '--images', type=Path, metavar='SOURCE', help='the recording, for the pictures of --page'
    )
    parser.add_argument('--topic', default='', help='image topic of a bag with several')
    parser.add_argument('--fps', type=float, default=0.0, help='rate of a folder of images')
    parser.add_argument(
        '--max-frames',
        type=int,
        default=300,
        metavar='N',
        help='for --palindrome: the first N, which are kept in memory (%(default)s)',
    )
    if any(each.startswith(('--help', '-h', '--pal')) for each in arguments):
        from masa_ros import methods  # needs torch, which the rest does not

        methods.add_arguments(parser, arguments, methods.REPEATABLE)


def run(arguments: argparse.Namespace) -> int:
    """Print the figures."""
    if arguments.fleet:
        figures = _fleet(arguments)
    elif arguments.palindrome:
        figures = _palindrome(arguments)
    else:
        found = read_tracks(arguments.tracks)
        check_tracks(arguments.tracks, found)
        truth = read_truth(arguments.ground_truth, found, arguments.video)
        source = None
        if arguments.page and arguments.images:
            source = open_source(arguments.images, arguments.topic, arguments.fps)
        told = report(found, truth, arguments.page, source, str(arguments.tracks))
        figures = dataclasses.asdict(told.scores)
        if told.positions is not None:
            figures['positions'] = dataclasses.asdict(told.positions)
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=1) + '\n')
    return 0


class Report(NamedTuple):
    """What tracks are worth.

    Attributes
    ----------
    scores: of tracks in the image.
    parts: what ``metrics.combine`` needs of them.
    positions: of positions in space, None where the truth has none.

    """

    scores: metrics.Scores
    parts: metrics.Parts
    positions: PositionScores | None


def report(
    found: Sequence[TrackedFrame],
    truth: Sequence[TrackedFrame],
    html: Path | None,
    source: Source | None,
    title: str,
) -> Report:
    """Score tracks, print the figures and write the page where one is wanted."""
    pairs, similarity = metrics.pair(found, truth)
    scores, parts = metrics.measure(pairs, similarity)
    print(metrics.table(scores))
    positions = score_positions(pairs)
    if positions is not None:
        print(line_of(positions))
    if html is not None:
        images = images_of(source) if source is not None else ()
        html.write_text(page(pairs, scores, images, title))
        print(f'  look at {html}')
    return Report(scores, parts, positions)


def _fleet(arguments: argparse.Namespace) -> dict[str, object]:
    from masa_ros.evaluation.fleet import fleet_page, fleet_table, read_fleet

    if arguments.palindrome:
        raise ConfigError('--palindrome is for one recording; leave out --fleet')
    fleet = read_fleet(arguments.tracks, arguments.ground_truth)
    print(fleet_table(fleet))
    if arguments.page:
        arguments.page.write_text(fleet_page(fleet, arguments.page))
        print(f'  look at {arguments.page}')
    rows = {name: dataclasses.asdict(scores) for name, scores in fleet.worst_first}
    return {'all': dataclasses.asdict(fleet.scores), 'recordings': rows}


def _palindrome(arguments: argparse.Namespace) -> dict[str, object]:
    from masa_ros import methods
    from masa_ros.evaluation.palindrome import palindrome, table
    from masa_ros.streams.stream import Stream

    if arguments.max_frames < 2:
        raise ConfigError(f'--max-frames is {arguments.max_frames}; it must be at least 2')
    source = open_source(arguments.tracks, arguments.topic, arguments.fps)
    frames = frames_of(itertools.islice(source, arguments.max_frames))
    if len(frames) < 2:
        raise SourceError(f'{arguments.tracks} holds fewer than two images')
    config: Any = options.from_arguments(methods.METHODS[arguments.method].options, arguments)
    method = methods.load(arguments.method, config)
    try:
        result = palindrome(frames, Stream(method))
    finally:
        method.close()
    print(table(result))
    return dataclasses.asdict(result)
