# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How well a mask that is given once is carried on.

    python bench/propagation.py [--weights NAME=FILE ...] [--methods NAME ...] [--only-methods]
        [--data DIR] [--kinds KIND ...] [--first N] [--quick]

Every labelled object is given in the first frame that it is labelled in, and compared wherever it
is labelled later. Recordings: the labelled sequences of --data, the demo's recording and generated
clips. Ways: the propagators whose weights are there or given, the methods that take prompts,
matching the same features without any training, OpenCV's trackers, and what was given staying
where it is.

Given is a mask: the labelled one, or, where only boxes are labelled, the one that masa_nano draws
in the box. Or an ellipse: the one that fills the object's box. Methods are prompted: by one click
at the innermost point of the labelled mask, or else in the middle of the box; by the box. What
they refuse counts as not found. OpenCV's trackers take the box.
Some labelled boxes are loose (that of the bag is the hull of a turned one): what fills them well
at first has it easier there than a tight mask.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import clips
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from common import keep
from first_answer import PROMPTED, PROMPTS, on_cpu
from numpy.typing import NDArray
from sequences import DATA, Recording, labelled
from torch import Tensor

from masa_ros.demo import scene as demo_scene
from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.errors import ConfigError, PromptError
from masa_ros.masks import crop
from masa_ros.methods.deva.detections import drawn
from masa_ros.methods.deva.segments import areas_of, intersections, split
from masa_ros.methods.protocol import Method
from masa_ros.models import nano_weights
from masa_ros.models.nano_propagation import NanoPropagation, NanoSizes
from masa_ros.models.preprocess import normalise
from masa_ros.propagators import PROPAGATORS
from masa_ros.propagators.nano import NanoPropagatorConfig
from masa_ros.propagators.protocol import Propagator
from masa_ros.streams.stream import Stream
from masa_ros.tracking.geometry import ious
from masa_ros.training.command import named_file
from masa_ros.types import Frame, Instances, Mask, Result

KINDS = (*clips.KINDS, 'long occlusion')
SEEDS = range(2)
GOOD = 0.5
Masks = dict[int, dict[int, Mask]]
"""By the number of the frame and the id of the object."""
Way = Callable[[list[Frame], Masks], Masks]
"""Carries what is given on; tells of every frame behind it where the objects are."""


def by_propagator(propagator: Propagator[Any]) -> Way:
    """Carry masks as the method ``deva`` does between two looks for objects."""

    @torch.inference_mode()
    def carry(frames: list[Frame], given: Masks) -> Masks:
        memory, seen = propagator.memory(), {}
        for index in range(min(given), len(frames)):
            (encoded,) = propagator.encode([frames[index]])
            labels = memory.read(encoded).argmax(0).to(torch.int32).numpy()
            ids = memory.ids
            seen[index] = dict(zip(ids, split(labels, len(ids))))
            if index not in given:
                memory.remember(encoded, ids)
                continue
            new = given[index]
            front = sorted(new, key=lambda i: -int(areas_of([new[i]])[0]))  # the smallest last
            for number, track_id in enumerate(front, start=1 + len(ids)):
                labels[new[track_id].full(*labels.shape)] = number
            values = torch.arange(1 + len(ids) + len(new))
            masks = (torch.from_numpy(labels) == values[:, None, None]).float()
            memory.remember(encoded, (*ids, *front), masks, certain=True)
        return seen

    return carry


def by_method(method: Method[Any], kind: str) -> Way:
    """Prompt a method with a click on what is given, or its box, and take what it answers.

    What it tracks beside that is not looked at. What it does not follow is seen nowhere.
    """

    def follow(frames: list[Frame], given: Masks) -> Masks:
        stream, ids = Stream(method), dict[int, int]()
        index = {frame.stamp_ns: i for i, frame in enumerate(frames)}
        seen: Masks = {}

        def take(results: Sequence[Result]) -> None:
            for frame, tracks, _ in results:
                tracks = tracks[tracks.present]
                for i, number in enumerate(tracks.track_ids.tolist()):
                    if number in ids:
                        mask = tracks.masks and tracks.masks[i]
                        mask = mask or filled(tracks.boxes[i], frame.shape)
                        seen.setdefault(index[frame.stamp_ns], {})[ids[number]] = mask

        for i in range(min(given), len(frames)):
            take(stream.track(frames[i]))
            for track_id, mask in given.get(i, {}).items():
                with contextlib.suppress(PromptError):
                    (number,) = stream.ask(PROMPTS[kind](mask)).tracks.track_ids.tolist()
                    ids[number] = track_id
        take(stream.finish())
        return seen

    return follow


class Matching:
    """Carries masks by the features of masa_nano's backbone alone, without training.

    The maps of strides 8 and 16 are joined, each normalised. Every place of a frame takes the
    labels of the places most like it (cosine) in the frame in which the object was given, and in
    the last four, there not far from it. The largest part that is left of an object is it.
    """

    MOST, TEMPERATURE, NEAR, LAST = 12, 0.05, 14, 4
    STRIDE = 8

    def __init__(self) -> None:
        network = NanoPropagation(NanoSizes())
        nano_weights.load_backbone(network)
        self.backbone = network.backbone.eval().to(memory_format=torch.channels_last)
        self.config = NanoPropagatorConfig()

    def features(self, frame: Frame) -> Tensor:
        """Return (C, h, w) of unit length at stride 8."""
        pixels = torch.from_numpy(np.ascontiguousarray(frame.image)).permute(2, 0, 1)[None]
        maps = self.backbone(self.config.placement(*frame.shape).image_in(normalise(pixels))).maps
        fine, coarse = (F.normalize(x, dim=1) for x in maps[:2])
        coarse = F.interpolate(coarse, fine.shape[2:], mode='bilinear')
        return F.normalize(torch.cat((fine, coarse), 1), dim=1)[0]

    @torch.inference_mode()
    def __call__(self, frames: list[Frame], given: Masks) -> Masks:
        """See ``Way``; objects that are given in one frame are carried on together."""
        features = {i: self.features(frames[i]) for i in range(min(given), len(frames))}
        seen: Masks = {}
        for start, masks in given.items():
            for index, each in self._carry(frames, features, start, masks):
                seen.setdefault(index, {}).update(each)
        return seen

    def _carry(
        self,
        frames: list[Frame],
        features: Mapping[int, Tensor],
        start: int,
        masks: dict[int, Mask],
    ) -> Iterator[tuple[int, dict[int, Mask]]]:
        place = self.config.placement(*frames[start].shape)
        height, width = features[start].shape[1:]
        full = np.stack([mask.full(*frames[start].shape) for mask in masks.values()])
        inside = place.masks_in(torch.from_numpy(full).float())
        first = F.avg_pool2d(inside[None], self.STRIDE)[0].flatten(1)
        memory = [(start, first)]  # frames, and the shares (N, h * w) of the objects in them
        far = self._far(height, width)
        known = dict(masks)
        for index in range(start + 1, len(frames)):
            here = features[index].flatten(1).T
            asked = [(start, first), *memory[-self.LAST :]]
            alike = [here @ features[i].flatten(1) for i, _ in asked]
            for near in alike[1:]:
                near.masked_fill_(far, -1)
            best = torch.cat(alike, 1).topk(self.MOST)
            weights = (best.values / self.TEMPERATURE).softmax(1)
            labels = torch.cat([shares for _, shares in asked], 1)
            found = (labels[:, best.indices] * weights).sum(2)
            memory.append((index, found))
            drawn_at = F.interpolate(
                found.unflatten(1, (height, width))[None],
                scale_factor=self.STRIDE,
                mode='bilinear',
            )
            shown = place.masks_out(drawn_at[0]).numpy()
            for track_id, share in zip(masks, shown):
                part = _largest(share > 0.5 * max(share.max(), 0.3))
                known[track_id] = part or known[track_id]  # not seen: where it was
            yield index, dict(known)

    def _far(self, height: int, width: int) -> Tensor:
        """Tell of every two places (h * w, h * w) whether they are far from each other."""
        rows, columns = torch.arange(height), torch.arange(width)
        y, x = ((v[:, None] - v).abs() > self.NEAR for v in (rows, columns))
        return (y[:, None, :, None] | x[None, :, None, :]).flatten(2).flatten(0, 1)


def _largest(mask: NDArray[np.bool_]) -> Mask | None:
    """Return the largest connected part of a mask (H, W), None where it is empty."""
    _, labels, parts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if len(parts) < 2:
        return None
    return crop(labels == 1 + int(parts[1:, cv2.CC_STAT_AREA].argmax()))


def by_opencv(create: Callable[[], Any]) -> Way:
    """Follow the boxes by one of OpenCV's trackers, each object by itself."""

    def carry(frames: list[Frame], given: Masks) -> Masks:
        images = [np.ascontiguousarray(frame.image) for frame in frames]
        seen: Masks = {}
        for start, masks in given.items():
            for track_id, mask in masks.items():
                cv2.setRNGSeed(0)
                tracker = create()
                tracker.init(images[start], (mask.x, mask.y, mask.width, mask.height))
                for index in range(start + 1, len(frames)):
                    found, box = tracker.update(images[index])
                    if found:
                        left, top, width, height = box
                        xyxy = left, top, left + width, top + height
                        seen.setdefault(index, {})[track_id] = filled(xyxy, frames[index].shape)
        return seen

    return carry


def filled(box: Iterable[float], shape: tuple[int, int]) -> Mask:
    """Return the part of a box xyxy that lies in an image as a mask."""
    left, top, right, bottom = (round(float(value)) for value in box)
    pixels = np.ones((max(bottom - top, 0), max(right - left, 0)), np.bool_)
    return Mask(left, top, pixels).clipped(*shape)


def staying(frames: list[Frame], given: Masks) -> Masks:
    """Leave everything where it was given."""
    return {
        index: {i: m for start, each in given.items() if start < index for i, m in each.items()}
        for index in range(len(frames))
    }


def opencv_trackers() -> dict[str, Callable[[], Any] | None]:
    """Return OpenCV's trackers that need no files; None for what is not in this build."""
    places = (cv2, getattr(cv2, 'legacy', None))
    return {
        name: next(filter(None, (getattr(p, f'Tracker{name}_create', None) for p in places)), None)
        for name in ('MIL', 'CSRT')
    }


def ellipse(box: NDArray[np.float32], shape: tuple[int, int]) -> Mask:
    """Return the ellipse that fills a box xyxy, as far as it lies in an image."""
    left, top = np.floor(box[:2]).astype(int)
    right, bottom = np.ceil(box[2:]).astype(int)
    (x, y), (rx, ry) = (box[:2] + box[2:]) / 2, np.maximum((box[2:] - box[:2]) / 2, 1)
    rows, columns = np.ogrid[top:bottom, left:right]
    pixels = ((columns + 0.5 - x) / rx) ** 2 + ((rows + 0.5 - y) / ry) ** 2 <= 1
    return crop(Mask(left, top, pixels).clipped(*shape).full(*shape))


class Task(NamedTuple):
    """A recording, and what is given of it.

    Attributes
    ----------
    frames: up to the last one in which an object is labelled again.
    boxes, masks: true of the objects, by frame and id; no masks where none are labelled.
    given: by what is given: 'mask', 'ellipse', 'box' (a mask that fills it), 'click' (what is
        clicked on: the true mask, or the box where none is known).

    """

    frames: list[Frame]
    boxes: dict[int, dict[int, NDArray[np.float32]]]
    masks: Masks
    given: dict[str, Masks]


def task(recording: Recording, detector: MasaDetector) -> Task | None:
    """Give every object where it is labelled first; None where none is labelled twice."""
    frames = recording.frames
    result = Task(frames, {}, {}, {kind: {} for kind in ('mask', 'ellipse', 'box', 'click')})
    often: dict[int, list[int]] = {}
    for truth in sorted(recording.truth, key=lambda truth: truth.index):
        for i, track_id in enumerate(truth.instances.track_ids.tolist()):
            often.setdefault(track_id, []).append(truth.index)
            if len(often[track_id]) > 1:
                result.boxes.setdefault(truth.index, {})[track_id] = truth.instances.boxes[i]
                mask = truth.instances.masks and truth.instances.masks[i]
                if mask:
                    result.masks.setdefault(truth.index, {})[track_id] = mask
                continue
            frame, one = frames[truth.index], truth.instances[[i]]
            bare = Instances(one.boxes, masks=one.masks)
            (mask,) = drawn(bare, frame, detector).masks or ()
            box = filled(one.boxes[0], frame.shape)
            true = one.masks and one.masks[0]
            shapes = {
                'mask': mask,
                'ellipse': ellipse(one.boxes[0], frame.shape),
                'box': box,
                'click': true or box,
            }
            for kind, shape in shapes.items():
                assert shape is not None
                result.given[kind].setdefault(truth.index, {})[track_id] = shape
    if not result.boxes:
        return None
    return result._replace(frames=frames[: 1 + max(result.boxes)])


class Overlaps(NamedTuple):
    """IoU with the truth of every object in every frame in which it is labelled again."""

    boxes: list[float]
    masks: list[float]


def overlaps(task: Task, seen: Masks) -> Overlaps:
    """Compare; the box of a mask is what counts as the object's box."""
    result = Overlaps([], [])
    nothing = Mask(0, 0, np.zeros((0, 0), np.bool_))
    for index, boxes in task.boxes.items():
        for track_id, box in boxes.items():
            mine = seen.get(index, {}).get(track_id, nothing)
            result.boxes.append(float(ious(np.array([mine.box], np.float32), box[None])[0, 0]))
            true = task.masks.get(index, {}).get(track_id)
            if true is not None:
                shared = int(intersections([mine], [true])[0, 0])
                union = int(areas_of([mine, true]).sum()) - shared
                result.masks.append(shared / union if union else 0.0)
    return result


def recordings(
    data: Path, kinds: Sequence[str], first: int | None, quick: bool
) -> Iterator[tuple[str, bool, list[Recording]]]:
    """Give the rows of the table: a name, whether it is real, and what it is made of."""
    for recording in labelled(data, kinds, 3 if quick else first):
        yield recording.name, True, [recording]
    made = ('demo',) if quick else ('demo', *KINDS)
    for kind in [kind for kind in made if not kinds or kind in kinds]:
        if kind == 'demo':
            several = [list(demo_scene.render(frames=4 if quick else demo_scene.FRAMES))]
        else:
            several = [clips.clip(kind, seed) for seed in SEEDS]
        yield kind, False, [_generated(kind, clip) for clip in several]


def _generated(name: str, clip: clips.Clip) -> Recording:
    # Frames are counted as they come, whatever was dropped between them.
    truth = [dataclasses.replace(true, index=i) for i, (_, true) in enumerate(clip)]
    return Recording(name, [frame for frame, _ in clip], truth)


def weights_of(texts: Sequence[str]) -> dict[str, str]:
    """Return files by the name of their propagator; raises ConfigError for another name."""
    files = dict(named_file('--weights', text) for text in texts)
    if unknown := sorted(set(files) - set(PROPAGATORS)):
        names = ', '.join(PROPAGATORS)
        raise ConfigError(f'--weights: no propagator is called {unknown[0]}; there are: {names}')
    return files


def prompted(names: Sequence[str]) -> dict[tuple[str, str], Way]:
    """Return methods, by their name and what they are prompted by."""
    chosen: dict[tuple[str, str], Way] = {}
    for name in names:
        method = on_cpu(name)
        chosen |= {(name, kind): by_method(method, kind) for kind in PROMPTS}
    return chosen


def others(weights: Mapping[str, str]) -> dict[tuple[str, str], Way]:
    """Return what they are compared with, by its name and what it is given."""
    chosen: dict[tuple[str, str], Way] = {}
    for name, kind in PROPAGATORS.items():
        if name in weights or name == 'nano':
            options = kind.options(weights=weights.get(name, ''))
            way = by_propagator(kind.load(options, 'cpu'))
            chosen |= {(name, given): way for given in ('mask', 'ellipse')}
    matching = Matching()
    chosen |= {('matching', given): matching for given in ('mask', 'ellipse')}
    for name, create in opencv_trackers().items():
        if create is None:
            print(f"OpenCV's {name}: not in this build")
        else:
            chosen[name, 'box'] = by_opencv(create)
    return chosen


def main(
    quick: bool = False,
    weights: Sequence[str] = (),
    methods: Sequence[str] = PROMPTED,
    only_methods: bool = False,
    data: Path = DATA,
    kinds: Sequence[str] = (),
    first: int | None = None,
) -> dict[str, Any]:
    """Print the tables and return their figures."""
    chosen = {} if only_methods else others(weights_of(weights))
    chosen |= {**prompted(methods), ('stays', 'box'): staying}
    detector = MasaDetector.load(DetectorConfig(device='cpu'))
    names = [' '.join(key) for key in chosen]
    print(
        'IoU of boxes with the truth, mean, and per cent of the frames above '
        f'{GOOD:g}\n{"":22}{"frames":>7}' + ''.join(f'{name:>18}' for name in names)
    )
    rows: dict[str, dict[str, Any]] = {}
    for title, real, several in recordings(data, kinds, first, quick):
        tasks = [each for one in several if (each := task(one, detector)) is not None]
        if not tasks:
            print(f'{title:22}no object is labelled twice', flush=True)
            continue
        cells = [measured(way, given, tasks) for (_, given), way in chosen.items()]
        rows[title] = {'real': real, 'frames': sum(len(each.frames) for each in tasks)}
        rows[title] |= dict(zip(names, cells))
        print(line(title, rows[title], names, 'boxes'), flush=True)
    means = {kind: mean([r for r in rows.values() if r['real'] is real], names)
             for kind, real in (('real, mean', True), ('generated, mean', False))}  # fmt: skip
    for title, row in means.items():
        if row:
            print(line(title, row, names, 'boxes'))
    print('\nIoU of masks, where masks are labelled')
    for title, row in (rows | means).items():
        if row and all(row[name]['masks'] is not None for name in names):
            print(line(title, row, names, 'masks'))
    print('\nmilliseconds a frame' + ' ' * 9, end='')
    every = list(rows.values())
    for name in names:
        spent = sum(row[name]['ms'] * row['frames'] for row in every)
        print(f'{spent / max(sum(row["frames"] for row in every), 1):18.1f}', end='')
    print()
    return {'rows': rows, 'means': means}


def measured(way: Way, given: str, tasks: Sequence[Task]) -> dict[str, Any]:
    """Return the figures of a way on some recordings together."""
    begin = time.perf_counter()
    found = [overlaps(each, way(each.frames, each.given[given])) for each in tasks]
    spent = (time.perf_counter() - begin) * 1e3 / sum(len(each.frames) for each in tasks)
    boxes, masks = ([v for one in found for v in getattr(one, k)] for k in ('boxes', 'masks'))
    return {'boxes': _summary(boxes), 'masks': _summary(masks) if masks else None, 'ms': spent}


def _summary(values: list[float]) -> dict[str, float]:
    return {'iou': float(np.mean(values)), 'good': float(np.mean(np.array(values) > GOOD))}


def mean(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Return the mean of rows, each of the same weight; an empty one of none."""
    if not rows:
        return {}
    row: dict[str, Any] = {'frames': sum(row['frames'] for row in rows)}
    for name in names:
        row[name] = {}
        for of in ('boxes', 'masks'):
            cells = [r[name][of] for r in rows if r[name][of] is not None]
            keys = ('iou', 'good') if cells else ()
            row[name][of] = {k: float(np.mean([c[k] for c in cells])) for k in keys} or None
    return row


def line(title: str, row: dict[str, Any], names: Sequence[str], of: str) -> str:
    """Return a row of a table."""
    cells = (row[name][of] for name in names)
    shares = ''.join(f'{cell["iou"]:13.3f}{100 * cell["good"]:5.0f}' for cell in cells)
    return f'{title:22}{row["frames"]:7}{shares}'


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--weights', nargs='*', metavar='NAME=FILE', default=[])
    parser.add_argument('--methods', nargs='*', choices=PROMPTED, default=PROMPTED)
    parser.add_argument(
        '--only-methods', action='store_true', help='leave out what they are compared with'
    )
    parser.add_argument('--data', type=Path, default=DATA)
    parser.add_argument('--kinds', nargs='*', default=[])
    parser.add_argument(
        '--first', type=int, metavar='N', help='frames of real sequences; otherwise all'
    )
    parser.add_argument('--quick', action='store_true', help='see that it runs')
    arguments = parser.parse_args()
    figures = main(**vars(arguments))
    if not arguments.quick:
        keep('propagation', figures)
