# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The objects of a stream, and how new detections are merged with them (DEVA, section 3.2.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from masa_ros.methods.deva.segments import (
    Segment,
    Shape,
    Votes,
    areas_of,
    by_area,
    cut,
    free_layer,
    intersections,
    joined,
)
from masa_ros.types import Mask


@dataclasses.dataclass
class Object:
    """What is known of one object.

    Attributes
    ----------
    track_id: its id.
    votes: of all detections that were it.
    first_seen_ns: stamp of the frame in which it began.
    layer: objects of different layers may overlap.
    missed: how often in a row detections did not confirm it.
    pointed_at: by somebody, who wants it kept.

    """

    track_id: int
    votes: Votes
    first_seen_ns: int
    layer: int = 0
    missed: int = 0
    pointed_at: bool = False


@dataclasses.dataclass(frozen=True)
class Rules:
    """How detections are merged.

    Attributes
    ----------
    max_missed: an object is deleted when it is missed more often in a row; the paper deletes it
        when the count reaches L: that is L - 1 here. The released code counts as we do.
    incremental: what is still seen needs no detections; only what has no pixels is missed.
    max_objects: no more are begun; 0: any number.
    layers: objects that overlap go to as many layers; with one the smaller lies in front.

    """

    max_missed: int = 5
    incremental: bool = False
    max_objects: int = 0
    layers: int = 1


class _Stroke(NamedTuple):
    """What is painted: an object as it is seen now, or a detection that begins one."""

    mask: Mask
    object: Object | None
    found: Segment | None


class Table:
    """The objects of a stream, in the order in which they began.

    Attributes
    ----------
    objects: see above.
    refused: detections that began no object because there were too many.

    """

    def __init__(self) -> None:
        self.objects: list[Object] = []
        self.refused = 0
        self._next = 1

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.objects)

    def find(self, track_id: int) -> Object | None:
        """Return an object by its id."""
        return next((each for each in self.objects if each.track_id == track_id), None)

    def remove(self, track_ids: Iterable[int]) -> bool:
        """Forget objects, and never give their ids again; False where none has such an id."""
        gone = set(track_ids)
        before = len(self.objects)
        self.objects = [each for each in self.objects if each.track_id not in gone]
        return len(self.objects) < before

    def merge(
        self,
        propagated: Sequence[Mask],
        found: Sequence[Segment],
        shape: Shape,
        rules: Rules,
        stamp_ns: int = 0,
    ) -> list[Mask]:
        """Match detections with objects, begin new ones, count what was missed (equations 9, 10).

        A detection is the first object of its kind that it shares more than half of their union
        with; both together are what is seen of it. New objects begin in descending order of their
        areas. Nothing is deleted yet, see ``missed``.

        Parameters
        ----------
        propagated: of every object, in their order.
        found: detections, in whose order matches are looked for.
        shape: of the image.
        rules: see there.
        stamp_ns: of the frame.

        Returns
        -------
        What is seen of every object, in their order, new ones behind; masks of one layer do not
        overlap.

        """
        strokes = self._strokes(propagated, found, rules)
        most = max((1 + each.layer for each in self.objects), default=1)
        layers: list[list[Mask]] = [[] for _ in range(max(most, rules.layers))]
        for stroke in strokes:
            if stroke.object is not None:
                layers[stroke.object.layer].append(stroke.mask)
        seen: dict[int, Mask] = {}
        for stroke in strokes:
            each = stroke.object
            if each is None:
                assert stroke.found is not None
                layer = free_layer(stroke.mask, layers[: rules.layers])
                layers[layer].append(stroke.mask)
                each = self.begin(stroke.found.votes, stamp_ns, layer)
            elif stroke.found is not None:
                each.votes, each.missed = each.votes.plus([stroke.found.votes]), 0
            elif rules.incremental and stroke.mask.width:
                each.missed = 0
            else:
                each.missed += 1
            seen[each.track_id] = stroke.mask
        return self._cut(seen, shape)

    def missed(self, rules: Rules) -> list[int]:
        """Return the ids of the objects that were missed too often, to be removed."""
        return [
            each.track_id
            for each in self.objects
            if each.missed > rules.max_missed and not each.pointed_at
        ]

    def _strokes(
        self, propagated: Sequence[Mask], found: Sequence[Segment], rules: Rules
    ) -> list[_Stroke]:
        """Return what is to be painted, those in front last."""
        owners = self._match(propagated, found)
        refused = self._too_many(owners, found, rules)
        strokes: list[_Stroke] = []
        for kind in (None, False, True):  # stuff over what has no kind, things over stuff
            part = []
            for j, segment in enumerate(found):
                i = owners.get(j)
                if segment.votes.thing != kind or j in refused:
                    continue
                if i is None:
                    part.append(_Stroke(segment.mask, None, segment))
                else:
                    mask = joined(propagated[i], segment.mask)
                    part.append(_Stroke(mask, self.objects[i], segment))
            part += [
                _Stroke(propagated[i], each, None)
                for i, each in enumerate(self.objects)
                if each.votes.thing == kind and i not in owners.values()
            ]
            strokes += [part[i] for i in by_area([stroke.mask for stroke in part])]
        return strokes

    def _match(self, propagated: Sequence[Mask], found: Sequence[Segment]) -> dict[int, int]:
        """Return which object, by its place, each detection is that is any."""
        masks = [segment.mask for segment in found]
        shared = intersections(masks, propagated)
        union = areas_of(masks)[:, None] + areas_of(propagated)[None] - shared
        kinds = [each.votes.thing for each in self.objects]
        owners: dict[int, int] = {}
        for j, segment in enumerate(found):
            for i in np.flatnonzero(2 * shared[j] > union[j]).tolist():
                if kinds[i] == segment.votes.thing and i not in owners.values():
                    owners[j] = i
                    break
        return owners

    def _too_many(
        self, owners: dict[int, int], found: Sequence[Segment], rules: Rules
    ) -> set[int]:
        """Return which detections begin no object: those of lowest score behind the limit."""
        new = [j for j in range(len(found)) if j not in owners]
        room = max(rules.max_objects - len(self), 0) if rules.max_objects else len(new)
        new.sort(key=lambda j: -found[j].votes.score)
        self.refused += len(new[room:])
        return set(new[room:])

    def begin(self, votes: Votes, stamp_ns: int, layer: int) -> Object:
        """Begin an object of which nothing is seen yet."""
        made = Object(self._next, votes, stamp_ns, layer)
        self._next += 1
        self.objects.append(made)
        return made

    def _cut(self, seen: dict[int, Mask], shape: Shape) -> list[Mask]:
        """Paint the objects of each layer in the order given."""
        place = {each.track_id: each.layer for each in self.objects}
        visible: dict[int, Mask] = {}
        for layer in set(place.values()):
            ids = [track_id for track_id in seen if place[track_id] == layer]
            masks = cut([seen[i] for i in ids], shape, range(len(ids)))
            visible |= zip(ids, masks)
        return [visible[each.track_id] for each in self.objects]
