# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Options of the method ``deva``."""

from __future__ import annotations

import dataclasses
from typing import Any

from masa_ros import options
from masa_ros.detectors import DETECTORS
from masa_ros.engines.prepare import EngineConfig
from masa_ros.methods.deva.merging import Rules
from masa_ros.options import Variant, group, option, variants
from masa_ros.propagators import PROPAGATORS

_PLAIN = 'masa'  # the detector whose options have no prefix: they are those of the method masa

_LAYERS = 3  # of objects that overlap; each is a memory that is read in every frame


def _detectors() -> dict[str, Variant]:
    return {
        name: Variant(kind.options, '' if name == _PLAIN else f'{name}.')
        for name, kind in DETECTORS.items()
    }


def _propagators() -> dict[str, Variant]:
    return {name: Variant(kind.options, f'{name}.') for name, kind in PROPAGATORS.items()}


@dataclasses.dataclass(frozen=True)
class DevaConfig:
    """Options of the method, see ``masa_ros.options``; raises ConfigError naming a wrong one."""

    device: str = option('auto', "where to run: 'auto', 'cpu', 'cuda' or 'cuda:N'")
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

    def __post_init__(self) -> None:
        """Check every value by itself."""
        options.check(self)

    @property
    def rules(self) -> Rules:
        """How detections are merged with what is there."""
        layers = _LAYERS if self.keep_overlaps else 1
        return Rules(self.max_missed, self.incremental, self.max_objects, layers)
