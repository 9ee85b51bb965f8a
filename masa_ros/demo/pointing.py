# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where somebody clicks who means an object."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from masa_ros.detectors.prompted import depths
from masa_ros.types import Mask, Prompt


def innermost(mask: Mask) -> NDArray[np.float32]:
    """Return the middle (2,) x y of the pixel that is farthest from the rim of a mask.

    Of several the one nearest to the middle of them all: of a box that is its own middle.
    """
    depth = depths(mask)
    places = np.argwhere(depth >= depth.max() - 1e-3)
    y, x = places[np.square(places - places.mean(0)).sum(1).argmin()]
    return np.array((mask.x + x + 0.5, mask.y + y + 0.5), np.float32)


def click(mask: Mask) -> Prompt:
    """Return one click on the object of a mask, made on the newest image."""
    return Prompt(0, points=innermost(mask)[None])
