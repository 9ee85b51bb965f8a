# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Options of the method ``deva``."""

from __future__ import annotations

import dataclasses

from masa_ros.methods.carrying import CarryingConfig
from masa_ros.methods.deva.merging import Rules
from masa_ros.options import option

_LAYERS = 3  # of objects that overlap; each is a memory that is read in every frame


@dataclasses.dataclass(frozen=True)
class DevaConfig(CarryingConfig):
    """Options of the method, see ``masa_ros.options``; raises ConfigError naming a wrong one."""

    clip_frames: int = option(
        1,
        'frames whose detections must agree on an object. 1: it is believed at once; 3, as in '
        'the paper: two frames in detection_every are answered late, by up to two frames',
        1,
        15,
        live=True,
    )
    max_missed: int = option(
        5,
        'an object that detections do not confirm more often than this in a row is forgotten',
        0,
        1_000_000,
        live=True,
    )
    incremental: bool = option(
        False, 'objects need no detections as long as they are seen', live=True
    )
    max_objects: int = option(
        50,
        'at most so many objects, and detections of a frame. Each costs time and memory in every '
        'frame',
        1,
        1000,
        live=True,
    )
    keep_overlaps: bool = option(
        False,
        'objects may overlap, at the price of a further memory or two; otherwise the smaller '
        'lies in front',
        live=True,
    )

    @property
    def rules(self) -> Rules:
        """How detections are merged with what is there."""
        layers = _LAYERS if self.keep_overlaps else 1
        return Rules(self.max_missed, self.incremental, self.max_objects, layers)
