# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The options of DeAOT's propagation."""

from __future__ import annotations

import dataclasses

from masa_ros import options
from masa_ros.models.staged import precision_option
from masa_ros.options import option
from masa_ros.propagators.deaot.placement import Placement


@dataclasses.dataclass(frozen=True)
class DeaotPropagatorConfig:
    """Options of DeAOT's propagation; raises ConfigError naming one that is wrong."""

    precision: str = precision_option()
    weights: str = option('', "file of the network's weights; '' looks for the published one")
    size: int = option(
        1040,
        'long side that larger images are resized to, pixels',
        16,
        4096,
        special=(0, 'not at all'),
    )
    mem_every: int = option(
        5,
        'every so many frames one is remembered. SAM-Track has 9999: only those with new objects',
        1,
        1_000_000,
        live=True,
    )
    max_frames: int = option(
        10, 'frames that ten objects are remembered by at most', 1, 10_000, live=True
    )
    max_megabytes: int = option(
        2000,
        'room for the frames of one stream; one for every ten objects is held in any case',
        1,
        1_000_000,
        live=True,
    )

    def __post_init__(self) -> None:
        """Check every value."""
        options.check(self)

    def placement(self, height: int, width: int) -> Placement:
        """Choose the size of the network's input for a frame."""
        return Placement.of(height, width, self.size)
