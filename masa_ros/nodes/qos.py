# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Quality of service by name."""

from __future__ import annotations

from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
)

PROFILES = {
    # A best-effort reader also matches reliable writers: what REP 2003 asks of consumers.
    'sensor_data': (QoSReliabilityPolicy.BEST_EFFORT, QoSDurabilityPolicy.VOLATILE),
    'reliable': (QoSReliabilityPolicy.RELIABLE, QoSDurabilityPolicy.VOLATILE),
    'transient_local': (QoSReliabilityPolicy.RELIABLE, QoSDurabilityPolicy.TRANSIENT_LOCAL),
}


def profile(name: str, depth: int) -> QoSProfile:
    """Return the profile of that name, keeping the last ``depth`` messages."""
    reliability, durability = PROFILES[name]
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=reliability,
        durability=durability,
    )
