# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Images and the depth of their time, found by their stamps."""

from __future__ import annotations

import collections
from typing import Generic, TypeVar

from masa_ros.space.depth import nearest

I = TypeVar('I')  # noqa: E741  # an image
D = TypeVar('D')

_KEPT = 30  # depth messages; more than any camera is behind
_JUMP_NS = 500_000_000  # a depth so far behind the last one: time begins again


class DepthMatcher(Generic[I, D]):
    """Give every image the depth that is nearest in stamp, or none; images stay in their order.

    Depth may serve several images, and more of it than there are images is usual. An image is
    decided when depth of its stamp or a later one has come, so that nothing nearer will; or when
    too many images wait.

    Parameters
    ----------
    slop_ns: by how much the two stamps may differ.
    wait: how many images may wait.

    Attributes
    ----------
    late: how much depth came after its image was given up.

    """

    def __init__(self, slop_ns: int, wait: int) -> None:
        self.slop_ns, self.wait = slop_ns, wait
        self.late = 0
        self._images: collections.deque[tuple[int, I]] = collections.deque()
        self._depths: collections.deque[tuple[int, D]] = collections.deque(maxlen=_KEPT)
        self._given_up: collections.deque[int] = collections.deque(maxlen=_KEPT)

    def __len__(self) -> int:
        """Return the number of images that wait."""
        return len(self._images)

    def add_image(self, stamp_ns: int, image: I) -> list[tuple[I, D | None]]:
        """Take an image; returns those that are decided by it, with their depth."""
        self._images.append((stamp_ns, image))
        return self._decided()

    def add_depth(self, stamp_ns: int, depth: D) -> list[tuple[I, D | None]]:
        """Take depth; returns the images that are decided by it, with theirs."""
        if self._depths and stamp_ns < self._depths[-1][0] - _JUMP_NS:
            self._depths.clear()
        near = [stamp for stamp in self._given_up if abs(stamp - stamp_ns) <= self.slop_ns]
        if near:
            self.late += 1
            self._given_up.remove(near[0])
        self._depths.append((stamp_ns, depth))
        return self._decided()

    def clear(self) -> None:
        """Forget everything."""
        self._images.clear()
        self._depths.clear()
        self._given_up.clear()

    def _decided(self) -> list[tuple[I, D | None]]:
        decided: list[tuple[I, D | None]] = []
        while self._images:
            stamp_ns, image = self._images[0]
            newest = self._depths[-1][0] if self._depths else None
            full = len(self._images) > self.wait
            if not full and (newest is None or newest < stamp_ns):
                break
            self._images.popleft()
            found = nearest(self._depths, stamp_ns, self.slop_ns)
            decided.append((image, found))
            if found is None:
                self._given_up.append(stamp_ns)
        return decided
