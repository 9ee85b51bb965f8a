# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""DEVA's propagation: a network whose memory of the objects is read in every frame."""

from __future__ import annotations

from masa_ros.propagators.deva.memory import DevaMemory
from masa_ros.propagators.deva.options import DevaPropagatorConfig
from masa_ros.propagators.deva.propagator import DevaPropagator

__all__ = ['DevaMemory', 'DevaPropagator', 'DevaPropagatorConfig']
