"""Association: which object of this frame is which object of the frames before."""

from __future__ import annotations

from masa_ros.tracking.released import ReleasedConfig, ReleasedTracker
from masa_ros.tracking.tracker import Probe, Tracker, TrackerConfig

AnyConfig = TrackerConfig | ReleasedConfig
AnyTracker = Tracker | ReleasedTracker
ASSOCIATIONS = ('robot', 'tao', 'bdd')

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
