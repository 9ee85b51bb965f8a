# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A check without ground truth: a recording played forwards and back must end as it began.

Frames 0..T..0 are tracked as one recording. Whatever has an id in frame k on the way out is in
frame k on the way back too; a tracker that loses nobody gives it the same id.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masa_ros.streams.stream import Stream
from masa_ros.tracking.geometry import areas, ious
from masa_ros.types import Frame, Instances

_SAME_PLACE = 0.5  # overlap of boxes that makes two sightings of one frame one object
AGES = (1.0, 2.0, 5.0, 10.0)  # seconds from a frame to the same frame on the way back
SIZES = (32.0**2, 96.0**2)  # square pixels, the limits of COCO


@dataclasses.dataclass(frozen=True)
class Share:
    """How many of ``count`` sightings have the same id again."""

    kept: int
    count: int

    @property
    def value(self) -> float:
        """The share in 0..1; 0 of nothing."""
        return self.kept / self.count if self.count else 0.0


@dataclasses.dataclass(frozen=True)
class Palindrome:
    """Result of the check.

    Attributes
    ----------
    frames: of the recording.
    ids: sightings seen again at their place that have the same id.
    seen_again: sightings of the way out with one at the same place on the way back.
    by_age: the ids by seconds between the two, up to 1, 2, 5, 10 and beyond.
    by_size: the ids by area: small, medium and large as COCO has them.
    recall: sightings of the way out of more than 32 x 32 pixels that have the same id on the way
        back; those not seen again count as lost.
    crowd: such sightings a frame.

    """

    frames: int
    ids: Share
    seen_again: Share
    by_age: dict[str, Share]
    by_size: dict[str, Share]
    recall: Share
    crowd: float


def palindrome(frames: Iterable[Frame], stream: Stream[Any]) -> Palindrome:
    """Track frames forwards and back on a stream that has seen nothing yet.

    The way back begins one frame distance after the last frame, with stamps that go on. A method
    may answer late: what it says is told apart by the frames that it is about.
    """
    way = list(frames)
    last = len(way) - 1
    ages = np.zeros(len(way))
    for k in range(last - 1, -1, -1):
        stamp_ns = 2 * way[last].stamp_ns - way[k].stamp_ns
        way.append(way[k]._replace(stamp_ns=stamp_ns))
        ages[k] = (stamp_ns - way[k].stamp_ns) * 1e-9
    results = [result for frame in way for result in stream.track(frame)]
    place = {id(frame): number for number, frame in enumerate(way)}
    seen = [Instances.empty()] * len(way)
    for result in [*results, *stream.finish()]:
        seen[place[id(result.frame)]] = result.tracks[result.tracks.present]
    return compare(seen[:last], seen[:last:-1], ages[:-1])


def compare(out: list[Instances], back: list[Instances], ages: NDArray[np.float64]) -> Palindrome:
    """Compare the tracks of the way out with those of the same frames on the way back.

    Parameters
    ----------
    out, back: one for each frame.
    ages: (T,) seconds between the two.

    """
    age, size, again, same = (list[NDArray[Any]]([np.zeros(0)]) for _ in range(4))
    for first, second, seconds in zip(out, back, ages):
        overlap = ious(first.boxes, second.boxes)
        best = overlap.argmax(axis=1) if overlap.size else np.zeros(len(first), np.int64)
        there = overlap.max(axis=1, initial=0) >= _SAME_PLACE
        ids = np.zeros(len(first), np.int64)
        ids[there] = second.track_ids[best[there]]
        age.append(np.full(len(first), seconds))
        size.append(areas(first.boxes))
        again.append(there)
        same.append(there & (ids == first.track_ids))
    every = [np.concatenate(values) for values in (age, size, again, same)]
    seen, large = every[2].astype(bool), every[1] > SIZES[0]
    kept = every[3].astype(bool)[seen]

    def shares(values: NDArray[np.float64], limits: tuple[float, ...], names: list[str]) -> Any:
        place = np.searchsorted(limits, values[seen])
        return {
            name: Share(int(kept[place == i].sum()), int((place == i).sum()))
            for i, name in enumerate(names)
        }

    names = [f'{low:g} .. {high:g} s' for low, high in zip((0.0, *AGES), AGES)]
    return Palindrome(
        frames=len(out) + 1,
        ids=Share(int(kept.sum()), int(seen.sum())),
        seen_again=Share(int(seen.sum()), len(seen)),
        by_age=shares(every[0], AGES, [*names, f'beyond {AGES[-1]:g} s']),
        by_size=shares(every[1], SIZES, ['small', 'medium', 'large']),
        recall=Share(int(every[3][large].sum()), int(large.sum())),
        crowd=float(large.sum()) / max(len(out), 1),
    )


def table(result: Palindrome) -> str:
    """Return the figures as lines of text."""
    rows = [('the same id', result.ids), ('seen again at all', result.seen_again)]
    rows += [('found with the same id', result.recall)]
    rows += [(f'  after {name}', share) for name, share in result.by_age.items() if share.count]
    rows += [(f'  {name}', share) for name, share in result.by_size.items() if share.count]
    return '\n'.join(f'  {name:<22} {share.value:>6.1%} of {share.count}' for name, share in rows)
