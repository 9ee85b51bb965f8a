# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``masa_ros replay``: track a recording."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from masa_ros import methods, options
from masa_ros.errors import ConfigError, SourceError
from masa_ros.methods import METHODS
from masa_ros.recordings.depth import DepthFiles
from masa_ros.recordings.detections import read_detections
from masa_ros.recordings.prompts import RecordedPrompt, read_prompts
from masa_ros.recordings.recorder import Recorder
from masa_ros.recordings.sources import Source, open_source
from masa_ros.replay.recording import Output, record, track_here
from masa_ros.replay.space import RecordedSpace, SpaceOptions, open_space
from masa_ros.streams.stream import StreamConfig

COMMON = (
    *('source', 'output', 'ground_truth', 'detections', 'prompts', 'text', 'topic'),
    *('max_frames', 'realtime', 'no_overlay', 'method', 'model', 'device'),
)
ABSENT = methods.ABSENT


def add_arguments(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    """Declare the command's arguments, with those of the method that is chosen."""
    parser.usage = '%(prog)s SOURCE --output DIR [options]'
    parser.add_argument(
        'source',
        type=Path,
        metavar='SOURCE',
        help='rosbag2 folder, .mcap or .db3 file, video, or folder of images',
    )
    parser.add_argument(
        '--output', type=Path, required=True, metavar='DIR', help='folder for what comes of it'
    )
    parser.add_argument(
        '--ground-truth', type=Path, metavar='GT', help='score the tracks: see masa_ros evaluate'
    )
    parser.add_argument(
        '--video', default='', metavar='NAME', help='which video of a ground truth of several'
    )
    parser.add_argument(
        '--detections',
        type=Path,
        metavar='FILE',
        help="track these boxes instead of the method's own: COCO json or MOTChallenge txt",
    )
    parser.add_argument(
        '--prompts', type=Path, metavar='FILE', help='objects to track, pointed at or named: json'
    )
    parser.add_argument(
        '--text',
        metavar='WORDS',
        help="look for what answers to words as in 'person. red cup.': --find words --words WORDS",
    )
    parser.add_argument('--topic', default='', help='image topic of a bag with several')
    parser.add_argument(
        '--fps', type=float, default=0.0, help='rate of a folder of images (its meta.json, or 10)'
    )
    parser.add_argument('--max-frames', type=int, default=0, metavar='N', help='the first N only')
    parser.add_argument(
        '--realtime',
        action='store_true',
        help='at the pace of the stamps; images whose time has passed are skipped',
    )
    parser.add_argument(
        '--ros', action='store_true', help='through DDS and a node process of its own'
    )
    parser.add_argument(
        '--points',
        action='store_true',
        help='write the points that tracks are followed by to tracks.json: sam_pt, not --ros',
    )
    parser.add_argument(
        '--depth',
        default='',
        metavar='WHERE',
        help='say where in space tracks are, by depth: a folder of 16-bit PNG, TIFF or NPY of the '
        "images' names or in their order, or a topic of the bag",
    )
    parser.add_argument(
        '--camera-info',
        type=Path,
        metavar='FILE',
        help='calibration of the images: height, width, k, d, distortion_model as json; of a bag '
        'the camera_info beside the image topic',
    )
    parser.add_argument(
        '--depth-info',
        type=Path,
        metavar='FILE',
        help='calibration of a depth camera of its own, the same as json, with to_image: 4 x 4 '
        'numbers, row by row, from its optical frame to that of the images; of a bag by default '
        'its camera_info and /tf, with --no-space-registered',
    )
    parser.add_argument(
        '--poses',
        type=Path,
        metavar='WHERE',
        help='where the camera was: a trajectory (seconds x y z qx qy qz qw on every line) or a '
        "folder of 4 x 4 matrices; a bag's /tf with --space-target-frame",
    )
    parser.add_argument('--no-overlay', action='store_true', help='write no overlay.mp4')
    methods.add_arguments(parser, arguments, methods.REPEATABLE)
    options.add_arguments(parser.add_argument_group('stream'), StreamConfig)
    options.add_arguments(parser.add_argument_group('space, with --depth'), SpaceOptions)


def run(arguments: argparse.Namespace) -> int:
    """Track a recording and write the output folder."""
    source = open_source(arguments.source, arguments.topic, arguments.fps)
    if arguments.ground_truth and not arguments.ground_truth.exists():
        raise SourceError(f'{arguments.ground_truth} does not exist')
    if arguments.ros and arguments.detections:
        raise ConfigError('--detections is for replay in this process; leave out --ros')
    if arguments.ros and arguments.depth:
        raise ConfigError('--depth is for replay in this process; leave out --ros')
    beside = {'--poses': arguments.poses, '--depth-info': arguments.depth_info}
    alone = [name for name, value in beside.items() if value and not arguments.depth]
    if alone:
        raise ConfigError(f'{alone[0]} says something only beside --depth')
    if arguments.text is not None:
        arguments.find, arguments.words = 'words', arguments.text
    chosen: Any = options.from_arguments(METHODS[arguments.method].options, arguments)
    rules = options.from_arguments(StreamConfig, arguments)
    model = str(options.values_of(chosen).get('model', arguments.method))
    prompts = read_prompts(arguments.prompts) if arguments.prompts else []
    _check_kinds(arguments, prompts)
    output = Output(
        *(arguments.output, model, not arguments.no_overlay, arguments.points, prompts),
        *(arguments.ground_truth, arguments.video),
    )

    def track(recorder: Recorder) -> dict[str, Any]:
        through = _through_ros if arguments.ros else _here
        more = through(source, arguments, chosen, rules, recorder, prompts)
        for answer in more.get('prompts', ()):
            if answer['problem']:
                print(f'{arguments.prompts}, prompt {answer["index"]}: {answer["problem"]}')
        return more

    summary = record(source, str(arguments.source), output, track)
    print(
        f'{summary["frames_tracked"]} images, {summary["frames_refused"]} refused, '
        f'{summary["tracks"]} tracks, {summary["latency_ms_p50"]:.0f} ms an image (median): '
        f'{arguments.output}'
    )
    return 0


def _check_kinds(arguments: argparse.Namespace, prompts: Sequence[RecordedPrompt]) -> None:
    """Raise ConfigError for a prompt of a kind that the method does not take."""
    accepts = METHODS[arguments.method].accepts
    for number, recorded in enumerate(prompts):
        if not recorded.prompt.kinds <= accepts:
            known = ', '.join(sorted(accepts)) or 'none'
            raise ConfigError(
                f'{arguments.prompts}, prompt {number}: the method {arguments.method} takes '
                f'{known} of its kinds ({", ".join(sorted(recorded.prompt.kinds))})'
            )


def _here(
    source: Source,
    arguments: argparse.Namespace,
    chosen: Any,
    rules: StreamConfig,
    recorder: Recorder,
    prompts: Sequence[RecordedPrompt],
) -> dict[str, Any]:
    """Track in this process; returns what else belongs into the summary."""
    given = read_detections(arguments.detections) if arguments.detections else None
    space = _space(source, arguments, recorder)
    method = methods.load(arguments.method, chosen, print)
    try:
        more = track_here(
            *(source, method, rules, recorder, given, prompts, space),
            *(arguments.max_frames, arguments.realtime),
        )
    finally:
        method.close()
    if given is not None and given.unused:
        print(
            f'{arguments.detections}: {len(given.unused)} of its frames are not in the recording'
        )
    return more


def _space(
    source: Source, arguments: argparse.Namespace, recorder: Recorder
) -> RecordedSpace | None:
    """Return what says where tracks are, None where nobody asks."""
    if not arguments.depth:
        return None
    config = options.from_arguments(SpaceOptions, arguments).space
    files = DepthFiles(
        *(arguments.depth, arguments.camera_info, arguments.depth_info, config.registered)
    )
    return open_space(source, files, arguments.poses, config, recorder.event)


def _through_ros(
    source: Source,
    arguments: argparse.Namespace,
    chosen: Any,
    rules: StreamConfig,
    recorder: Recorder,
    prompts: Sequence[RecordedPrompt],
) -> dict[str, Any]:
    """Track in a node of its own; returns what else belongs into the summary."""
    from masa_ros.nodes.parameters import NodeConfig  # the only part that needs ROS
    from masa_ros.nodes.player import play

    config = NodeConfig()
    config = dataclasses.replace(config, method=arguments.method, chosen=chosen, stream=rules)
    figures = play(source, config, recorder, arguments.max_frames, prompts)
    return {'method': arguments.method, **figures}
