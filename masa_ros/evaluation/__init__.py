# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How good tracks are: against the truth, or against themselves played backwards."""
