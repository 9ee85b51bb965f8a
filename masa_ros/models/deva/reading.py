# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How DEVA reads its memory: the similarity of XMem, and the softmax over the best of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from masa_ros.models.precision import at_least_float32

_GROUP = 8  # tokens; to look for the best of groups first takes half the time


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
    # One product: three of them, put together by element, take twice as long. Large numbers are
    # subtracted in it, for which half precision, as in training, is too coarse.
    with torch.autocast(keys.device.type, enabled=False):
        own = (selections * keys.square()).sum(1, keepdim=True)
        asked = torch.cat((2 * keys * selections, -selections, -own), 1)
        held = torch.cat((memory, memory.square(), torch.ones_like(shrinkage)), 1)
        held = held * (shrinkage / math.sqrt(memory.shape[1]))
        return at_least_float32(asked) @ at_least_float32(held).T


def strongest(similarities: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return weights (Q, k) and indices (Q, k) of the most similar tokens of (Q, T).

    The weights are the softmax over these alone. k is ``count``, or T where there are fewer.
    """
    size = similarities.shape[1]
    groups = size // _GROUP
    if groups <= count:
        best, index = similarities.topk(min(count, size), dim=1, sorted=False)
        return best.softmax(1), index
    # The best are in those ``count`` groups whose best are best, or in what is left over.
    whole = groups * _GROUP
    grouped = similarities[:, :whole].unflatten(1, (_GROUP, groups))
    near = grouped.amax(1).topk(count, dim=1, sorted=False).indices
    steps = torch.arange(0, whole, groups, device=near.device)
    rest = torch.arange(whole, size, device=near.device).expand(len(near), -1)
    places = torch.cat(((near[:, None] + steps[:, None]).flatten(1), rest), 1)
    best, index = similarities.gather(1, places).topk(count, dim=1, sorted=False)
    return best.softmax(1), places.gather(1, index)


def weighted_sum(weights: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """Sum chosen rows of values (T, C), weighted: weights and index (Q, k) -> (Q, C).

    The same as the product with the sparse matrix of the weights, for a thousandth of the
    arithmetic: some ten thousand tokens, thirty of which count.
    """
    own = weights.to(values.dtype)
    return torch.nn.functional.embedding_bag(index, values, mode='sum', per_sample_weights=own)
