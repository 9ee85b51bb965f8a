# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The ROS side: the tracker node and its messages, parameters, QoS and diagnostics."""
