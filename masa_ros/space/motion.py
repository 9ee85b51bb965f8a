# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A Kalman filter of constant velocity for every track, in a frame that stands still.

Bar-Shalom et al., "Estimation with Applications to Tracking and Navigation", 2001, 6.2.2: white
noise acceleration of piecewise constant steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from masa_ros.space.config import FilterConfig

_GATE = 16.3  # squared distance that one measurement in a thousand exceeds (chi squared, 3)
_MOST_OUTLIERS = 3  # in a row; then the object is where it is measured
_FIRST_SPEED = 3.0  # metres per second, standard deviation of a velocity that is not known


class Motion(NamedTuple):
    """Where a track is in the fixed frame.

    Attributes
    ----------
    position: (3,) metres.
    covariance: (3, 3) of the position.
    velocity: (3,) metres per second.
    velocity_covariance: (3, 3).
    age: seconds since it was measured.

    """

    position: NDArray[np.float64]
    covariance: NDArray[np.float64]
    velocity: NDArray[np.float64]
    velocity_covariance: NDArray[np.float64]
    age: float


class Motions:
    """The filters of all tracks of a stream; one step of numpy for all of them."""

    def __init__(self, config: FilterConfig) -> None:
        self.config = config
        self._rows: dict[int, int] = {}
        self._clear()

    def __len__(self) -> int:
        """Return the number of tracks."""
        return len(self._rows)

    def _clear(self) -> None:
        self._rows = {}
        self._at_ns: int | None = None
        self._mean = np.zeros((0, 6))
        self._covariance = np.zeros((0, 6, 6))
        self._noise = np.zeros((0, 3, 3))  # of the last measurement
        self._seen_ns = np.zeros(0, np.int64)
        self._outliers = np.zeros(0, np.int64)

    def step(
        self,
        stamp_ns: int,
        measured: Mapping[int, tuple[NDArray[np.float64], NDArray[np.float64]]],
    ) -> dict[int, Motion]:
        """Go on to a stamp and take what is measured there.

        A stamp before the last one begins anew. Tracks that were not measured for
        ``keep_seconds`` are forgotten.

        Parameters
        ----------
        stamp_ns: of the image, nanoseconds.
        measured: position (3,) and covariance (3, 3) by track id.

        Returns
        -------
        Every known track by its id. The covariance of a position is that of the filter and that
        of the last measurement together: most of what is wrong with a measurement is wrong with
        the next one too.

        """
        if self._at_ns is not None and stamp_ns < self._at_ns:
            self._clear()
        if self._at_ns is not None:
            self._predict((stamp_ns - self._at_ns) * 1e-9)
        self._at_ns = stamp_ns
        self._forget(stamp_ns)
        known = [track_id for track_id in measured if track_id in self._rows]
        if known:
            self._correct(
                np.array([self._rows[track_id] for track_id in known]),
                np.array([measured[track_id][0] for track_id in known]),
                np.array([measured[track_id][1] for track_id in known]),
                stamp_ns,
            )
        new = [track_id for track_id in measured if track_id not in self._rows]
        if new:
            self._begin(new, [measured[track_id] for track_id in new], stamp_ns)
        return {
            track_id: Motion(
                self._mean[row, :3],
                self._covariance[row, :3, :3] + self._noise[row],
                self._mean[row, 3:],
                self._covariance[row, 3:, 3:],
                (stamp_ns - int(self._seen_ns[row])) * 1e-9,
            )
            for track_id, row in self._rows.items()
        }

    def _predict(self, seconds: float) -> None:
        step = np.eye(6)
        step[:3, 3:] = np.eye(3) * seconds
        gain = np.concatenate((np.eye(3) * seconds**2 / 2, np.eye(3) * seconds))
        noise = gain @ gain.T * self.config.acceleration**2
        self._mean = self._mean @ step.T
        self._covariance = step @ self._covariance @ step.T + noise

    def _forget(self, stamp_ns: int) -> None:
        keep = stamp_ns - self._seen_ns <= self.config.keep_seconds * 1e9
        if keep.all():
            return
        ids = [track_id for track_id, row in self._rows.items() if keep[row]]
        self._rows = {track_id: row for row, track_id in enumerate(ids)}
        self._mean, self._covariance = self._mean[keep], self._covariance[keep]
        self._noise, self._seen_ns = self._noise[keep], self._seen_ns[keep]
        self._outliers = self._outliers[keep]

    def _correct(
        self,
        rows: NDArray[np.intp],
        position: NDArray[np.float64],
        noise: NDArray[np.float64],
        stamp_ns: int,
    ) -> None:
        mean, covariance = self._mean[rows], self._covariance[rows]
        innovation = position - mean[:, :3]
        inverse = np.linalg.inv(covariance[:, :3, :3] + noise)
        distance = np.einsum('ni,nij,nj->n', innovation, inverse, innovation)
        outlier = distance > _GATE
        anew = outlier & (self._outliers[rows] >= _MOST_OUTLIERS)
        self._outliers[rows] = np.where(outlier, self._outliers[rows] + 1, 0)
        good = ~outlier
        gain = covariance[good][:, :, :3] @ inverse[good]
        at = rows[good]
        self._mean[at] = mean[good] + np.einsum('nij,nj->ni', gain, innovation[good])
        self._covariance[at] = covariance[good] - gain @ covariance[good][:, :3, :]
        self._noise[at], self._seen_ns[at] = noise[good], stamp_ns
        if anew.any():
            self._set(rows[anew], position[anew], noise[anew], stamp_ns)

    def _begin(
        self,
        ids: list[int],
        measured: list[tuple[NDArray[np.float64], NDArray[np.float64]]],
        stamp_ns: int,
    ) -> None:
        first, count = len(self._mean), len(ids)
        self._mean = np.concatenate((self._mean, np.zeros((count, 6))))
        self._covariance = np.concatenate((self._covariance, np.zeros((count, 6, 6))))
        self._noise = np.concatenate((self._noise, np.zeros((count, 3, 3))))
        self._seen_ns = np.concatenate((self._seen_ns, np.zeros(count, np.int64)))
        self._outliers = np.concatenate((self._outliers, np.zeros(count, np.int64)))
        rows = np.arange(first, first + count)
        self._rows |= dict(zip(ids, rows.tolist()))
        positions, noises = (np.array(each) for each in zip(*measured))
        self._set(rows, positions, noises, stamp_ns)

    def _set(
        self,
        rows: NDArray[np.intp],
        position: NDArray[np.float64],
        noise: NDArray[np.float64],
        stamp_ns: int,
    ) -> None:
        """Put tracks where they are measured, with a velocity that is not known."""
        self._mean[rows] = np.concatenate((position, np.zeros_like(position)), axis=1)
        self._covariance[rows] = 0
        self._covariance[rows, :3, :3] = noise
        self._covariance[rows, 3:, 3:] = np.eye(3) * _FIRST_SPEED**2
        self._noise[rows], self._seen_ns[rows], self._outliers[rows] = noise, stamp_ns, 0
