# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What methods remember while thousands of images pass.

    python bench/memory.py [--methods NAME ...] [--frames N] [--size WIDTHxHEIGHT]
        [--propagator NAME] [--weights NAME=FILE ...] [--quick]

The demo's recording is played to and fro, scaled to --size, its networks' inputs with it. Every
object that is seen in the first image is clicked where the method takes clicks; all methods look
for objects by themselves as well.

Printed at every tenth of the images: how many tracks are remembered, what a session says of its
memory, and the resident memory of this process, which has the networks of one method at a time.
"""

from __future__ import annotations

import argparse
import gc
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
from common import keep, resident_mb
from methods import WAYS, load
from propagation import weights_of

from masa_ros.demo import scene as demo_scene
from masa_ros.demo.pointing import click
from masa_ros.errors import PromptError
from masa_ros.methods import Method
from masa_ros.propagators import PROPAGATORS
from masa_ros.streams.stream import Stream
from masa_ros.types import Frame, Instances

LOOKS = 10
HEADS = ('images', 'tracks', 'memory frames', 'memory MiB', 'process MiB')


def images(count: int, size: tuple[int, int]) -> tuple[Iterator[Frame], Instances]:
    """Return so many images of a width and height, and what is seen in the first one."""
    clip = list(demo_scene.render(frames=min(max(count, 2), demo_scene.FRAMES)))
    small = [cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA) for frame, _ in clip]
    to_and_fro = itertools.cycle([*small, *small[-2:0:-1]])
    frames = (Frame(image, (i + 1) * 100_000_000) for i, image in enumerate(to_and_fro))
    return itertools.islice(frames, count), clip[0][1].instances


def remembered(
    method: Method[Any], count: int, size: tuple[int, int]
) -> Iterator[dict[str, float | None]]:
    """Track images, and tell by HEADS what is remembered at every tenth of them."""
    frames, there = images(count, size)
    stream = Stream(method)
    width, height = size
    ratio = width / demo_scene.SIZE[1], height / demo_scene.SIZE[0]
    looks = {count * (i + 1) // LOOKS for i in range(LOOKS)}
    for number, frame in enumerate(frames, start=1):
        stream.track(frame)
        if number == 1 and 'point' in method.accepts:
            for mask in there.masks or ():
                assert mask is not None
                try:
                    stream.ask(click(mask.scaled(*ratio)))
                except PromptError as error:
                    print(f'  not followed: {error}')
        if number in looks:
            told = stream.figures()
            held = told['memory_bytes'] / 2**20 if 'memory_bytes' in told else None
            cells = (number, told['tracks_in_memory'], told.get('memory_frames'), held)
            yield dict(zip(HEADS, (*cells, resident_mb())))


def main(
    quick: bool = False,
    methods: Sequence[str] = tuple(WAYS),
    frames: int = 10_000,
    size: str = '160x120',
    propagator: str = next(iter(PROPAGATORS)),
    weights: Sequence[str] = (),
) -> dict[str, Any]:
    """Print the table and return its figures."""
    width, height = map(int, size.split('x'))
    inputs: Mapping[str, Any] = {'input_size': max(width, 256), f'{propagator}.size': width}
    print(f'{"":22}' + ''.join(f'{head:>15}' for head in HEADS))
    figures: dict[str, Any] = {}
    for way in methods:
        method = load(way, propagator, weights_of(weights), inputs)
        figures[way] = []
        for row in remembered(method, 12 if quick else frames, (width, height)):
            figures[way].append(row)
            print(f'{way:22}' + ''.join(f'{_short(v):>15}' for v in row.values()), flush=True)
        method.close()
        del method
        gc.collect()
    return figures


def _short(value: float | None) -> str:
    if value is None:
        return '-'
    return f'{value:.2f}' if isinstance(value, float) else str(value)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--methods', nargs='*', choices=WAYS, default=list(WAYS))
    parser.add_argument('--frames', type=int, default=10_000, help='(%(default)s)')
    parser.add_argument('--size', default='160x120', metavar='WIDTHxHEIGHT', help='(%(default)s)')
    parser.add_argument('--propagator', choices=PROPAGATORS, default=next(iter(PROPAGATORS)))
    parser.add_argument('--weights', nargs='*', metavar='NAME=FILE', default=[])
    parser.add_argument('--quick', action='store_true', help='see that it runs')
    arguments = parser.parse_args()
    figures = main(**vars(arguments))
    if not arguments.quick:
        keep('memory', figures)
