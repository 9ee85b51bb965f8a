"""``masa_ros replay``: track a recording."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tqdm import tqdm

from masa_ros.engines.prepare import EngineConfig
from masa_ros.engines.runtimes import RUNTIMES
from masa_ros.errors import ConfigError, ImageError, SourceError
from masa_ros.evaluation.truth import read_truth
from masa_ros.models.detector import DetectorConfig
from masa_ros.pipeline import Pipeline, PipelineConfig
from masa_ros.replay import tracker_options
from masa_ros.replay.detections import GivenDetections, read_detections
from masa_ros.replay.evaluate import report
from masa_ros.replay.recorder import Recorder
from masa_ros.replay.sources import Source, open_source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        'source', type=Path, metavar='SOURCE', help='rosbag2 folder, .mcap, .db3, video, or images'
    )
    parser.add_argument('--model', default='masa_nano', help='model (%(default)s)')
    parser.add_argument('--weights', default='', help='weights file instead of the shipped one')
    parser.add_argument('--output', type=Path, required=True, metavar='DIR')
    parser.add_argument(
        '--ground-truth',
        type=Path,
        metavar='GT',
        help='score by it: see masa_ros evaluate',
    )
    parser.add_argument('--video', default='', help='which video of a ground truth of several')
    parser.add_argument(
        '--detections',
        type=Path,
        metavar='FILE',
        help="track these boxes instead of the model's own: COCO json or MOTChallenge txt",
    )
    parser.add_argument('--topic', default='', help='image topic of a bag (the only one)')
    parser.add_argument(
        '--fps', type=float, default=0.0, help='rate of a folder of images (its meta.json, or 10)'
    )
    parser.add_argument('--max-frames', type=int, default=0, metavar='N', help='stop after N')
    parser.add_argument('--realtime', action='store_true', help='at the pace of the stamps')
    parser.add_argument(
        '--ros', action='store_true', help='through DDS and a node process of its own'
    )
    parser.add_argument('--no-overlay', action='store_true', help='write no overlay.mp4')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:N (%(default)s)')
    parser.add_argument(
        '--runtime',
        default='eager',
        choices=('auto', *RUNTIMES),
        help='what runs the network; engines are built first (%(default)s)',
    )
    parser.add_argument('--input-size', type=int, default=0, help='long side of the network input')
    parser.add_argument('--score-threshold', type=float, help='of detections, 0..1')
    tracker_options.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Track a recording and write the output folder."""
    source = open_source(arguments.source, arguments.topic, arguments.fps)
    if arguments.ground_truth and not arguments.ground_truth.exists():
        raise SourceError(f'{arguments.ground_truth} does not exist')
    given = read_detections(arguments.detections) if arguments.detections else None
    if given is not None and arguments.ros:
        raise ConfigError('--detections is for replay in this process; leave out --ros')
    tracker = tracker_options.config_from(arguments)
    detector = DetectorConfig(
        model=arguments.model,
        weights=arguments.weights,
        device=arguments.device,
        input_size=arguments.input_size,
        score_threshold=arguments.score_threshold,
    )
    engines = EngineConfig(runtime=arguments.runtime, warm_start=False)  # or no two runs agree
    config = PipelineConfig(detector, tracker, engines)
    fps = _rate(source)
    with Recorder(arguments.output, arguments.model, fps, not arguments.no_overlay) as recorder:
        if arguments.ros:
            from masa_ros.nodes.player import play  # the only part that needs ROS

            latencies, more = play(source, config, recorder, arguments.max_frames)
        else:
            pipeline = Pipeline.build(config, log=print)
            latencies = replay(
                source, pipeline, recorder, arguments.max_frames, arguments.realtime, given
            )
            more = {'device': pipeline.detector.device}
    if given is not None and given.unused:
        print(
            f'{arguments.detections}: {len(given.unused)} of its frames are not in the recording'
        )
    if not recorder.frames:
        reasons = '; '.join(list(recorder.refused.values())[:3]) or 'it holds no images'
        raise SourceError(f'{arguments.source}: nothing could be tracked: {reasons}')
    if arguments.ground_truth:
        truth = read_truth(arguments.ground_truth, recorder.frames, arguments.video)
        look = arguments.output / 'evaluation.html'
        more |= report(recorder.frames, truth, look, source, str(arguments.source)).rounded()
    summary = recorder.summary(latencies, **more)
    print(
        f'{summary["frames_tracked"]} images, {summary["frames_refused"]} refused, '
        f'{summary["tracks"]} tracks, {summary["latency_ms_p50"]:.0f} ms an image (median): '
        f'{arguments.output}'
    )
    return 0


def _rate(source: Source) -> float:
    """Frames per second by the first stamps of a recording."""
    stamps: list[int] = []
    for item in source:
        if not isinstance(item.frame, ImageError):
            stamps.append(item.frame.stamp_ns)
        if len(stamps) == 10:
            break
    span = stamps[-1] - stamps[0] if stamps else 0
    return min(max((len(stamps) - 1) * 1e9 / span, 1.0), 120.0) if span > 0 else 10.0


def replay(
    source: Source,
    pipeline: Pipeline,
    recorder: Recorder,
    max_frames: int = 0,
    realtime: bool = False,
    given: GivenDetections | None = None,
) -> list[float]:
    """Track a recording in this process: the same input gives the same output.

    With ``realtime`` images whose time has passed are skipped, as a node would skip them. With
    ``given`` these detections are tracked instead of the model's own.

    Returns
    -------
    Milliseconds that each image took.

    """
    latencies: list[float] = []
    start: tuple[int, float] | None = None
    total = min(len(source), max_frames) if max_frames else len(source)
    bar = tqdm(source, total=total or None, unit='image', disable=not sys.stderr.isatty())
    for index, item in enumerate(bar):
        if max_frames and index >= max_frames:
            break
        if isinstance(item.frame, ImageError):
            recorder.refuse(item.name, str(item.frame))
            continue
        now = time.perf_counter()
        if realtime:
            start = start or (item.frame.stamp_ns, now)
            ahead = (item.frame.stamp_ns - start[0]) * 1e-9 - (now - start[1])
            if ahead < -0.1:
                recorder.refuse(item.name, 'skipped: its time had passed')
                continue
            time.sleep(max(ahead, 0))
        before = time.perf_counter()
        boxes = given.at(index, item.name) if given is not None else None
        tracks = pipeline(item.frame, boxes)
        latencies.append((time.perf_counter() - before) * 1e3)
        recorder.add(index, item.name, item.frame, tracks)
    return latencies
