"""Milliseconds, memory and agreement of every model under every runtime, on a GPU.

    python bench/gpu.py [MODEL ...] [--camera 1280x720] [--rounds N] [--fixtures DIR] [--quick]

Everything that runs is checked against float32 eager PyTorch on the same device; what does not
run is listed with the reason, and no figure stands for a runtime that did not run. Without a GPU
the same command runs on the CPU, as a rehearsal: its milliseconds say nothing about a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from agreement import real_frames, seeded
from common import OUTPUT, keep

from masa_ros.engines import trust
from masa_ros.engines.prepare import EngineConfig, Engines
from masa_ros.engines.runtimes import RUNTIMES
from masa_ros.models.detector import Detector
from masa_ros.pipeline import Pipeline, free_memory
from masa_ros.tracking import make_tracker
from masa_ros.tracking.tracker import TrackerConfig
from masa_ros.types import Frame

MODELS = ('masa_nano', 'masa_r50', 'masa_sam_vitb')
WARM = 5
MASKS = 100  # instances that the end-to-end row is brought to


class Clock:
    """Milliseconds of calls: CUDA events on a GPU, the processor's clock elsewhere."""

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith('cuda')

    def measure(self, work: Callable[[], Any], rounds: int) -> list[float]:
        """Time each of ``rounds`` calls, after a few that are not counted."""
        for _ in range(WARM if self.cuda else 1):
            work()
        times = []
        for _ in range(rounds):
            if self.cuda:
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                work()
                end.record()
                end.synchronize()
                times.append(begin.elapsed_time(end))
            else:
                start = time.perf_counter()
                work()
                times.append((time.perf_counter() - start) * 1e3)
        return times


def percentiles(times: list[float]) -> dict[str, float]:
    """p50 and p99, rounded."""
    return {f'p{p}': round(float(np.percentile(times, p)), 3) for p in (50, 99)}


@contextlib.contextmanager
def memory(device: str) -> Iterator[dict[str, float]]:
    """Fill in the largest memory that torch took meanwhile, MB; nothing on a CPU."""
    taken: dict[str, float] = {}
    if device.startswith('cuda'):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    yield taken
    if device.startswith('cuda'):
        taken['memory_mb'] = round(torch.cuda.max_memory_allocated() / 2**20, 1)


def twin(reference: Detector, precision: str) -> Detector:
    """Return a detector with the same weights in another precision."""
    config = dataclasses.replace(
        reference.config,
        precision=precision,
        score_threshold=-1.0,  # the weights are not trained: let everything pass
        nms_iou=0.9,
        mask_share=1.0,
        max_instances=MASKS,
    )
    network = copy.deepcopy(reference.network)
    detector = Detector(reference.model, network, config, reference.device)
    detector.weights = reference.weights
    return detector


def on(device: str, detector: Detector) -> Detector:
    """Bring a float32 detector to a device."""
    config = dataclasses.replace(detector.config, device=device, precision='fp32')
    return Detector(detector.model, detector.network, config, device)


def measure(
    reference: Detector, runtime: str, precision: str, frames: list[np.ndarray], rounds: int
) -> dict[str, Any]:
    """One row: a model under a runtime."""
    row: dict[str, Any] = {
        'model': reference.model.name,
        'runtime': runtime,
        'precision': precision,
    }
    device, clock = reference.device, Clock(reference.device)
    missing = RUNTIMES[runtime].missing(device)
    if missing:
        return row | {'not_run': missing}
    height, width = frames[0].shape[:2]
    with memory(device) as taken:
        detector = twin(reference, precision)
        lines: list[str] = []
        engines = Engines(
            detector,
            EngineConfig(runtime=runtime, warm_start=False, folder=str(OUTPUT / 'engines')),
            lines.append,
            lambda: reference,
        )
        start = time.perf_counter()
        prepared = engines.prepare(height, width)
        row['build_s'] = round(time.perf_counter() - start, 1)
        row['engines'] = [str(done) for done in prepared]
        row['engine_mb'] = round(sum(done.size for done in prepared) / 1e6, 1)
        if engines.failed:
            row['refused'] = [done.stage for done in prepared if done.runtime == 'eager']
        inputs = [reference.preprocess(frame) for frame in frames]
        samples = trust.make_samples(reference, inputs)
        shape = (inputs[0][0].shape[2], inputs[0][0].shape[3])
        runs = detector.engines.get(shape, detector.eager)
        row['agreement'] = {
            m.name: round(m.value, 5)
            for name in detector.stages
            for m in trust.compare(name, runs[name], samples)
        }
        with torch.inference_mode():
            row['stages_ms'] = {
                name: percentiles(
                    clock.measure(
                        lambda name=name: runs[name](**samples[0].tensors[name]),  # type: ignore[misc]
                        rounds,
                    )
                )
                for name in detector.stages
            }
        pipeline = Pipeline(detector, make_tracker(TrackerConfig(init_score_thr=0.0)))
        stamps = iter(range(0, 10**15, 50_000_000))
        found = 0

        def track() -> None:
            nonlocal found
            stamp = next(stamps)
            frame = frames[stamp // 50_000_000 % len(frames)]
            tracks = pipeline(Frame(frame, stamp))
            found = max(found, len(tracks))

        row['end_to_end_ms'] = percentiles(clock.measure(track, rounds))
        row['images_per_s'] = round(1e3 / row['end_to_end_ms']['p50'], 1)
        row['tracks'] = found
    return row | taken


def automatic_masks(reference: Detector, frame: np.ndarray) -> dict[str, Any]:
    """SAM's automatic mask generator with the same encoder and decoder, on the same device."""
    from segment_anything import SamAutomaticMaskGenerator
    from segment_anything.modeling import Sam

    encoder, masks = reference.network.backbone, reference.network.masks
    forward = type(encoder).forward
    encoder.img_size = 1024
    type(encoder).forward = lambda self, images: forward(self, images).detail
    try:
        whole = Sam(encoder, masks.prompt_encoder, masks.mask_decoder).to(reference.device)
        generator = SamAutomaticMaskGenerator(whole)
        clock = Clock(reference.device)
        times = clock.measure(lambda: generator.generate(frame), 3 if clock.cuda else 1)
    finally:
        type(encoder).forward = forward
    return {
        'model': 'SAM ViT-B, automatic masks',
        'runtime': 'eager',
        'precision': 'fp32',
        'end_to_end_ms': percentiles(times),
        'images_per_s': round(1e3 / float(np.median(times)), 2),
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    stages = ('image', 'boxes', 'looks', 'masks')
    heads = ('build s', 'MB', *stages, 'all p50', 'p99', 'images/s', 'memory', 'x eager fp32')
    print(f'\n{"model":28}{"runtime":10}{"":7}' + ''.join(f'{head:>13}' for head in heads))
    eager = {
        row['model']: row['end_to_end_ms']['p50']
        for row in rows
        if (row['runtime'], row['precision']) == ('eager', 'fp32') and 'end_to_end_ms' in row
    }
    for row in rows:
        first = f'{row["model"]:28}{row["runtime"]:10}{row["precision"]:7}'
        if 'not_run' in row:
            print(f'{first}   not run: {row["not_run"]}')
            continue
        whole = row['end_to_end_ms']
        values = [
            row.get('build_s', ''),
            row.get('engine_mb') or '',
            *(row.get('stages_ms', {}).get(stage, {}).get('p50', '') for stage in stages),
            whole['p50'],
            whole['p99'],
            row['images_per_s'],
            row.get('memory_mb', ''),
            f'{eager.get(row["model"], whole["p50"]) / whole["p50"]:.2f}',
        ]
        print(first + ''.join(f'{value:>13}' for value in values))
        worst = sorted(row.get('agreement', {}).items(), key=lambda item: item[1])[:3]
        if worst:
            print(f'{"":14}agreement: ' + ', '.join(f'{name} {value}' for name, value in worst))
        if 'refused' in row:
            print(f'{"":14}refused and run by PyTorch: {", ".join(row["refused"])}')


def main() -> dict[str, Any]:
    """Run everything, print the table last, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('models', nargs='*', metavar='MODEL', default=[])
    parser.add_argument('--camera', default='1280x720', help='(%(default)s)')
    parser.add_argument('--rounds', type=int, default=0, help='else 100, on a CPU 3')
    parser.add_argument('--fixtures', type=Path, default=Path('../shared/parity'))
    parser.add_argument('--frames', type=Path, default=Path('../shared/data/sequences'))
    parser.add_argument('--quick', action='store_true', help='without torch.compile')
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = 'cuda:0' if cuda else 'cpu'
    where = torch.cuda.get_device_name() if cuda else 'CPU: a rehearsal, no figure of a GPU'
    print(f'{where}; torch {torch.__version__}; camera {arguments.camera}')
    width, height = map(int, arguments.camera.split('x'))
    frames = [cv2.resize(f, (width, height)) for f in real_frames(arguments.frames, 4)]
    rounds = arguments.rounds or (100 if cuda else 3)
    plans = [('eager', 'fp32'), ('eager', 'fp16'), ('compile', 'fp16'), ('tensorrt', 'fp16')]
    if not cuda:  # half precision on a CPU takes minutes an image and tells nothing
        plans = [('eager', 'fp32'), ('compile', 'fp32'), ('tensorrt', 'fp32')]
    if arguments.quick:
        plans = [plan for plan in plans if plan[0] != 'compile']
    rows: list[dict[str, Any]] = []
    figures = {'device': where, 'torch': torch.__version__, 'rows': rows}
    for name in arguments.models or MODELS:
        reference = on(device, seeded(name, arguments.fixtures))
        for runtime, precision in plans:
            print(f'{name}, {runtime} {precision} ...', flush=True)
            try:
                rows.append(measure(reference, runtime, precision, frames, rounds))
            except RuntimeError as error:  # out of memory, a kernel that does not compile
                reason = f'{type(error).__name__}: {str(error).splitlines()[0]}'
                rows.append(
                    {'model': name, 'runtime': runtime, 'precision': precision, 'not_run': reason}
                )
            free_memory()
            keep('gpu', figures)
        if name.startswith('masa_sam'):
            print(f'{name}, automatic masks ...', flush=True)
            rows.append(automatic_masks(reference, frames[0]))
            keep('gpu', figures)
        del reference
    print(f'\n{where}; camera {arguments.camera}; milliseconds')
    show(rows)
    return figures


if __name__ == '__main__':
    main()
