"""How alike detections and tracks look (MASA supplement, section J.4)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

Matrix = NDArray[np.floating]


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
    if not detections.size or not tracks.size:
        return np.zeros((len(detections), len(tracks)))
    dots = detections @ tracks.T
    return (softmax(dots, axis=0) + softmax(dots, axis=1)) / 2


def cosine(detections: Matrix, tracks: Matrix) -> Matrix:
    """Return the cosines (D, T) of the angles between embeddings (J.4, s2)."""

    def unit(vectors: Matrix) -> Matrix:
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    return unit(detections) @ unit(tracks).T


def masa_similarity(detections: Matrix, tracks: Matrix) -> Matrix:
    """Return the mean of bi-softmax and cosine (J.4, equation 1), (D, T)."""
    return (bisoftmax(detections, tracks) + cosine(detections, tracks)) / 2
