# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Streams of video packets, decoded into pictures."""
