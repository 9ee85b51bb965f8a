# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``masa_ros fleet``: many recordings at once, on this machine or on a Ray cluster."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

import masa_ros
from masa_ros import cluster, methods, options
from masa_ros.evaluation.fleet import check_pattern, truth_for
from masa_ros.fleet.sources import find_recordings
from masa_ros.fleet.work import Begun, Recording, Tracker, failure, waiting
from masa_ros.methods import METHODS
from masa_ros.recordings.fleet_folder import FleetFolder, write_text
from masa_ros.streams.stream import StreamConfig

_SHOWN = 20  # recordings that failed whose reasons are printed

COMMON = (
    *('sources', 'output', 'address', 'workers', 'worker_cpus', 'worker_gpus', 'ground_truth'),
    *('text', 'topic', 'overlay', 'method', 'model', 'device'),
)
ABSENT = methods.ABSENT


def add_arguments(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    """Declare the command's arguments, with those of the method that is chosen."""
    parser.usage = '%(prog)s SOURCES... --output DIR [options]'
    parser.add_argument(
        'sources',
        nargs='+',
        metavar='SOURCES',
        help='recordings as of masa_ros replay, folders of them, patterns, @FILE for a list, '
        'URLs (s3://, gs://, file://)',
    )
    parser.add_argument(
        '--output',
        type=Path,
        required=True,
        metavar='DIR',
        help='folder for what comes of them, shared by all machines; a second start goes on',
    )
    parser.add_argument(
        '--ground-truth',
        default='',
        metavar='GT',
        help='score the tracks: a folder of files called like the recordings, or a path with '
        '{stem} or {folder} of a recording in it',
    )
    parser.add_argument(
        '--text',
        metavar='WORDS',
        help="look for what answers to words as in 'person. red cup.': --find words --words WORDS",
    )
    parser.add_argument('--topic', default='', help='image topic of bags with several')
    parser.add_argument(
        '--fps', type=float, default=0.0, help='rate of folders of images (their meta.json, or 10)'
    )
    parser.add_argument(
        '--max-frames', type=int, default=0, metavar='N', help='of every recording the first N'
    )
    parser.add_argument('--overlay', action='store_true', help='write overlay.mp4 as well')
    parser.add_argument(
        '--points',
        action='store_true',
        help='write the points that tracks are followed by to tracks.json: sam_pt',
    )
    options.add_arguments(parser.add_argument_group('cluster'), cluster.ClusterConfig)
    methods.add_arguments(parser, arguments, methods.REPEATABLE)
    options.add_arguments(parser.add_argument_group('stream'), StreamConfig)


def run(arguments: argparse.Namespace) -> int:
    """Track all recordings that are not done yet; 1 where some failed."""
    if arguments.text is not None:
        arguments.find, arguments.words = 'words', arguments.text
    chosen: Any = options.from_arguments(METHODS[arguments.method].options, arguments)
    rules = options.from_arguments(StreamConfig, arguments)
    config = options.from_arguments(cluster.ClusterConfig, arguments)
    if pattern := arguments.ground_truth:
        check_pattern(pattern)
    cluster.ray_library()  # that it is missing is told before anything is written
    places = find_recordings(arguments.sources)
    recordings = {
        name: Recording(name, place, truth_for(pattern, place) if pattern else None)
        for name, place in places.items()
    }
    folder = FleetFolder(arguments.output.absolute())
    own = ('topic', 'fps', 'max_frames', 'overlay', 'points', 'ground_truth')
    facts = {
        'version': masa_ros.__version__,
        'options': {
            'method': arguments.method,
            **options.values_of(chosen),
            **options.values_of(rules),
            **{name: getattr(arguments, name) for name in own},
        },
    }
    with folder.locked():
        begun = folder.begin(json.loads(json.dumps(facts)))
        folder.sweep()
        tracker = Tracker(
            *(folder.path, begun['run'], arguments.method, chosen, rules, arguments.topic),
            *(arguments.fps, arguments.max_frames, arguments.overlay, arguments.points),
        )
        return _track(folder, tracker, recordings, config)


def _track(
    folder: FleetFolder,
    tracker: Tracker,
    recordings: Mapping[str, Recording],
    config: cluster.ClusterConfig,
) -> int:
    """Track what is not done; prints what failed."""
    done = set(folder.done()) & recordings.keys()
    missing = {name: each for name, each in recordings.items() if name not in done}
    if done:
        print(f'{len(done)} of {len(recordings)} recordings are done already')
    failed: dict[str, str] = {}
    try:
        for outcome in _outcomes(folder, tracker, missing, config):
            if outcome.problem:
                each = recordings[outcome.key]
                folder.fail(each.name, failure(each, outcome.attempts, outcome.problem))
                failed[each.name] = outcome.problem
            else:
                folder.forgive(outcome.key)
    finally:
        rows = (folder.manifest(name) or waiting(each) for name, each in recordings.items())
        lines = ''.join(json.dumps(row) + '\n' for row in rows)
        write_text(folder.path / 'manifest.jsonl', lines)
    for name, reason in list(failed.items())[:_SHOWN]:
        print(f'failed: {recordings[name].place}: {reason}')
    if len(failed) > _SHOWN:
        print(f'... and {len(failed) - _SHOWN} others: {folder.path / "manifest.jsonl"}')
    total = len(recordings) - len(failed)
    print(f'{total} of {len(recordings)} recordings are done: {folder.path}')
    return 1 if failed else 0


def _outcomes(
    folder: FleetFolder,
    tracker: Tracker,
    missing: Mapping[str, Recording],
    config: cluster.ClusterConfig,
) -> Iterator[cluster.Outcome]:
    """Give what comes of the recordings that are missing."""
    if not missing:
        return

    def began(begun: Begun) -> None:
        folder.note('weights', begun.weights)  # the same for all workers of every start

    with cluster.joined(config):
        outcomes = cluster.spread(tracker, missing, config, tqdm.write, began)
        hidden = not sys.stderr.isatty()
        with contextlib.closing(outcomes):
            yield from tqdm(outcomes, total=len(missing), unit='recording', disable=hidden)
