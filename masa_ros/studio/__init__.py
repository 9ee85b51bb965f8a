# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A web page to look at tracks, point at objects, and steer by: ``masa_ros studio``."""
