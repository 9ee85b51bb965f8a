"""What masa_nano finds: recall on real photographs and composites, next to what it must beat.

    python bench/nano.py [NAME=WEIGHTS ...] [--data DIR] [--library DIR]

Rows: the shipped weights, every NAME=WEIGHTS given, a network with random weights, and a fixed
grid of boxes. Photographs are those of ``labelled/`` in --data; composites are made of the
held-out tenth of the photographs that training never sees.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from tqdm import tqdm

from masa_ros.evaluation.recall import SIZES, Found, Recall
from masa_ros.masks import crop
from masa_ros.models import checkpoints
from masa_ros.models.detector import Detector
from masa_ros.models.network import MasaNetwork
from masa_ros.models.zoo import model_config
from masa_ros.training.composites import Composites
from masa_ros.training.cutouts import image_files, mine
from masa_ros.training.measure import hundred_best
from masa_ros.types import Instances

COMPOSITES = 150  # scenes, two views each
SETS = ('voc_boxes_a', 'fruit_boxes', 'coco_persons4')
Find = Callable[[np.ndarray], Instances]


class Image(NamedTuple):
    """One labelled image."""

    pixels: np.ndarray
    truth: Instances


def instances(boxes: np.ndarray, masks: tuple[Any, ...] | None = None) -> Instances:
    """Boxes (N, 4) as instances, best first."""
    count = len(boxes)
    return Instances(
        boxes=boxes.astype(np.float32).reshape(-1, 4),
        scores=np.linspace(1, 0.5, count).astype(np.float32),
        masks=masks,
    )


def photographs(folder: Path) -> Iterator[Image]:
    """Labelled photographs: boxes.csv, and PNG id masks where there are any."""
    by_image = defaultdict(list)
    with (folder / 'boxes.csv').open() as file:
        for row in csv.DictReader(file):
            x, y, w, h = (float(row[key]) for key in ('x', 'y', 'w', 'h'))
            by_image[row['image']].append(((x, y, x + w, y + h), int(row.get('id', 0) or 0)))
    for name, rows in by_image.items():
        pixels = cv2.cvtColor(cv2.imread(str(folder / 'images' / name)), cv2.COLOR_BGR2RGB)
        drawn = folder / 'masks' / Path(name).with_suffix('.png').name
        masks = None
        if drawn.is_file():
            ids = cv2.imread(str(drawn), cv2.IMREAD_UNCHANGED)
            ids = ids if ids.ndim == 2 else ids[:, :, 0]
            masks = tuple(crop(ids == number) for _, number in rows)
            masks = tuple(m if m.pixels.size else None for m in masks)
        yield Image(pixels, instances(np.array([box for box, _ in rows]), masks))


def composites(photos: Path, library: Path) -> Iterator[Image]:
    """Held-out composites."""
    files = image_files(photos)
    mine(files, library)
    source = Composites(library, files, (384, 512), seed=77, held_out=True)
    for index in range(COMPOSITES):
        sample = source.sample(index)
        for view in (0, 1):
            pixels = sample.images[view].permute(1, 2, 0).contiguous().numpy()
            masks = tuple(crop(mask) for mask in sample.masks[view].numpy())
            yield Image(pixels, instances(sample.boxes[view].numpy(), masks))


def detector_of(weights: str) -> Detector:
    """Return a detector that gives its hundred best, however poor."""
    return Detector.load(hundred_best(weights=weights, device='cpu'))


def grid(pixels: np.ndarray) -> Instances:
    """Return 93 boxes that do not look: four sizes, evenly spread, half overlapping."""
    height, width = pixels.shape[:2]
    boxes = []
    for count in (2, 3, 4, 8):
        half = np.array([width, height]) / (count + 1)
        boxes += [
            (*(np.array([x, y]) * half), *(np.array([x + 2, y + 2]) * half))
            for y in range(count)
            for x in range(count)
        ]
    return instances(np.array(boxes))


def random_weights(folder: Path) -> str:
    """Write a file of random weights."""
    torch.manual_seed(0)
    path = folder / 'random.safetensors'
    network = MasaNetwork(model_config('masa_nano').network)
    checkpoints.save(network, path, {'model': 'masa_nano'})
    return str(path)


def line(recall: Recall) -> str:
    """AR, R50, R70, top-20 R50 in per cent."""
    if not recall.count:
        return '      -' * 4
    values = (recall.ar, recall.r50, recall.r70, recall.top20)
    return ''.join(f'{100 * value:7.1f}' for value in values)


def main() -> dict[str, Any]:
    """Print the table and return its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('weights', nargs='*', metavar='NAME=FILE', default=[])
    parser.add_argument('--data', type=Path, default=Path('../shared/data'))
    parser.add_argument('--library', type=Path, default=Path('.cache/masa_train/cutouts'))
    arguments = parser.parse_args()
    sets: dict[str, list[Image]] = {
        name: list(photographs(arguments.data / 'labelled' / name))
        for name in SETS
        if (arguments.data / 'labelled' / name).is_dir()
    }
    if (arguments.data / 'photos').is_dir():
        made = composites(arguments.data / 'photos', arguments.library)
        sets['composites'] = list(tqdm(made, desc='composites', leave=False))
    if not sets:
        print(f'no labelled images in {arguments.data}')
        return {}
    finders: dict[str, Find] = {'shipped': detector_of('')}
    for item in arguments.weights:
        name, _, path = item.partition('=')
        finders[name] = detector_of(path)
    with tempfile.TemporaryDirectory() as folder:
        finders['random weights'] = detector_of(random_weights(Path(folder)))
    finders['grid of boxes'] = grid
    figures: dict[str, Any] = {}
    for name, images in sets.items():
        print(f'\n{name}: {len(images)} images, {sum(len(i.truth) for i in images)} objects')
        heads = ''.join(f'{head:>7}' for head in ('R50', 'R70', 'top20'))
        print(
            f'{"":18}{"box AR":>7}{heads}   {"mask AR":>7}{heads}   R50 of boxes by side:'
            f' ..{SIZES[0]:g} ..{SIZES[1]:g} larger{"ms":>8}'
        )
        for finder, find in finders.items():
            found = Found()
            times = []
            for image in images:
                start = time.perf_counter()
                answer = find(image.pixels)
                times.append((time.perf_counter() - start) * 1e3)
                found.add(answer, image.truth, image.pixels.shape[:2])
            limits = (0.0, *SIZES, np.inf)
            by_size = [found.boxes(low, high) for low, high in itertools.pairwise(limits)]
            shares = ''.join(f'{100 * r.r50:6.0f}' if r.count else '     -' for r in by_size)
            print(
                f'{finder:18}{line(found.boxes())}   {line(found.masks())}   {"":16}{shares}'
                f'{np.median(times):14.1f}',
                flush=True,
            )
            figures.setdefault(name, {})[finder] = {
                'boxes': vars(found.boxes()),
                'masks': vars(found.masks()),
                'by_size': [vars(recall) for recall in by_size],
                'ms': float(np.median(times)),
            }
    return figures


if __name__ == '__main__':
    output = Path('out/bench')
    result = main()
    output.mkdir(parents=True, exist_ok=True)
    (output / 'nano.json').write_text(json.dumps(result, indent=1) + '\n')
