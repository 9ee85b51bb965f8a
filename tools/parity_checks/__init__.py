# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The comparisons of ``tools/parity.py``, a module a kind of fixtures."""
