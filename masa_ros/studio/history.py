# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What came of a recording so far, on disk, for who goes back to it."""

from __future__ import annotations

import collections
import json
import time
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from masa_ros.recordings.tracks_file import TrackedFrame, frame_from_json, frame_to_json
from masa_ros.space.locate import Place
from masa_ros.studio.catalogue import Catalogue
from masa_ros.studio.lane import Figures
from masa_ros.studio.shelf import Shelf
from masa_ros.types import Frame, Result

_LARGEST = 8 << 30  # bytes of pictures, and of tracks, that are kept on disk to be shown again
_QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 92]
_TOLD = 20  # images whose refusal is told
_TIMED = 12  # images whose stamps tell how fast they come
_DEFAULT_PERIOD = 0.1  # seconds between images whose stamps do not tell


class Pictures:
    """The images of a recording that have come by, for who goes back to them."""

    def __init__(self) -> None:
        self._shelf = Shelf(_LARGEST)

    def keep(self, index: int, image: NDArray[np.uint8]) -> None:
        """Keep image number ``index`` (H, W, 3) RGB, if there is room."""
        if index not in self._shelf:
            _, data = cv2.imencode('.jpg', image[:, :, ::-1], _QUALITY)
            self._shelf.put(index, data.tobytes())

    def get(self, index: int, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """Return image number ``index`` as (H, W, 3) RGB; grey where it is not kept."""
        if index not in self._shelf:
            return np.full((*shape, 3), 96, np.uint8)
        data = np.frombuffer(self._shelf[index], np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert image is not None
        return np.ascontiguousarray(image[:, :, ::-1])

    def close(self) -> None:
        """Give the disk back."""
        self._shelf.close()


class History:
    """What came of the images so far; takes it from a ``Replay``.

    Attributes
    ----------
    newest: number of the newest image that is answered, -1 before any.
    refused, events: what went wrong, counted.
    reasons: why images could not be used, of the first ones.

    """

    def __init__(self, pictures: Pictures, catalogue: Catalogue, figures: Figures) -> None:
        self.newest = -1
        self.refused = 0
        self.reasons: list[str] = []
        self.events: collections.Counter[str] = collections.Counter()
        self._pictures, self._catalogue, self._figures = pictures, catalogue, figures
        self._shelf = Shelf(_LARGEST)
        self._last: tuple[int, str, Result] | None = None
        self._stamps: list[int] = []

    def add(
        self, index: int, name: str, result: Result, places: Sequence[Place] | None = None
    ) -> None:
        """Take the tracks of image number ``index``."""
        frame, tracks, names = result
        record = TrackedFrame(index, name, frame.stamp_ns, *frame.shape, tracks, names)
        if not self._shelf.put(index, json.dumps(frame_to_json(record)).encode()):
            self.event('no_room', 'the disk is full: what is shown cannot be shown again')
        self._pictures.keep(index, frame.image)
        self._catalogue.take(index, result)
        self._last = index, name, result
        if index > self.newest and len(self._stamps) < _TIMED:
            self._stamps.append(frame.stamp_ns)
        self.newest = index

    @property
    def period(self) -> float:
        """Seconds between images by their first stamps."""
        steps = np.diff(self._stamps)
        return float(np.median(steps)) * 1e-9 if (steps > 0).any() else _DEFAULT_PERIOD

    def refuse(self, name: str, reason: str) -> None:
        """Note an image that could not be used."""
        self.refused += 1
        if len(self.reasons) < _TOLD:
            self.reasons.append(f'{name}: {reason}')

    def took(self, milliseconds: float) -> None:
        """Note how long an image took."""
        self._figures.add(milliseconds, time.monotonic())

    def event(self, name: str, text: str, count: int = 1) -> None:
        """Note something that costs no image."""
        self.events[name] += count

    def amend(self, change: Callable[[Result], Result]) -> None:
        """Change the newest answer, where there is any."""
        if self._last is not None:
            index, name, result = self._last
            self.add(index, name, change(result))

    def frame(self, index: int) -> TrackedFrame | None:
        """Return the tracks of image ``index``, None where there are none."""
        if index not in self._shelf:
            return None
        return frame_from_json(json.loads(self._shelf[index]))

    def at(self, index: int) -> tuple[int, str, Result] | None:
        """Return the answer to image ``index``; of one without any the nearest, an earlier one."""
        last = self._last
        if last is not None and index >= last[0]:
            return last
        for near in (*range(index, -1, -1), *range(index + 1, self.newest + 1)):
            known = self.frame(near)
            if known is not None:
                image = self._pictures.get(near, (known.height, known.width))
                return near, known.source, _result_of(known, image)
        return None

    def frames(self) -> Iterator[TrackedFrame]:
        """Give the tracks of all images so far."""
        for index in range(self.newest + 1):
            known = self.frame(index)
            if known is not None:
                yield known

    def close(self) -> None:
        """Give the disk back."""
        self._shelf.close()


def _result_of(known: TrackedFrame, image: NDArray[np.uint8]) -> Result:
    return Result(Frame(image, known.stamp_ns), known.instances, known.class_names)
