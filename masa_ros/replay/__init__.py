# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Recordings in; tracks, pictures and figures out. Nothing here imports ROS."""
