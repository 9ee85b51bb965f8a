"""``masa_ros demo``: everything at work on a generated recording.

Makes a bag, starts the real node as a process of its own, plays the bag to it over DDS, and
scores the tracks that come back against the exact truth.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from masa_ros.evaluation.metrics import evaluate
from masa_ros.models.detector import DetectorConfig
from masa_ros.pipeline import PipelineConfig
from masa_ros.replay.bags import IMAGE_TYPE, BagWriter
from masa_ros.replay.recorder import Recorder
from masa_ros.replay.sources import BagSource
from masa_ros.tracks_file import write_tracks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--output', type=Path, default=Path('out/demo'), metavar='DIR')
    parser.add_argument('--model', default='masa_nano', help='model (%(default)s)')
    parser.add_argument('--weights', default='', help='weights file instead of the shipped one')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:N (%(default)s)')


def run(arguments: argparse.Namespace) -> int:
    """Make the recording, track it through ROS, print and write the figures."""
    # The node and the scene import much: not before they are needed, so that --help is quick.
    from masa_ros.nodes.player import play
    from masa_ros.replay import demo_scene

    output: Path = arguments.output
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    print(f'demo: making {output}/recording.mcap')
    truth = []
    with BagWriter(output / 'recording.mcap', '/camera/image_raw', IMAGE_TYPE) as bag:
        for frame, true in demo_scene.render():
            bag.write_image(frame.image, frame.stamp_ns, frame.frame_id)
            truth.append(true)
    write_tracks(output / 'ground_truth.json', 'truth', truth)

    print('demo: starting the node and playing the recording to it over DDS')
    config = PipelineConfig(
        DetectorConfig(model=arguments.model, weights=arguments.weights, device=arguments.device)
    )
    source = BagSource(output / 'recording.mcap')
    with Recorder(output, arguments.model, demo_scene.FPS) as recorder:
        latencies, more = play(source, config, recorder)
    scores = evaluate(recorder.frames, truth)
    summary = recorder.summary(latencies, **more, **scores.rounded())
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
