# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How good masa_nano is, next to what it must beat.

    python bench/nano.py [NAME=WEIGHTS ...] [--data DIR] [--library DIR] [--quick]

Rows: the shipped weights, every NAME=WEIGHTS given, a network with random weights, and, where
only boxes count, a fixed grid. Recall on the photographs of ``labelled/`` in --data and on
composites of the held-out tenth of the photographs, which training never sees; retrieval on the
latter; tracking on the demo's recording and on generated clips; the palindrome of the sequences
in --data; time and size.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import clips
import cv2
import numpy as np
import palindromes
import torch
from common import keep
from tqdm import tqdm

from masa_ros.demo import scene as demo_scene
from masa_ros.detectors.masa import DetectorConfig, MasaDetector
from masa_ros.evaluation.recall import SIZES, Found, Recall
from masa_ros.masks import crop
from masa_ros.models import checkpoints
from masa_ros.models.network import MasaNetwork
from masa_ros.models.zoo import model_config
from masa_ros.streams.stream import Stream
from masa_ros.training.composites import Composites
from masa_ros.training.cutouts import image_files, mine
from masa_ros.training.measure import Clip, eager, hundred_best, pictures, retrieval, tracking
from masa_ros.training.views import ViewPair
from masa_ros.types import Frame, Instances

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / 'shared/data'
LIBRARY = ROOT / '.cache/masa_train/cutouts'
COMPOSITES = 150  # scenes, two views each
KNOWN = 'cloth_147f9cb1'  # one of the held-out photographs that show a whole object
CLIPS = range(4)  # seeds of each kind
SETS = ('voc_boxes_a', 'fruit_boxes', 'coco_persons4')
Find = Callable[[np.ndarray], Instances]


class Image(NamedTuple):
    """One labelled image."""

    pixels: np.ndarray
    truth: Instances


def instances(boxes: np.ndarray, masks: tuple[Any, ...] | None = None) -> Instances:
    """Boxes (N, 4) as instances."""
    return Instances(boxes.astype(np.float32).reshape(-1, 4), masks=masks)


def photographs(folder: Path, most: int | None) -> Iterator[Image]:
    """Give labelled photographs, at ``most`` so many: boxes.csv, and PNG id masks where there."""
    by_image = defaultdict(list)
    with (folder / 'boxes.csv').open() as file:
        for row in csv.DictReader(file):
            x, y, w, h = (float(row[key]) for key in ('x', 'y', 'w', 'h'))
            by_image[row['image']].append(((x, y, x + w, y + h), int(row.get('id', 0) or 0)))
    for name, rows in itertools.islice(by_image.items(), most):
        pixels = cv2.cvtColor(cv2.imread(str(folder / 'images' / name)), cv2.COLOR_BGR2RGB)
        drawn = folder / 'masks' / Path(name).with_suffix('.png').name
        masks = None
        if drawn.is_file():
            ids = cv2.imread(str(drawn), cv2.IMREAD_UNCHANGED)
            ids = ids if ids.ndim == 2 else ids[:, :, 0]
            masks = tuple(crop(ids == number) for _, number in rows)
            masks = tuple(m if m.pixels.size else None for m in masks)
        yield Image(pixels, instances(np.array([box for box, _ in rows]), masks))


def composites(photos: Path, library: Path, quick: bool) -> list[ViewPair]:
    """Held-out composites."""
    files, count = image_files(photos), COMPOSITES
    if quick:
        files, count = [file for file in files if file.stem == KNOWN], 1
    mine(files, library)
    source = Composites(library, files, (384, 512), seed=77, held_out=True)
    return [source.pair(i) for i in tqdm(range(count), desc='composites', leave=False)]


def finder(detector: MasaDetector) -> Find:
    """Return what finds the instances of an image."""
    return lambda pixels: detector.detect([Frame(pixels, 0)])[0]


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


def main(
    quick: bool = False, weights: Sequence[str] = (), data: Path = DATA, library: Path = LIBRARY
) -> dict[str, Any]:
    """Print the table and return its figures."""
    if not data.is_dir():
        print(f'there are no photographs and recordings: {data}')
        return {}
    sets: dict[str, list[Image]] = {
        name: list(photographs(data / 'labelled' / name, 1 if quick else None))
        for name in SETS
        if (data / 'labelled' / name).is_dir()
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs: list[ViewPair] = []
        if (data / 'photos').is_dir():
            pairs = composites(data / 'photos', folder / 'cutouts' if quick else library, quick)
            sets['composites'] = [Image(*picture) for pair in pairs for picture in pictures(pair)]
        files = {'shipped': str(model_config('masa_nano').shipped_weights)}
        files |= {name: path for name, _, path in (w.partition('=') for w in weights)}
        files |= {} if quick else {'random weights': random_weights(folder)}
        detectors = {
            name: MasaDetector.load(hundred_best(weights=file, device='cpu'))
            for name, file in files.items()
        }
        sizes = {name: Path(file).stat().st_size / 2**20 for name, file in files.items()}
    finders = {name: finder(detector) for name, detector in detectors.items()}
    figures = {
        name: recalls({**finders, 'grid of boxes': grid}, sets[name], name) for name in sets
    }
    figures['tracking'] = trackings(detectors, sizes, pairs, data / 'sequences', quick)
    return figures


def recalls(finders: dict[str, Find], images: list[Image], title: str) -> dict[str, Any]:
    """Print the table of one set of images and return its figures."""
    print(f'\n{title}: {len(images)} images, {sum(len(i.truth) for i in images)} objects')
    heads = ''.join(f'{head:>7}' for head in ('R50', 'R70', 'top20'))
    print(
        f'{"":18}{"box AR":>7}{heads}   {"mask AR":>7}{heads}   R50 of boxes by side:'
        f' ..{SIZES[0]:g} ..{SIZES[1]:g} larger'
    )
    figures: dict[str, Any] = {}
    for finder, find in finders.items():
        found = Found()
        for image in images:
            found.add(find(image.pixels), image.truth, image.pixels.shape[:2])
        limits = (0.0, *SIZES, np.inf)
        by_size = [found.boxes(low, high) for low, high in itertools.pairwise(limits)]
        shares = ''.join(f'{100 * r.r50:6.0f}' if r.count else '     -' for r in by_size)
        print(
            f'{finder:18}{line(found.boxes())}   {line(found.masks())}{"":19}{shares}', flush=True
        )
        figures[finder] = {
            'boxes': vars(found.boxes()),
            'masks': vars(found.masks()),
            'by_size': [vars(recall) for recall in by_size],
        }
    return figures


def trackings(
    detectors: dict[str, MasaDetector],
    sizes: dict[str, float],
    pairs: list[ViewPair],
    sequences: Path,
    quick: bool,
) -> dict[str, Any]:
    """Print the table of everything that needs ids and return its figures."""
    demo = list(demo_scene.render(frames=4 if quick else demo_scene.FRAMES))
    print(
        f'\nretrieval: of {len(pairs)} composites. Palindrome of real sequences: found with the '
        'same id, of what is larger than 32 x 32 pixels, and how many such a frame\n'
        f'{"":18}{"retrieval":>10}{"demo HOTA":>11}{"IDF1":>7}{"clips HOTA":>12}{"IDF1":>7}'
        f'{"palindrome":>12}{"crowd":>7}{"ms p50":>8}{"p90":>6}{"MiB":>6}'
    )
    figures: dict[str, Any] = {}
    for name, detector in detectors.items():
        found_again = retrieval(detector, pairs) if pairs else 0.0
        detector.configure(DetectorConfig())
        method = eager(detector)
        on_demo, times = tracking(method, [demo]), milliseconds(detector, demo)
        generated = (clips.clip(*kind) for kind in itertools.product(clips.KINDS, CLIPS))
        on_clips = tracking(method, [demo] if quick else generated)
        found = palindromes.palindromes(method, sequences, *((1, 3) if quick else ()))
        results = [result for _, result in found]
        lasting = palindromes.added(result.recall for result in results)
        crowd = float(np.mean([result.crowd for result in results])) if results else 0.0
        p50, p90 = np.percentile(times, (50, 90))
        print(
            f'{name:18}{found_again:10.3f}{on_demo["hota"]:11.3f}{on_demo["idf1"]:7.3f}'
            f'{on_clips["hota"]:12.3f}{on_clips["idf1"]:7.3f}{lasting.value:12.3f}{crowd:7.1f}'
            f'{p50:8.1f}{p90:6.1f}{sizes[name]:6.1f}',
            flush=True,
        )
        figures[name] = {
            'retrieval': found_again,
            'demo': on_demo,
            'clips': on_clips,
            'palindrome': lasting.value,
            'crowd': crowd,
            'ms': {'p50': p50, 'p90': p90},
            'mib': sizes[name],
        }
    return figures


def milliseconds(detector: MasaDetector, clip: Clip) -> list[float]:
    """Time of each frame of 640 x 480 pixels, association and masks included."""
    stream, times = Stream(eager(detector)), []
    for frame, _ in clip:
        start = time.perf_counter()
        stream.track(frame)
        times.append((time.perf_counter() - start) * 1e3)
    return times[min(10, len(times) // 2) :]  # the first ones choose kernels and take memory


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('weights', nargs='*', metavar='NAME=FILE', default=[])
    parser.add_argument('--data', type=Path, default=DATA)
    parser.add_argument('--library', type=Path, default=LIBRARY)
    parser.add_argument('--quick', action='store_true', help='see that it runs')
    arguments = parser.parse_args()
    figures = main(**vars(arguments))
    if not arguments.quick:
        keep('nano', figures)
