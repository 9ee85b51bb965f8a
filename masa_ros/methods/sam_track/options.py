# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Options of the method ``sam_track``."""

from __future__ import annotations

import dataclasses
from typing import Any

from masa_ros import options
from masa_ros.detectors import DETECTORS
from masa_ros.engines.prepare import EngineConfig
from masa_ros.methods.sam_track.rules import Rules
from masa_ros.options import Variant, group, option, variants
from masa_ros.propagators import PROPAGATORS

_PLAIN = 'masa'  # the detector whose options have no prefix: they are those of the method masa


def _detectors() -> dict[str, Variant]:
    return {
        name: Variant(kind.options, '' if name == _PLAIN else f'{name}.')
        for name, kind in DETECTORS.items()
    }


def _propagators() -> dict[str, Variant]:
    return {name: Variant(kind.options, f'{name}.') for name, kind in PROPAGATORS.items()}


@dataclasses.dataclass(frozen=True)
class SamTrackConfig:
    """Options of the method, see ``masa_ros.options``; raises ConfigError naming a wrong one."""

    device: str = option('auto', "where to run: 'auto', 'cpu', 'cuda' or 'cuda:N'")
    find: str = option(
        'nothing',
        'what is looked for beside what somebody points at: nothing, everything, or what the '
        'words name',
        choices=('nothing', 'everything', 'words'),
        live=True,
    )
    words: str = option('', 'what is looked for with find: words, as in "person. dog."', live=True)
    detector: str = option(
        next(iter(DETECTORS)),
        'what finds the objects; masa: the proposals of the model; everything: '
        "SAM's automatic masks, slow",
        choices=lambda: tuple(DETECTORS),
    )
    finder: Any = variants('detector', _detectors)
    engines: EngineConfig = group(EngineConfig)
    propagator: str = option(
        next(iter(PROPAGATORS)),
        'what carries masks from frame to frame',
        choices=lambda: tuple(PROPAGATORS),
    )
    carrier: Any = variants('propagator', _propagators)
    detection_every: int = option(
        5, 'frames from one look for objects to the next', 1, 1000, live=True
    )
    min_new: float = option(
        0.8,
        'share of a detection that must lie where nothing is tracked, so that it is a new object',
        0,
        1,
        live=True,
    )
    min_area: int = option(
        200, 'pixels that a detection must have to be a new object', 0, 1_000_000, live=True
    )
    max_objects: int = option(
        50,
        'at most so many objects. Each costs time and memory in every frame',
        1,
        255,
        live=True,
    )
    forget_after: int = option(
        100,
        'frames after which an object that was found, not pointed at, is forgotten where it is '
        'not seen',
        1,
        1_000_000,
        special=(0, 'never'),
        live=True,
    )

    def __post_init__(self) -> None:
        """Check every value by itself."""
        options.check(self)

    @property
    def rules(self) -> Rules:
        """How new objects are chosen."""
        return Rules(self.min_area, self.max_objects, self.min_new)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The words, each by itself."""
        return tuple(word for part in self.words.split('.') if (word := part.strip()))
