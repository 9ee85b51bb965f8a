# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What somebody points at, or names, in a frame: the same for every method that takes prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

from masa_ros.detectors.prompted import Candidate, Segmenter, agreement
from masa_ros.detectors.protocol import Detector
from masa_ros.errors import ConfigError, PromptError
from masa_ros.methods.deva.detections import drawn
from masa_ros.methods.deva.segments import NOTHING
from masa_ros.methods.pieces import large, without
from masa_ros.methods.sought import Word, words_of
from masa_ros.types import Frame, Instances, Mask, Prompt

Segment = Callable[[Frame, Prompt], list[Candidate]]
"""Answers what is pointed at, see ``Segmenter.segment``."""
Find = Callable[[Sequence[Word]], Instances]
"""Finds what words name in the frame of a prompt; ConfigError: it does not know them."""


class Meant(NamedTuple):
    """What is meant: its mask, which is not empty, its class, -1 for none, and its score."""

    mask: Mask
    label: int = -1
    score: float = 1.0


def kinds(segmenter: Segmenter | None, detector: Detector) -> frozenset[str]:
    """Return the kinds of prompts that can be answered with these; see ``Method.accepts``."""
    pointed = {'point', 'box', 'mask'} if segmenter is not None else set()
    return frozenset(pointed | ({'text'} if detector.takes_words else set()))


def by_name(prompt: Prompt) -> bool:
    """Tell whether a prompt means all that answers to its words, see ``named``."""
    return prompt.kinds == {'text'}


def pointed_at(frame: Frame, prompt: Prompt, segment: Segment, own: Mask = NOTHING) -> Meant:
    """Return what somebody pointed at in a frame.

    Of several answers that agree with all clicks the best is taken. Clicks that are all beside
    what is meant are about what is seen of the object: what they hit is taken away from it.

    Parameters
    ----------
    frame: see above.
    prompt: of points, a box, a mask.
    segment: answers it.
    own: what is seen now of the object that is corrected; empty where nothing is.

    Raises
    ------
    PromptError
        When nothing is there, or nothing would be left.

    """
    away = len(prompt.points) > 0 and not prompt.positive.any() and prompt.box is None
    if away and prompt.mask is None:
        if not own.width:
            raise PromptError('clicks on what is not meant need an object that is seen')
        there = dataclasses.replace(prompt, positive=~prompt.positive)
        left = without(own, segment(frame, there)[0].mask)
        if not left.width:
            raise PromptError('nothing would be left of the object')
        return Meant(large(left))
    found = segment(frame, prompt)
    best = [each for each in found if agreement(each.mask, prompt) == 1] or found
    mask = best[0].mask.clipped(*frame.shape)
    if not mask.pixels.any():
        raise PromptError('the mask is empty')
    return Meant(mask)


def named(frame: Frame, prompt: Prompt, find: Find, drawer: Detector) -> list[Meant]:
    """Return all that answers to the words of a prompt ("person. red cup.").

    Of a correction it is the best alone. Masks that ``find`` does not give are drawn by the
    ``drawer``.

    Raises
    ------
    PromptError
        When nothing does, or the detector does not know a word.

    """
    try:
        found = drawn(find(words_of(prompt.text)).clipped(*frame.shape), frame, drawer)
    except ConfigError as error:
        raise PromptError(str(error)) from error
    answers = [
        Meant(mask, int(label), float(score))
        for mask, label, score in zip(found.masks or (), found.labels, found.scores)
        if mask is not None and mask.width
    ]
    if not answers:
        raise PromptError(f"nothing that answers to '{prompt.text}' is seen")
    return answers[:1] if prompt.track_id else answers


def check_room(known: int, new: int, most: int) -> None:
    """Raise PromptError where there would be more objects than ``max_objects``."""
    if known + new > most:
        raise PromptError(f'{known} objects are tracked, and max_objects is {most}')
