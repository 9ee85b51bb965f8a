# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is looked for beside what somebody points at, and the words that say so.

Words are written "person. red cup:0.4. not picture.": each is ended by a dot. A number is the
score above which a detection answers to the word; ``not`` means that what is found by the word is
something else, so that it is taken for nothing that is wanted.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from masa_ros.detectors.protocol import Detector
from masa_ros.detectors.words import separated
from masa_ros.errors import ConfigError
from masa_ros.options import option
from masa_ros.types import Instances

_WORD = re.compile(r'(?P<no>not )?(?P<name>.*?)( ?: ?(?P<least>\d*\.?\d+))?\Z')


class Word(NamedTuple):
    """A word or a short phrase.

    Attributes
    ----------
    name: see above.
    least: score above which a detection answers to it; the detector has a threshold of its own.
    wanted: False for what is found by it and not looked for.

    """

    name: str
    least: float = 0.0
    wanted: bool = True


def words_of(text: str) -> list[Word]:
    """Read words, each once.

    Raises
    ------
    ConfigError
        Where none of them is wanted.

    """
    words: dict[str, Word] = {}
    for part in separated(text):
        match = _WORD.match(' '.join(part.split()))
        assert match is not None  # a name may be anything
        if name := match['name']:
            words[name] = Word(name, float(match['least'] or 0), not match['no'])
    if not any(word.wanted for word in words.values()):
        raise ConfigError(
            "words is empty: say what is to be found, for example 'person. red cup.'"
            if not words
            else 'words says only what is not looked for'
        )
    return list(words.values())


def names_of(words: Sequence[Word]) -> list[str]:
    """Return what a detector is asked for."""
    return [word.name for word in words]


def answering(found: Instances, detector: Detector, words: Sequence[Word]) -> Instances:
    """Return what answers to words, of what a detector found by them; see above.

    Where there are no words, it is all.
    """
    if not words:
        return found
    known, names = {word.name: word for word in words}, class_names(detector)
    # A detector may have names of its own for what it was asked for.
    answers = [known.get(names.get(label, ''), Word('')) for label in found.labels.tolist()]
    least = np.array([word.least for word in answers], np.float32)
    wanted = np.array([word.wanted for word in answers], np.bool_)
    return found[wanted & (found.scores > least)]


def class_names(detector: Detector) -> Mapping[int, str]:
    """Return the names that a detector knows now, and those that it will learn."""
    names: Mapping[int, str] = getattr(detector, 'class_names', {})
    return names


def find_option(default: str) -> str:
    """Declare what is looked for; ``default``: of ``nothing``, ``everything``, ``words``."""
    text: str = option(
        default,
        'what is looked for beside what somebody points at: nothing, everything, or what the '
        'words name',
        choices=('nothing', 'everything', 'words'),
        live=True,
    )
    return text


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoughtConfig:
    """Options of what is looked for, see ``masa_ros.options``."""

    find: str = find_option('everything')
    words: str = option(
        '',
        'what is looked for with find: words, as in "person. red cup:0.4. not picture."; a number '
        'is the least score, not: what looks like it is none of the others',
        live=True,
    )

    @property
    def sought(self) -> list[Word]:
        """What is looked for by words; nothing where it is not by words."""
        return words_of(self.words) if self.find == 'words' else []

    def fits(self, detector: Detector) -> None:
        """Raise ConfigError where a detector cannot find what is wanted."""
        if self.find == 'words' and not detector.takes_words:
            raise ConfigError('find is words, and the detector takes none')
        asked = names_of(self.sought)
        if self.find != 'nothing' and detector.takes_words:
            detector.check_words(asked)
        if self.find == 'everything' and getattr(detector, 'draws_only', False):
            raise ConfigError(
                'find is everything, and the model finds nothing by itself: it draws what is '
                'pointed at or given; find: nothing'
            )
