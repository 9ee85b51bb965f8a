# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Options of the method ``masa``."""

from __future__ import annotations

import dataclasses
from typing import Any

from masa_ros.detectors import DETECTORS
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.engines.prepare import EngineConfig
from masa_ros.methods.sought import SoughtConfig
from masa_ros.options import Variant, group, option, variants
from masa_ros.tracking import ASSOCIATIONS, AnyConfig

OWN = 'masa'
"""The detector that costs nothing more: the proposals of the network that embeds."""


@dataclasses.dataclass(frozen=True)
class OwnDetector:
    """Options of the network's own proposals: they are the network's."""


def _detectors() -> dict[str, Variant]:
    others = {n: Variant(k.options, f'{n}.') for n, k in DETECTORS.items() if n != OWN}
    return {OWN: Variant(OwnDetector), **others}


@dataclasses.dataclass(frozen=True)
class MasaConfig(SoughtConfig):
    """Options of the method, see ``masa_ros.options``."""

    network: DetectorConfig = group(DetectorConfig)
    engines: EngineConfig = group(EngineConfig)
    detector: str = option(
        OWN,
        "what finds the objects; masa: the model's own proposals, at no further cost; everything: "
        "SAM's automatic masks, slow; grounding_dino, detic: those inside the "
        'published files, which find what words name; transformers: any of that library',
        choices=lambda: tuple(_detectors()),
    )
    finder: Any = variants('detector', _detectors)
    association: str = option(
        'robot',
        'robot: by appearance and motion, in seconds; tao, bdd: the released rules',
        choices=tuple(ASSOCIATIONS),
    )
    tracker: AnyConfig = variants('association', lambda: ASSOCIATIONS)
