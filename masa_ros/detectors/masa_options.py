# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Options of a MASA network."""

from __future__ import annotations

import dataclasses

from masa_ros import options
from masa_ros.models.staged import precision_option
from masa_ros.models.zoo import ZOO
from masa_ros.options import option

_OWN, _OWN_COUNT = (-1, "the model's own"), (0, "the model's own")


@dataclasses.dataclass(frozen=True)
class DetectorConfig:
    """Options of a MASA network; raises ConfigError naming one that means nothing."""

    model: str = option('masa_nano', 'name of the model', choices=tuple(ZOO))
    weights: str = option(
        '', 'path of a weights file; empty: the one shipped with the model, or fetched for it'
    )
    device: str = option('auto', "where to run: 'auto', 'cpu', 'cuda' or 'cuda:N'")
    precision: str = precision_option()
    input_size: int = option(
        0,
        "long side of the network's input, pixels. Larger finds smaller objects and is slower",
        1,
        4096,
        special=_OWN_COUNT,
        live=True,
    )
    masks: bool = option(True, 'predict masks', live=True)
    score_threshold: float = option(
        -1.0,
        'detections below this score are dropped before association',
        0,
        1,
        special=_OWN,
        live=True,
    )
    nms_iou: float = option(
        -1.0,
        'of two boxes that overlap more the better one stays',
        0,
        1,
        special=_OWN,
        live=True,
    )
    mask_share: float = option(
        -1.0,
        'of two masks the smaller of which lies in the other by more than this share, the better '
        'one stays; 1: both',
        0,
        1,
        special=_OWN,
        live=True,
    )
    mask_iou: float = option(
        -1.0,
        'of two masks that overlap by more than this (IoU) the better scored one stays; 1: both',
        0,
        1,
        special=_OWN,
        live=True,
    )
    classes: bool = option(
        True,
        'name what is found, where the model knows classes: masa_nano those of COCO',
        live=True,
    )
    class_threshold: float = option(
        -1.0, 'a class is named from this score of it on', 0, 1, special=_OWN, live=True
    )
    max_instances: int = option(
        0, 'at most that many detections', 1, 1000, special=_OWN_COUNT, live=True
    )

    def __post_init__(self) -> None:
        """Check every value by itself."""
        options.check(self)


def chosen(own: float, asked: float) -> float:
    """Return what was asked for, the model's own value where nothing was."""
    return own if asked < 0 else asked
