# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""DeAOT's network (Yang and Yang 2022), which SAM-Track propagates with.

The modules are called as in the published weights, so that those load as they are.
"""
