# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where in space objects are: depth, cameras, one position an object; no ROS."""
