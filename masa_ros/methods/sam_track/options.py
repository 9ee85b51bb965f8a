# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Options of the method ``sam_track``."""

from __future__ import annotations

import dataclasses

from masa_ros.methods.carrying import CarryingConfig
from masa_ros.methods.sam_track.rules import Rules
from masa_ros.methods.seeking import SeekingConfig
from masa_ros.options import option


@dataclasses.dataclass(frozen=True)
class SamTrackConfig(SeekingConfig, CarryingConfig):
    """Options of the method, see ``masa_ros.options``; raises ConfigError naming a wrong one."""

    released: bool = option(
        False,
        'choose new objects as the released code does, its accidents included: the first one '
        'found joins the last object there is, and no id is larger than max_objects. The released '
        'code also forgets nothing: forget_after 0',
    )

    @property
    def rules(self) -> Rules:
        """How new objects are chosen."""
        return Rules(self.min_area, self.max_objects, self.min_new, self.released)
