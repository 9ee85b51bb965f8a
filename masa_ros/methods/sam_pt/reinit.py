# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""When points are chosen anew: variants A to D of the SAM-PT paper (appendix A).

Points are followed through a window of frames, masks are drawn in each of them, and the next
window begins in one of these frames with new points of its mask. Numbers that the paper does not
give are those of the released code, which also takes the median of the areas for B where the
paper says their mean.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray


class Variant(str, enum.Enum):
    """How the frame is chosen."""

    HORIZON = 'A'
    MEDIAN = 'B'
    SIMILAR = 'C'
    SIMILAR_ALL = 'D'

    @property
    def ahead(self) -> bool:
        """Whether masks are drawn that may be thrown away, so that frames wait for the window."""
        return self is not Variant.HORIZON


SMALLEST = 25
"""Pixels up to which a mask counts as empty."""

_MISSING = 720.0  # D: what an empty mask counts, in areas of the first one
_BONUS = 36.0  # D: what it is worth to begin where another object does


def next_frames(
    areas: NDArray[np.int64],
    variant: Variant,
    horizon: int,
    others: Sequence[int] = (),
) -> NDArray[np.int64]:
    """Choose the frames in which the next windows begin.

    Parameters
    ----------
    areas: (N, T) of the masks of N objects in the frames of a window, pixels.
    variant: see there.
    horizon: frames of a window; T is as much.
    others: later frames, counted from the window's first, in which windows of others begin.

    Returns
    -------
    (N,) frames, counted from the window's first: 1 .. T - 1.

    """
    objects, count = areas.shape
    first = min((frame for frame in others if frame > 0), default=count)
    if variant is Variant.HORIZON:
        return np.full(objects, min(horizon - 1, first))
    usable = np.where(areas[:, 1:] > SMALLEST, areas[:, 1:], np.nan).astype(np.float32)
    if horizon // 4 < count - 1:
        usable[:, : horizon // 4] = np.nan
    if variant is Variant.MEDIAN:
        # The lower one of two in the middle; of equal ones it is torch that chooses.
        return 1 + torch.from_numpy(usable).nanmedian(dim=1).indices.numpy()
    apart = np.abs(usable - areas[:, :1])
    if variant is Variant.SIMILAR:
        return 1 + np.where(np.isnan(apart), np.inf, apart).argmin(1)
    with np.errstate(divide='ignore', invalid='ignore'):
        shares = apart / areas[:, :1].astype(np.float32)
    total = np.where(np.isnan(shares), np.float32(_MISSING), shares).sum(0)
    if first < count:  # the released code ends with an error where it lies behind the window
        total[first - 1] -= _BONUS
    return np.full(objects, 1 + total.argmin())
