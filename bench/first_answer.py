# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a method answers to a click or a box, in the image that it was made on.

    python bench/first_answer.py [--methods NAME ...] [--most N] [--data DIR] [--quick]

Every object whose true mask is known is pointed at by itself, once by a click at its innermost
point and once by its box. Images: labelled photographs of --data, at most --most objects of a
folder, and every fifteenth image of the demo's recording.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from common import keep
from PIL import Image
from sequences import DATA

from masa_ros import options
from masa_ros.demo import scene as demo_scene
from masa_ros.demo.pointing import click
from masa_ros.errors import PromptError
from masa_ros.evaluation.truth import from_masks
from masa_ros.methods import METHODS, Method, load
from masa_ros.methods.deva.segments import areas_of, intersections
from masa_ros.streams.stream import Stream
from masa_ros.types import Frame, Mask, Prompt

FOLDERS = ('people', 'labelled/coco_persons4', 'labelled/judo_hall')
EVERY = 15
PROMPTED = [name for name, method in METHODS.items() if {'point', 'box'} <= method.accepts]
"""Methods that take clicks and boxes."""


def boxed(mask: Mask) -> Prompt:
    """Return the box of a mask, drawn in the newest image."""
    return Prompt(0, box=np.array(mask.box, np.float32))


PROMPTS: dict[str, Callable[[Mask], Prompt]] = {'click': click, 'box': boxed}


def on_cpu(name: str) -> Method[Any]:
    """Load a method as it is shipped, to run on the CPU."""
    return load(name, options.build(METHODS[name].options, {'device': 'cpu', 'runtime': 'eager'}))


def photographs(folder: Path, most: int) -> Iterator[tuple[Frame, Mask]]:
    """Give the objects in so many images of a folder that has PNG id masks, spread evenly."""
    files = sorted((folder / 'masks').glob('*.png'))
    for file in files[:: max(len(files) // most, 1)]:
        ids = np.asarray(Image.open(file))
        (picture,) = (folder / 'images').glob(f'{file.stem}.*')
        image = cv2.cvtColor(cv2.imread(str(picture)), cv2.COLOR_BGR2RGB)
        known = np.unique(ids[ids > 0])
        truth = from_masks(0, 0, ids == known[:, None, None], known.astype(np.int64))
        for mask in truth.instances.masks or ():
            assert mask is not None
            yield Frame(np.asarray(image, np.uint8), 1), mask


def objects(data: Path, most: int) -> Iterator[tuple[str, list[tuple[Frame, Mask]]]]:
    """Give the rows of the table: a name, and objects with the images that they are in."""
    for name in FOLDERS:
        if (data / name / 'masks').is_dir():
            yield name, list(itertools.islice(photographs(data / name, most), most))
    shown = itertools.islice(demo_scene.render(), 0, None, EVERY)
    pairs = [(frame, m) for frame, true in shown for m in true.instances.masks or () if m]
    yield 'demo', pairs[:most]


def answered(method: Method[Any], frame: Frame, prompt: Prompt, mask: Mask) -> float | None:
    """Return the IoU of what a method answers with the true mask, None where it refuses."""
    stream = Stream(method)
    stream.track(frame)
    try:
        tracks = stream.ask(prompt).tracks
    except PromptError:
        return None
    (mine,) = tracks.masks or (None,)
    if mine is None:
        return 0.0
    shared = int(intersections([mine], [mask])[0, 0])
    return shared / (int(areas_of([mine, mask]).sum()) - shared)


def main(
    quick: bool = False,
    methods: Sequence[str] = PROMPTED,
    most: int = 100,
    data: Path = DATA,
) -> dict[str, Any]:
    """Print the table and return its figures."""
    print(
        'IoU of the answered mask with the true one: mean, per cent above 0.5, refused (counted '
        f'as 0)\n{"":24}{"objects":>8}'
        + ''.join(f'{f"{name} {kind}":>20}' for name in methods for kind in PROMPTS)
    )
    loaded = {name: on_cpu(name) for name in methods}
    figures: dict[str, Any] = {}
    for title, every in objects(data, 1 if quick else most):
        row: dict[str, Any] = {'objects': len(every)}
        for (name, method), (kind, prompt) in itertools.product(loaded.items(), PROMPTS.items()):
            found = [answered(method, frame, prompt(mask), mask) for frame, mask in every]
            values = np.array([value or 0.0 for value in found])
            row[f'{name} {kind}'] = {
                'iou': float(values.mean()),
                'good': float((values > 0.5).mean()),
                'refused': found.count(None),
            }
        figures[title] = row
        cells = (cell for cell in row.values() if isinstance(cell, dict))
        text = ''.join(f'{c["iou"]:11.3f}{100 * c["good"]:5.0f}{c["refused"]:4}' for c in cells)
        print(f'{title:24}{len(every):8}{text}', flush=True)
    for method in loaded.values():
        method.close()
    return figures


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--methods', nargs='*', choices=PROMPTED, default=PROMPTED)
    parser.add_argument('--most', type=int, default=100, help='objects a folder (%(default)s)')
    parser.add_argument('--data', type=Path, default=DATA)
    parser.add_argument('--quick', action='store_true', help='see that it runs')
    arguments = parser.parse_args()
    figures = main(**vars(arguments))
    if not arguments.quick:
        keep('first_answer', figures)
