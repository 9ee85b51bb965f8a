# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""SAM-Track: what somebody points at or names is followed, and new objects where wanted."""

from masa_ros.methods.sam_track.method import SamTrack
from masa_ros.methods.sam_track.options import SamTrackConfig

__all__ = ['SamTrack', 'SamTrackConfig']
