# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Propagators: they carry masks from frame to frame. A further one is a module and a line here."""

from __future__ import annotations

from masa_ros.propagators.deva import DevaPropagator, DevaPropagatorConfig
from masa_ros.propagators.protocol import PropagatorKind

PROPAGATORS: dict[str, PropagatorKind] = {
    'deva': PropagatorKind(DevaPropagatorConfig, DevaPropagator.load),
}
"""All propagators by name, the default first."""
