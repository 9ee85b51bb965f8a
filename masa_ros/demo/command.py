"""``masa_ros demo``: everything at work on a generated recording.

Makes a bag, starts the real node as a process of its own, plays the bag to it over DDS, and
scores the tracks that come back against the exact truth.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from pathlib import Path
from typing import Any

from masa_ros import methods, options
from masa_ros.evaluation.metrics import evaluate
from masa_ros.methods import METHODS
from masa_ros.recordings.bags import IMAGE_TYPE, BagWriter
from masa_ros.recordings.recorder import Recorder
from masa_ros.recordings.sources import BagSource
from masa_ros.recordings.tracks_file import read_tracks, write_tracks


def add_arguments(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--output', type=Path, default=Path('out/demo'), metavar='DIR')
    methods.add_arguments(parser, arguments)


def run(arguments: argparse.Namespace) -> int:
    """Make the recording, track it through ROS, print and write the figures."""
    # The node and the scene import much: not before they are needed, so that --help is quick.
    from masa_ros.demo import scene
    from masa_ros.nodes.parameters import NodeConfig
    from masa_ros.nodes.player import play

    output: Path = arguments.output
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    print(f'demo: making {output}/recording.mcap')
    truth = []
    with BagWriter(output / 'recording.mcap', '/camera/image_raw', IMAGE_TYPE) as bag:
        for frame, true in scene.render():
            bag.write_image(frame.image, frame.stamp_ns, frame.frame_id)
            truth.append(true)
    write_tracks(output / 'ground_truth.json', 'truth', truth)

    print('demo: starting the node and playing the recording to it over DDS')
    chosen: Any = options.from_arguments(METHODS[arguments.method].options, arguments)
    model = str(options.values_of(chosen).get('model', arguments.method))
    config = dataclasses.replace(NodeConfig(), method=arguments.method, chosen=chosen)
    source = BagSource(output / 'recording.mcap')
    with Recorder(output, model, scene.FPS) as recorder:
        more = play(source, config, recorder)
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
    print(f'demo: look at {output}/overlay.mp4')
    return 0


def latency(summary: dict[str, float], percent: int) -> str:
    """Return a latency of the summary as text, milliseconds."""
    return f'{summary[f"latency_ms_p{percent}"]:.0f}'
