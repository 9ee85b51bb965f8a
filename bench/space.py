# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Positions from masks and depth, next to the median of the box, on scenes with exact depth.

Error: distance between the position that is said and the mean of the surface that is seen, as a
share of its distance from the camera. Scenes: balls, boxes and cut-outs of people before a wall,
on a floor, behind each other and behind poles; noise of two kinds of cameras; masks up to three
pixels too wide or two too narrow. 'moved': the depth camera stands 5 cm beside the colour camera
and looks elsewhere, and its depth is seen from the colour camera first.
"""

from __future__ import annotations

import time
from typing import Any

import cv2
import numpy as np
from depth_scenes import CAMERA, FOCAL, SENSORS, SHAPE, Truth, doubtful, render
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from scipy.stats import chi2

from masa_ros.space.cameras import Camera
from masa_ros.space.config import EstimateConfig, FilterConfig
from masa_ros.space.depth import Depth, points_of, projected
from masa_ros.space.estimate import Estimate, estimate
from masa_ros.space.motion import Motions
from masa_ros.types import Mask

SCENES, OBJECTS, FIRST_SEED = 50, 8, 1000
CROWD, ROUNDS = 20, 60
ROWS = ('mask', 'mask, moved', 'box median')


def box_median(depth: Depth, mask: Mask) -> NDArray[np.float64]:
    """Return the middle of the box at the median of the depth in it: what others do."""
    x0, y0, x1, y1 = mask.box
    window = depth[y0:y1, x0:x1]
    far = float(np.median(window[np.isfinite(window)])) if np.isfinite(window).any() else np.nan
    middle = CAMERA.rays(np.array([[(x0 + x1) / 2, (y0 + y1) / 2]]))[0]
    return np.append(middle, 1.0) * far


def beside(exact: NDArray[np.float32], rng: np.random.Generator) -> tuple[Depth, Any]:
    """Return the depth that a camera 5 cm beside ours has of a scene, and where it stands.

    A little from the side, with a longer focal length; made of the exact depth of more pixels than
    it has, so that it has no gaps but where our camera saw nothing.
    """
    transform = np.eye(4)
    transform[:3, :3] = Rotation.from_euler('yx', rng.uniform(-0.02, 0.02, 2)).as_matrix()
    transform[:3, 3] = (0.05, 0.005, 0.0)
    matrix = np.array([[FOCAL * 1.02, 0, 325.0], [0, FOCAL * 1.02, 236.0], [0, 0, 1]])
    other = Camera(SHAPE, matrix)
    fine = cv2.resize(exact, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    doubled = CAMERA.matrix.copy()
    doubled[:2] *= 2
    doubled[:2, 2] += 0.5
    points = points_of(fine, Camera((2 * SHAPE[0], 2 * SHAPE[1]), doubled))
    return projected(points, np.linalg.inv(transform), other), (transform, other)


def errors(quick: bool) -> list[dict[str, Any]]:
    """Return a row for each sensor and way."""
    found: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    none: dict[tuple[str, str], int] = {}
    for seed in range(FIRST_SEED, FIRST_SEED + (2 if quick else SCENES)):
        for sensor, (see, noise) in SENSORS.items():
            rng = np.random.default_rng(seed)
            exact, truths = render(rng, OBJECTS)
            config = EstimateConfig(noise=noise)
            depth = see(exact, rng)
            other, (transform, camera) = beside(exact, rng)
            known = np.where(np.isfinite(other), other, 50.0).astype(np.float32)
            moved = see(known, rng)
            moved[moved > 45] = np.nan
            here = projected(points_of(moved, camera), transform, CAMERA)
            for truth in truths:
                mask = doubtful(truth.seen, rng)
                if not mask.width:
                    continue
                for way, image in (('mask', depth), ('mask, moved', here)):
                    made = estimate(image, CAMERA, mask, config)
                    key = (sensor, way)
                    if isinstance(made, Estimate):
                        found.setdefault(key, []).append(_compared(made, truth))
                    else:
                        none[key] = none.get(key, 0) + 1
                middle = box_median(depth, mask)
                far = float(np.linalg.norm(truth.position))
                error = float(np.linalg.norm(middle - truth.position))
                key = (sensor, 'box median')
                if np.isfinite(error):
                    found.setdefault(key, []).append((error, far))
                else:
                    none[key] = none.get(key, 0) + 1
    return [
        _row(sensor, way, found[sensor, way], none.get((sensor, way), 0))
        for sensor in SENSORS
        for way in ROWS
    ]


def _compared(made: Estimate, truth: Truth) -> tuple[float, ...]:
    error = made.position - truth.position
    far = float(np.linalg.norm(truth.position))
    distance = float(error @ np.linalg.solve(made.covariance, error))
    across = np.abs(made.size - truth.size)[:2].max() / truth.size[:2].max()
    along = abs(made.size[2] - truth.size[2])
    return float(np.linalg.norm(error)), far, distance, float(across), float(along / far)


def _row(sensor: str, way: str, found: list[tuple[float, ...]], none: int) -> dict[str, Any]:
    values = np.array(found)
    share = values[:, 0] / values[:, 1]
    row: dict[str, Any] = {
        'sensor': sensor,
        'way': way,
        'objects': len(values),
        'none': none,
        'median_cm': round(float(np.median(values[:, 0])) * 100, 2),
        'median_percent': round(float(np.median(share)) * 100, 2),
        'p95_percent': round(float(np.percentile(share, 95)) * 100, 2),
        'within_1cm_1percent': round(float((values[:, 0] < 0.01 + 0.01 * values[:, 1]).mean()), 3),
    }
    if values.shape[1] > 2:
        row |= {
            'beyond_covariance_percent': round(
                float((values[:, 2] > chi2.ppf(0.95, 3)).mean()) * 100, 1
            ),
            'width_median_percent': round(float(np.median(values[:, 3])) * 100, 1),
            'width_p95_percent': round(float(np.percentile(values[:, 3], 95)) * 100, 1),
            'depth_size_median_percent': round(float(np.median(values[:, 4])) * 100, 1),
        }
    return row


def milliseconds(quick: bool) -> dict[str, float]:
    """Return the time that 20 objects at 640 x 480 take one core, filters included."""
    rng = np.random.default_rng(0)
    exact, truths = render(rng, 45, least=400)
    while len(truths) < CROWD:
        exact, truths = render(rng, 45, least=400)
    depth = SENSORS['stereo'][0](exact, rng)
    masks = [doubtful(truth.seen, rng) for truth in truths[:CROWD]]
    motions, config = Motions(FilterConfig()), EstimateConfig()
    CAMERA.grid  # noqa: B018  computed once
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    times, registration = [], []
    for i in range(3 if quick else ROUNDS):
        start = time.thread_time()
        made = [estimate(depth, CAMERA, mask, config) for mask in masks]
        measured = {
            number: (each.position, each.covariance)
            for number, each in enumerate(made)
            if isinstance(each, Estimate)
        }
        motions.step(i * 33_000_000, measured)
        times.append((time.thread_time() - start) * 1e3)
    for _ in range(1 if quick else 10):
        start = time.thread_time()
        projected(points_of(depth, CAMERA), np.eye(4), CAMERA)
        registration.append((time.thread_time() - start) * 1e3)
    cv2.setNumThreads(threads)
    p50, p99 = np.percentile(times, (50, 99))
    return {
        'objects': CROWD,
        'pixels': int(sum(mask.pixels.sum() for mask in masks)),
        'p50_ms': round(float(p50), 2),
        'p99_ms': round(float(p99), 2),
        'registration_ms': round(float(np.median(registration)), 1),
    }


def main(quick: bool = False) -> dict[str, Any]:
    """Print the tables and return their figures."""
    rows = errors(quick)
    print(
        f'{"":32}{"objects":>8}{"none":>6}{"median":>9}{"median":>8}{"p95":>8}{"< 1cm+1%":>10}'
        f'{"beyond":>8}{"width":>8}{"p95":>7}{"depth":>8}'
    )
    for row in rows:
        text = (
            f'{row["sensor"]:18}{row["way"]:14}{row["objects"]:>8}{row["none"]:>6}'
            f'{row["median_cm"]:>6.1f} cm{row["median_percent"]:>7.2f}%{row["p95_percent"]:>7.2f}%'
            f'{row["within_1cm_1percent"] * 100:>9.1f}%'
        )
        if 'beyond_covariance_percent' in row:
            text += (
                f'{row["beyond_covariance_percent"]:>7.1f}%{row["width_median_percent"]:>7.1f}%'
                f'{row["width_p95_percent"]:>6.1f}%{row["depth_size_median_percent"]:>7.1f}%'
            )
        print(text)
    cost = milliseconds(quick)
    print(
        f'{cost["objects"]} objects of {cost["pixels"]} pixels at 640 x 480, one core: '
        f'{cost["p50_ms"]} ms (p99 {cost["p99_ms"]}); to register depth here: '
        f'{cost["registration_ms"]} ms more'
    )
    return {'errors': rows, 'cost': cost}


if __name__ == '__main__':
    main()
