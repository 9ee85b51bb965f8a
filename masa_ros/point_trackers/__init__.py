# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Point trackers: they follow single points. A further one is a module and a line here."""

from __future__ import annotations

from masa_ros.point_trackers.lucas_kanade import LucasKanade, LucasKanadeConfig
from masa_ros.point_trackers.pips import PipsConfig, PipsTracker
from masa_ros.point_trackers.protocol import PointTrackerKind

POINT_TRACKERS: dict[str, PointTrackerKind] = {
    'lucas_kanade': PointTrackerKind(LucasKanadeConfig, LucasKanade.load),
    'pips': PointTrackerKind(PipsConfig, PipsTracker.load),
}
"""All point trackers by name, the default first."""
