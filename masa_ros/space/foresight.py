# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where tracks must be seen by a camera that has moved since: their places in space, projected."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from masa_ros.space.cameras import Camera
from masa_ros.space.motion import Motion
from masa_ros.types import Expected, Instances, TrackState

_MOST = 1000  # tracks that are remembered; those seen last stay
_VELOCITY_SECONDS = 0.5  # the longer ago, the less the velocity says of where an object is
_MOVING = 11.3  # squared velocity, in covariances, that one thing at rest in a hundred exceeds
_CUT_NS = 1_000_000_000  # for which something may be leaving; what is cut for longer stays so
_NEAREST = 0.05  # metres; what is nearer, or behind the camera, is not seen
_UNSEEN = 1e5  # pixels beside the image


class _Anchor(NamedTuple):
    """A track when it was seen last.

    Attributes
    ----------
    box: (4,) xyxy pixels.
    seen: (3,) its position in the optical frame, metres, as its filter says.
    position, velocity: (3,) in the frame that stands still; a velocity that may as well be none
        is none.
    stamp_ns: of the image.
    cut: the edge of the image cut it off.

    """

    box: NDArray[np.float64]
    seen: NDArray[np.float64]
    position: NDArray[np.float64]
    velocity: NDArray[np.float64]
    stamp_ns: int
    cut: bool


class Foresight:
    """Remembers where tracks are, and tells where a camera should see them.

    One thread may call ``see`` while others call ``at``.
    """

    def __init__(self) -> None:
        self._anchors: dict[int, _Anchor] = {}

    def see(
        self,
        tracks: Instances,
        motions: Mapping[int, Motion],
        stamp_ns: int,
        to_target: NDArray[np.float64],
        shape: tuple[int, int],
    ) -> None:
        """Take the tracks of an image and their motion; a stamp that goes back begins anew.

        What leaves the image shows less and less of itself, and seems to move: it stays where it
        was when it was last seen whole.

        Parameters
        ----------
        tracks: of the image.
        motions: by track id, as far as they are known.
        stamp_ns: of the image, nanoseconds.
        to_target: (4, 4) from its optical frame to the frame that stands still.
        shape: height and width of the image.

        """
        edges = np.array((1, 1, 1 - shape[1], 1 - shape[0]))
        cuts = np.any(tracks.boxes * (1, 1, -1, -1) < edges, axis=1).tolist()
        known = self._anchors.items()
        made = {i: anchor for i, anchor in known if anchor.stamp_ns <= stamp_ns}
        for i, track_id in enumerate(tracks.track_ids.tolist()):
            motion = motions.get(track_id)
            if motion is None or tracks.states[i] == TrackState.LOST:
                continue
            old = made.pop(track_id, None)  # to the end: it is seen last
            if cuts[i] and old is not None and not old.cut and stamp_ns - old.stamp_ns < _CUT_NS:
                made[track_id] = old
                continue
            speed = motion.velocity @ np.linalg.solve(motion.velocity_covariance, motion.velocity)
            made[track_id] = _Anchor(
                tracks.boxes[i].astype(np.float64),
                (motion.position - to_target[:3, 3]) @ to_target[:3, :3],
                motion.position.copy(),
                motion.velocity * (speed > _MOVING),
                stamp_ns,
                cuts[i],
            )
        while len(made) > _MOST:
            del made[next(iter(made))]
        self._anchors = made  # whoever reads the old one meanwhile is served as well

    def at(self, stamp_ns: int, camera: Camera, to_target: NDArray[np.float64]) -> Expected | None:
        """Return where tracks should be seen in an image, None where nothing is known of any.

        A box goes with the position of what is in it, and grows as that comes nearer; what
        sticks out of the image is cut off. What is behind the camera is expected far outside.

        Parameters
        ----------
        stamp_ns: of the image, nanoseconds.
        camera: of the image.
        to_target: (4, 4) from its optical frame to the frame that stands still.

        """
        anchors = self._anchors
        if not anchors:
            return None
        boxes, seen, position, velocity, stamps, _ = (np.array(x) for x in zip(*anchors.values()))
        elapsed = np.clip((stamp_ns - stamps) * 1e-9, 0, _VELOCITY_SECONDS)
        now = (position + velocity * elapsed[:, None] - to_target[:3, 3]) @ to_target[:3, :3]
        middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        there = (now[:, 2] > _NEAREST) & (seen[:, 2] > _NEAREST)
        scale = np.ones((len(boxes), 1))
        scale[there] = seen[there, 2:] / now[there, 2:]
        off = middle[there] - _pixels(camera, seen[there])
        middle[there] = _pixels(camera, now[there]) + off * scale[there]
        middle[~there] = _UNSEEN
        made = np.hstack((middle - half * scale, middle + half * scale))
        inside = np.clip(made, 0, np.tile(camera.shape[::-1], 2))
        shows = (inside[:, 2:] - inside[:, :2] >= 1).all(axis=1)
        made[shows] = inside[shows]
        return Expected(np.array(list(anchors), np.int64), made)


def _pixels(camera: Camera, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where points (N, 3) before a camera are in its image, or about where outside it.

    Outside its view the polynomial of a distortion means nothing: as without it.
    """
    pixels = dataclasses.replace(camera, distortion=np.zeros(0)).seen_at(points)
    inside = camera.in_view(points)
    pixels[inside] = camera.seen_at(points[inside])
    return pixels
