# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Generated scenes with exact masks: cut-outs over real backgrounds, each scene seen twice.

The self-supervision of MASA (paper section 3.2.1): two strongly different views of one scene with
known correspondence. Here the objects also move on their own between the views.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from masa_ros.errors import SourceError
from masa_ros.training.cutouts import Scene, cut, is_held_out, read_library, read_rgb
from masa_ros.training.views import Known, Seen, ViewPair, affine, pack, photometric

Array = NDArray[Any]

_SMALLEST_SIDE = 10.0  # pixels; smaller objects are not drawn
PIXELS, _SHARE = 40, 0.3  # of an object that must be visible


class Item(NamedTuple):
    """A picture to draw: RGBA at a few sizes, and where it is in the two views.

    ``poses`` (2, 5): centre x, y in 0..1, logarithm of the enlargement, angle, shear.
    """

    levels: list[Array]
    flip: bool
    poses: NDArray[np.float64]


class _Arrangement(NamedTuple):
    """Objects, those in front last, before a background (2H, 2W, 3) whose middle is looked at.

    ``unknown``: the background may show whole objects. ``camera`` (2, 4): how far it is off in
    the two views, x, y in 0..1, logarithm of the zoom, angle.
    """

    background: Array
    unknown: bool
    objects: list[Item]
    camera: NDArray[np.float64]


def _levels(rgba: Array) -> list[Array]:
    """Halve until small: shrinking by warping alone would alias."""
    levels = [rgba]
    while min(levels[-1].shape[:2]) >= 24:
        levels.append(cv2.pyrDown(levels[-1]))
    return levels


def _mirrored(image: Array, height: int, width: int) -> Array:
    """Fill (height, width) with reflections of the image."""
    image = image[:height, :width]
    below, right = height - image.shape[0], width - image.shape[1]
    return cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REFLECT)


class Composites:
    """Scenes by number: ``pair(i)`` is the same for the same seed, files and i.

    Parameters
    ----------
    library: folder made by ``cutouts.mine``.
    backgrounds: photographs; only strongly magnified pieces of them are used, so that no whole
        foreign object is left in the background without a label.
    size: (height, width) of the views.
    seed: of the generator.
    held_out: True takes the tenth of the photographs that training never sees.

    Raises
    ------
    SourceError
        When there is no cut-out, or no photograph, in that part.

    """

    def __init__(
        self,
        library: Path,
        backgrounds: list[Path],
        size: tuple[int, int] = (320, 320),
        seed: int = 0,
        held_out: bool = False,
    ) -> None:
        self.size, self.seed = size, seed

        def chosen(name: str) -> bool:
            return is_held_out(name) == held_out

        self.scenes = [s for s in read_library(library) if chosen(s.source)]
        self.cutouts = [_levels(cut(s)) for s in self.scenes]
        read = (read_rgb(p) for p in backgrounds if chosen(p.stem))
        self.photos: list[Array] = [photo for photo in read if photo is not None]
        if not self.cutouts or not self.photos:
            part = 'held-out tenth' if held_out else 'part that is learned from'
            raise SourceError(
                f'the {part} of the photographs has {len(self.cutouts)} whole objects in '
                f'{len(self.photos)} photographs: more are needed'
            )
        self.left_out: dict[str, str] = {}  # nothing, see ``Scenes``

    def pair(self, index: int) -> ViewPair:
        """Make the views of scene number ``index``."""
        rng = np.random.default_rng((self.seed, index))
        real = rng.random() < 0.15
        views = self._real(rng) if real else self._composite(rng)
        return pack(views, generated=not real)

    def _piece(self, rng: np.random.Generator, low: float, high: float) -> Array:
        """Cut a piece out of a random photograph, any size."""
        photo = self.photos[int(rng.integers(len(self.photos)))]
        height, width = photo.shape[:2]
        rows, columns = (max(8, int(n * rng.uniform(low, high))) for n in (height, width))
        y, x = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
        return photo[y : y + rows, x : x + columns]

    def _background(self, rng: np.random.Generator) -> tuple[Array, bool]:
        """Return a (2H, 2W, 3) image that the views look at the middle of.

        Most are as sharp as the objects: where only objects have fine detail, a network learns to
        find detail. The flag tells that it may show whole objects, about which nothing is known.
        """
        height, width = 2 * self.size[0], 2 * self.size[1]
        kind = rng.random()
        if kind < 0.3:  # a photograph as it is
            photo = self.photos[rng.integers(len(self.photos))]
            scale = max(self.size) * rng.uniform(0.9, 2.0) / max(photo.shape[:2])
            photo = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            image = _mirrored(photo, height, width)
        elif kind < 0.48:  # a texture: fine detail alone is no object
            piece = self._piece(rng, 0.1, 0.35)
            scale = float(rng.uniform(0.4, 1.3))
            piece = cv2.resize(piece, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            image = _mirrored(piece, height, width)
        elif kind < 0.66:
            image = self._clutter(rng, height, width)
        elif kind < 0.8:
            image = _mirrored(self._random_phase(rng), height, width)
        elif kind < 0.85:  # nearly nothing: a colour gradient
            corners = rng.integers(0, 256, (2, 2, 3)).astype(np.uint8)
            image = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR)
        else:
            piece = self._piece(rng, 0.2, 0.5)
            image = cv2.resize(piece, (width, height), interpolation=cv2.INTER_LINEAR)
        if rng.random() < 0.15:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(1, 4))
        return image, kind < 0.3

    def _clutter(self, rng: np.random.Generator, height: int, width: int) -> Array:
        """Scatter small pieces of one piece, as leaves, gravel and grass lie."""
        piece = self._piece(rng, 0.08, 0.4)
        cell = rng.uniform(6, 50)
        rows, columns = (int(2 * n / cell) + 2 for n in (height, width))
        bend = rng.normal(0, cell * 0.3, (rows, columns, 2)).astype(np.float32)
        bend = cv2.resize(bend, (width, height), interpolation=cv2.INTER_LINEAR)
        grid = np.dstack(
            np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        )
        bend += grid
        index = np.maximum((bend / cell).astype(np.int32), 0)
        shift = rng.uniform(0, 1, (index.max() + 1, index.max() + 1, 2)).astype(np.float32)
        grid += shift[index[:, :, 1], index[:, :, 0]] * np.float32(max(piece.shape))
        size = np.array([piece.shape[1], piece.shape[0]], np.float32)
        grid = np.abs((grid * np.float32(rng.uniform(0.7, 1.5))) % (2 * size) - size)
        return cv2.remap(piece, grid, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def _random_phase(self, rng: np.random.Generator) -> Array:
        """Return a piece with its spectrum kept and its phases lost: texture without edges."""
        piece = self._piece(rng, 0.3, 0.8)[: self.size[0], : self.size[1]]
        spectrum = np.fft.rfft2(piece.astype(np.float32), axes=(0, 1))
        noise = np.fft.rfft2(rng.standard_normal(piece.shape[:2], np.float32))
        noise /= np.abs(noise) + 1e-6
        noise[0, 0] = 1
        image = np.fft.irfft2(spectrum * noise[:, :, None], s=piece.shape[:2], axes=(0, 1))
        return np.clip(image, 0, 255).astype(np.uint8)

    def _shape(self, rng: np.random.Generator) -> Array:
        """RGBA of one rounded shape filled with a texture or a colour."""
        side = 160
        alpha = np.zeros((side, side), np.uint8)
        kind = rng.integers(3)
        if kind == 0:
            axes = (int(rng.integers(24, 78)), int(rng.integers(24, 78)))
            cv2.ellipse(alpha, (80, 80), axes, 0, 0, 360, 255, -1)
        else:
            count = 4 if kind == 1 else int(rng.integers(5, 10))
            turn = (
                np.sort(rng.uniform(0, 2 * np.pi, count))
                if kind == 2
                else (np.arange(4) * np.pi / 2 + np.pi / 4)
            )
            stretch = rng.uniform(0.5, 1.0, 2)
            radius = rng.uniform(0.6, 1.0, count) if kind == 2 else np.ones(count)
            points = np.stack((np.cos(turn), np.sin(turn)), 1) * radius[:, None] * stretch * 76
            cv2.fillPoly(alpha, [np.round(points + 80).astype(np.int32)], 255)
        colour = rng.integers(0, 256, 3).astype(np.uint8)
        fill = np.broadcast_to(colour, (side, side, 3))
        if rng.random() < 0.6:
            texture = cv2.resize(self._piece(rng, 0.1, 0.5), (side, side))
            fill = cv2.addWeighted(texture, 0.7, np.ascontiguousarray(fill), 0.3, 0)
        if rng.random() < 0.5:  # light from one side makes it a body
            light = np.linspace(rng.uniform(0.5, 0.9), 1.2, side)[None, :, None]
            fill = np.clip(fill * light, 0, 255).astype(np.uint8)
        return np.dstack((fill, cv2.GaussianBlur(alpha, (3, 3), 0)))

    def _compound(self, rng: np.random.Generator) -> Array:
        """RGBA of unlike parts that belong together, as head, shirt and trousers do."""
        canvas = np.zeros((320, 320, 4), np.uint8)
        count = int(rng.integers(2, 5))
        upright = rng.random() < 0.7
        along = np.linspace(80, 240, count)
        for i in rng.permutation(count):
            part = self._disguise(rng) if rng.random() < 0.3 else self._shape(rng)
            side = rng.uniform(75, 150)
            across = 160 + rng.uniform(-24, 24)
            centre = (across, along[i]) if upright else (along[i], across)
            scale = side / max(part.shape[:2])
            matrix = np.array(
                [
                    [scale, 0, centre[0] - part.shape[1] * scale / 2],
                    [0, scale, centre[1] - part.shape[0] * scale / 2],
                ]
            )
            layer = cv2.warpAffine(part, matrix, (320, 320), flags=cv2.INTER_AREA)
            cover = layer[:, :, 3:].astype(np.uint16)
            canvas[:, :, :3] = (
                layer[:, :, :3] * cover + canvas[:, :, :3] * (255 - cover) + 127
            ) // 255
            canvas[:, :, 3] = np.maximum(canvas[:, :, 3], layer[:, :, 3])
        ys, xs = np.nonzero(canvas[:, :, 3] > 127)
        return canvas[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]

    def _cutout(self, rng: np.random.Generator) -> list[Array]:
        return self.cutouts[rng.integers(len(self.cutouts))]

    def _disguise(self, rng: np.random.Generator) -> Array:
        """RGBA of a true outline around pieces of other photographs.

        A few hundred outlines and textures become countless objects: what they share is that
        they are closed, not what they are made of.
        """
        alpha = self._cutout(rng)[0][:, :, 3]
        height, width = alpha.shape
        fill = cv2.resize(self._piece(rng, 0.15, 0.7), (width, height))
        if rng.random() < 0.4:  # a second material, as trousers below a shirt
            other = cv2.resize(self._piece(rng, 0.1, 0.5), (width, height))
            line = int(height * rng.uniform(0.3, 0.7))
            fill[line:] = other[line:]
        return np.dstack((fill, alpha))

    def _picture(self, rng: np.random.Generator) -> list[Array]:
        """RGBA levels of one object in a colour of its own."""
        kind = rng.random()
        if kind < 0.4:
            levels = self._cutout(rng)
        elif kind < 0.65:
            levels = _levels(self._disguise(rng))
        elif kind < 0.87:
            levels = _levels(self._compound(rng))
        else:
            levels = _levels(self._shape(rng))
        if rng.random() < 0.5:  # the same thing in another colour is another object
            order = rng.permutation(3)
            gain = rng.uniform(0.5, 1.3, 3)
            shift = rng.uniform(-30, 60)
            table = np.clip(np.arange(256)[:, None] * gain + shift, 0, 255).astype(np.uint8)
            levels = [
                np.dstack((cv2.LUT(level[:, :, order], table[None]), level[:, :, 3]))
                for level in levels
            ]
        return levels

    def _arrange(self, rng: np.random.Generator) -> _Arrangement:
        """Choose objects, and where they and the camera are in the two views."""
        height, width = self.size
        background, unknown = self._background(rng)
        count = int(rng.integers(1, 10))
        largest = min(height, width) * (0.95 if count < 4 else 0.7)
        objects: list[Item] = []
        for _ in range(count):
            levels = self._picture(rng)
            side = float(np.exp(rng.uniform(np.log(18), np.log(largest))))
            centre = rng.uniform(0.02, 0.98, 2)
            size = side / max(levels[0].shape[:2])
            first = np.array([*centre, np.log(size), rng.normal(0, 0.2), 0.0])
            # Half of the objects go anywhere: appearance must tell them apart, not place.
            there = centre + rng.normal(0, 0.25, 2) * min(side, 60) / (width, height)
            if rng.random() < 0.5:
                there = rng.uniform(0.02, 0.98, 2)
            turn = rng.uniform(-np.pi, np.pi) if rng.random() < 0.1 else rng.normal(0, 0.2)
            change = (rng.normal(0, 0.2), turn, rng.normal(0, 0.08))
            second = np.concatenate((there, first[2:] + change))
            objects.append(Item(levels, bool(rng.random() < 0.5), np.stack((first, second))))
        # Small ones mostly in front.
        sides = np.array([np.exp(o.poses[0, 2]) * max(o.levels[0].shape[:2]) for o in objects])
        order = np.argsort(-sides * rng.uniform(0.3, 1.0, count))
        objects = [objects[i] for i in order]
        camera = np.zeros((2, 4))
        camera[1] = (*(rng.normal(0, 0.1, 2)), rng.uniform(-0.4, 0.4), rng.normal(0, 0.1))
        return _Arrangement(background, unknown, objects, camera)

    def _render(
        self, scene: _Arrangement, time: float, order: Iterable[int], rng: np.random.Generator
    ) -> tuple[Array, Array, dict[int, int]]:
        """Draw a scene at a time between its views, 0 and 1, the objects of ``order`` alone.

        Returns
        -------
        image (H, W, 3), map (H, W) of object numbers from 1, and the pixels each has in full.

        """
        height, width = self.size
        x, y, zoom, angle = scene.camera[0] + time * (scene.camera[1] - scene.camera[0])
        camera, pan = affine(float(np.exp(zoom)), angle), np.array([x * width, y * height])
        middle = np.array([width / 2, height / 2])
        matrix = np.column_stack((camera, middle + pan - camera @ (2 * middle)))
        image = cv2.warpAffine(
            scene.background, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101
        )
        ids = np.zeros((height, width), np.uint8)
        whole: dict[int, int] = {}
        seeds = rng.integers(0, 1 << 62, len(scene.objects))  # what one takes is not another's
        for i in order:
            item = scene.objects[i]
            x, y, size, angle, shear = item.poses[0] + time * (item.poses[1] - item.poses[0])
            own = affine(float(np.exp(size)), angle, shear)
            if item.flip:
                own = own @ np.diag([-1.0, 1.0])
            place = camera @ (np.array([x * width, y * height]) - middle) + middle + pan
            whole[i + 1] = _draw(
                image,
                ids,
                item.levels,
                camera @ own,
                place,
                i + 1,
                np.random.default_rng(seeds[i]),
            )
        return image, ids, whole

    def _composite(self, rng: np.random.Generator) -> list[Seen]:
        scene = self._arrange(rng)
        everything = np.arange(len(scene.objects))
        views: list[Seen] = []
        for view in (0, 1):
            order = everything
            if view == 1 and rng.random() < 0.3:
                order = rng.permutation(everything)  # others hide others
            order = order[rng.random(len(order)) >= 0.08]  # some are in one view only
            image, ids, whole = self._render(scene, view, order, rng)
            shown = _visible(ids, whole)
            hidden = [i for i in whole if i not in shown]
            ignore = np.isin(ids, hidden) | (scene.unknown & (ids == 0))
            views.append(seen(photometric(image, rng), ids, shown, ignore))
        return views

    def clip(self, index: int, frames: int) -> Iterator[Seen]:
        """Show scene number ``index`` on its way from one view to the other, all objects in it."""
        rng = np.random.default_rng((self.seed, 3, index))
        scene = self._arrange(rng)
        while scene.unknown:
            scene = self._arrange(rng)
        for time in np.linspace(0, 1, frames):
            # The same chance for every frame: shadows and colours must not flicker.
            same = np.random.default_rng((self.seed, 4, index))
            image, ids, whole = self._render(scene, time, range(len(scene.objects)), same)
            shown = _visible(ids, whole)
            yield seen(photometric(image, same), ids, shown, np.zeros(ids.shape, bool))

    def _real(self, rng: np.random.Generator, count: int = 2) -> list[Seen]:
        """Give views of a photograph itself: one object in its true surroundings."""
        scene: Scene = self.scenes[rng.integers(len(self.scenes))]
        height, width = self.size
        rows, columns = scene.mask.shape
        fit = min(height / rows, width / columns)
        flip = np.diag([-1.0, 1.0]) if rng.random() < 0.5 else np.eye(2)
        views: list[Seen] = []
        for _ in range(count):
            linear = (
                affine(fit * float(np.exp(rng.uniform(-0.7, 0.25))), float(rng.normal(0, 0.12)))
                @ flip
            )
            target = np.array([width, height]) * (0.5 + rng.normal(0, 0.06, 2))
            matrix = np.column_stack((linear, target - linear @ (columns / 2, rows / 2)))
            image = cv2.warpAffine(
                scene.image,
                matrix,
                (width, height),
                flags=cv2.INTER_AREA,
                borderMode=cv2.BORDER_REFLECT_101,
            )
            ids = cv2.warpAffine(
                scene.mask.astype(np.uint8), matrix, (width, height), flags=cv2.INTER_NEAREST
            )
            shown = [1] if ids.sum() > 200 else []
            views.append(seen(photometric(image, rng), ids, shown, ids == 0))
        return views


def _visible(ids: Array, whole: dict[int, int]) -> list[int]:
    """Tell which objects of a map enough is seen of, given the pixels each has in full."""
    pixels = np.bincount(ids.ravel(), minlength=256)
    return [i for i, area in whole.items() if pixels[i] >= max(PIXELS, _SHARE * area)]


def seen(image: Array, id_map: Array, shown: list[int], ignore: Array) -> Seen:
    """Make a view of a map of object numbers, of which some are shown."""
    masks = id_map[None] == np.array(shown, np.uint8).reshape(-1, 1, 1)
    kinds = np.full(len(shown), Known.MASK, np.uint8)
    return Seen(image, masks, np.array(shown, np.int64), ignore, kinds)


def _draw(
    image: Array,
    ids: Array,
    levels: list[Array],
    linear: NDArray[np.float64],
    place: NDArray[np.float64],
    number: int,
    rng: np.random.Generator,
) -> int:
    """Blend one object into image and id map; return the number of pixels it has in full.

    ``linear`` (2, 2) maps pixels of the first level to pixels of the image, ``place`` is where
    the middle of the object goes.
    """
    height, width = ids.shape
    shrink = float(np.sqrt(abs(np.linalg.det(linear))))
    level = int(np.clip(np.floor(np.log2(1 / max(shrink, 1e-3))), 0, len(levels) - 1))
    rgba = levels[level]
    rows, columns = rgba.shape[:2]
    linear = linear * (levels[0].shape[1] / columns)
    corners = (np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) - 0.5) * (columns, rows)
    spread = np.abs(corners @ linear.T).max(axis=0)
    if spread.max() * 2 < _SMALLEST_SIDE:
        return 0
    low = np.floor(place - spread).astype(int) - 1
    high = np.ceil(place + spread).astype(int) + 1
    x0, y0 = np.maximum(low, 0)
    x1, y1 = np.minimum(high, (width, height))
    full = int(abs(np.linalg.det(linear)) * (rgba[:, :, 3] > 127).sum())
    if x1 <= x0 or y1 <= y0:
        return full
    offset = place - (x0, y0) - linear @ (columns / 2, rows / 2)
    layer = cv2.warpAffine(rgba, np.column_stack((linear, offset)), (int(x1 - x0), int(y1 - y0)))
    window = image[y0:y1, x0:x1]
    cover = layer[:, :, 3]
    if rng.random() < 0.3:  # a shadow: an object is not only an edge
        shift = np.array([[1, 0, rng.uniform(-6, 6)], [0, 1, rng.uniform(0, 8)]])
        shadow = cv2.warpAffine(cover, shift, cover.shape[::-1])
        shadow = cv2.GaussianBlur(shadow, (0, 0), 3).astype(np.uint16) * int(rng.integers(20, 110))
        window[:] = (window * (65025 - shadow[:, :, None].astype(np.uint32)) // 65025).astype(
            np.uint8
        )
    weight = cover[:, :, None].astype(np.uint16)
    if rng.random() < 0.3:
        weight = cv2.GaussianBlur(cover, (0, 0), rng.uniform(0.5, 1.2))[:, :, None].astype(
            np.uint16
        )
    window[:] = ((layer[:, :, :3] * weight + window * (255 - weight) + 127) // 255).astype(
        np.uint8
    )
    ids[y0:y1, x0:x1][cover > 127] = number
    return full
