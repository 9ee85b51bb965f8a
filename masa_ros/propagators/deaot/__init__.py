# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""DeAOT's propagation: ten objects in one pass, a memory of frames and of the one before."""

from __future__ import annotations

from masa_ros.propagators.deaot.memory import DeaotMemory
from masa_ros.propagators.deaot.options import DeaotPropagatorConfig
from masa_ros.propagators.deaot.propagator import DeaotPropagator

__all__ = ['DeaotMemory', 'DeaotPropagator', 'DeaotPropagatorConfig']
