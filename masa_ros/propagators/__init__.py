# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Propagators: they carry masks from frame to frame. A further one is a module and a line here."""

from __future__ import annotations

from masa_ros.propagators.deaot import DeaotPropagator, DeaotPropagatorConfig
from masa_ros.propagators.deva import DevaPropagator, DevaPropagatorConfig
from masa_ros.propagators.nano import NanoPropagator, NanoPropagatorConfig
from masa_ros.propagators.protocol import PropagatorKind
from masa_ros.propagators.transformers import (
    TransformersPropagator,
    TransformersPropagatorConfig,
)

PROPAGATORS: dict[str, PropagatorKind] = {
    'nano': PropagatorKind(NanoPropagatorConfig, NanoPropagator.load),
    'deva': PropagatorKind(DevaPropagatorConfig, DevaPropagator.load),
    'deaot': PropagatorKind(DeaotPropagatorConfig, DeaotPropagator.load),
    'transformers': PropagatorKind(TransformersPropagatorConfig, TransformersPropagator.load),
}
"""All propagators by name, the default first."""
