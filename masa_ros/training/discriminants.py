# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Embeddings in closed form: linear discriminants of what a frozen backbone sees.

Learned step by step from some thousand objects, embeddings come to know these objects and tell
others apart worse than the features they are made of. Discriminants (Fisher 1936; for many
classes Rao 1948) need two covariances alone: of all objects, and of the two views of one. They
are the directions in which the first is largest beside the second. Where the second is not well
known it is drawn towards a multiple of the unit matrix (Friedman 1989).
"""

from __future__ import annotations

import torch
from torch import Tensor

from masa_ros.errors import ConfigError, SourceError
from masa_ros.models.network import MasaNetwork
from masa_ros.training.losses import Looks

_FOR_CHANNELS = 0.25  # share of a run that the channels of the maps are found from
_SHRINK_CHANNELS, _SHRINK = 0.01, 3.0  # in units of the mean variance between views
_FEWEST = 100  # objects


class Scatter:
    """How features of ``size`` numbers differ between objects and between two views of one."""

    def __init__(self, size: int) -> None:
        self.pairs = 0
        self._sum = torch.zeros(size, dtype=torch.float64)
        self._squares = torch.zeros(size, size, dtype=torch.float64)
        self._apart = torch.zeros(size, size, dtype=torch.float64)

    def add(self, first: Tensor, second: Tensor) -> None:
        """Take features (N, size) float32 of objects in a first and in a second view."""
        first, second = first.cpu(), second.cpu()
        difference = first - second
        self.pairs += len(first)
        self._sum += (first + second).sum(0)
        self._squares += first.T @ first + second.T @ second
        self._apart += difference.T @ difference

    def directions(self, count: int, shrink: float) -> tuple[Tensor, Tensor]:
        """Return weights (count, size) and offsets (count,) of the best directions, best first.

        What they make of the features has the mean 0, and, on average, the variance 1. Directions
        do not depend on the units of the features.
        """
        mean = self._sum / (2 * self.pairs)
        total = self._squares / (2 * self.pairs) - mean[:, None] * mean
        within = self._apart / (2 * self.pairs)
        unit = total.diagonal().clamp(min=1e-12).rsqrt()
        total, within = (unit[:, None] * matrix * unit for matrix in (total, within))
        within.diagonal().add_(shrink * within.trace() / len(within))
        values, vectors = torch.linalg.eigh(within)
        white = vectors * values.rsqrt()
        spread, turned = torch.linalg.eigh(white.T @ total @ white)
        weights = (white @ turned[:, -count:]).flip(1).T * unit
        weights /= spread[-count:].mean().sqrt()
        return weights.float(), -(weights @ mean).float()


def in_both_views(looks: Looks) -> tuple[Tensor, Tensor]:
    """Return the mean features (N, C, 7, 7) of objects in their first and in their second view."""
    objects, place = torch.unique(looks.identity, return_inverse=True)
    pooled = looks.pooled.float()
    sums = pooled.new_zeros(2, len(objects), *pooled.shape[1:])
    counts = pooled.new_zeros(2, len(objects))
    sums.index_put_((looks.view, place), pooled, accumulate=True)
    counts.index_put_((looks.view, place), counts.new_ones(()), accumulate=True)
    both = (counts > 0).all(0)
    first, second = sums[:, both] / counts[:, both, None, None, None]
    return first, second


class Discriminants:
    """Fits the embeddings of a network with maps of their own and nothing but a linear head.

    A first part of the scenes decides which channels the maps have, all others what the embedding
    makes of a box.

    Raises
    ------
    ConfigError
        For other networks.

    """

    def __init__(self, network: MasaNetwork) -> None:
        if network.appearance is None or not network.embed.linear:
            raise ConfigError('closed_form: for models with linear embeddings of their own maps')
        self._maps, self._embed = network.appearance, network.embed.embed
        self._channels = Scatter(sum(self._maps.channels_in))
        self._boxes: Scatter | None = None

    @torch.no_grad()
    def add(self, looks: Looks, progress: float) -> int:
        """Take features of objects, see ``losses.seen_objects``, at a progress of 0..1.

        Returns how many objects were seen in both views.
        """
        if self._boxes is None and progress >= _FOR_CHANNELS:
            self._choose_channels()
        first, second = in_both_views(looks)
        if self._boxes is None:
            cells = (x[:, :-1].movedim(1, -1).flatten(0, -2) for x in (first, second))
            self._channels.add(*cells)
        else:
            self._boxes.add(*(self._maps.mix(x).flatten(1) for x in (first, second)))
        return len(first)

    @torch.no_grad()
    def _choose_channels(self) -> None:
        _enough(self._channels.pairs // 49)
        self._maps.set(*self._channels.directions(self._maps.channels, _SHRINK_CHANNELS))
        self._boxes = Scatter(self._embed.in_features)

    @torch.no_grad()
    def finish(self) -> None:
        """Set the weights; raises SourceError where too few objects were seen."""
        boxes = self._boxes
        _enough(0 if boxes is None else boxes.pairs)
        assert boxes is not None
        weights, offsets = boxes.directions(self._embed.out_features, _SHRINK)
        self._embed.weight.copy_(weights)
        self._embed.bias.copy_(offsets)


def _enough(objects: int) -> None:
    if objects < _FEWEST:
        raise SourceError(
            f'{objects} objects were seen in two views, of {_FEWEST} that embeddings in closed '
            'form need at least: more images, or more --steps'
        )
