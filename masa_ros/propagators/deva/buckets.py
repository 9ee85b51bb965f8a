# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The memory of objects that began together: some frames in whole, and what older ones left.

Working and long-term memory of XMem (Cheng and Schwing 2022, section 3.3), in one table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from masa_ros.models.deva.reading import similarity, strongest, weighted_sum
from masa_ros.propagators.deva.options import MemoryConfig

_UNREAD = 1e-7  # number of readings of what was never read: usage is 0, not 0 / 0


class Tokens(NamedTuple):
    """Places of remembered frames, T of them, with a value for each of N objects.

    Attributes
    ----------
    keys, selections: (T, K).
    shrinkage: (T, 1).
    values: (T, N, C).
    uses: (T,) sum of the weights with which they were read.
    reads: (T,) how often they could have been.

    """

    keys: Tensor
    selections: Tensor
    shrinkage: Tensor
    values: Tensor
    uses: Tensor
    reads: Tensor

    @classmethod
    def unread(cls, keys: Tensor, selections: Tensor, shrinkage: Tensor, values: Tensor) -> Tokens:
        """Make tokens that nobody has read yet."""
        uses = keys.new_zeros(len(keys))
        return cls(keys, selections, shrinkage, values, uses, torch.full_like(uses, _UNREAD))

    @property
    def size(self) -> int:
        """T."""
        return len(self.keys)

    @property
    def usage(self) -> Tensor:
        """(T,) mean weight over the readings."""
        return self.uses / self.reads

    def rows(self, index: Tensor | slice) -> Tokens:
        """Return some of the tokens."""
        return Tokens(*(x[index] for x in self))


def joined(parts: Sequence[Tokens]) -> Tokens:
    """Put tokens of the same objects behind one another."""
    return Tokens(*(torch.cat(columns) for columns in zip(*parts)))


class Bucket:
    """Objects that came into memory in the same frame, and all tokens since.

    Attributes
    ----------
    ids: of the objects, in the order of the values.
    tokens: the long-term ones first.
    long: how many of them are long-term ones.

    """

    def __init__(self, ids: Sequence[int], tokens: Tokens) -> None:
        self.ids, self.tokens, self.long = list(ids), tokens, 0

    def read(self, keys: Tensor, selections: Tensor, top_k: int) -> Tensor:
        """Answer positions that ask with keys and selections (Q, K); returns values (Q, N, C)."""
        tokens = self.tokens
        similarities = similarity(keys, selections, tokens.keys, tokens.shrinkage)
        weights, index = strongest(similarities, top_k)
        tokens.uses.index_add_(0, index.flatten(), weights.flatten())
        tokens.reads.add_(1)
        read = weighted_sum(weights, index, tokens.values.flatten(1))
        return read.unflatten(1, tokens.values.shape[1:])

    def keep(self, ids: Sequence[int]) -> bool:
        """Forget all objects but these; False where none is left."""
        stay = [i for i, each in enumerate(self.ids) if each in ids]
        if len(stay) < len(self.ids):
            self.ids = [self.ids[i] for i in stay]
            self.tokens = self.tokens._replace(values=self.tokens.values[:, stay])
        return bool(stay)

    def add(self, frame: Tokens, config: MemoryConfig) -> None:
        """Remember a frame; where there are ``max_mid`` of them then, condense them.

        The first frame and the last ``min_mid`` - 1 stay. What was most used of the others goes
        to the long-term memory.
        """
        self.tokens = joined((self.tokens, frame))
        if self.tokens.size - self.long < config.max_mid * frame.size:
            return
        first = self.long + frame.size
        last = self.tokens.size - (config.min_mid - 1) * frame.size
        long = self.tokens.rows(slice(self.long))
        if config.long_term:
            room = config.max_long - config.prototypes
            new = _condensed(self.tokens.rows(slice(first, last)), config.prototypes)
            long = joined((_limited(long, room), new))
        stay = self.tokens.rows(slice(self.long, first)), self.tokens.rows(slice(last, None))
        self.tokens, self.long = joined((long, *stay)), long.size


def _condensed(tokens: Tokens, count: int) -> Tokens:
    """Make prototypes of tokens: the most used keys, each with the values it reads there."""
    best = tokens.usage.topk(min(count, tokens.size)).indices
    keys, selections = tokens.keys[best], tokens.selections[best]
    weights = similarity(keys, selections, tokens.keys, tokens.shrinkage).softmax(1)
    values = weights @ tokens.values.flatten(1)
    return Tokens.unread(
        keys, selections, weights @ tokens.shrinkage, values.unflatten(1, tokens.values.shape[1:])
    )


def _limited(tokens: Tokens, most: int) -> Tokens:
    """Leave out the least used tokens where there are too many, and all that equal them."""
    excess = tokens.size - most
    if excess <= 0:
        return tokens
    usage = tokens.usage
    return tokens.rows(usage > usage.kthvalue(excess).values)
