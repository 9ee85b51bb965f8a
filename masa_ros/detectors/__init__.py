# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Detectors: image in, untracked ``Instances`` out. A further one is a module and a line here."""

from __future__ import annotations

import dataclasses
from typing import Any

from masa_ros.detectors.detic import DeticConfig, DeticDetector
from masa_ros.detectors.everything import EverythingConfig, EverythingDetector
from masa_ros.detectors.grounding_dino import GroundingDinoConfig, GroundingDinoDetector
from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.detectors.protocol import Companion, Detector, DetectorKind
from masa_ros.detectors.transformers import TransformersConfig, TransformersDetector


def _masa(config: DetectorConfig, device: str) -> MasaDetector:
    return MasaDetector.load(dataclasses.replace(config, device=device))


DETECTORS: dict[str, DetectorKind] = {
    'masa': DetectorKind(DetectorConfig, _masa),
    'everything': DetectorKind(EverythingConfig, EverythingDetector.load),
    'grounding_dino': DetectorKind(
        GroundingDinoConfig, GroundingDinoDetector.load, GroundingDinoDetector.beside
    ),
    'detic': DetectorKind(DeticConfig, DeticDetector.load, DeticDetector.beside),
    'transformers': DetectorKind(TransformersConfig, TransformersDetector.load),
}
"""All detectors by name, the default first."""


def load_beside(name: str, options: Any, network: MasaDetector) -> Detector | Companion:
    """Make a detector for a network that embeds: on its backbone where they have one in common."""
    kind = DETECTORS[name]
    return kind.beside(options, network) or kind.load(options, network.device)
