# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``masa_ros demo``: everything at work on a generated recording.

Makes a bag, starts the real node as a process of its own, plays the bag to it over DDS, and
scores the tracks that come back against the exact truth. With a method that waits for somebody
to point at things (``find: nothing``), every object of the first image is clicked.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from masa_ros import methods, options
from masa_ros.demo.pointing import click
from masa_ros.evaluation.metrics import evaluate
from masa_ros.methods import METHODS
from masa_ros.recordings.bags import IMAGE_TYPE, BagWriter
from masa_ros.recordings.prompts import RecordedPrompt
from masa_ros.recordings.recorder import Recorder
from masa_ros.recordings.sources import BagSource, Item
from masa_ros.recordings.tracks_file import read_tracks, write_tracks

COMMON = ('output', 'method', 'model', 'device')
ABSENT = methods.ABSENT

T = TypeVar('T')


def add_arguments(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    """Declare the command's arguments."""
    parser.usage = '%(prog)s [options]'
    parser.add_argument(
        '--output',
        type=Path,
        default=Path('out/demo'),
        metavar='DIR',
        help='emptied, then filled (%(default)s)',
    )
    # The recording is over before engines are built.
    methods.add_arguments(parser, arguments, {'runtime': 'eager'})


def run(arguments: argparse.Namespace) -> int:
    """Make the recording, track it through ROS, print and write the figures."""
    # The node and the scene import much: not before they are needed, so that --help is quick.
    from masa_ros.nodes.parameters import NodeConfig
    from masa_ros.nodes.player import play

    _say('takes about a minute on two cores, the first third to make the recording')
    from masa_ros.demo import scene

    output: Path = arguments.output
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    _say(f'cutting objects out of photographs, then making {output}/recording.mcap')
    truth = []
    with BagWriter(output / 'recording.mcap', '/camera/image_raw', IMAGE_TYPE) as bag:
        for frame, true in _shown(scene.render(), scene.FRAMES, 'made'):
            bag.write_image(frame.image, frame.stamp_ns, frame.frame_id)
            truth.append(true)
    write_tracks(output / 'ground_truth.json', 'truth', truth)

    seconds = scene.FRAMES / scene.FPS
    _say(f'starting the node, then playing the {seconds:.0f} s of the recording to it over DDS')
    chosen: Any = options.from_arguments(METHODS[arguments.method].options, arguments)
    model = str(options.values_of(chosen).get('model', arguments.method))
    config = dataclasses.replace(NodeConfig(), method=arguments.method, chosen=chosen)
    source = _Recording(output / 'recording.mcap')
    clicks: list[RecordedPrompt] = []
    if options.values_of(chosen).get('find') == 'nothing':
        clicks = [RecordedPrompt(0, click(m)) for m in truth[0].instances.masks or () if m]
        _say(f'{len(clicks)} objects are clicked in the first image')
    with Recorder(output, model, scene.FPS, prompts=clicks) as recorder:
        more = play(source, config, recorder, prompts=clicks)
    scores = evaluate(read_tracks(output / 'tracks.json'), truth)
    summary = recorder.summary(**more, **scores.rounded())
    rows = (
        ('images in', summary['frames_in']),
        ('images tracked', summary['frames_tracked']),
        ('images skipped', summary['frames_skipped']),
        ('latency p50 / p99', f'{latency(summary, 50)} / {latency(summary, 99)} ms'),
        ('tracks (objects)', f'{summary["tracks"]} ({scores.objects})'),
        ('HOTA', f'{scores.hota:.3f}'),
        ('IDF1', f'{scores.idf1:.3f}'),
        ('model, device', f'{summary["model"]}, {summary["device"]}'),
    )
    print('\n'.join(f'  {name:<18} {value}' for name, value in rows))
    _say(f'look at {output}/overlay.mp4, or click in it: masa_ros studio {output}/recording.mcap')
    return 0


def _say(text: str) -> None:
    print(f'demo: {text}', flush=True)  # now, also into a pipe


def _shown(items: Iterable[T], total: int, done: str, bar: bool = True) -> Iterator[T]:
    """Give items and show how many are done: in a bar, or without a terminal in some lines."""
    if sys.stderr.isatty():
        yield from tqdm(items, desc=done, total=total, unit='image', disable=not bar)
        return
    for number, item in enumerate(items, start=1):
        yield item
        if number % 50 == 0:
            _say(f'{number} of {total} images {done}')


class _Recording(BagSource):
    """The recording, which shows how much of it is played, then how much is drawn."""

    _played = False

    def __iter__(self) -> Iterator[Item]:
        if self._played:
            _say('writing the tracks and drawing them')
            return _shown(super().__iter__(), len(self), 'drawn')
        self._played = True
        return _shown(super().__iter__(), len(self), 'played', bar=False)  # the player has a bar


def latency(summary: dict[str, float], percent: int) -> str:
    """Return a latency of the summary as text, milliseconds."""
    return f'{summary[f"latency_ms_p{percent}"]:.0f}'
