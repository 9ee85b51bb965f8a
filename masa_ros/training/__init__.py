# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Self-supervised training from unlabelled images."""
