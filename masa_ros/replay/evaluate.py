"""``masa_ros evaluate``: tracks against the truth, or a recording against itself backwards."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from masa_ros.errors import ConfigError, SourceError
from masa_ros.evaluation import metrics
from masa_ros.evaluation.page import page
from masa_ros.evaluation.truth import read_truth
from masa_ros.replay import tracker_options
from masa_ros.replay.sources import Source, frames_of, images_of, open_source
from masa_ros.tracks_file import TrackedFrame, read_tracks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        'tracks', type=Path, metavar='TRACKS', help='tracks.json; for --palindrome a recording'
    )
    kind = parser.add_mutually_exclusive_group(required=True)
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
    parser.add_argument('--video', default='', help='which video of a ground truth of several')
    parser.add_argument('--output', type=Path, help='write the figures to this json file too')
    parser.add_argument('--page', type=Path, help='write timelines and frames to this html file')
    parser.add_argument(
        '--images', type=Path, metavar='SOURCE', help='the recording, for the pictures of --page'
    )
    parser.add_argument('--topic', default='', help='image topic of a bag (the only one)')
    parser.add_argument('--fps', type=float, default=0.0, help='rate of a folder of images')
    parser.add_argument('--model', default='masa_nano', help='for --palindrome (%(default)s)')
    parser.add_argument('--weights', default='', help='for --palindrome')
    parser.add_argument('--device', default='auto', help='for --palindrome (%(default)s)')
    parser.add_argument(
        '--max-frames',
        type=int,
        default=300,
        metavar='N',
        help='for --palindrome: the first N, which are kept in memory (%(default)s)',
    )
    tracker_options.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the figures."""
    if arguments.palindrome:
        figures = _palindrome(arguments)
    else:
        found = read_tracks(arguments.tracks)
        truth = read_truth(arguments.ground_truth, found, arguments.video)
        source = None
        if arguments.page and arguments.images:
            source = open_source(arguments.images, arguments.topic, arguments.fps)
        scores = report(found, truth, arguments.page, source, str(arguments.tracks))
        figures = dataclasses.asdict(scores)
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=1) + '\n')
    return 0


def report(
    found: Sequence[TrackedFrame],
    truth: Sequence[TrackedFrame],
    look: Path | None,
    source: Source | None,
    title: str,
) -> metrics.Scores:
    """Score tracks, print the figures and write the page where one is wanted."""
    pairs, similarity = metrics.pair(found, truth)
    scores = metrics.score(pairs, similarity)
    print(metrics.table(scores))
    if look is not None:
        images = images_of(source) if source is not None else ()
        look.write_text(page(pairs, scores, images, title))
        print(f'  look at {look}')
    return scores


def _palindrome(arguments: argparse.Namespace) -> dict[str, object]:
    from masa_ros.evaluation.palindrome import palindrome, table
    from masa_ros.models.detector import DetectorConfig
    from masa_ros.pipeline import Pipeline, PipelineConfig

    if arguments.max_frames < 2:
        raise ConfigError(f'--max-frames is {arguments.max_frames}; it must be at least 2')
    source = open_source(arguments.tracks, arguments.topic, arguments.fps)
    items = itertools.islice(source, arguments.max_frames)
    frames = frames_of(items)
    if len(frames) < 2:
        raise SourceError(f'{arguments.tracks} holds fewer than two images')
    detector = DetectorConfig(
        model=arguments.model, weights=arguments.weights, device=arguments.device
    )
    pipeline = Pipeline.build(PipelineConfig(detector, tracker_options.config_from(arguments)))
    result = palindrome(frames, pipeline)
    print(table(result))
    return dataclasses.asdict(result)
