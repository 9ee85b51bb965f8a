# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How alike detections and tracks look (MASA supplement, section J.4)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.floating]

_FAINT = 1e-25  # a sum of powers that is too near to where float32 ends


def softmax(values: Matrix, axis: int) -> Matrix:
    """Exponentials that add up to 1 along an axis."""
    powers = np.exp(values - values.max(axis=axis, keepdims=True))
    powers /= powers.sum(axis=axis, keepdims=True)
    return powers


def bisoftmax_of(dots: Matrix) -> Matrix:
    """Mean of the softmax of dot products (D, T) over tracks and over detections (J.4, s1)."""
    if not dots.size:
        return dots
    # The same powers serve both, but for rows and columns that have none near the largest of all.
    both = dots - dots.max()
    np.exp(both, out=both)
    rows, columns = both.sum(axis=1), both.sum(axis=0)
    faint = [np.flatnonzero(sums < _FAINT) for sums in (rows, columns)]
    rows[faint[0]] = columns[faint[1]] = np.inf
    both *= (0.5 / rows)[:, None] + 0.5 / columns
    if len(faint[0]):
        both[faint[0]] += softmax(dots[faint[0]], axis=1) / 2
    if len(faint[1]):
        both[:, faint[1]] += softmax(dots[:, faint[1]], axis=0) / 2
    return both


def bisoftmax(detections: Matrix, tracks: Matrix) -> Matrix:
    """Mean of the softmax of dot products over tracks and over detections (J.4, s1).

    A pair scores high only when each is the other's best choice; the many objects that look
    alike share their probability.

    Parameters
    ----------
    detections: (D, C) embeddings.
    tracks: (T, C) embeddings.

    Returns
    -------
    (D, T) in 0..1.

    """
    return bisoftmax_of(detections @ tracks.T)


def dots_and_cosines(detections: Matrix, tracks: Matrix) -> tuple[Matrix, Matrix]:
    """Return the dot products and the cosines (D, T) of embeddings (D, C) and (T, C)."""
    return dots_and_cosines_of(detections, tracks, lengths(tracks))


def dots_and_cosines_of(
    detections: Matrix, tracks: Matrix, of_tracks: Matrix
) -> tuple[Matrix, Matrix]:
    """Return the same where the ``lengths`` (T,) of the tracks' embeddings are known."""
    dots = detections @ tracks.T
    cosines = dots / lengths(detections)[:, None]
    cosines /= of_tracks
    return dots, cosines


def lengths(vectors: Matrix) -> Matrix:
    """Return the lengths of vectors (..., C), never 0."""
    return np.maximum(np.sqrt(np.einsum('...c,...c->...', vectors, vectors)), 1e-12)


def cosine(detections: Matrix, tracks: Matrix) -> Matrix:
    """Return the cosines (D, T) of the angles between embeddings (J.4, s2)."""
    return dots_and_cosines(detections, tracks)[1]


def masa_similarity(detections: Matrix, tracks: Matrix) -> Matrix:
    """Return the mean of bi-softmax and cosine (J.4, equation 1), (D, T)."""
    dots, cosines = dots_and_cosines(detections, tracks)
    cosines += bisoftmax_of(dots)
    cosines *= 0.5
    return cosines
