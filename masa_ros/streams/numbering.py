# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Ids that are never given twice, whatever becomes of the sessions that give them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Numbering:
    """Ids of a stream made of the ids 1, 2, ... of its sessions.

    Parameters
    ----------
    first: what the id 1 becomes.
    step: between neighbouring ids; streams with one step and different first ids share none.

    Attributes
    ----------
    highest: the largest id given so far, 0 before any.

    """

    def __init__(self, first: int = 1, step: int = 1) -> None:
        self.highest = 0
        self._first, self._step = first, step

    def number(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the stream's ids (N,) of a session's ids (N,)."""
        numbered = self._first + (ids - 1) * self._step
        self.highest = max(self.highest, int(numbered.max(initial=0)))
        return np.asarray(numbered, np.int64)

    def own(self, track_id: int) -> int:
        """Return the session's id of a stream's id; 0 for one that it has not given."""
        count, rest = divmod(track_id - self._first, self._step)
        return count + 1 if rest == 0 and self._first <= track_id <= self.highest else 0

    def begin_session(self) -> None:
        """Go on behind the largest id: a session begins that counts from 1 again."""
        if self.highest:
            self._first = self.highest + self._step
