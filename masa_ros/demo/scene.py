# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The demo's recording: photographed objects moving over a photographed ground, with exact truth.

The photographs are those that scikit-image and scikit-learn ship. None of them was used to train
the shipped weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray
from sklearn.datasets import load_sample_image

from masa_ros.evaluation.truth import from_masks
from masa_ros.recordings.tracks_file import TrackedFrame
from masa_ros.training.cutouts import Scene, clean, cut, grabcut
from masa_ros.types import Frame

SIZE = (480, 640)  # height, width
FPS = 10.0
FRAMES = 150
_GROUND, _BEYOND = 800, 400  # sides of the ground and of its mirror images around it, pixels
_VISIBLE_PIXELS = 60  # less of an object is not asked for

# Time (0..1 over the recording), centre x, y and long side in pixels, angle in degrees.
Key = tuple[float, float, float, float, float]


class Actor(NamedTuple):
    """An object: where it is in which photograph (x0, y0, x1, y1), and how it moves."""

    photo: str
    box: tuple[int, int, int, int]
    path: tuple[Key, ...]


# Later ones are in front. What happens: the coffee passes behind the flower and is hidden for a
# second; the two coins cross; the astronaut leaves at the left and comes back.
ACTORS = (
    Actor(
        'coffee',
        (80, 5, 490, 395),
        (
            (0, 560, 330, 150, 0),
            (0.4, 330, 300, 150, 8),
            (0.6, 250, 290, 110, 0),
            (1, 90, 350, 130, -8),
        ),
    ),
    Actor(
        'flower',
        (160, 75, 450, 368),
        ((0, 200, 240, 190, 0), (0.5, 270, 285, 210, 20), (1, 330, 230, 190, 40)),
    ),
    Actor(
        'astronaut',
        (40, 0, 385, 510),
        (
            (0, 110, 130, 170, 0),
            (0.3, -110, 120, 180, 0),
            (0.48, -110, 120, 180, 0),
            (0.8, 120, 110, 180, 0),
            (1, 130, 110, 180, 0),
        ),
    ),
    Actor(
        'motorcycle',
        (60, 110, 690, 470),
        ((0, 470, 110, 200, 0), (0.5, 420, 130, 230, -6), (1, 520, 110, 200, 4)),
    ),
    Actor(
        'coins',
        (305, 5, 375, 75),
        ((0, 60, 430, 70, 0), (0.5, 330, 420, 80, 90), (1, 600, 430, 70, 180)),
    ),
    Actor(
        'coins',
        (15, 230, 80, 290),
        ((0, 600, 425, 64, 0), (0.5, 300, 435, 70, -60), (1, 50, 420, 64, -120)),
    ),
)


def _photo(name: str) -> NDArray[np.uint8]:
    if name == 'flower':
        return np.asarray(load_sample_image('flower.jpg'))
    image = (
        skimage.data.stereo_motorcycle()[0]
        if name == 'motorcycle'
        else getattr(skimage.data, name)()
    )
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image)


def cut_actor(actor: Actor) -> NDArray[np.uint8]:
    """Cut an object out of its photograph along its contour: (h, w, 4) RGBA."""
    photo = np.ascontiguousarray(_photo(actor.photo))
    x0, y0, x1, y1 = actor.box
    seed = np.full(photo.shape[:2], cv2.GC_BGD, np.uint8)
    seed[y0:y1, x0:x1] = cv2.GC_PR_FGD
    centre, axes = ((x0 + x1) // 2, (y0 + y1) // 2), ((x1 - x0) // 5, (y1 - y0) // 5)
    cv2.ellipse(seed, centre, axes, 0, 0, 360, cv2.GC_FGD, -1)
    return cut(Scene(photo, clean(grabcut(photo, seed, 6)), actor.photo))


def _pose(path: tuple[Key, ...], time: float) -> NDArray[np.float64]:
    """Interpolate (x, y, side, angle) smoothly between the keys."""
    times = np.array([key[0] for key in path])
    values = np.array([key[1:] for key in path], dtype=np.float64)
    i = int(np.clip(np.searchsorted(times, time, side='right') - 1, 0, len(path) - 2))
    share = (time - times[i]) / (times[i + 1] - times[i])
    share = share * share * (3 - 2 * share)
    return values[i] * (1 - share) + values[i + 1] * share


def drift(time: float) -> tuple[float, float]:
    """Return where the demo's ground is at a time (0..1), against its middle, pixels."""
    return 60 * np.sin(2 * np.pi * time), 40 * np.cos(2 * np.pi * time) - 40


def render(
    actors: Sequence[Actor] = ACTORS,
    frames: int = FRAMES,
    ground_at: Callable[[float], tuple[float, float]] = drift,
) -> Iterator[tuple[Frame, TrackedFrame]]:
    """Give a recording: every frame with its truth, ids 1, 2, ... in the order of the actors."""
    height, width = SIZE
    pictures = [cut_actor(actor) for actor in actors]
    ground = cv2.cvtColor(skimage.data.grass(), cv2.COLOR_GRAY2RGB)
    ground = cv2.resize(ground, (_GROUND, _GROUND), interpolation=cv2.INTER_CUBIC)
    ground = cv2.convertScaleAbs(ground * np.array([0.75, 0.85, 0.6]), alpha=0.9)
    ground = cv2.copyMakeBorder(ground, *(_BEYOND,) * 4, cv2.BORDER_REFLECT)
    for number in range(frames):
        time = number / (frames - 1)
        moved_x, moved_y = ground_at(time)
        left = int(_BEYOND + (_GROUND - width) // 2 + moved_x)
        top = int(_BEYOND + (_GROUND - height) // 2 + moved_y)
        image = ground[top : top + height, left : left + width].astype(np.float32)
        ids = np.zeros(SIZE, np.int64)
        for track_id, (actor, rgba) in enumerate(zip(actors, pictures), start=1):
            x, y, side, angle = _pose(actor.path, time)
            rows, columns = rgba.shape[:2]
            scale = side / max(rows, columns)
            small = cv2.resize(rgba, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            rows, columns = small.shape[:2]
            matrix = cv2.getRotationMatrix2D((columns / 2, rows / 2), angle, 1.0)
            matrix[:, 2] += (x - columns / 2, y - rows / 2)
            layer = cv2.warpAffine(small, matrix, (width, height))
            alpha = layer[:, :, 3:].astype(np.float32) / 255
            image += alpha * (layer[:, :, :3] - image)
            ids[layer[:, :, 3] > 127] = track_id
        stamp_ns = round((1 + number / FPS) * 1e9)
        frame = Frame(np.clip(image, 0, 255).astype(np.uint8), stamp_ns, 'camera_optical_frame')
        visible = [i + 1 for i in range(len(actors)) if (ids == i + 1).sum() >= _VISIBLE_PIXELS]
        masks = ids[None] == np.array(visible, np.int64).reshape(-1, 1, 1)
        yield frame, from_masks(number, stamp_ns, masks, visible)
