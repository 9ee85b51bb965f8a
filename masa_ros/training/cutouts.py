# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Whole objects with clean masks, found in unlabelled photographs.

Precision counts, not recall: half an object in the library teaches the network to report halves.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from masa_ros.errors import SourceError
from masa_ros.evaluation.fields import listed, read_json, text

IMAGE_SUFFIXES = {'.jpg', '.jpeg', '.png', '.webp', '.bmp'}
_FORMAT = 'masa_ros.cutouts/2'
_AGAIN = 'delete the folder to search the photographs again'
_LONG_SIDE = 384  # photographs are searched, and objects stored, at most this large

ImageArray = NDArray[np.uint8]
MaskArray = NDArray[np.bool_]


class Scene(NamedTuple):
    """A photograph (H, W, 3) RGB with the mask (H, W) bool of the one object known in it.

    ``source`` is the stem of its file, by which it is held out or not.
    """

    image: ImageArray
    mask: MaskArray
    source: str


def image_files(folder: Path, exclude: str = '') -> list[Path]:
    """Return the images in a folder and below, sorted, without those named ``exclude``...

    Raises
    ------
    SourceError
        When there are no images, excluded ones counted.

    """
    files = sorted(p for p in folder.rglob('*') if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise SourceError(f'{folder} holds no images ({", ".join(sorted(IMAGE_SUFFIXES))})')
    return [p for p in files if not (exclude and p.name.startswith(exclude))]


def is_held_out(name: str) -> bool:
    """Tell whether a photograph is of the tenth that training never sees, by its stem."""
    return zlib.crc32(name.encode()) % 10 == 0


def part_readable(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """Part files by their first bytes: those that are images OpenCV reads, and the others.

    An image that is damaged further on is found out, and left out, when it is read.
    """
    good: list[Path] = []
    bad: list[Path] = []
    for file in files:
        (good if cv2.haveImageReader(str(file)) else bad).append(file)
    return good, bad


def read_image(path: Path) -> ImageArray | None:
    """Return an image (H, W, 3) RGB, None when it cannot be read."""
    try:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except cv2.error:  # of a size that OpenCV does not believe
        return None
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def shrunk(image: ImageArray, side: int) -> ImageArray | None:
    """Return an image at most ``side`` pixels long; None when nothing is left of its width."""
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return image
    if round(scale * min(image.shape[:2])) < 1:
        return None
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def read_rgb(path: Path) -> ImageArray | None:
    """Return an image shrunk to the working size, None when it cannot be read."""
    image = read_image(path)
    return None if image is None else shrunk(image, _LONG_SIDE)


def grabcut(image: ImageArray, seed: ImageArray, rounds: int = 4) -> MaskArray:
    """Return the object (H, W) bool that GrabCut finds from a map of its labels (H, W)."""
    labels = seed.copy()
    model = np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(image, labels, None, model, model.copy(), rounds, cv2.GC_INIT_WITH_MASK)
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def clean(mask: MaskArray) -> MaskArray:
    """Largest component without thin hairs and holes."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, kernel)
    contours, _ = cv2.findContours(opened, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    out = np.zeros(mask.shape, np.uint8)
    if contours:
        largest = max(contours, key=cv2.contourArea)
        cv2.drawContours(out, [largest], -1, 1, cv2.FILLED)
    return out.astype(bool)


def _iou(a: MaskArray, b: MaskArray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def salient_object(image: ImageArray) -> MaskArray | None:
    """Return the one object a photograph shows whole, or None.

    Two searches with unlike assumptions must agree: GrabCut (Rother et al. 2004) from the frame
    "the object is not at the border", and from "the object is unlike the border in colour".
    """
    height, width = image.shape[:2]
    margin_y, margin_x = max(4, height // 16), max(4, width // 16)
    inner = (slice(margin_y, height - margin_y), slice(margin_x, width - margin_x))

    by_frame = np.full((height, width), cv2.GC_BGD, np.uint8)
    by_frame[inner] = cv2.GC_PR_FGD

    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    border = np.ones((height, width), bool)
    border[inner] = False
    samples = lab[border][:: max(1, int(border.sum()) // 2000)]
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 10, 1.0)
    cv2.setRNGSeed(0)
    _, _, centres = cv2.kmeans(samples, 4, None, criteria, 1, cv2.KMEANS_PP_CENTERS)
    distance = np.min([np.linalg.norm(lab - c, axis=2) for c in centres], axis=0)
    distance = np.clip(cv2.GaussianBlur(distance, (0, 0), 3), 0, 255).astype(np.uint8)
    threshold, _ = cv2.threshold(distance, 0, 255, cv2.THRESH_OTSU)
    by_colour = np.where(distance > threshold, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    by_colour[border] = cv2.GC_BGD
    if not ((by_colour == cv2.GC_PR_FGD).mean() > 0.02):
        return None

    first, second = clean(grabcut(image, by_frame)), clean(grabcut(image, by_colour))
    if _iou(first, second) < 0.85:
        return None
    return second if is_whole(second) else None


def is_whole(mask: MaskArray) -> bool:
    """Tell whether a mask looks like one whole object: compact, off the border, not tiny."""
    share = float(mask.mean())
    if not 0.03 < share < 0.65:
        return False
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(contours, key=cv2.contourArea)
    hull = cv2.contourArea(cv2.convexHull(outline))
    edge = np.concatenate((mask[0], mask[-1], mask[:, 0], mask[:, -1])).sum()
    ragged = cv2.arcLength(outline, True) ** 2 / max(4 * np.pi * cv2.contourArea(outline), 1)
    return bool(
        cv2.contourArea(outline) > 0.7 * hull and edge < 0.05 * len(outline) and ragged < 7
    )


def cut(scene: Scene) -> ImageArray:
    """Cut the object out: (h, w, 4) RGBA with a soft edge one pixel wide and a small margin."""
    image, mask = scene.image, scene.mask
    ys, xs = np.nonzero(mask)
    y0, y1 = max(0, ys.min() - 2), ys.max() + 3
    x0, x1 = max(0, xs.min() - 2), xs.max() + 3
    inside = mask[y0:y1, x0:x1].astype(np.uint8)
    # Half a pixel inwards: the outermost pixels are mixed with the old background.
    eroded = cv2.erode(inside, np.ones((3, 3), np.uint8))
    alpha = cv2.GaussianBlur((inside + eroded) * 127, (3, 3), 0)
    return np.dstack((image[y0:y1, x0:x1], alpha))


def from_photo(path: Path) -> Scene | None:
    """Find the object of one photograph."""
    image = read_rgb(path)
    if image is None or min(image.shape[:2]) < 64:
        return None
    mask = salient_object(image)
    return None if mask is None else Scene(image, mask, path.stem)


Cut = Callable[[int, int], MaskArray]
"""What gives the mask of an object at the size (height, width) its photograph is read at."""


def _from_mask(path: Path, known: Cut) -> Scene | None:
    """Return the known object of one photograph."""
    image = read_rgb(path)
    if image is None:
        return None
    mask = known(*image.shape[:2])
    return Scene(image, mask, path.stem) if mask.any() else None


def mine(
    photos: list[Path], library: Path, known: Mapping[Path, Cut] = MappingProxyType({})
) -> Path:
    """Fill a library folder from photographs; a finished one is used as it is.

    Parameters
    ----------
    photos: to search.
    library: the folder.
    known: gives the one whole object of a photograph where it need not be searched.

    Returns
    -------
    ``library``, holding NUMBER-STEM.jpg with NUMBER-STEM.png (the mask), and index.json, which is
    written last: a folder without it is begun again.

    Raises
    ------
    SourceError
        When no photograph shows a whole object, or the folder holds a library of another format.
    OSError
        When the folder cannot be written.

    """
    index = library / 'index.json'
    if index.is_file():
        _read_index(library)
        return library
    library.mkdir(parents=True, exist_ok=True)
    scenes = []
    for number, path in enumerate(tqdm(photos, desc='looking for whole objects', unit='image')):
        scene = _from_mask(path, known[path]) if path in known else from_photo(path)
        if scene is None:
            continue
        name = f'{number:06d}-{scene.source}'  # the same stem may be in several folders
        pixels = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
        _write(library / f'{name}.jpg', pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])
        _write(library / f'{name}.png', scene.mask.astype(np.uint8) * 255, [])
        scenes.append({'name': name, 'source': scene.source})
    if not scenes:
        raise SourceError(f'none of {len(photos)} photographs shows one whole object')
    temporary = index.with_suffix('.tmp')
    temporary.write_text(json.dumps({'format': _FORMAT, 'scenes': scenes}, indent=1))
    temporary.replace(index)
    return library


def _write(path: Path, pixels: NDArray[np.uint8], options: list[int]) -> None:
    path.write_bytes(cv2.imencode(path.suffix, pixels, options)[1].tobytes())


def read_library(library: Path) -> list[Scene]:
    """Return the photographs of a library with their masks; raises SourceError."""
    scenes = []
    for name, source in _read_index(library):
        image = read_image(library / f'{name}.jpg')
        mask = cv2.imread(str(library / f'{name}.png'), cv2.IMREAD_GRAYSCALE)
        if image is None or mask is None or image.shape[:2] != mask.shape or not mask.any():
            raise SourceError(f'{library / name} cannot be read; {_AGAIN}')
        scenes.append(Scene(image, mask > 0, source))
    return scenes


def _read_index(library: Path) -> list[tuple[str, str]]:
    """Return name and source of every photograph of a finished library; raises SourceError."""
    index = library / 'index.json'
    document = read_json(index)
    try:
        if text(document, 'format') != _FORMAT:
            raise ValueError(f"its format is '{document['format']}', not '{_FORMAT}'")
        scenes = [(text(s, 'name'), text(s, 'source')) for s in listed(document, 'scenes')]
        names = {Path(name).name for name, _ in scenes}
        if not scenes or names != {name for name, _ in scenes} or len(names) < len(scenes):
            raise ValueError('its list of photographs is damaged')
    except ValueError as error:
        raise SourceError(f'{index}: {error}; {_AGAIN}') from error
    return scenes
