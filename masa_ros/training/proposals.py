# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is in a folder of photographs: made once, read by the training.

Written as COCO json, a hundred images a file, so that a run that was interrupted goes on with the
next file: an annotation has a run-length mask or only a box, ``iscrowd`` where it is doubtful
whether there is an object, and a ``track_id`` where the object is known in other frames of the
recording. SA-1B's own files and any COCO instance file are read too.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from masa_ros.detectors.everything import EverythingConfig, EverythingDetector
from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.errors import ConfigError, SourceError
from masa_ros.evaluation.fields import key, listed, member, read_json, short, text, whole
from masa_ros.masks import crop, pixels_from_coco
from masa_ros.models.files import SAM_FILES
from masa_ros.tracking.geometry import ious
from masa_ros.training.views import Known
from masa_ros.types import Frame, Mask

Image = NDArray[np.uint8]
SAME, _LINKED = 0.6, 0.4  # overlap (IoU) of boxes that mean one object, of it in the next frame


class Entry(NamedTuple):
    """One photograph and what is known of its instances, as it stands in the file.

    Attributes
    ----------
    path: of the photograph.
    shapes: COCO run lengths, compressed or not, polygons, or a box: x, y, width, height.
    kinds: of each.
    tracks: of each the number of the object in its recording, 0 where it is not known.
    size: (height, width) that the shapes are of.

    """

    path: Path
    shapes: tuple[Any, ...]
    kinds: tuple[Known, ...]
    tracks: tuple[int, ...]
    size: tuple[Any, Any]

    @property
    def linked(self) -> bool:
        """Tell whether it is a frame of a recording whose objects are known in other frames."""
        return bool(self.tracks) and all(self.tracks)

    @property
    def only_mask(self) -> Callable[[int, int], NDArray[np.bool_]] | None:
        """Return what decodes the one mask that is known, beside boxes; None where there is none.

        Masks of everything are not meant: they are of parts, too.
        """
        masks = [i for i, kind in enumerate(self.kinds) if kind == Known.MASK]
        if len(masks) != 1:
            return None
        i = masks[0]
        one = self._replace(
            shapes=self.shapes[i : i + 1], kinds=self.kinds[i : i + 1], tracks=(0,)
        )
        return lambda height, width: one.decode(height, width)[0]

    def decode(self, height: int, width: int) -> NDArray[np.bool_]:
        """Return the masks (N, height, width) bool at the size the image was read at.

        Where only a box is known all of it is filled.

        Raises
        ------
        ValueError
            When a mask or the size is damaged.

        """
        decoded = np.zeros((len(self.shapes), height, width), np.bool_)
        rows, columns = (whole(side, 'the size of the image') for side in self.size)
        if min(rows, columns) < 1 and any(kind != Known.MASK for kind in self.kinds):
            raise ValueError(f'a box in an image of {columns} x {rows}')
        for number, (out, shape, kind) in enumerate(zip(decoded, self.shapes, self.kinds)):
            try:
                if kind != Known.MASK:
                    x0, y0, x1, y1 = _box(shape) * np.tile((width / columns, height / rows), 2)
                    bottom, right = max(round(y1), round(y0) + 1), max(round(x1), round(x0) + 1)
                    out[round(y0) : bottom, round(x0) : right] = True
                    continue
                pixels = pixels_from_coco(shape, rows, columns)
            except ValueError as error:
                raise ValueError(f'mask {number}: {error}') from error
            out[:] = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_NEAREST)
        return decoded


def _box(shape: Any) -> NDArray[np.float64]:
    """Read x, y, width, height as corners; raises ValueError."""
    if not isinstance(shape, list) or len(shape) != 4:
        raise ValueError(f'a box has four numbers, not {short(shape)}')
    if not all(isinstance(v, int | float) and -1e5 < v < 1e5 for v in shape):
        raise ValueError(f'a box of finite numbers, not {short(shape)}')
    x, y, w, h = (float(value) for value in shape)
    return np.maximum((x, y, x + w, y + h), 0.0)


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
            return [_entry(images, document['image'], listed(document, 'annotations'))]
        if not isinstance(document, dict) or not {'images', 'annotations'} <= document.keys():
            raise ValueError('neither COCO instances nor one of SA-1B')
        by_image: dict[int | str, list[Any]] = {}
        for number, each in enumerate(listed(document, 'images')):
            at = f'image {number}'
            by_image[key(each, 'id')] = []
        for number, each in enumerate(listed(document, 'annotations')):
            at = f'annotation {number}'
            of = key(each, 'image_id')
            if of not in by_image:
                raise ValueError(f'no image has the id {short(of)}')
            by_image[of].append(each)
        entries = []
        for number, each in enumerate(listed(document, 'images')):
            at = f'image {number}'
            entries.append(_entry(images, each, by_image[key(each, 'id')]))
    except ValueError as error:
        raise SourceError(f'{file}, {at}: {error}') from error
    return entries


def _entry(images: Path, item: Any, annotations: Sequence[Any]) -> Entry:
    shapes, kinds, tracks = [], [], []
    for each in annotations:
        mask, box, crowd = (member(each, k) for k in ('segmentation', 'bbox', 'iscrowd'))
        if crowd or not mask:
            if not box:
                continue
            shape, kind = box, Known.DOUBTFUL if crowd else Known.BOX
        else:
            shape, kind = mask, Known.MASK
        track = member(each, 'track_id')
        shapes.append(shape)
        kinds.append(kind)
        tracks.append(track if isinstance(track, int) and 0 < track < 1 << 62 else 0)
    size = member(item, 'height'), member(item, 'width')
    return Entry(
        images / text(item, 'file_name'), tuple(shapes), tuple(kinds), tuple(tracks), size
    )


class Proposal(NamedTuple):
    """What may be an object of an image.

    Attributes
    ----------
    box: (4,) float32 xyxy, pixels.
    mask: None where only the box is known.
    score: 0..1.
    doubtful: nothing is known of it; it is neither an example nor background.
    track_id: of the object in the recording; 0: not known.

    """

    box: NDArray[np.float32]
    mask: Mask | None
    score: float
    doubtful: bool = False
    track_id: int = 0

    @classmethod
    def of(cls, mask: Mask, score: float) -> Proposal:
        """Return the proposal of a mask."""
        return cls(np.array(mask.box, np.float32), mask, score)


Propose = Callable[[Image], list[Proposal]]
"""What finds proposals in an image (H, W, 3) uint8 RGB."""


def by_sam(model: str, device: str) -> Propose:
    """Segment everything by SAM's automatic mask generator, as the paper did (supplement J).

    Raises
    ------
    ConfigError, WeightsError
        When the model is no SAM, or its weights are not there.

    """
    if model not in SAM_FILES:
        raise ConfigError(f"'{model}' is no SAM model; there are: {', '.join(SAM_FILES)}")
    detector = EverythingDetector.load(EverythingConfig(model), device)

    def segment(image: Image) -> list[Proposal]:
        (found,) = detector.detect([Frame(image, 0)])
        masks = zip(found.masks or (), found.scores.tolist())
        return [Proposal.of(mask, score) for mask, score in masks if mask is not None]

    return segment


def by_own_model(model: str, weights: str, device: str) -> Propose:
    """Segment by a small model of ours that must agree with itself, see ``by_agreement``.

    Raises
    ------
    ConfigError, WeightsError
        When there is no such model, or its weights cannot be read.

    """
    config = DetectorConfig(
        model, weights=weights, device=device, score_threshold=0.3, nms_iou=0.7
    )
    return by_agreement(MasaDetector.load(config))


def by_agreement(
    detector: MasaDetector, sides: Sequence[int] = (384, 576), votes: int = 3
) -> Propose:
    """Segment by a small model that must find an instance again at other sizes and mirrored.

    What one pass finds is often half an object; what several passes agree on is mostly a whole
    one. The mask is where most of the passes see it. Regions that lie along the border for more
    than a third of their outline are left out: they are mostly ground, walls and sky.
    """
    config = detector.config

    def segment(image: Image) -> list[Proposal]:
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
            Proposal.of(crop(_enlarged(inside, width, height)), score)
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


def with_known(folder: Path, find: Callable[[Image], list[Proposal]]) -> Locate:
    """Put true masks in place of the proposals that mean the same objects.

    Parameters
    ----------
    folder: of masks, PNG files named like the images, not 0 where the one object is.
    find: finds the others.

    """

    def locate(image: Image, path: Path) -> list[Proposal]:
        found = find(image)
        pixels = cv2.imread(str(folder / f'{path.stem}.png'), cv2.IMREAD_GRAYSCALE)
        if pixels is None or not pixels.any():
            return found
        height, width = image.shape[:2]
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_NEAREST)
        known = Proposal.of(crop(pixels > 0), 1.0)
        boxes = np.array([p.box for p in found], np.float32).reshape(-1, 4)
        others = ious(known.box[None], boxes)[0] < SAME
        return [known, *(p for p, other in zip(found, others) if other)]

    return locate


class Linker:
    """Give objects numbers that stay from one frame of a recording to the next.

    Two sightings are one object where each is the other's best overlap, and more than ``_LINKED``.
    """

    def __init__(self) -> None:
        self._before: list[Proposal] = []
        self._folder: Path | None = None
        self._next = 1

    def __call__(self, found: list[Proposal], path: Path) -> list[Proposal]:
        """Return the proposals of the next image with numbers."""
        if path.parent != self._folder:
            self._before, self._folder = [], path.parent
        now, old = (
            np.array([p.box for p in some], np.float32).reshape(-1, 4)
            for some in (found, self._before)
        )
        overlap, numbered = ious(now, old), []
        for i, proposal in enumerate(found):
            j = int(overlap[i].argmax()) if len(old) else -1
            if j >= 0 and overlap[i, j] > _LINKED and overlap[:, j].argmax() == i:
                number = self._before[j].track_id
            else:
                number, self._next = self._next, self._next + 1
            numbered.append(proposal._replace(track_id=number))
        self._before = numbered
        return numbered


def extract_frames(videos: Sequence[Path], output: Path, every: int) -> list[Path]:
    """Write each ``every``-th frame of videos to OUTPUT/STEM/NUMBER.jpg; return the files."""
    for video in videos:
        folder = output / video.stem
        if folder.is_dir():
            if math.gcd(*(int(file.stem) for file in folder.glob('*.jpg'))) not in (0, every):
                raise SourceError(f'{folder} holds other frames than every {every}: delete it')
            continue
        partial = output / f'.{video.stem}'
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was interrupted
        partial.mkdir(parents=True)
        capture, number = cv2.VideoCapture(str(video)), 0
        while True:
            there, pixels = capture.read()
            if not there:
                break
            if number % every == 0:
                quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
                cv2.imwrite(str(partial / f'{number:05d}.jpg'), pixels, quality)
            number += 1
        if not number:
            raise SourceError(f'{video}: no frame can be read')
        partial.replace(folder)
    return sorted(file for video in videos for file in (output / video.stem).glob('*.jpg'))


Locate = Callable[[Image, Path], list[Proposal]]
"""What finds proposals in an image (H, W, 3) uint8 RGB that was read from a file."""
