# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Masks of everything in a folder of photographs: made once, read by the training.

Written as COCO json with run-length masks, a hundred images a file, so that a run that was
interrupted goes on with the next file. SA-1B's own files and any COCO instance file are read too.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco
from tqdm import tqdm

from masa_ros.detectors.everything import EverythingConfig, EverythingDetector
from masa_ros.detectors.masa import MasaDetector
from masa_ros.errors import ConfigError, SourceError
from masa_ros.evaluation.fields import key, listed, member, read_json, short, text, whole
from masa_ros.masks import coco_rle, crop, pixels_from_coco
from masa_ros.models.files import SAM_FILES
from masa_ros.training.cutouts import read_image
from masa_ros.types import Frame, Mask

Image = NDArray[np.uint8]
_A_FILE = 100  # images


class Entry(NamedTuple):
    """One photograph with the run-length masks of its instances.

    Attributes
    ----------
    path: of the photograph.
    masks: COCO run lengths, compressed or not, or polygons, as they stand in the file.
    size: (height, width) that the masks are of, as they stand in the file.

    """

    path: Path
    masks: tuple[Any, ...]
    size: tuple[Any, Any]

    def decode(self, height: int, width: int) -> NDArray[np.bool_]:
        """Return the masks (N, height, width) bool at the size the image was read at.

        Raises
        ------
        ValueError
            When a mask or the size is damaged.

        """
        decoded = np.zeros((len(self.masks), height, width), np.bool_)
        rows, columns = (whole(side, 'the size of the image') for side in self.size)
        for number, (out, shape) in enumerate(zip(decoded, self.masks)):
            try:
                pixels = pixels_from_coco(shape, rows, columns)
            except ValueError as error:
                raise ValueError(f'mask {number}: {error}') from error
            out[:] = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_NEAREST)
        return decoded


def read_proposals(path: Path, images: Path, log: Callable[[str], None] = print) -> list[Entry]:
    """Read a COCO json file, or a folder of such files or of SA-1B's.

    Masks are taken as they stand in the file: ``Entry.decode`` tells damaged ones.

    Parameters
    ----------
    path: file or folder.
    images: folder that the file names are relative to.
    log: takes a line about photographs that are not there; they are left out.

    Raises
    ------
    SourceError
        Naming the file and the place in it that cannot be read, or when none of the photographs
        exists.

    """
    files = sorted(path.glob('*.json')) if path.is_dir() else [path]
    entries = [entry for file in files for entry in _read(file, images)]
    there = [entry for entry in entries if _is_file(entry.path)]
    if not there:
        example = f', for example {entries[0].path}' if entries else ''
        raise SourceError(f'{path}: none of its {len(entries)} images is in {images}{example}')
    if len(there) < len(entries):
        log(f'{path}: {len(entries) - len(there)} of {len(entries)} images are not there')
    return there


def _is_file(path: Path) -> bool:
    """Tell whether a name out of a file, which may be anything, is that of a file."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # longer than names can be; with bytes that names cannot have
        return False


def _read(file: Path, images: Path) -> list[Entry]:
    document, at = read_json(file), 'the file'
    try:
        if isinstance(document, dict) and 'image' in document:  # SA-1B: a file an image
            annotations = listed(document, 'annotations')
            masks = tuple(member(each, 'segmentation') for each in annotations)
            return [_entry(images, document['image'], masks)]
        if not isinstance(document, dict) or not {'images', 'annotations'} <= document.keys():
            raise ValueError('neither COCO instances nor one of SA-1B')
        by_image: dict[int | str, list[Any]] = {}
        for number, each in enumerate(listed(document, 'images')):
            at = f'image {number}'
            by_image[key(each, 'id')] = []
        for number, each in enumerate(listed(document, 'annotations')):
            at = f'annotation {number}'
            if not member(each, 'iscrowd') and member(each, 'segmentation'):
                of = key(each, 'image_id')
                if of not in by_image:
                    raise ValueError(f'no image has the id {short(of)}')
                by_image[of].append(each['segmentation'])
        entries = []
        for number, each in enumerate(listed(document, 'images')):
            at = f'image {number}'
            entries.append(_entry(images, each, tuple(by_image[key(each, 'id')])))
    except ValueError as error:
        raise SourceError(f'{file}, {at}: {error}') from error
    return entries


def _entry(images: Path, item: Any, masks: tuple[Any, ...]) -> Entry:
    size = member(item, 'height'), member(item, 'width')
    return Entry(images / text(item, 'file_name'), masks, size)


Segment = Callable[[Image], list[tuple[Mask, float]]]
"""What makes masks with their scores of an image (H, W, 3) uint8 RGB."""


def by_sam(model: str, device: str) -> Segment:
    """Segment everything by SAM's automatic mask generator, as the paper did (supplement J).

    Raises
    ------
    ConfigError, WeightsError
        When the model is no SAM, or its weights are not there.

    """
    if model not in SAM_FILES:
        raise ConfigError(f"'{model}' is no SAM model; there are: {', '.join(SAM_FILES)}")
    detector = EverythingDetector.load(EverythingConfig(model), device)

    def segment(image: Image) -> list[tuple[Mask, float]]:
        (found,) = detector.detect([Frame(image, 0)])
        masks = zip(found.masks or (), found.scores.tolist())
        return [(mask, score) for mask, score in masks if mask is not None]

    return segment


def by_agreement(
    detector: MasaDetector, sides: Sequence[int] = (384, 576), votes: int = 3
) -> Segment:
    """Segment by a small model that must find an instance again at other sizes and mirrored.

    What one pass finds is often half an object; what several passes agree on is mostly a whole
    one. The mask is where most of the passes see it. Regions that lie along the border for more
    than a third of their outline are left out: they are mostly ground, walls and sky.
    """
    config = detector.config

    def segment(image: Image) -> list[tuple[Mask, float]]:
        height, width = image.shape[:2]
        scale = min(1.0, max(sides) / max(height, width))
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        finds: list[_Find] = []
        for number, (side, mirrored) in enumerate((s, m) for s in sides for m in (False, True)):
            detector.configure(dataclasses.replace(config, input_size=side))
            shown = np.ascontiguousarray(small[:, ::-1]) if mirrored else small
            seen = detector.find(detector.encode([shown])[0])
            for mask, score in zip(seen.masks or (), seen.scores.tolist()):
                if mask is not None:
                    full = mask.full(size[1], size[0])
                    finds.append(_Find(number, full[:, ::-1] if mirrored else full, score))
        detector.configure(config)
        return [
            (crop(_enlarged(inside, width, height)), score)
            for inside, score in _agreeing(finds, votes)
        ]

    return segment


def _enlarged(inside: NDArray[np.bool_], width: int, height: int) -> NDArray[np.bool_]:
    soft = cv2.resize(inside.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(soft > 0.5)


class _Find(NamedTuple):
    """What one pass over an image found: number of the pass, mask (H, W) bool, score."""

    number: int
    inside: NDArray[np.bool_]
    score: float


def _agreeing(finds: list[_Find], votes: int) -> Iterator[tuple[NDArray[np.bool_], float]]:
    """Make one mask of each group of finds of different passes that overlap by 0.7."""
    finds = sorted(finds, key=lambda find: -find.score)
    if not finds:
        return
    flat = np.stack([find.inside[::2, ::2].ravel() for find in finds]).astype(np.float32)
    area, shared = flat.sum(1), flat @ flat.T
    overlap = shared / np.maximum(area[:, None] + area[None] - shared, 1)
    free = np.ones(len(finds), bool)
    for i in range(len(finds)):
        if not free[i]:
            continue
        group = np.flatnonzero(free & (overlap[i] >= 0.7))
        free[group] = False
        agreeing = {finds[k].number: finds[k] for k in group[::-1]}  # the best of each pass
        if len(agreeing) < votes:
            continue
        members = agreeing.values()
        inside = np.mean([find.inside for find in members], axis=0) >= 0.5
        if inside.any() and _border_share(inside) < 1 / 3:
            yield inside, float(np.mean([find.score for find in members]))


def _border_share(inside: NDArray[np.bool_]) -> float:
    """Share of an outline that lies on the border of the image."""
    border = np.concatenate((inside[0], inside[-1], inside[:, 0], inside[:, -1])).sum()
    within = inside & ~cv2.erode(inside.astype(np.uint8), np.ones((3, 3))).astype(bool)
    return float(border / max(int(within.sum()) + int(border), 1))


def write_proposals(
    files: Sequence[Path], root: Path, output: Path, segment: Segment, what: str
) -> tuple[int, list[str]]:
    """Write proposals of images to ``output``, a file for every hundred; finished ones are kept.

    Returns
    -------
    Number of instances in the files written now, and names of images that cannot be read.

    """
    output.mkdir(parents=True, exist_ok=True)
    count, unreadable = 0, []
    starts = range(0, len(files), _A_FILE)
    bar = tqdm(total=len(files), unit='image', disable=not sys.stderr.isatty())
    for start in starts:
        target = output / f'proposals-{start // _A_FILE:05d}.json'
        part = files[start : start + _A_FILE]
        if target.is_file():
            bar.update(len(part))
            continue
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, file in enumerate(part, start + 1):
            bar.update()
            image = read_image(file)
            if image is None:
                unreadable.append(str(file.relative_to(root)))
                continue
            height, width = image.shape[:2]
            name = str(file.relative_to(root))
            images.append({'id': number, 'file_name': name, 'height': height, 'width': width})
            for mask, score in segment(image):
                rle = coco_rle(mask, height, width)
                x, y, w, h = coco.toBbox({**rle, 'counts': rle['counts'].encode()}).tolist()
                annotations.append(
                    {
                        'id': start * 1000 + len(annotations) + 1,
                        'image_id': number,
                        'category_id': 1,
                        'segmentation': rle,
                        'bbox': [x, y, w, h],
                        'area': int(mask.counts[1::2].sum()),
                        'score': round(score, 4),
                        'iscrowd': 0,
                    }
                )
        document = {
            'info': {'description': what},
            'images': images,
            'categories': [{'id': 1, 'name': 'object'}],
            'annotations': annotations,
        }
        temporary = target.with_suffix('.part')
        temporary.write_text(json.dumps(document))
        temporary.replace(target)
        count += len(annotations)
    bar.close()
    return count, unreadable
