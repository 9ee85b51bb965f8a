# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How good masa_nano is, next to what it must beat.

    python bench/nano.py [NAME=[MODEL:]WEIGHTS ...] [--data DIR] [--library DIR] [--quick]

Rows: the shipped weights, every NAME=WEIGHTS given (of another model than masa_nano:
NAME=MODEL:WEIGHTS), and, where only boxes count, a fixed grid.
Recall on the photographs of ``labelled/`` in --data, on the held-out tenth of ``people/`` and on
composites of the held-out tenth of the photographs, which training never sees; what is published
when a still is shown for a while; masks in true boxes; retrieval on the composites; tracking on
the demo's recording and on generated clips; the palindrome of the sequences in --data; time and
size.
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
from common import keep
from tqdm import tqdm

from masa_ros.demo import scene as demo_scene
from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.engines.prepare import EngineConfig
from masa_ros.evaluation.recall import SIZES, Found, Recall
from masa_ros.masks import crop
from masa_ros.methods.masa import Masa, MasaConfig
from masa_ros.models.zoo import model_config
from masa_ros.streams.stream import Stream
from masa_ros.tracking import TrackerConfig
from masa_ros.training.composites import Composites
from masa_ros.training.cutouts import image_files, is_held_out, mine
from masa_ros.training.measure import Clip, eager, hundred_best, pictures, retrieval, tracking
from masa_ros.training.views import ViewPair
from masa_ros.types import Frame, Instances, Mask

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / 'shared/data'
LIBRARY = ROOT / '.cache/nano/cutouts'
COMPOSITES = 150  # scenes, two views each
KNOWN = 'cloth_147f9cb1'  # one of the held-out photographs that show a whole object
CLIPS = range(4)  # seeds of each kind
SETS = ('coco_train128_NC', 'voc_boxes_a', 'fruit_boxes', 'coco_persons4')
STILLS = 'coco_train128_NC'
SHOWN = 4  # frames that a still is shown for
LOW = 0.05  # the lowest threshold
Find = Callable[[np.ndarray], Instances]


class Image(NamedTuple):
    """One labelled image."""

    pixels: np.ndarray
    truth: Instances
    person: np.ndarray = np.zeros(0, bool)  # which of them are people


def instances(boxes: np.ndarray, masks: tuple[Any, ...] | None = None) -> Instances:
    """Boxes (N, 4) as instances."""
    return Instances(boxes.astype(np.float32).reshape(-1, 4), masks=masks)


def photographs(folder: Path, most: int | None) -> Iterator[Image]:
    """Give labelled photographs, at ``most`` so many: boxes.csv, and PNG id masks where there."""
    by_image = defaultdict(list)
    with (folder / 'boxes.csv').open() as file:
        for row in csv.DictReader(file):
            x, y, w, h = (float(row[key]) for key in ('x', 'y', 'w', 'h'))
            number, person = int(row.get('id', 0) or 0), row.get('class') == 'person'
            by_image[row['image']].append(((x, y, x + w, y + h), number, person))
    for name, rows in itertools.islice(by_image.items(), most):
        pixels = cv2.cvtColor(cv2.imread(str(folder / 'images' / name)), cv2.COLOR_BGR2RGB)
        drawn = folder / 'masks' / Path(name).with_suffix('.png').name
        masks = None
        if drawn.is_file():
            ids = cv2.imread(str(drawn), cv2.IMREAD_UNCHANGED)
            ids = ids if ids.ndim == 2 else ids[:, :, 0]
            masks = tuple(crop(ids == number) for _, number, _ in rows)
            masks = tuple(m if m.pixels.size else None for m in masks)
        boxes, people = np.array([box for box, _, _ in rows]), np.array([p for _, _, p in rows])
        yield Image(pixels, instances(boxes, masks), people)


def whole_people(folder: Path, most: int | None) -> Iterator[Image]:
    """Give photographs of the held-out tenth with the mask of the one person that is known."""
    files = [file for file in image_files(folder / 'images') if is_held_out(file.stem)]
    for file in files[:most]:
        pixels = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
        drawn = cv2.imread(str(folder / 'masks' / f'{file.stem}.png'), cv2.IMREAD_GRAYSCALE)
        mask = crop(drawn > 0)
        yield Image(pixels, instances(np.array([mask.box]), (mask,)), np.ones(1, bool))


def composites(photos: Path, library: Path, quick: bool) -> list[ViewPair]:
    """Held-out composites."""
    files = [file for file in image_files(photos) if is_held_out(file.stem)]
    count = COMPOSITES
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
    if (data / 'people').is_dir():
        sets['people'] = list(whole_people(data / 'people', 1 if quick else None))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs: list[ViewPair] = []
        if (data / 'photos').is_dir():
            pairs = composites(data / 'photos', folder / 'cutouts' if quick else library, quick)
            sets['composites'] = [Image(*picture) for pair in pairs for picture in pictures(pair)]
        files = {'shipped': str(model_config('masa_nano').shipped_weights)}
        files |= {name: path for name, _, path in (w.partition('=') for w in weights)}
        detectors, sizes = {}, {}
        for title, given in files.items():
            model, _, file = given.rpartition(':')
            chosen = hundred_best(model=model or 'masa_nano', weights=file, device='cpu')
            detectors[title] = MasaDetector.load(chosen)
            sizes[title] = Path(file).stat().st_size / 2**20
    finders = {name: finder(detector) for name, detector in detectors.items()}
    figures = {
        name: recalls({**finders, 'grid of boxes': grid}, sets[name], name) for name in sets
    }
    if STILLS in sets:
        figures['published'] = publications(detectors, sets[STILLS])
    drawn = {name: images for name, images in sets.items() if images[0].truth.masks is not None}
    figures['in true boxes'] = in_true_boxes(detectors, drawn)
    for detector in detectors.values():
        detector.configure(hundred_best(model=detector.name))
    figures['tracking'] = trackings(detectors, sizes, pairs, data / 'sequences', quick)
    return figures


def recalls(finders: dict[str, Find], images: list[Image], title: str) -> dict[str, Any]:
    """Print the table of one set of images and return its figures."""
    print(f'\n{title}: {len(images)} images, {sum(len(i.truth) for i in images)} objects')
    heads = ''.join(f'{head:>7}' for head in ('R50', 'R70', 'top20'))
    print(
        f'{"":18}{"box AR":>7}{heads}   {"mask AR":>7}{heads}   R50 of boxes by side:'
        f' ..{SIZES[0]:g} ..{SIZES[1]:g} larger; people'
    )
    figures: dict[str, Any] = {}
    for finder, find in finders.items():
        found, people = Found(), Found()
        for image in images:
            seen, shape = find(image.pixels), image.pixels.shape[:2]
            found.add(seen, image.truth, shape)
            if image.person.any():
                people.add(seen, image.truth[image.person], shape)
        limits = (0.0, *SIZES, np.inf)
        by_size = [found.boxes(low, high) for low, high in itertools.pairwise(limits)]
        shares = ''.join(f'{100 * r.r50:6.0f}' if r.count else '     -' for r in by_size)
        print(
            f'{finder:18}{line(found.boxes())}   {line(found.masks())}{"":19}{shares}'
            f'{line(people.boxes()) if people.boxes().count else ""}',
            flush=True,
        )
        figures[finder] = {
            'boxes': vars(found.boxes()),
            'masks': vars(found.masks()),
            'by_size': [vars(recall) for recall in by_size],
            'people': vars(people.boxes()),
        }
    return figures


def publications(detectors: dict[str, MasaDetector], images: list[Image]) -> dict[str, Any]:
    """Print what is published of stills, at the lowest and at the default thresholds."""
    print(
        f'\npublished of {len(images)} stills, each shown for {SHOWN} frames\n'
        f'{"":18}{"lowest: R50":>12}{"people":>8}{"an image":>10}{"default: R50":>14}'
        f'{"people":>8}{"an image":>10}'
    )
    low = TrackerConfig(init_score_thr=LOW, obj_score_thr=LOW)
    thresholds = {'lowest': (LOW, low), 'default': (-1.0, TrackerConfig())}
    figures: dict[str, Any] = {}
    for name, detector in detectors.items():
        figures[name] = {}
        row = ''
        for title, (limit, tracker) in thresholds.items():
            config = DetectorConfig(detector.name, score_threshold=limit)
            detector.configure(config)
            plain = EngineConfig(runtime='eager')
            method = Masa(detector, MasaConfig(config, plain, tracker=tracker))
            found, people, count = Found(1000), Found(1000), 0
            for image in images:
                stream, tracks = Stream(method), Instances.empty()
                for number in range(SHOWN):
                    (result,) = stream.track(Frame(image.pixels, (number + 1) * 100_000_000))
                    tracks = result.tracks
                shape = image.pixels.shape[:2]
                count += len(tracks)
                found.add(tracks, image.truth, shape)
                if image.person.any():
                    people.add(tracks, image.truth[image.person], shape)
            figures[name][title] = {
                'r50': found.boxes().r50,
                'people': people.boxes().r50,
                'an image': count / len(images),
            }
            r50, of_people, each = figures[name][title].values()
            row += f'{100 * r50:12.1f}{100 * of_people:8.1f}{each:10.1f}  '
        print(f'{name:18}{row}', flush=True)
    return figures


def in_true_boxes(
    detectors: dict[str, MasaDetector], sets: dict[str, list[Image]]
) -> dict[str, Any]:
    """Print how well masks fit that are drawn in true boxes: the mean IoU of each set."""
    print('\nIoU of masks in true boxes\n' + ''.join(f'{name:>18}' for name in ('', *sets)))
    figures: dict[str, Any] = {}
    for name, detector in detectors.items():
        figures[name] = {}
        for title, images in sets.items():
            overlaps = []
            for image in images:
                shape = image.pixels.shape[:2]
                (encoded,) = detector.encode([image.pixels])
                drawn = detector.describe(encoded, instances(image.truth.boxes)).masks
                overlaps += [
                    iou(mine, true, shape)
                    for mine, true in zip(drawn or (), image.truth.masks or ())
                    if true is not None
                ]
            figures[name][title] = float(np.mean(overlaps))
        print(f'{name:18}' + ''.join(f'{value:18.3f}' for value in figures[name].values()))
    return figures


def iou(mine: Mask | None, true: Mask, shape: tuple[int, int]) -> float:
    """Overlap of two masks in an image of (height, width)."""
    if mine is None:
        return 0.0
    a, b = (mask.full(*shape) for mask in (mine, true))
    return float((a & b).sum() / (a | b).sum())


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
        detector.configure(DetectorConfig(detector.name))
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
