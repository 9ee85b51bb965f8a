# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Options of the method ``sam_pt``."""

from __future__ import annotations

import dataclasses
from typing import Any

from masa_ros import options
from masa_ros.methods.sam_pt import points
from masa_ros.methods.sam_pt.following import AUTO, Rules
from masa_ros.methods.sam_pt.prompting import Passes
from masa_ros.methods.sam_pt.reinit import Variant
from masa_ros.methods.sam_pt.visibility import Filter
from masa_ros.methods.sam_track import rules as finding
from masa_ros.methods.seeking import SeekingConfig
from masa_ros.options import option, variants
from masa_ros.point_trackers import POINT_TRACKERS

_NEVER = 'never'


def _point_trackers() -> dict[str, options.Variant]:
    return {
        name: options.Variant(kind.options, f'{name}.') for name, kind in POINT_TRACKERS.items()
    }


@dataclasses.dataclass(frozen=True)
class SamPtConfig(SeekingConfig):
    """Options of the method, see ``masa_ros.options``; raises ConfigError naming a wrong one."""

    point_tracker: str = option(
        next(iter(POINT_TRACKERS)),
        'what follows points: lucas_kanade answers every frame at once; pips looks at eight '
        'frames, so that answers come up to seven frames late',
        choices=lambda: tuple(POINT_TRACKERS),
    )
    pointer: Any = variants('point_tracker', _point_trackers)
    positive: str = option(
        AUTO,
        'how points on an object are chosen; auto: corners with lucas_kanade, which needs them, '
        'else kmedoids as in the paper',
        choices=(AUTO, *points.KINDS),
        live=True,
    )
    positives: int = option(8, 'points on each object', 1, 1000, live=True)
    negative: str = option(
        'mixed', 'how points beside an object are chosen', choices=points.KINDS, live=True
    )
    negatives: int = option(1, 'points beside each object', 0, 1000, live=True)
    pixels: int = option(
        400, 'pixels of a mask that k-medoids are chosen of. SAM-PT: 1800', 1, 5000, live=True
    )
    reinit: str = option(
        Variant.HORIZON.value,
        'when points are chosen anew. A: at the end of a window; B: where the area is the median; '
        'C, D: where it is most like the first one of each object, of all. B, C and D answer late',
        choices=(_NEVER, *(each.value for each in Variant)),
        live=True,
    )
    horizon: int = option(8, 'frames of a window', 2, 1000, live=True)
    refinements: int = option(
        3, "with SAM's decoder: more passes with the last mask and its box", 0, 100, live=True
    )
    least_score: float = option(
        0.7, "with SAM's decoder: a mask that it rates lower is none", 0, 1, live=True
    )
    likeness: float = option(
        0.0,
        'points whose surroundings are less like those they were chosen in are left out',
        0,
        1,
        live=True,
    )
    patch: int = option(3, 'side of these surroundings, odd, pixels', 1, 101, live=True)
    released: bool = option(
        False,
        'follow as the released code does, its accidents included: boxes handed over in the wrong '
        'pixels, lost objects not noticed, nothing answered before the end of a window',
    )

    @property
    def rules(self) -> Rules:
        """How objects are followed."""
        return Rules(
            self.positive,
            self.positives,
            self.negative,
            self.negatives,
            self.pixels,
            Filter(self.likeness, self.patch, self.released),
            None if self.reinit == _NEVER else Variant(self.reinit),
            self.horizon,
            released=self.released,
        )

    @property
    def passes(self) -> Passes:
        """How SAM's decoder is asked."""
        return Passes(
            self.refinements,
            self.least_score,
            negatives=self.negatives > 0,
            released=self.released,
        )

    @property
    def finding(self) -> finding.Rules:
        """How new objects are chosen."""
        return finding.Rules(self.min_area, self.max_objects, self.min_new)
