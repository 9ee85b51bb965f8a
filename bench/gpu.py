# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Milliseconds, memory and agreement of every model under every runtime, on a GPU.

    python bench/gpu.py [MODEL ...] [--camera WxH] [--rounds N] [--fixtures DIR] [--no-compiled]

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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from agreement import FIXTURES, FRAMES, cases, real_frames, seeded
from common import OUTPUT, keep

from masa_ros.detectors.masa import MasaDetector
from masa_ros.engines import trust
from masa_ros.engines.prepare import EngineConfig
from masa_ros.engines.runtimes import RUNTIMES
from masa_ros.methods.masa import Masa, MasaConfig
from masa_ros.models.devices import free_memory
from masa_ros.tracking import TrackerConfig
from masa_ros.types import Frame

MODELS = ('masa_nano', 'masa_r50', 'masa_sam_vitb')
WARM = 5
MASKS = 100  # instances that the end-to-end row is brought to
PUBLISHED = (
    # Meta's chart of SAM 3.1 (27 March 2026), as the press quotes it.
    ('SAM 3.1, 1 object', 'H100', '', 33.8),
    ('SAM 3.1, 16 objects', 'H100', '', 30.2),
    ('SAM 3.1, 128 objects', 'H100', '', 11.5),
    # isaac_ros_benchmark, the files results/*_graph-*.json of February 2026.
    ('Isaac ROS Segment Anything', 'RTX 5090', '1280x720', 20.8),
    ('Isaac ROS Segment Anything', 'Jetson Thor T5000', '1280x720', 2.26),
    ('Isaac ROS MobileSAM', 'RTX 5090', '1280x720', 70.3),
    ('Isaac ROS MobileSAM', 'Jetson Thor', '1280x720', 15.0),
    ('Isaac ROS Segment Anything 2', 'RTX 5090', '1280x720', 45.5),
    ('Isaac ROS Segment Anything 2', 'Jetson Thor', '1280x720', 14.9),
)
"""Of others: what ran, on what card, size of the images ('' where not told), images a second."""


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


def twin(reference: MasaDetector, precision: str) -> MasaDetector:
    """Return a detector with the same weights in another precision."""
    config = dataclasses.replace(
        reference.config,
        precision=precision,
        score_threshold=0.0,  # the weights are not trained: let everything pass
        nms_iou=0.9,
        mask_share=1.0,
        max_instances=MASKS,
    )
    network = copy.deepcopy(reference.network)
    detector = MasaDetector(reference.model, network, config, reference.device)
    detector.weights = reference.weights
    detector.reference = lambda: reference  # type: ignore[method-assign]
    return detector


def on(device: str, detector: MasaDetector) -> MasaDetector:
    """Bring a float32 detector to a device."""
    config = dataclasses.replace(detector.config, device=device, precision='fp32')
    return MasaDetector(detector.model, detector.network, config, device)


def measure(
    reference: MasaDetector, runtime: str, precision: str, frames: list[np.ndarray], rounds: int
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
        config = MasaConfig(
            engines=EngineConfig(runtime=runtime, folder=str(OUTPUT / 'engines')),
            tracker=TrackerConfig(init_score_thr=0.0),
        )
        method = Masa(detector, config)
        engines, shape = method.engines, detector.input_shape(height, width)
        start = time.perf_counter()
        prepared = engines.prepare(shape)
        row['build_s'] = round(time.perf_counter() - start, 1)
        row['engines'] = [str(done) for done in prepared]
        row['engine_mb'] = round(sum(done.size for done in prepared) / 1e6, 1)
        if engines.failed:
            row['refused'] = [done.stage for done in prepared if done.runtime == 'eager']
        known, runs = cases(reference, frames), engines.runs(shape)
        row['agreement'] = {
            m.name: round(m.value, 5)
            for name, stage in detector.stages.items()
            for m in trust.compare(stage, runs[name], known)
        }
        with torch.inference_mode():
            row['stages_ms'] = {
                name: percentiles(
                    clock.measure(
                        lambda name=name: runs[name](**known[0].inputs[name]),  # type: ignore[misc]
                        rounds,
                    )
                )
                for name in detector.stages
            }
        session = method.session()
        stamps = iter(range(0, 10**15, 50_000_000))
        found = 0

        def track() -> None:
            nonlocal found
            stamp = next(stamps)
            frame = Frame(frames[stamp // 50_000_000 % len(frames)], stamp)
            (result,) = session.update(frame, method.encode([frame])[0])
            found = max(found, len(result.tracks))

        row['end_to_end_ms'] = percentiles(clock.measure(track, rounds))
        row['images_per_s'] = round(1e3 / row['end_to_end_ms']['p50'], 1)
        row['tracks'] = found
        if prepared and not engines.prepared:  # one failed when it ran
            row['not_run'] = engines.status
    return row | taken


def automatic_masks(reference: MasaDetector, frame: np.ndarray) -> dict[str, Any]:
    """SAM's automatic mask generator with the same encoder and decoder, on the same device."""
    from segment_anything import SamAutomaticMaskGenerator
    from segment_anything.modeling import Sam

    encoder: Any = reference.network.backbone
    masks = reference.network.masks
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
    stages = ('image', 'boxes', 'embeddings', 'masks')
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


def show_published() -> None:
    """Print what others say of theirs."""
    print('\nNot measured here: published by others, on their cards; how, and of what, differs.')
    print(f'{"":32}{"card":20}{"images":12}images/s')
    for name, card, size, rate in PUBLISHED:
        print(f'{name:32}{card:20}{size:12}{rate:>8}')


def main(
    models: Sequence[str] = (),
    camera: str = '1280x720',
    rounds: int = 0,
    fixtures: Path = FIXTURES,
    frames: Path = FRAMES,
    compiled: bool = True,
    quick: bool = False,
) -> dict[str, Any]:
    """Run everything, print the table last, write the figures as they come."""
    if quick:
        models, camera, rounds, compiled = ['masa_nano'], '320x240', 1, False
    cuda = torch.cuda.is_available()
    device = 'cuda:0' if cuda else 'cpu'
    where = torch.cuda.get_device_name() if cuda else 'CPU: a rehearsal, no figure of a GPU'
    print(f'{where}; torch {torch.__version__}; camera {camera}')
    width, height = map(int, camera.split('x'))
    pictures = [cv2.resize(f, (width, height)) for f in real_frames(frames, 4)]
    rounds = rounds or (100 if cuda else 3)
    plans = [('eager', 'fp32'), ('eager', 'fp16'), ('compile', 'fp16'), ('tensorrt', 'fp16')]
    if not cuda:  # half precision on a CPU takes minutes an image and tells nothing
        plans = [('eager', 'fp32'), ('compile', 'fp32'), ('tensorrt', 'fp32')]
    if not compiled:
        plans = [plan for plan in plans if plan[0] != 'compile']
    rows: list[dict[str, Any]] = []
    figures = {'device': where, 'torch': torch.__version__, 'rows': rows}
    for name in models or MODELS:
        reference = on(device, seeded(name, fixtures))
        for runtime, precision in plans:
            print(f'{name}, {runtime} {precision} ...', flush=True)
            try:
                rows.append(measure(reference, runtime, precision, pictures, rounds))
            except RuntimeError as error:  # out of memory, a kernel that does not compile
                reason = f'{type(error).__name__}: {str(error).splitlines()[0]}'
                rows.append(
                    {'model': name, 'runtime': runtime, 'precision': precision, 'not_run': reason}
                )
            free_memory()
            if not quick:
                keep('gpu', figures)
        if name.startswith('masa_sam'):
            print(f'{name}, automatic masks ...', flush=True)
            rows.append(automatic_masks(reference, pictures[0]))
            keep('gpu', figures)
        del reference
    print(f'\n{where}; camera {camera}; milliseconds')
    show(rows)
    show_published()
    return figures


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('models', nargs='*', metavar='MODEL', default=[])
    parser.add_argument('--camera', default='1280x720', help='(%(default)s)')
    parser.add_argument('--rounds', type=int, default=0, help='else 100, on a CPU 3')
    parser.add_argument('--fixtures', type=Path, default=FIXTURES)
    parser.add_argument('--frames', type=Path, default=FRAMES)
    parser.add_argument(
        '--compiled', action=argparse.BooleanOptionalAction, default=True, help='by torch.compile'
    )
    main(**vars(parser.parse_args()))
