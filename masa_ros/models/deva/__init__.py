# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The propagation network of DEVA (Cheng et al. 2023, section 3.1, after XMem).

The modules are called as in the published weights, so that those load as they are.
"""
