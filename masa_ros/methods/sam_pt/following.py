# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Objects followed by their points, window by window (SAM-PT paper, section 3.2, appendix A).

Points of a mask are followed, masks are drawn where they are, and the next window begins with new
points of such a mask. ``released`` does all of it as the released code: a window draws its first
frame again, nothing is answered before the window is over, and points are chosen of empty masks.
Otherwise an object whose mask is empty keeps its points, which may be seen again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from masa_ros.methods.deva.segments import NOTHING
from masa_ros.methods.sam_pt import points as query
from masa_ros.methods.sam_pt.reinit import SMALLEST, Variant, next_frames
from masa_ros.methods.sam_pt.visibility import Code, Codes, Filter, Judge
from masa_ros.point_trackers.protocol import Chain, Points, PointTracker, Seen
from masa_ros.types import Frame, Mask, TrackedPoints

AUTO = 'auto'


@dataclasses.dataclass(frozen=True)
class Rules:
    """How objects are followed.

    Attributes
    ----------
    positive, negative: kinds of points on an object and beside it, of ``points.KINDS``; positive
        may be ``AUTO``: those that suit the point tracker.
    positives, negatives: how many of each.
    pixels: of a mask that k-medoids are chosen of.
    filter: which points are used.
    variant: how points are chosen anew; None: never.
    horizon: frames of a window.
    ahead: frames that points are followed through before a window is over; released only.
    released: see above.

    """

    positive: str = 'kmedoids'
    positives: int = 8
    negative: str = 'mixed'
    negatives: int = 1
    pixels: int = query.PIXELS
    filter: Filter = dataclasses.field(default_factory=Filter)
    variant: Variant | None = Variant.HORIZON
    horizon: int = 8
    ahead: int = 0
    released: bool = False

    @property
    def at_once(self) -> bool:
        """Whether a mask is drawn as soon as its points are known, and stays."""
        return not self.released and (self.variant is None or not self.variant.ahead)


class Moment(NamedTuple):
    """A frame, what the point tracker sees in it, and what the decoder sees."""

    frame: Frame
    points: Any
    picture: Any


class Found(NamedTuple):
    """An object in a frame.

    Attributes
    ----------
    points: (P, 2) those on it first.
    codes: (P,) of ``Code``.
    mask: empty where it is not seen.
    score: of the decoder; -inf where it was not asked.
    positives: as many of the points are on it; the others lie beside it.

    """

    points: Points
    codes: Codes
    mask: Mask
    score: float
    positives: int

    @property
    def visible(self) -> NDArray[np.bool_]:
        """True (P,) for the points that are used."""
        return np.asarray(self.codes == Code.VISIBLE)

    @property
    def positive(self) -> NDArray[np.bool_]:
        """True (P,) for the points that are on it."""
        return np.asarray(np.arange(len(self.points)) < self.positives)

    @property
    def tracked(self) -> TrackedPoints:
        """The points as others are told of them."""
        return TrackedPoints(self.points, self.visible, self.positive)


class Wanted(NamedTuple):
    """What a decoder is asked: an object's points now, and the object in the frame before.

    Attributes
    ----------
    points: (P, 2).
    visible, positive: (P,) bool.
    before: the same points in an earlier frame; its mask may be empty.

    """

    track_id: int
    points: Points
    visible: NDArray[np.bool_]
    positive: NDArray[np.bool_]
    before: Found


class Drawer(Protocol):
    """Draws the masks of objects by their points."""

    def draw(self, moment: Moment, objects: Sequence[Wanted]) -> list[tuple[Mask, float]]:
        """Return mask and score of each object of a frame; an empty mask where there is none."""
        ...


@dataclasses.dataclass(eq=False)
class _Group:
    """Objects whose points began in one frame.

    Attributes
    ----------
    start: number of the frame that their window begins with.
    last: every object as it was found last, by its id.
    chain, judge: of all their points; None until they are followed.
    drawn: number of the last frame that the masks are drawn in.
    taken, given: numbers of the last frame that the chain took, and of the last that it decided.

    """

    start: int
    last: dict[int, Found]
    drawn: int
    chain: Chain[Any] | None = None
    judge: Judge | None = None
    taken: int = 0
    given: int = 0

    @property
    def counts(self) -> list[int]:
        return [len(found.points) for found in self.last.values()]


class Follower:
    """The objects of one stream. Frames are numbered from 0 on.

    Parameters
    ----------
    tracker: follows points.
    drawer: draws masks.
    rules: see there; may be changed at any time.
    shuffle: what chance decides.

    Attributes
    ----------
    last: number of the last frame; -1: none was taken.

    """

    def __init__(
        self, tracker: PointTracker[Any], drawer: Drawer, rules: Rules, shuffle: query.Shuffle
    ) -> None:
        self.tracker, self.drawer, self.rules, self.shuffle = tracker, drawer, rules, shuffle
        self._found: dict[int, dict[int, Found]] = {}
        self._moments: dict[int, Moment] = {}
        self._groups: list[_Group] = []
        self.last = -1

    @property
    def decided(self) -> int:
        """Number of the last frame that will not change any more."""
        if self.rules.at_once:
            return min((group.drawn for group in self._groups), default=self.last)
        first = min((group.start for group in self._groups), default=self.last + 1)
        return first - 1 if self.rules.released else min(first, self.last)

    def found(self, number: int) -> dict[int, Found]:
        """Return what was found in a frame that is held, by id."""
        return self._found[number]

    def newest(self, track_id: int) -> Mask:
        """Return what was seen of an object in the newest frame that it was looked for in."""
        every = (found.get(track_id) for _, found in sorted(self._found.items(), reverse=True))
        return next((each.mask for each in every if each is not None), NOTHING)

    def forget(self, number: int) -> None:
        """Hold no frame before this one that is not needed any more."""
        first = min(number, self.last - 1)
        for group in self._groups:
            waits = group.chain is None or not self.rules.at_once
            first = min(first, group.start if waits else group.drawn)
        for old in [i for i in self._moments if i < first]:
            del self._moments[old], self._found[old]

    def take(self, moment: Moment) -> None:
        """Take the next frame; nothing is done with it yet."""
        self.last += 1
        self._moments[self.last] = moment
        self._found[self.last] = {}

    def moment(self, number: int) -> Moment:
        """Return a frame that is held."""
        return self._moments[number]

    def choose(self, masks: Sequence[NDArray[np.bool_]], numbers: Sequence[int]) -> list[Points]:
        """Choose points (P, 2) of masks (H, W) in frames, those beside them last."""
        rules = self.rules
        images = [self._moments[number].frame.image for number in numbers]
        args = self.shuffle, rules.pixels, self.tracker.patch
        kind = rules.positive
        if kind == AUTO:
            kind = 'corners' if self.tracker.patch else 'kmedoids'
        chosen = query.select(kind, masks, images, rules.positives, *args)
        if rules.negatives:
            beside = [~mask for mask in masks]
            more = query.select(rules.negative, beside, images, rules.negatives, *args)
            chosen = [np.concatenate(both) for both in zip(chosen, more)]
        return chosen

    def begin(self, number: int, objects: Mapping[int, Found]) -> None:
        """Begin to follow objects as they are in a frame that is held."""
        if not self.rules.released:
            self._found[number] |= objects
        for group in self._groups:
            if group.start == number and group.chain is None:
                group.last = dict(sorted({**group.last, **objects}.items()))
                return
        self._groups.append(_Group(number, dict(objects), number))
        self._groups.sort(key=lambda group: group.start)

    def begin_masks(self, number: int, masks: Mapping[int, Mask], score: float = 1.0) -> None:
        """Begin to follow objects by their masks in a frame that is held."""
        image = self._moments[number].frame.image
        full = [mask.full(*image.shape[:2]) for mask in masks.values()]
        chosen = self.choose(full, [number] * len(full))
        codes = [Judge(self.rules.filter, image, points).first(image, points) for points in chosen]
        every = zip(chosen, codes, masks.values())
        positives = self.rules.positives
        self.begin(number, {i: Found(*each, score, positives) for i, each in zip(masks, every)})

    def remove(self, track_id: int) -> None:
        """Follow an object no more."""
        for group in self._groups:
            if track_id in group.last:
                _narrow(group, [i for i in group.last if i != track_id])
        self._groups = [group for group in self._groups if group.last]
        for found in self._found.values():
            found.pop(track_id, None)

    def advance(self, end: bool = False) -> None:
        """Do what can be done with the frames that were taken; ``end``: no other will follow."""
        while due := next(filter(lambda group: self._over(group, end), self._groups), None):
            self._close(due)
        if self.rules.at_once or end:
            for group in self._groups:
                self._run(group, self.last, end)
        if end:
            self._groups = []

    def _others(self, group: _Group) -> list[int]:
        """Return the frames of a window in which windows of others begin."""
        starts = {other.start - group.start for other in self._groups}
        return sorted(start for start in starts if start > 0)

    def _over(self, group: _Group, end: bool) -> bool:
        """Tell whether the next windows of a group may begin."""
        rules = self.rules
        if rules.variant is None:
            return False
        if rules.at_once:
            return self.last - group.start > min([rules.horizon - 1, *self._others(group)])
        return self.last - group.start >= max(rules.horizon, 0 if end else rules.ahead - 1)

    def _close(self, group: _Group) -> None:
        """Begin the next windows of the objects of a group, with new points."""
        rules, first, others = self.rules, group.start, self._others(group)
        assert rules.variant is not None
        until = first + rules.horizon - 1
        if rules.at_once:
            until = first + min([rules.horizon - 1, *others])
        self._run(group, until, True, min(self.last, max(until, first + rules.ahead - 1)))
        ids = list(group.last)
        areas = np.zeros((len(ids), rules.horizon), np.int64)
        if rules.variant.ahead:
            window = range(first, first + rules.horizon)
            masks = [[self._found[frame][i].mask for frame in window] for i in ids]
            areas = np.array([[np.count_nonzero(m.pixels) for m in each] for each in masks])
        chosen = first + next_frames(areas, rules.variant, rules.horizon, others)
        starts = dict(zip(ids, chosen.tolist()))
        self._groups.remove(group)
        seen = {i: self._found[start][i] for i, start in starts.items()}
        if not rules.released:
            seen = {i: each for i, each in seen.items() if _area(each.mask) > SMALLEST}
            if len(seen) < len(ids):
                _narrow(group, [i for i in ids if i not in seen])
                group.start = until
                self._groups.append(group)
        self._renew(seen, starts)

    def _renew(self, seen: Mapping[int, Found], starts: Mapping[int, int]) -> None:
        """Begin windows with new points of masks."""
        numbers = [starts[i] for i in seen]
        shapes = [self._moments[number].frame.shape for number in numbers]
        full = [each.mask.full(*shape) for each, shape in zip(seen.values(), shapes)]
        chosen = self.choose(full, numbers) if full else []
        for (i, each), number, points in zip(seen.items(), numbers, chosen):
            image = self._moments[number].frame.image
            codes = Judge(self.rules.filter, image, points).first(image, points)
            again = Found(points, codes, each.mask, each.score, self.rules.positives)
            self.begin(number, {i: again})

    def _run(self, group: _Group, until: int, rest: bool, ahead: int = 0) -> None:
        """Follow the points of a group, and draw its masks up to a frame.

        Parameters
        ----------
        group: see there.
        until: number of the frame.
        rest: whether frames that the chain has not decided are drawn as well.
        ahead: number of a later frame that the points are followed to.

        """
        if group.chain is None:
            moment = self._moments[group.start]
            points = np.concatenate([found.points for found in group.last.values()])
            group.chain = self.tracker.begin(moment.points, points)
            group.judge = Judge(self.rules.filter, moment.frame.image, points)
            group.taken = group.given = group.start
            if self.rules.released:
                group.drawn -= 1
                self._draw(group, group.start, Seen(points, np.ones(len(points), np.bool_)))
        while group.taken < max(until, ahead):
            group.taken += 1
            for seen in group.chain.step(self._moments[group.taken].points):
                group.given += 1
                if group.given <= until:
                    self._draw(group, group.given, seen)
        if rest and group.drawn < until:
            for number, seen in enumerate(group.chain.rest(), group.given + 1):
                if number <= until:
                    self._draw(group, number, seen)

    def _draw(self, group: _Group, number: int, seen: Seen) -> None:
        """Draw the masks of a group in a frame, once."""
        if number <= group.drawn:
            return
        group.drawn = number
        moment = self._moments[number]
        assert group.judge is not None
        codes = group.judge.codes(moment.frame.image, seen)
        cuts = np.cumsum(group.counts)[:-1]
        each = list(zip(np.split(seen.points, cuts), np.split(codes, cuts)))
        wanted = [
            Wanted(i, points, own == Code.VISIBLE, before.positive, before)
            for (i, before), (points, own) in zip(group.last.items(), each)
        ]
        drawn = self.drawer.draw(moment, wanted)
        for (i, before), both, answer in zip(list(group.last.items()), each, drawn):
            found = Found(*both, *answer, before.positives)
            self._found[number][i] = found
            group.last[i] = found if found.mask.width else before


def _area(mask: Mask) -> int:
    return int(np.count_nonzero(mask.pixels))


def _narrow(group: _Group, ids: Sequence[int]) -> None:
    """Leave only some objects in a group."""
    owner = np.repeat(list(group.last), group.counts)
    index = np.flatnonzero(np.isin(owner, ids))
    if group.chain is not None and group.judge is not None and len(index):
        group.chain.keep(index)
        group.judge.keep(index)
    group.last = {i: group.last[i] for i in ids}
