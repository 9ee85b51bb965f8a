# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Images and the detections that somebody else made on them, paired by their stamps."""

from __future__ import annotations

import collections
import dataclasses
from typing import Generic, TypeVar

I = TypeVar('I')  # noqa: E741  # an image
D = TypeVar('D')


@dataclasses.dataclass(frozen=True)
class Outcome(Generic[I, D]):  # no tuple: Python 3.10 has no generic ones
    """What an arrival decides.

    Attributes
    ----------
    pairs: images with their detections.
    images: that will have none.
    detections: how many have no image.

    """

    pairs: list[tuple[I, D]]
    images: list[I]
    detections: int = 0


class Matcher(Generic[I, D]):
    """Pair images with detections.

    Either may come first and late; both come in the order in which the images were taken, so that
    whatever waits behind a pair will not be matched any more. Nothing is concluded from a stamp
    but how near it is: a recording that begins again needs no rule of its own.

    Parameters
    ----------
    slop_ns: by how much the two stamps may differ.
    depth: how many of either wait for the other.

    """

    def __init__(self, slop_ns: int, depth: int) -> None:
        self.slop_ns, self.depth = slop_ns, depth
        self._images: collections.deque[tuple[int, I]] = collections.deque()
        self._detections: collections.deque[tuple[int, D]] = collections.deque()

    def __len__(self) -> int:
        """Return the number of images that wait."""
        return len(self._images)

    def add_image(self, stamp_ns: int, image: I) -> Outcome[I, D]:
        """Take an image."""
        place = self._nearest([stamp for stamp, _ in self._detections], stamp_ns)
        if place is not None:
            before = [waiting for _, waiting in self._images]
            self._images.clear()
            for _ in range(place):
                self._detections.popleft()
            return Outcome([(image, self._detections.popleft()[1])], before, place)
        self._images.append((stamp_ns, image))
        over = len(self._images) > self.depth
        return Outcome([], [self._images.popleft()[1]] if over else [])

    def add_detections(self, stamp_ns: int, detections: D) -> Outcome[I, D]:
        """Take the detections made on an image."""
        place = self._nearest([stamp for stamp, _ in self._images], stamp_ns)
        if place is not None:
            before = [self._images.popleft()[1] for _ in range(place)]
            lost = len(self._detections)
            self._detections.clear()
            return Outcome([(self._images.popleft()[1], detections)], before, lost)
        self._detections.append((stamp_ns, detections))
        over = len(self._detections) > self.depth
        if over:
            self._detections.popleft()
        return Outcome([], [], int(over))

    def clear(self) -> list[I]:
        """Forget everything; returns the images that waited."""
        waiting = [image for _, image in self._images]
        self._images.clear()
        self._detections.clear()
        return waiting

    def _nearest(self, stamps: list[int], stamp_ns: int) -> int | None:
        """Place of the nearest stamp, the earliest arrival of equal ones; None when none is."""
        if not stamps:
            return None
        place = min(range(len(stamps)), key=lambda i: abs(stamps[i] - stamp_ns))
        return place if abs(stamps[place] - stamp_ns) <= self.slop_ns else None
