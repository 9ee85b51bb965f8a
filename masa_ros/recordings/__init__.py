# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Recordings, and what is made of them: bags, videos, folders, tracks, prompts. No commands."""
