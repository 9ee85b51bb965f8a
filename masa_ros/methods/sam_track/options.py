# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Options of the method ``sam_track``."""

from __future__ import annotations

import dataclasses

from masa_ros.methods.carrying import CarryingConfig
from masa_ros.methods.sam_track.rules import Rules
from masa_ros.options import option


@dataclasses.dataclass(frozen=True)
class SamTrackConfig(CarryingConfig):
    """Options of the method, see ``masa_ros.options``; raises ConfigError naming a wrong one."""

    find: str = option(
        'nothing',
        'what is looked for beside what somebody points at: nothing, everything, or what the '
        'words name',
        choices=('nothing', 'everything', 'words'),
        live=True,
    )
    words: str = option('', 'what is looked for with find: words, as in "person. dog."', live=True)
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

    @property
    def rules(self) -> Rules:
        """How new objects are chosen."""
        return Rules(self.min_area, self.max_objects, self.min_new)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The words, each by itself."""
        return tuple(word for part in self.words.split('.') if (word := part.strip()))
