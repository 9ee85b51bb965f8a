# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Ids by places in space, where the camera moves, next to those by places in the image.

Balls and boxes, some of which slide along, before a camera that turns to and fro and walks: things
leave the image and come back. Detections are the masks that are seen, blurred, and one in ten is
missing; depth is that of a stereo camera; where the camera stands is known to 2 mm and a twentieth
of a degree. 'alike': all things look the same but for noise, as boxes in a store do.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from depth_scenes import SENSORS, ball, box, doubtful, plane
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from masa_ros.evaluation.metrics import combine, measure, pair
from masa_ros.recordings.tracks_file import TrackedFrame
from masa_ros.space.cameras import Camera
from masa_ros.space.config import EstimateConfig, RecordedSpaceConfig
from masa_ros.space.depth import Depth
from masa_ros.space.locate import Locator, View
from masa_ros.tracking import Tracker, TrackerConfig
from masa_ros.types import Instances, TrackState

SCENES, FRAMES, RATE = 10, 80, 10  # images a second
BODIES, LEAST, MISSED = 9, 60, 0.1
SHAPE, FOCAL = (240, 320), 262.5
CAMERA = Camera(SHAPE, np.array([[FOCAL, 0, 159.5], [0, FOCAL, 119.5], [0, 0, 1]]))
LOOKS = {'alike': 0.02, 'different': 1.0}  # what a thing has of its own, against what all have
WAYS = ('image', 'space')


class Body(NamedTuple):
    """A ball or box that may slide along."""

    centre: NDArray[np.float64]
    speed: NDArray[np.float64]
    size: float
    turn: Rotation | None


class Shot(NamedTuple):
    """One image of a scene."""

    stamp_ns: int
    pose: NDArray[np.float64]
    depth: Depth
    truth: Instances
    found: Instances


def bodies(rng: np.random.Generator) -> list[Body]:
    """Return things around the camera, a third of which move."""
    made = []
    for i in range(BODIES):
        angle, far = rng.uniform(-1.0, 1.0), rng.uniform(1.5, 4.0)
        centre = np.array([np.sin(angle) * far, rng.uniform(-0.3, 0.5), np.cos(angle) * far])
        speed = np.array([*rng.normal(0, 0.25, 1), 0, *rng.normal(0, 0.1, 1)]) * (i % 3 == 0)
        turn = Rotation.from_euler('y', rng.uniform(0, np.pi)) if i % 2 else None
        made.append(Body(centre, speed, float(rng.uniform(0.07, 0.11) * far), turn))
    return made


def pose_at(seconds: float, phase: float) -> NDArray[np.float64]:
    """Return where the camera is: it looks 45 degrees to either side and walks half a metre."""
    pose = np.eye(4)
    yaw = 0.8 * np.sin(2 * np.pi * seconds / 5 + phase)
    pose[:3, :3] = Rotation.from_euler('y', yaw).as_matrix()
    pose[:3, 3] = 0.25 * np.sin(seconds), 0.02 * np.sin(9 * seconds), 0.25 * (1 - np.cos(seconds))
    return pose


def scene(seed: int, own: float, frames: int) -> list[Shot]:
    """Return the images of a scene, detections and truth."""
    rng = np.random.default_rng(seed)
    things, phase = bodies(rng), rng.uniform(0, 2 * np.pi)
    looks = rng.normal(0, 1, 64) + own * rng.normal(0, 1, (BODIES, 64))
    rays = np.dstack((CAMERA.grid, np.ones(SHAPE))).astype(np.float64)
    made = []
    for i in range(frames):
        seconds = i / RATE
        pose = pose_at(seconds, phase)
        turn, shift = pose[:3, :3].T, pose[:3, 3]
        cuts = []
        for thing in things:
            centre = turn @ (thing.centre + thing.speed * seconds - shift)
            if thing.turn is None:
                cuts.append(ball(centre, thing.size))
            else:
                size = np.full(3, 1.7 * thing.size)
                cuts.append(box(centre, size, Rotation.from_matrix(turn) * thing.turn))
        cuts.append(plane(turn @ (np.array([0, 0, 7.0]) - shift), turn @ np.array([0, 0, 1.0])))
        cuts.append(plane(turn @ (np.array([0, 1.0, 0]) - shift), turn @ np.array([0, 1.0, 0])))
        depths = np.stack([cut(rays) for cut in cuts])
        depth = SENSORS['stereo'][0](depths.min(axis=0).clip(max=30).astype(np.float32), rng)
        made.append(_shot(i, pose, depth, depths.argmin(axis=0), looks, rng))
    return made


def _shot(
    index: int,
    pose: NDArray[np.float64],
    depth: Depth,
    owner: NDArray[np.intp],
    looks: NDArray[np.float64],
    rng: np.random.Generator,
) -> Shot:
    there = [i for i in range(BODIES) if (owner == i).sum() >= LEAST]
    masks = [doubtful(owner == i, rng) for i in there]
    there = [i for i, mask in zip(there, masks) if mask.width]
    masks = [mask for mask in masks if mask.width]
    boxes = np.array([mask.box for mask in masks], np.float32).reshape(-1, 4)
    truth = Instances(
        boxes,
        track_ids=np.array(there, np.int64) + 1,
        states=np.full(len(there), TrackState.TRACKED, np.uint8),
    )
    seen = rng.random(len(there)) > MISSED
    side = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1, keepdims=True))
    found = Instances(
        (boxes + rng.normal(0, 0.02, boxes.shape) * side).astype(np.float32),
        scores=rng.uniform(0.55, 0.95, len(there)).astype(np.float32),
        embeddings=(looks[there] + rng.normal(0, 0.3, (len(there), 64))).astype(np.float32),
        masks=tuple(masks),
    )[seen]
    doubt = np.eye(4)
    doubt[:3, :3] = Rotation.from_rotvec(rng.normal(0, np.radians(0.05), 3)).as_matrix()
    doubt[:3, 3] = rng.normal(0, 0.002, 3)
    return Shot(index * 10**9 // RATE + 1, pose @ doubt, depth, truth, found)


def tracked(shots: list[Shot], way: str) -> list[TrackedFrame]:
    """Return the tracks of a scene."""
    tracker = Tracker(TrackerConfig())
    noise = SENSORS['stereo'][1]
    locator = Locator(RecordedSpaceConfig(estimate=EstimateConfig(noise=noise)))
    made = []
    for i, shot in enumerate(shots):
        places = None
        if way == 'space':
            places = locator.foresight.at(shot.stamp_ns, CAMERA, shot.pose)
        tracks = tracker.update(shot.found, shot.stamp_ns, places=places).clipped(*SHAPE)
        locator.locate(tracks, shot.stamp_ns, View(shot.depth, CAMERA), shot.pose)
        made.append(_frame(i, shot, tracks))
    return made


def _frame(index: int, shot: Shot, instances: Instances) -> TrackedFrame:
    by_box = dataclasses.replace(instances, masks=None)
    return TrackedFrame(index, str(index), shot.stamp_ns, *SHAPE, by_box)


def main(quick: bool = False) -> dict[str, Any]:
    """Print the table and return its figures."""
    print(f'{"":12}{"places in":10}{"HOTA":>7}{"AssA":>7}{"IDF1":>7}{"switches":>10}{"tracks":>8}')
    rows = []
    for look, own in LOOKS.items():
        scenes = [
            scene(seed, own, 6 if quick else FRAMES) for seed in range(1 if quick else SCENES)
        ]
        for way in WAYS:
            parts = {}
            for seed, shots in enumerate(scenes):
                truth = [_frame(i, shot, shot.truth) for i, shot in enumerate(shots)]
                parts[str(seed)] = measure(*pair(tracked(shots, way), truth), detailed=False)
            scores = combine(parts)
            rows.append(
                {
                    **{'looks': look, 'way': way, 'objects': scores.objects},
                    **{name: round(getattr(scores, name), 3) for name in ('hota', 'assa', 'idf1')},
                    **{'id_switches': scores.id_switches, 'tracks': scores.tracks},
                }
            )
            print(
                f'{look:12}{way:10}{scores.hota:>7.3f}{scores.assa:>7.3f}{scores.idf1:>7.3f}'
                f'{scores.id_switches:>10}{scores.tracks:>8}'
            )
    print(f'{BODIES} things in each of {len(scenes)} scenes of {len(scenes[0])} images')
    return {'rows': rows}


if __name__ == '__main__':
    main()
