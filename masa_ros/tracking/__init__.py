# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Association: which object of this frame is which object of the frames before."""

from __future__ import annotations

from masa_ros.tracking.config import ASSOCIATIONS, AnyConfig, ReleasedConfig, TrackerConfig
from masa_ros.tracking.released import ReleasedTracker
from masa_ros.tracking.tracker import Probe, Tracker

AnyTracker = Tracker | ReleasedTracker

__all__ = [
    'ASSOCIATIONS',
    'AnyConfig',
    'AnyTracker',
    'Probe',
    'ReleasedConfig',
    'ReleasedTracker',
    'Tracker',
    'TrackerConfig',
    'make_tracker',
]


def make_tracker(config: AnyConfig) -> AnyTracker:
    """Return an empty tracker of the kind that the options belong to."""
    return Tracker(config) if isinstance(config, TrackerConfig) else ReleasedTracker(config)
