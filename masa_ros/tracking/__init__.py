"""Association: which object of this frame is which object of the frames before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

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
    'make_config',
    'make_tracker',
]


def make_config(association: str, value: Callable[[str], Any], prefix: str) -> AnyConfig:
    """Gather a tracker's options from wherever they are kept one by one.

    Parameters
    ----------
    association: one of ``ASSOCIATIONS``.
    value: gives the value of an option by its name.
    prefix: of the names of the released trackers' options.

    Raises
    ------
    ConfigError
        Naming an option whose value means nothing.

    """
    if association == 'robot':
        names = [field.name for field in dataclasses.fields(TrackerConfig)]
        return TrackerConfig(**{name: value(name) for name in names})
    names = [field.name for field in dataclasses.fields(ReleasedConfig) if field.name != 'rules']
    return ReleasedConfig(association, **{name: value(prefix + name) for name in names})


def make_tracker(config: AnyConfig) -> AnyTracker:
    """Return an empty tracker of the kind that the options belong to."""
    return Tracker(config) if isinstance(config, TrackerConfig) else ReleasedTracker(config)
