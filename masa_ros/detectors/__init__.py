# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Detectors: image in, untracked ``Instances`` out. A further one is a module and a line here."""

from __future__ import annotations

import dataclasses

from masa_ros.detectors.everything import EverythingConfig, EverythingDetector
from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.detectors.protocol import DetectorKind


def _masa(config: DetectorConfig, device: str) -> MasaDetector:
    return MasaDetector.load(dataclasses.replace(config, device=device))


DETECTORS: dict[str, DetectorKind] = {
    'masa': DetectorKind(DetectorConfig, _masa),
    'everything': DetectorKind(EverythingConfig, EverythingDetector.load),
}
"""All detectors by name, the default first."""
