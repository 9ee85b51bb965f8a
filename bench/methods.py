# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the methods are worth next to each other.

    python bench/methods.py [--methods NAME ...] [--kinds KIND ...] [--seeds N] [--data DIR]
        [--propagator NAME] [--weights NAME=FILE ...] [--looks N] [--quick]

The methods: masa; deva, which answers at once (clip_frames 1); deva with a consensus of three
frames (clip_frames 3); sam_track and sam_pt, which are to find everything by themselves. All with
the same detections of masa_nano, and each with its own way of looking for them. Recordings: the
demo's, generated clips, the labelled sequences of --data. Then what further objects cost. J&F
where masks are labelled, HOTA by boxes elsewhere.

flicker: how often an object that is there has no published mask on it (IoU 0.5); gaps: the same
between the first and the last time that it has one. delay: frames until an answer, mean and most.
Of real sequences those tracks count that overlap a labelled object, for not everything is
labelled. The clips called flicker are crossings whose given detections are missing now and then.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import clips
import cv2
import numpy as np
from common import keep
from propagation import weights_of
from sequences import DATA, labelled, recalled

from masa_ros import methods, options
from masa_ros.demo import scene as demo_scene
from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.evaluation.metrics import evaluate
from masa_ros.evaluation.recall import presence
from masa_ros.masks import crop
from masa_ros.propagators import PROPAGATORS
from masa_ros.recordings.tracks_file import TrackedFrame
from masa_ros.streams.stream import Stream
from masa_ros.types import Frame, Instances

WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    'masa': ('masa', {}),
    'deva': ('deva', {'clip_frames': 1}),
    'deva of 3': ('deva', {'clip_frames': 3}),
    'sam_track': ('sam_track', {'find': 'everything'}),
    'sam_pt': ('sam_pt', {'find': 'everything'}),
}
COUNTS = (1, 5, 10, 20)  # objects
GRID, RADIUS = (4, 5), 40  # rows and columns of them, pixels
HEADS = ('HOTA', 'IDF1', 'switches', 'J&F', 'flicker', 'gaps', 'delay', 'most', 'ms')


class Case(NamedTuple):
    """A recording, what is true of it, and what is found in it by masa_nano.

    Attributes
    ----------
    whole: whether everything that can be tracked is labelled.
    own: whether it makes sense without the given detections.

    """

    kind: str
    frames: list[Frame]
    truth: list[TrackedFrame]
    given: list[Instances]
    whole: bool = True
    own: bool = True


def cases(
    detector: MasaDetector, kinds: Sequence[str], seeds: int, data: Path, quick: bool
) -> Iterator[Case]:
    """Give the recordings of these kinds, or of all."""
    made = ('demo',) if quick else ('demo', *clips.KINDS, *clips.HARDER)
    for kind in [kind for kind in made if not kinds or kind in kinds]:
        for seed in range(1 if kind == 'demo' else seeds):
            if kind == 'demo':
                clip = list(demo_scene.render(frames=4 if quick else demo_scene.FRAMES))
            else:
                clip = clips.clip(kind, seed)
            frames = [frame for frame, _ in clip]
            # Frames are counted as they come, whatever was dropped between them.
            truth = [dataclasses.replace(true, index=i) for i, (_, true) in enumerate(clip)]
            given = [detector.detect([frame])[0] for frame in frames]
            if kind == 'flicker':
                given = clips.flickering(given, truth, seed)
            yield Case(kind, frames, truth, given, own=kind != 'flicker')
    for name, frames, truth in labelled(data, kinds, 3 if quick else None):
        ids = [i for true in truth for i in true.instances.track_ids.tolist()]
        if len(set(ids)) == len(ids):
            print(f'\n{name}: no object is labelled twice')
            continue
        given = [detector.detect([frame])[0] for frame in frames]
        yield Case(name, frames, truth, given, whole=False)


class Run(NamedTuple):
    """What a method answered, how many frames later, and how long it took for each frame."""

    tracks: list[TrackedFrame]
    delays: list[int]
    ms: list[float]


def run(
    method: methods.Method[Any], frames: list[Frame], given: Sequence[Instances | None]
) -> Run:
    """Track a recording."""
    stream, result = Stream(method), Run([], [], [])
    index = {frame.stamp_ns: i for i, frame in enumerate(frames)}
    for now, (frame, found) in enumerate(zip(frames, given)):
        begin = time.perf_counter()
        answers = stream.track(frame, found)
        result.ms.append((time.perf_counter() - begin) * 1e3)
        result.delays.extend(now - index[answer.frame.stamp_ns] for answer in answers)
        result.tracks.extend(tracked(index, *answer) for answer in answers)
    result.tracks.extend(tracked(index, *answer) for answer in stream.finish())
    return result


def tracked(
    index: Mapping[int, int], frame: Frame, tracks: Instances, names: Mapping[int, str]
) -> TrackedFrame:
    """Return the answer to a frame under its number."""
    return TrackedFrame(index[frame.stamp_ns], '', frame.stamp_ns, *frame.shape, tracks, names)


def scored(case: Case, done: Run) -> dict[str, float | None]:
    """Return the figures of one run, by HEADS."""
    found = done.tracks if case.whole else recalled(done.tracks, case.truth)
    scores = evaluate(found, case.truth)
    steady = presence(done.tracks, case.truth)
    values = (
        *(scores.hota, scores.idf1, scores.id_switches, scores.jf, steady.flicker, steady.gaps),
        *(float(np.mean(done.delays)), max(done.delays), warm(done.ms)),
    )
    return dict(zip(HEADS, values))


def warm(ms: Sequence[float]) -> float:
    """Return the mean time of a frame; the first ones choose kernels and take memory."""
    return float(np.mean(ms[min(10, len(ms) // 2) :]))


def together(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Return the figures of several runs: switches added up, of others the mean."""
    row: dict[str, float | None] = {}
    for head in HEADS:
        values = [value for each in rows if (value := each[head]) is not None]
        how: Any = {'switches': np.sum, 'most': np.max}.get(head, np.mean)
        row[head] = float(how(values)) if values else None
    return row


def line(title: str, row: Mapping[str, float | None]) -> str:
    """Return a row of the table of tracking."""
    digits = {'switches': 0, 'most': 0, 'delay': 1, 'ms': 1}
    cells = ('-' if (v := row[head]) is None else f'{v:.{digits.get(head, 3)}f}' for head in HEADS)
    return f'  {title:22}' + ''.join(f'{cell:>10}' for cell in cells)


def trackings(
    loaded: Mapping[str, methods.Method[Any]], every: Iterator[Case]
) -> dict[str, dict[str, Any]]:
    """Print the table of tracking and return its figures, by kind and way."""
    figures: dict[str, dict[str, Any]] = {}
    real: dict[str, list[dict[str, float | None]]] = {}
    for kind, group in itertools.groupby(every, key=lambda case: case.kind):
        rows: dict[str, list[dict[str, float | None]]] = {}
        for case in group:
            for (way, method), own in itertools.product(loaded.items(), (False, True)):
                if case.own or not own:
                    given = [None] * len(case.frames) if own else case.given
                    row = scored(case, run(method, case.frames, given))
                    title = f'{way}, {"own" if own else "given"}'
                    rows.setdefault(title, []).append(row)
                    if not case.whole:
                        real.setdefault(title, []).append(row)
        figures[kind] = shown(kind, rows)
    if real:
        figures['real'] = shown('real sequences, mean', real)
    return figures


def shown(
    kind: str, rows: Mapping[str, Sequence[Mapping[str, float | None]]]
) -> dict[str, dict[str, float | None]]:
    """Print what several runs of each way come to, and return it."""
    print(f'\n{kind:24}' + ''.join(f'{head:>10}' for head in HEADS))
    figures = {title: together(several) for title, several in rows.items()}
    for title, row in figures.items():
        print(line(title, row), flush=True)
    return figures


def costs(loaded: Mapping[str, methods.Method[Any]], looks: int) -> dict[str, Any]:
    """Print the time of a frame with so many given objects, and return it.

    The image stands still and the objects are plain, so that each is carried on as it was given.
    """
    heads = ''.join(f'{count:>8}' for count in COUNTS)
    print(f'\nms a frame by objects   {heads}   each further one; tracks that there were')
    frame = next(iter(demo_scene.render(frames=2)))[0]
    figures: dict[str, Any] = {}
    for way, method in loaded.items():
        spent, tracks = [], []
        for count in COUNTS:
            stream, ms = Stream(method), []
            shown, found = standing(count, frame)
            for number in range(looks):
                begin = time.perf_counter()
                stream.track(shown._replace(stamp_ns=(number + 1) * 100_000_000), found)
                ms.append((time.perf_counter() - begin) * 1e3)
            spent.append(warm(ms))
            tracks.append(int(stream.figures()['tracks_in_memory']))
        slope = float(np.polyfit(COUNTS, spent, 1)[0])
        figures[way] = {'ms': dict(zip(COUNTS, spent)), 'further': slope, 'tracks': tracks}
        row = ''.join(f'{ms:8.1f}' for ms in spent)
        print(f'  {way:22}{row}{slope:10.2f}   {" ".join(map(str, tracks))}', flush=True)
    return figures


def standing(count: int, frame: Frame) -> tuple[Frame, Instances]:
    """Draw discs of different colours in the cells of a grid."""
    (height, width), (rows, columns) = frame.shape, GRID
    image, masks = frame.image.copy(), []
    for number, (y, x) in enumerate(itertools.islice(np.ndindex(rows, columns), count)):
        centre = (2 * x + 1) * width // (2 * columns), (2 * y + 1) * height // (2 * rows)
        disc = np.zeros(frame.shape, np.uint8)
        cv2.circle(disc, centre, RADIUS, 1, -1)
        hsv = np.array([[[number * 180 // (rows * columns), 220, 230]]], np.uint8)
        image[disc > 0] = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]
        masks.append(crop(disc > 0))
    boxes = np.array([mask.box for mask in masks], np.float32)
    return frame._replace(image=image), Instances(boxes, masks=tuple(masks))


def load(
    way: str,
    propagator: str,
    weights: Mapping[str, str],
    more: Mapping[str, Any] = MappingProxyType({}),
) -> methods.Method[Any]:
    """Load a method, to run on the CPU as it is; options that it does not have are ignored."""
    name, values = WAYS[way]
    values = {'device': 'cpu', 'runtime': 'eager', 'propagator': propagator, **values, **more}
    values |= {f'{key}.weights': file for key, file in weights.items()}
    return methods.load(name, options.build(methods.METHODS[name].options, values))


def main(
    quick: bool = False,
    methods: Sequence[str] = tuple(WAYS),
    kinds: Sequence[str] = (),
    seeds: int = 2,
    data: Path = DATA,
    propagator: str = next(iter(PROPAGATORS)),
    weights: Sequence[str] = (),
    looks: int = 60,
) -> dict[str, Any]:
    """Print the tables and return their figures."""
    files = weights_of(weights)
    loaded = {way: load(way, propagator, files) for way in methods}
    detector = MasaDetector.load(DetectorConfig(device='cpu'))
    figures = {'tracking': trackings(loaded, cases(detector, kinds, seeds, data, quick))}
    if looks:
        figures['objects'] = costs(loaded, 2 if quick else looks)
    for method in loaded.values():
        method.close()
    return figures


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--methods', nargs='*', choices=WAYS, default=list(WAYS))
    parser.add_argument('--kinds', nargs='*', default=[])
    parser.add_argument('--seeds', type=int, default=2, help='clips of a kind (%(default)s)')
    parser.add_argument('--data', type=Path, default=DATA)
    parser.add_argument('--propagator', choices=PROPAGATORS, default=next(iter(PROPAGATORS)))
    parser.add_argument('--weights', nargs='*', metavar='NAME=FILE', default=[])
    parser.add_argument(
        '--looks', type=int, default=60, help='images of the table of costs (%(default)s); 0: none'
    )
    parser.add_argument('--quick', action='store_true', help='see that it runs')
    arguments = parser.parse_args()
    figures = main(**vars(arguments))
    if not arguments.quick:
        keep('methods', figures)
