# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Detectors whose boxes a small network learns from: each knows something that others miss.

A box of which one teacher is sure is an object; of a doubtful one nothing is known; the rest of a
photograph is background. A box within a better one of its class is half an object, one around it a
group: both are doubtful. Teachers of classes say nothing of what they have no class for. There
masa_nano2 helps, which knows no classes: what it finds free of the border and of what is known
already is an object. What lies in a corner of the image and nobody else knows is sky, floor, wall
or foliage: background.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torchvision
from numpy.typing import NDArray

from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.errors import ConfigError, WeightsError
from masa_ros.models.coco import COCO_CLASSES
from masa_ros.models.preprocess import MEAN, STD
from masa_ros.tracking.geometry import areas, intersections, ious
from masa_ros.training.proposals import SAME, Image, Proposal, by_own_model

Boxes = NDArray[np.float32]

_WITHIN = 0.8  # share of a box in another from which it is a part of it
_STUFF_SHARE, _STUFF_BORDERS = 0.03, 2  # of the image; of its four borders
_MET = 0.3  # overlap (IoU) with what teachers of classes know that makes stuff an object after all
_DOUBTFUL = 0.2  # score below which a teacher of classes says nothing


class Taught(NamedTuple):
    """What one teacher finds in an image: boxes (N, 4) in pixels, scores (N,), classes (N,)."""

    boxes: Boxes
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]

    def some(self, index: NDArray[np.generic]) -> Taught:
        """Return some of them."""
        return Taught(*(values[index] for values in self))


Teach = Callable[[Image], Taught]


class Teacher(NamedTuple):
    """A teacher, and the score from which it is sure."""

    find: Teach
    sure: float


def mirrored(find: Teach) -> Teach:
    """Return a teacher that also looks at the mirror image."""

    def both(image: Image) -> Taught:
        plain, other = find(image), find(np.ascontiguousarray(image[:, ::-1]))
        boxes = other.boxes.copy()
        boxes[:, [0, 2]] = image.shape[1] - other.boxes[:, [2, 0]]
        return _joined((plain, other._replace(boxes=boxes)))

    return both


def masa_nano(path: Path, device: str, sides: Sequence[int] = (512, 640)) -> Teach:
    """Return the one-stage network of ours, NanoDet-g among them, at several sizes."""
    config = DetectorConfig(
        weights=str(path), device=device, score_threshold=0.1, nms_iou=0.7, class_threshold=0.0
    )
    detector = MasaDetector.load(config)

    @torch.inference_mode()
    def find(image: Image) -> Taught:
        parts = []
        for side in sides:
            detector.configure(dataclasses.replace(config, input_size=side))
            (encoded,) = detector.encode([image])
            seen = detector.select(detector.see(encoded))
            found = seen.boxes, seen.scores, detector.labels_of(seen)
            boxes, scores, labels = (values.cpu().numpy() for values in found)
            boxes /= np.array(encoded.view.scale * 2, np.float32)
            parts.append(Taught(boxes, scores, labels))
        return _joined(parts)

    return find


class NcnnNet:
    """A network in the files of ncnn, run on one thread.

    Parameters
    ----------
    path: of NAME.param; NAME.bin lies beside it.
    layer, blob: a custom layer of that type is left out, what it would make is fed as ``blob``.

    Raises
    ------
    WeightsError
        When the files cannot be read.

    """

    def __init__(self, path: Path, layer: str = '', blob: str = '') -> None:
        import ncnn

        self._matrix: Any = ncnn.Mat
        self._net: Any = ncnn.Net()
        for name in ('fp16_storage', 'fp16_arithmetic', 'fp16_packed', 'bf16_storage'):
            setattr(self._net.opt, f'use_{name}', False)
        self._net.opt.num_threads = 1
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise WeightsError(f'{path} cannot be read: {error}') from None
        left = [line for line in lines if not layer or not line.startswith(layer)]
        try:
            if layer:
                layers, blobs = (int(word) for word in left[1].split())
                left[1] = f'{layers - 1} {blobs - 1}'
                left[2] = f'Input images 0 1 {blob}'
        except (IndexError, ValueError):
            raise WeightsError(f'{path} describes no network of ncnn') from None
        weights = path.with_suffix('.bin')
        if self._net.load_param_mem('\n'.join(left) + '\n') or self._net.load_model(str(weights)):
            raise WeightsError(f'{path}: no network of ncnn, or {weights} does not fit it')

    def __call__(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Feed (C, H, W) and return the rows of the blob 'output'."""
        kept = np.ascontiguousarray(values, np.float32)  # ncnn does not keep what it reads
        extractor = self._net.create_extractor()
        extractor.input(name, self._matrix(kept))
        _, out = extractor.extract('output')
        return np.array(out)


def _cells(height: int, width: int, strides: Sequence[int]) -> NDArray[np.float32]:
    """Column, row and stride (P, 3) of all cells, level by level."""
    parts = []
    for stride in strides:
        rows, columns = -(-height // stride), -(-width // stride)
        y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing='ij')
        parts.append(np.stack((x, y, np.full_like(x, stride)), -1).reshape(-1, 3))
    return np.concatenate(parts).astype(np.float32)


def yolox_nano(path: Path, sides: Sequence[int] = (416, 640)) -> Teach:
    """Return YOLOX-Nano (Ge et al. 2021) in ncnn's files, at several sizes."""
    net = NcnnNet(path, 'YoloV5Focus', '683')

    def once(image: Image, side: int) -> Taught:
        height, width = image.shape[:2]
        scale = side / max(height, width)
        size = max(1, int(width * scale)), max(1, int(height * scale))
        canvas = np.full((side, side, 3), 114, np.float32)
        canvas[: size[1], : size[0]] = cv2.resize(image, size)[:, :, ::-1]
        x = canvas.transpose(2, 0, 1)
        corners = (x[:, j::2, i::2] for i in (0, 1) for j in (0, 1))
        out, cells = net('683', np.concatenate(list(corners))), _cells(side, side, (8, 16, 32))
        centre = (out[:, :2] + cells[:, :2]) * cells[:, 2:]
        half = np.exp(out[:, 2:4]) * cells[:, 2:] / 2
        boxes = (np.hstack((centre - half, centre + half)) / scale).astype(np.float32)
        return Taught(boxes, out[:, 4] * out[:, 5:].max(1), out[:, 5:].argmax(1))

    return lambda image: _joined([once(image, side) for side in sides])


def nanodet_plus(path: Path, side: int = 416) -> Teach:
    """Return NanoDet-Plus in ncnn's files."""
    net = NcnnNet(path)
    mean, std = (np.array(values[::-1], np.float32) for values in (MEAN, STD))  # BGR
    count = len(COCO_CLASSES)

    def find(image: Image) -> Taught:
        height, width = image.shape[:2]
        resized = cv2.resize(image, (side, side))[:, :, ::-1].astype(np.float32)
        out = net('data', ((resized - mean) / std).transpose(2, 0, 1))
        cells = _cells(side, side, (8, 16, 32, 64))
        share = np.exp(out[:, count:].reshape(len(out), 4, -1))
        share /= share.sum(2, keepdims=True)
        edges = share @ np.arange(share.shape[2], dtype=np.float32) * cells[:, 2:]
        centre = cells[:, :2] * cells[:, 2:]
        boxes = np.hstack((centre - edges[:, :2], centre + edges[:, 2:]))
        scale = np.array((width, height, width, height), np.float32) / side
        boxes = (boxes * scale).astype(np.float32)
        return Taught(boxes, out[:, :count].max(1), out[:, :count].argmax(1))

    return find


def _joined(parts: Sequence[Taught]) -> Taught:
    boxes, scores, labels = (np.concatenate(values) for values in zip(*parts))
    return Taught(boxes.astype(np.float32), scores.astype(np.float32), labels.astype(np.int64))


# Sure where about two of three such boxes lie on something that is labelled.
KINDS: dict[str, Callable[[Path, str], Teacher]] = {
    'masa_nano': lambda path, device: Teacher(masa_nano(path, device), 0.38),
    'yolox_nano': lambda path, device: Teacher(mirrored(yolox_nano(path)), 0.35),
    'nanodet_plus': lambda path, device: Teacher(mirrored(nanodet_plus(path)), 0.35),
}
"""Teachers of classes by name; made of a file and a device."""

_OWN_SURE = 0.62  # of masa_nano2


def by_teachers(
    files: Sequence[tuple[str, Path]], device: str
) -> Callable[[Image], list[Proposal]]:
    """Return what unites the finds of several teachers.

    Parameters
    ----------
    files: (NAME, FILE) of teachers, NAME of ``KINDS`` or 'masa_nano2'.
    device: of those that run by torch.

    Raises
    ------
    ConfigError, WeightsError
        For an unknown name, and files that cannot be read.

    """
    teachers, own = [], None
    for name, path in files:
        if name == 'masa_nano2':
            own = by_own_model(name, str(path), device)
        elif name in KINDS:
            teachers.append(KINDS[name](path, device))
        else:
            known = ', '.join((*KINDS, 'masa_nano2'))
            raise ConfigError(f"no teacher is called '{name}'; there are: {known}")

    def find(image: Image) -> list[Proposal]:
        height, width = image.shape[:2]
        limit = np.array((width, height, width, height), np.float32)
        sure, doubtful = [_NOTHING], [_NOTHING]
        for teacher in teachers:
            taught = teacher.find(image)
            taught = taught._replace(boxes=np.clip(taught.boxes, 0, limit).astype(np.float32))
            whole = (taught.boxes[:, 2:] - taught.boxes[:, :2] >= 2).all(1)
            taught = taught.some(whole & (taught.scores >= _DOUBTFUL))
            certain = taught.scores >= teacher.sure
            sure.append(taught.some(certain))
            doubtful.append(taught.some(~certain))
        known = _best(_joined(sure))
        halves = _halves(known)
        unsure = _best(_joined((*doubtful, known.some(halves))))
        known = known.some(~halves)
        found = [Proposal(box, None, float(score)) for box, score, _ in zip(*known)]
        if own is not None:
            for proposal in own(image):
                box = proposal.box[None]
                met = ious(box, known.boxes)[0].max(initial=0)
                within = (intersections(box, known.boxes)[0] / areas(box)).max(initial=0)
                borders = _borders(proposal.box, width, height)
                large = areas(box)[0] > _STUFF_SHARE * width * height
                if met >= SAME or (borders >= _STUFF_BORDERS and large and met < _MET):
                    continue
                free = not borders and within < _WITHIN and proposal.score >= _OWN_SURE
                found.append(proposal._replace(mask=None, doubtful=not free))
        others = ious(unsure.boxes, known.boxes).max(axis=1, initial=0) < SAME
        found += [Proposal(b, None, float(s), True) for b, s, _ in zip(*unsure.some(others))]
        return found

    return find


_NOTHING = Taught(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


def _best(taught: Taught) -> Taught:
    """Keep the best of the boxes that mean one object, best first."""
    boxes, scores = (torch.from_numpy(values) for values in taught[:2])
    return taught.some(torchvision.ops.nms(boxes, scores, SAME).numpy())


def _halves(taught: Taught) -> NDArray[np.bool_]:
    """Tell (N,) which boxes, best first, are parts or groups of better ones of their class."""
    own = areas(taught.boxes)
    within = intersections(taught.boxes, taught.boxes) / np.minimum(own[:, None], own[None])
    within *= taught.labels[:, None] == taught.labels[None]
    return np.asarray((np.tril(within, -1) > _WITHIN).any(axis=1))


def _borders(box: Boxes, width: int, height: int) -> int:
    """Count the borders of the image that a box touches."""
    x0, y0, x1, y1 = box.tolist()
    near = 0.01 * max(width, height) + 1
    return (x0 < near) + (y0 < near) + (x1 > width - near) + (y1 > height - near)
