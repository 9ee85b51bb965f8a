# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which masks of a key frame are new objects, and their ids (SAM-Track report, section 3.2).

Label maps are (H, W) of integers, 0 where nothing is. The report compares areas: an object is new
when most of it lies where nothing is tracked (equations 1 and 2). It says nothing of least areas,
of limits and of how ids are given; those are from the released code.

``released`` makes all of it as the released code does, accidents included: the first new object
gets the id of the last one there is, and an object whose new id is the number of a later mask is
taken for it. Otherwise ids are free ones and masks are looked at one by one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int32]


@dataclasses.dataclass(frozen=True)
class Rules:
    """How new objects are chosen.

    Attributes
    ----------
    min_area: pixels that a mask has at least.
    max_objects: no more are followed at once; released: no larger id is given.
    min_new: the least share of a new object that lies where nothing is tracked. The report asks
        for more than it, the code for as much.
    released: see above.

    """

    min_area: int = 200
    max_objects: int = 255
    min_new: float = 0.8
    released: bool = False


def merge(masks: Sequence[NDArray[np.bool_]], shape: tuple[int, int], rules: Rules) -> Labels:
    """Paint the masks of everything into one label map, later ones over earlier ones.

    Parameters
    ----------
    masks: (H, W) each. None at all are none; the released code ends with an error then.
    shape: H, W.
    rules: masks must have more than ``min_area`` pixels, and at least so many that are not painted
        over; of more than ``max_objects`` the first stay.

    Returns
    -------
    (H, W) int32, numbered from 1 without gaps.

    """
    painted = np.zeros(shape, np.int32)
    large = [mask for mask in masks if np.count_nonzero(mask) > rules.min_area]
    for value, mask in enumerate(large, 1):
        painted[mask] = value
    areas = np.bincount(painted.ravel(), minlength=1 + len(large))[1:]
    visible = (areas > 0) & (areas >= rules.min_area)
    visible &= np.cumsum(visible) <= rules.max_objects
    numbers = np.concatenate(([0], np.where(visible, np.cumsum(visible), 0)))
    return numbers[painted].astype(np.int32)


def new_objects(tracked: Labels, found: Labels, next_id: int, known: int, rules: Rules) -> Labels:
    """Find the objects that are not tracked yet (equations 1 and 2).

    Only what lies where nothing is tracked becomes the new object, so that both maps can be added.

    Parameters
    ----------
    tracked: what is tracked, by id.
    found: all masks of the frame, numbered.
    next_id: of ``Ids``.
    known: how many objects are followed, seen or not; not looked at when released.
    rules: see there.

    Returns
    -------
    (H, W) int32, the ids of new objects.

    """
    new = np.where(tracked == 0, found, 0).astype(np.int32)
    if rules.released:
        return _released(new, found, next_id, rules)
    whole = np.bincount(found.ravel())
    parts = np.bincount(new.ravel(), minlength=len(whole))
    ids = np.zeros(len(whole), np.int32)
    room = max(rules.max_objects - known, 0)
    for value in np.flatnonzero(parts[1:]) + 1:
        share = parts[value] / whole[value]
        if room and share >= rules.min_new and parts[value] >= rules.min_area:
            ids[value] = next_id
            next_id, room = next_id + 1, room - 1
    return ids[new]


def _released(new: Labels, found: Labels, next_id: int, rules: Rules) -> Labels:
    """Relabel in place: what was given an id is met again where a later mask has that number."""
    for value in np.unique(new[new > 0]).tolist():
        part, area = np.count_nonzero(new == value), np.count_nonzero(found == value)
        keep = part / area >= rules.min_new and part >= rules.min_area
        if keep and next_id <= rules.max_objects:
            new[new == value] = next_id
            next_id += 1
        else:
            new[new == value] = 0
    return new


def added(tracked: Labels, mask: NDArray[np.bool_], track_id: int) -> Labels:
    """Put the mask of an object that somebody pointed at over everything else."""
    return np.where(mask, track_id, tracked).astype(np.int32)


class Ids:
    """The ids of a stream, which are never given twice.

    Attributes
    ----------
    rules: see there; only ``released`` is looked at.
    largest: the largest that was given; 0: none was.

    """

    def __init__(self, rules: Rules) -> None:
        self.largest = 0
        self.rules, self._begun = rules, False

    def given(self, labels: Labels) -> None:
        """Take note of the ids of a frame that objects were shown in, if there were any."""
        self.largest, self._begun = max(self.largest, int(labels.max(initial=0))), True

    @property
    def next(self) -> int:
        """The id of the first new object.

        Released: that of the last object, which it joins; where nothing was in the frames that
        were shown, 0, so that it is lost.
        """
        return self.largest if self.rules.released and self._begun else self.largest + 1
