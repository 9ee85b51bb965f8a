# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The objects that were seen so far: when, how they look, what they are called."""

from __future__ import annotations

import dataclasses
import threading

import cv2
import numpy as np
from numpy.typing import NDArray

from masa_ros import overlay
from masa_ros.types import Result, TrackState, class_name

_MOST = 1000  # objects; of more the one unseen for longest is left out
_SIDE = 56  # longest side of a thumbnail, pixels
_LARGER = 1.3  # times as large as in its thumbnail: a better look at an object
_QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 80]


@dataclasses.dataclass
class Seen:
    """What is known of one object.

    Attributes
    ----------
    track_id: its id.
    name: that somebody gave it, or its class, '' for neither.
    state: in the newest image that had it.
    first_ns, last_ns: stamps of the first and last image that it was seen in.
    runs: stretches of images (first, last) in which it was there.
    thumbnail: JPEG.
    area: of its box in the thumbnail's image, pixels.

    """

    track_id: int
    name: str
    state: TrackState
    first_ns: int
    last_ns: int
    runs: list[tuple[int, int]]
    thumbnail: bytes = b''
    area: float = 0.0

    @property
    def frames(self) -> int:
        """Number of images in which it was there."""
        return sum(last - first + 1 for first, last in self.runs)


class Catalogue:
    """The objects of a stream, in the order of their ids. Safe to use from several threads.

    Attributes
    ----------
    left_out: objects that are not listed any more because there are too many.

    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: dict[int, Seen] = {}
        self.left_out = 0

    def take(self, index: int, result: Result) -> None:
        """Note the tracks of image number ``index``; images come in order, or once more."""
        frame, tracks, names = result
        there = tracks.states != TrackState.LOST
        for i in np.flatnonzero(there & (tracks.track_ids > 0)).tolist():
            track_id = int(tracks.track_ids[i])
            name = tracks.names[i] or class_name(int(tracks.labels[i]), names)
            state = TrackState(int(tracks.states[i]))
            with self._lock:
                seen = self._objects.get(track_id)
                if seen is None:
                    seen = Seen(track_id, name, state, frame.stamp_ns, frame.stamp_ns, [])
                    self._objects[track_id] = seen
                    self._make_room()
                seen.name, seen.state = name, state
                seen.last_ns = max(seen.last_ns, frame.stamp_ns)
                _extend(seen.runs, index)
            self._look(seen, frame.image, tracks.boxes[i])

    def _look(self, seen: Seen, image: NDArray[np.uint8], box: NDArray[np.float32]) -> None:
        """Make the thumbnail where this is the first look at an object, or a better one."""
        x0, y0, x1, y1 = (round(float(value)) for value in box)
        area = float((x1 - x0) * (y1 - y0))
        if seen.thumbnail and area < _LARGER * seen.area:
            return
        part = image[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
        if not part.size:
            return
        scale = _SIDE / max(part.shape[:2])
        size = [max(round(side * scale), 1) for side in part.shape[1::-1]]
        small = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        done, data = cv2.imencode('.jpg', small[:, :, ::-1], _QUALITY)
        if done:
            seen.thumbnail, seen.area = data.tobytes(), area

    def _make_room(self) -> None:
        while len(self._objects) > _MOST:
            longest = min(self._objects.values(), key=lambda seen: seen.last_ns)
            del self._objects[longest.track_id]
            self.left_out += 1

    def rename(self, track_id: int, name: str) -> None:
        """Call an object something else."""
        with self._lock:
            if track_id in self._objects:
                self._objects[track_id].name = name

    def clear(self) -> None:
        """Forget all objects."""
        with self._lock:
            self._objects.clear()
            self.left_out = 0

    def get(self, track_id: int) -> Seen | None:
        """Return what is known of an object."""
        return self._objects.get(track_id)

    def listed(self) -> list[Seen]:
        """Return all objects as they are now, by their ids."""
        with self._lock:
            objects = [dataclasses.replace(o, runs=list(o.runs)) for o in self._objects.values()]
        return sorted(objects, key=lambda seen: seen.track_id)


def _extend(runs: list[tuple[int, int]], index: int) -> None:
    """Add an image to stretches of images."""
    if runs and runs[-1][0] <= index <= runs[-1][1]:
        return
    if runs and index == runs[-1][1] + 1:
        runs[-1] = runs[-1][0], index
    else:
        runs.append((index, index))


def bar(seen: Seen, first: int, last: int) -> str:
    """Return the timeline of an object over images ``first`` to ``last``, as SVG."""
    red, green, blue = overlay.colour_of(seen.track_id)
    parts = ''.join(
        f'<rect x="{max(a, first) - first}" width="{min(b, last) - max(a, first) + 1}" height="8"'
        f' fill="rgb({red},{green},{blue})"/>'
        for a, b in seen.runs
        if b >= first and a <= last
    )
    return (
        f'<svg viewBox="0 0 {max(last - first + 1, 1)} 8" preserveAspectRatio="none" '
        f'style="width:100%;height:8px;background:#8883">{parts}</svg>'
    )
