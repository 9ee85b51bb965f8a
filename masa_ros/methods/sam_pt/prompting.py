# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""From points to a mask: SAM is asked in two passes, and refines (SAM-PT paper, section 3.2).

First with the points on the object alone, then with all points and what it answered, and again as
often as wanted. That the box of the last mask is given too, that a poor mask is none, and that
points of other objects say where this one is not, is in the released code only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from masa_ros.point_trackers.protocol import Points

Choose = Callable[[int, int], NDArray[np.int64]]
"""Gives so many of the numbers below N, in a random order."""

_NO_SCORE = -np.inf  # of an object that was not asked for


class Answer(NamedTuple):
    """What a decoder says.

    Attributes
    ----------
    logits: (H, W) float32 of the image, above 0 on the object.
    score: how good the mask is, 0..1.
    low: what the next question may come with.

    """

    logits: NDArray[np.float32]
    score: float
    low: Any


class Picture(Protocol):
    """An image that a decoder has been made ready for.

    Attributes
    ----------
    scale: pixels of the decoder's input for one of the image: x, y.

    """

    scale: tuple[float, float]

    def ask(
        self,
        points: Points,
        positive: NDArray[np.bool_],
        box: NDArray[np.float32] | None,
        low: Any,
    ) -> Answer:
        """Ask for the mask that is meant.

        Parameters
        ----------
        points: (N, 2) x y in pixels of the decoder's input.
        positive: (N,) False where the object is not.
        box: (4,) xyxy in the same pixels, or None.
        low: of the last answer, or None.

        """
        ...


class Asked(NamedTuple):
    """The points that an object is asked for with.

    Attributes
    ----------
    points: (N, 2) x y in pixels of the image.
    positive: (N,) bool.

    """

    points: Points
    positive: NDArray[np.bool_]


class Drawn(NamedTuple):
    """What came of it: logits (H, W), None where there is no mask; the score, or -inf."""

    logits: NDArray[np.float32] | None
    score: float


@dataclasses.dataclass(frozen=True)
class Passes:
    """How a decoder is asked.

    Attributes
    ----------
    refinements: more passes with the box of the last mask.
    least_score: a mask with a lower one is none.
    others: points on other objects say where this one is not.
    most_others: of them; None: all.
    negatives: whether objects have points beside them, so that there is a first pass without.
    released: the box is handed over in pixels of the image, where points are in those of the
        decoder's input; objects are asked for by points beside them alone.

    """

    refinements: int = 3
    least_score: float = 0.7
    others: bool = True
    most_others: int | None = None
    negatives: bool = True
    released: bool = False


def gather(
    objects: Sequence[Asked], number: int, rules: Passes, choose: Choose | None = None
) -> Asked:
    """Return what one of several objects is asked for with: its points and those of others.

    Parameters
    ----------
    objects: the visible points of all objects of a frame.
    number: of the object.
    rules: see there.
    choose: what chance decides; needed with ``most_others``.

    """
    points, positive = objects[number]
    if len(objects) < 2 or not rules.others:
        return objects[number]
    beside = [each.points[each.positive] for i, each in enumerate(objects) if i != number]
    others = np.concatenate(beside)
    if rules.most_others is not None and len(others) > rules.most_others:
        assert choose is not None, 'most_others needs choose'
        others = others[choose(len(others), rules.most_others)]
    signs = np.concatenate((positive, np.zeros(len(others), np.bool_)))
    return Asked(np.concatenate((points, others)), signs)


def draw(picture: Picture, asked: Asked, rules: Passes) -> Drawn:
    """Draw the mask of an object."""
    useful = len(asked.points) if rules.released else np.count_nonzero(asked.positive)
    if not useful:
        return Drawn(None, _NO_SCORE)
    points = (asked.points.astype(np.float64) * picture.scale).astype(np.float32)
    answer = None
    if rules.negatives:
        own = asked.positive
        answer = picture.ask(points[own], own[own], None, None)
    low = answer.low if answer else None
    answer = picture.ask(points, asked.positive, None, low)
    for _ in range(rules.refinements):
        box = box_of(answer.logits > 0)
        if box is None:
            break
        if not rules.released:
            box = (box * np.tile(picture.scale, 2)).astype(np.float32)
        answer = picture.ask(points, asked.positive, box, answer.low)
    if answer.score < rules.least_score:
        return Drawn(None, answer.score)
    return Drawn(answer.logits, answer.score)


def box_of(mask: NDArray[np.bool_]) -> NDArray[np.float32] | None:
    """Return the first and last column and row of a mask, x1 y1 x2 y2; None for one pixel."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if np.count_nonzero(mask) < 2:
        return None
    return np.array((columns[0], rows[0], columns[-1], rows[-1]), np.float32)
