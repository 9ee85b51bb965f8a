"""Association: which object of this frame is which object of the frames before."""

from masa_ros.tracking.tracker import Tracker, TrackerConfig

__all__ = ['Tracker', 'TrackerConfig']
