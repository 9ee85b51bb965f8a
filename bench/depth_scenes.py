# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Scenes of plain bodies with exact depth, two depth cameras that see them, and doubtful masks.

Every pixel's ray is cut with planes, balls, oriented boxes and cut-outs of people; the nearest cut
is the depth. So the true surface of every object is known to rounding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from masa_ros.masks import crop
from masa_ros.space.cameras import Camera
from masa_ros.types import Mask

Cut = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Takes rays (H, W, 3) with z = 1; gives the depth at which each meets a body, inf for never."""

SHAPE = (480, 640)
FOCAL = 525.0
CAMERA = Camera(SHAPE, np.array([[FOCAL, 0, 319.5], [0, FOCAL, 239.5], [0, 0, 1]]))


@dataclasses.dataclass
class Truth:
    """One object as it is.

    Attributes
    ----------
    kind: 'ball', 'box' or 'person'.
    seen: (H, W) bool, where it is seen.
    position: (3,) mean of the surface that is seen, metres.
    size: (3,) extent of that surface.
    hidden: share of the object that something else hides.

    """

    kind: str
    seen: NDArray[np.bool_]
    position: NDArray[np.float64]
    size: NDArray[np.float64]
    hidden: float


def ball(centre: NDArray[np.float64], radius: float) -> Cut:
    """Return a ball."""

    def cut(rays: NDArray[np.float64]) -> NDArray[np.float64]:
        a, b = (rays * rays).sum(-1), rays @ centre
        root = b * b - a * (centre @ centre - radius**2)
        return np.where(root > 0, (b - np.sqrt(np.maximum(root, 0))) / a, np.inf)

    return cut


def box(centre: NDArray[np.float64], size: NDArray[np.float64], turn: Rotation) -> Cut:
    """Return a box of these sides around a centre."""

    def cut(rays: NDArray[np.float64]) -> NDArray[np.float64]:
        inverse = turn.inv().as_matrix()
        direction, origin = rays @ inverse.T, -inverse @ centre
        with np.errstate(divide='ignore', invalid='ignore'):
            first = (-size / 2 - origin) / direction
            second = (size / 2 - origin) / direction
        near, far = np.minimum(first, second).max(-1), np.maximum(first, second).min(-1)
        return np.where((near < far) & (near > 0), near, np.inf)

    return cut


def plane(point: NDArray[np.float64], normal: NDArray[np.float64]) -> Cut:
    """Return a plane without end."""

    def cut(rays: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(divide='ignore'):
            depth = (point @ normal) / (rays @ normal)
        return np.where(depth > 0, depth, np.inf)

    return cut


def person(feet: NDArray[np.float64], height: float, angle: float) -> Cut:
    """Return a cut-out of a standing person, turned about the vertical by an angle (radians)."""
    normal = np.array([np.sin(angle), 0.0, np.cos(angle)])
    across = np.array([np.cos(angle), 0.0, -np.sin(angle)])

    def cut(rays: NDArray[np.float64]) -> NDArray[np.float64]:
        depth = plane(feet, normal)(rays)
        at = rays * np.where(np.isfinite(depth), depth, 0)[..., None] - feet
        x, y = np.abs(at @ across) / height, -at[..., 1] / height  # y: 0 at the feet, 1 at the top
        head = (x / 0.06) ** 2 + ((y - 0.92) / 0.08) ** 2 < 1
        trunk = (y > 0.45) & (y < 0.85) & (x < 0.13)
        arms = (y > 0.42) & (y < 0.82) & (x > 0.13) & (x < 0.17)
        legs = (y > 0) & (y < 0.47) & (x > 0.015) & (x < 0.10)
        return np.where(head | trunk | arms | legs, depth, np.inf)

    return cut


def _object(rng: np.random.Generator) -> tuple[str, Cut]:
    """Return a ball, box or person at a random place in view."""
    kind = str(rng.choice(('ball', 'box', 'person')))
    far = float(rng.uniform(0.7, 4.5) if kind != 'person' else rng.uniform(1.8, 5.5))
    centre = np.array([rng.uniform(-0.42, 0.42) * far, rng.uniform(-0.25, 0.3) * far, far])
    if kind == 'ball':
        return kind, ball(centre, float(rng.uniform(0.04, 0.1) * far))
    if kind == 'box':
        size = rng.uniform(0.06, 0.25, 3) * far
        return kind, box(centre, size, Rotation.from_quat(rng.normal(size=4)))
    feet = np.array([centre[0], rng.uniform(0.5, 0.95), far])
    return kind, person(feet, float(rng.uniform(1.5, 1.95)), float(rng.uniform(-0.7, 0.7)))


def render(
    rng: np.random.Generator, objects: int = 6, camera: Camera = CAMERA, least: int = 250
) -> tuple[NDArray[np.float32], list[Truth]]:
    """Return the exact depth (H, W) of a random scene, and its objects that are seen enough.

    Parameters
    ----------
    rng: chance.
    objects: number of them; some hide others, and thin poles in front hide more.
    camera: that sees them.
    least: pixels of which an object must show.

    """
    rays = np.dstack((camera.grid, np.ones(camera.shape))).astype(np.float64)
    made = [_object(rng) for _ in range(objects)]
    for _ in range(2):  # poles in front
        far = rng.uniform(0.6, 1.6)
        centre = np.array([rng.uniform(-0.4, 0.4) * far, 0, far])
        turn = Rotation.from_euler('z', rng.uniform(-0.3, 0.3))
        made.append(('pole', box(centre, np.array([0.02 * far, 3.0, 0.02]), turn)))
    wall = float(rng.uniform(5.5, 9.0))
    lean = np.array([rng.uniform(-0.3, 0.3), 0.0, 1.0])
    made.append(('wall', plane(np.array([0, 0, wall]), lean)))
    made.append(('floor', plane(np.array([0, 1.0, 0]), np.array([0, 1.0, 0]))))
    depths = np.stack([cut(rays) for _, cut in made])
    owner, depth = depths.argmin(axis=0), depths.min(axis=0)
    truths = []
    for i in range(objects):
        seen = owner == i
        if seen.sum() < least:
            continue
        points = rays[seen] * depth[seen][:, None]
        hidden = 1 - seen.sum() / np.isfinite(depths[i]).sum()
        size = np.ptp(points, axis=0)
        truths.append(Truth(made[i][0], seen, points.mean(axis=0), size, float(hidden)))
    return depth.astype(np.float32), truths


def _edges(depth: NDArray[np.float32], share: float = 0.04) -> NDArray[np.bool_]:
    """Return where the depth jumps by more than a share of itself."""
    kernel = np.ones((3, 3), np.uint8)
    return np.asarray(cv2.dilate(depth, kernel) - cv2.erode(depth, kernel) > share * depth)


def structured_light(depth: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return what a camera of structured light (like the first Kinect) makes of exact depth.

    Disparity with noise, in steps of an eighth of a pixel; a shadow at one side of everything
    that stands out; reflections and edges without depth; as every such camera a little off scale.
    """
    base = 580 * 0.075
    disparity = base / depth + rng.normal(0, 0.08, depth.shape)
    disparity = np.round(disparity * 8) / 8
    with np.errstate(divide='ignore', invalid='ignore'):
        made = (base / disparity * rng.normal(1, 0.003)).astype(np.float32)
    step = base / depth - base / np.roll(depth, 8, axis=1)  # the projector stands to the right
    made[step < -0.6] = np.nan
    edges = _edges(depth)
    made[edges & (rng.random(depth.shape) < 0.5)] = np.nan
    return _with_reflections(made, rng)


def stereo(depth: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return what a stereo camera (like a RealSense D435) makes of exact depth.

    Windows of matching: noise that neighbours share, edges that grow into the background by two
    pixels, depth between both beside them; reflections without depth, a little off scale.
    """
    base = 390 * 0.05
    nearer = cv2.erode(depth, np.ones((5, 5), np.uint8))
    beside = cv2.dilate(_edges(depth).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    wide = np.where(beside, nearer, depth)
    disparity = cv2.blur((base / wide).astype(np.float32), (3, 3))
    noise = cv2.GaussianBlur(rng.normal(0, 1, depth.shape).astype(np.float32), (0, 0), 2.0)
    disparity += noise / noise.std() * 0.07
    made = (base / np.maximum(disparity, 0.5) * rng.normal(1, 0.004)).astype(np.float32)
    return _with_reflections(made, rng)


def _with_reflections(depth: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return depth with some blobs of none and one of nonsense."""
    blobs = np.zeros(depth.shape, np.uint8)
    for _ in range(12):
        at = (int(rng.integers(depth.shape[1])), int(rng.integers(depth.shape[0])))
        axes = (int(rng.integers(2, 14)), int(rng.integers(2, 14)))
        cv2.ellipse(blobs, at, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    depth[blobs > 0] = np.nan
    wild = rng.random(depth.shape) < 0.002
    depth[wild] = rng.uniform(0.3, 12, int(wild.sum()))
    return depth


Sensor = Callable[[NDArray[np.float32], np.random.Generator], NDArray[np.float32]]
# With the deviation at one metre that a data sheet would give.
SENSORS: dict[str, tuple[Sensor, float]] = {
    'structured light': (structured_light, 0.002),
    'stereo': (stereo, 0.004),
}


def doubtful(seen: NDArray[np.bool_], rng: np.random.Generator) -> Mask:
    """Return a mask as a network gives it: coarse, up to three pixels too wide or two narrow."""
    pixels = seen.astype(np.float32)
    height, width = seen.shape
    coarse = cv2.resize(pixels, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    grown = (smooth > 0.5).astype(np.uint8)
    by = int(rng.integers(-2, 4))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * abs(by) + 1,) * 2)
    if by:
        grown = (cv2.dilate if by > 0 else cv2.erode)(grown, kernel)
    moved = np.eye(2, 3, dtype=np.float32)
    moved[:, 2] = rng.integers(-1, 2, 2)
    return crop(cv2.warpAffine(grown, moved, (width, height)) > 0)
