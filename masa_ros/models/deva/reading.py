# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How DEVA reads its memory: the similarity of XMem, and the softmax over the best of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def similarity(keys: Tensor, selections: Tensor, memory: Tensor, shrinkage: Tensor) -> Tensor:
    """Tell how near memory is to what is asked: -s |k - q|^2 weighted by e (XMem, eq. 2 and 3).

    Parameters
    ----------
    keys, selections: (Q, K) q and e of the positions that ask.
    memory, shrinkage: (T, K) k and (T, 1) s of the tokens of the memory.

    Returns
    -------
    (Q, T), at most 0 but for rounding, divided by the root of K.

    """
    squares = selections @ memory.square().T
    products = (keys * selections) @ memory.T
    own = (selections * keys.square()).sum(1, keepdim=True)
    return (2 * products - squares - own) * (shrinkage.T / math.sqrt(memory.shape[1]))


def strongest(similarities: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return weights (Q, k) and indices (Q, k) of the most similar tokens of (Q, T).

    The weights are the softmax over these alone. k is ``count``, or T where there are fewer.
    """
    best, index = similarities.topk(min(count, similarities.shape[1]), dim=1, sorted=False)
    return best.softmax(1), index


def weighted_sum(weights: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """Sum chosen rows of values (T, C), weighted: weights and index (Q, k) -> (Q, C).

    The same as the product with the sparse matrix of the weights, for a thousandth of the
    arithmetic: some ten thousand tokens, thirty of which count.
    """
    return torch.nn.functional.embedding_bag(index, values, mode='sum', per_sample_weights=weights)
