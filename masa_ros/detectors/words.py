# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Words for detectors: how they are written in an option, and the labels that they get."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from masa_ros.errors import ConfigError


def separated(text: str) -> list[str]:
    """Return the words of 'person . red car', each by itself; 0.5 is a number."""
    return [word for part in re.split(r'\.(?!\d)', text) if (word := part.strip())]


def wanted(asked: Sequence[str], words: str) -> list[str]:
    """Return what is asked for, else the words of an option, each once and in order.

    Raises
    ------
    ConfigError
        Where neither says anything.

    """
    found = [word for each in asked or separated(words) if (word := ' '.join(each.split()))]
    if not found:
        raise ConfigError(
            "words is empty: say what is to be found, for example 'person . red car'"
        )
    return list(dict.fromkeys(found))


class Labels:
    """Numbers for words. A word keeps the number it was given first, whatever is asked later.

    So the labels of tracks that live on mean the same after the words have changed.

    Attributes
    ----------
    names: of the labels; follows.

    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self.names: Mapping[int, str] = MappingProxyType(self._names)

    def of(self, words: Sequence[str]) -> list[int]:
        """Return the label of every word; new ones get the next."""
        for word in words:
            if word not in self._numbers:
                self._names[len(self._numbers)] = word
                self._numbers[word] = len(self._numbers)
        return [self._numbers[word] for word in words]
