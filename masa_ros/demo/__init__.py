# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Everything at work on a generated recording with exact truth."""
