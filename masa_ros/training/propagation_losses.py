# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a propagation network learns from: short recordings with the masks of their objects."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from masa_ros.models.deva.network import ImageMaps, aggregate, coarse
from masa_ros.models.deva.reading import similarity, strongest, weighted_sum
from masa_ros.models.nano_propagation import NanoPropagation
from masa_ros.training.sequences import Shown

_HARD = 0.25  # share of the pixels, the worst ones, that count
_TOP_K = 30  # tokens that are read


def carried(network: NanoPropagation, maps: ImageMaps, shown: Shown) -> Iterator[Tensor]:
    """Carry the first masks through a recording, in a way that gradients go through.

    Parameters
    ----------
    network: carries them.
    maps: (T, ...) what it sees in the frames.
    shown: the recording, on the device of the maps.

    Yields
    ------
    Logits (1 + N, H / 4, W / 4) of every frame but the first, the background first.

    """
    encoder, decoder = network.mask_encoder, network.mask_decoder
    size = maps.key.shape[-2:]
    masks = shown.first.float()
    count, last = len(masks), coarse(masks)
    sensory = masks.new_zeros((count, network.sizes.value, *size))
    memory: list[tuple[Tensor, Tensor, Tensor]] = []
    for t, keep in enumerate(shown.kept):
        seen = ImageMaps(*(x[t : t + 1] for x in maps))
        key, selection, shrinkage = (
            x[0].flatten(1).T for x in (seen.key, seen.selection, seen.shrinkage)
        )
        if t:
            keys, sharp, values = (torch.cat(parts) for parts in zip(*memory))
            weights, index = strongest(similarity(key, selection, keys, sharp), _TOP_K)
            read = weighted_sum(weights, index, values).T.reshape(count, -1, *size)
            decoded = decoder(seen, read, sensory, last)
            logits = aggregate(decoded.logits.float().sigmoid())
            yield logits
            sensory = decoder.sensory_update(decoded.update, sensory)
            inside = logits.softmax(0)[None, 1:]
            masks = F.interpolate(inside, scale_factor=4.0, mode='bilinear')[0]
            last = coarse(masks)
        if keep and t + 1 < len(shown.kept):
            value = encoder(shown.images[t : t + 1], seen, masks)
            sensory = encoder.sensory_update(value, sensory)
            memory.append((key, shrinkage, value.float().flatten(2).permute(2, 0, 1).flatten(1)))


def propagation_loss(network: NanoPropagation, maps: ImageMaps, shown: Shown) -> dict[str, Tensor]:
    """Compare what was carried through a recording with the truth, as XMem does (section 3.5).

    Returns
    -------
    ``pixels``: cross-entropy of the hardest quarter of the pixels; ``dice``: one minus the overlap
    of every object that is there. Means over frames.

    """
    pixels, dices = [], []
    for logits, masks in zip(carried(network, maps, shown), shown.masks[1:]):
        wanted = F.avg_pool2d(masks.float()[None], 4)[0]
        pixels.append(_pixels(logits, wanted))
        there = wanted.flatten(1).any(1)
        if there.any():
            dices.append(_dice(logits.softmax(0)[1:][there], wanted[there]))
    dice = torch.stack(dices).mean() if dices else pixels[0] * 0
    return {'pixels': torch.stack(pixels).mean(), 'dice': dice}


def _pixels(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy of logits (1 + N, h, w) with shares (N, h, w), the worst pixels alone."""
    background = (1 - wanted.sum(0, keepdim=True)).clamp(min=0)
    loss = -(torch.cat((background, wanted)) * logits.log_softmax(0)).sum(0).flatten()
    return loss.topk(max(1, int(_HARD * len(loss)))).values.mean()


def _dice(masks: Tensor, wanted: Tensor) -> Tensor:
    """One minus the Dice overlap of masks and shares (N, h, w), the mean over objects."""
    both = (masks * wanted).flatten(1).sum(1)
    return (1 - (2 * both + 1) / ((masks + wanted).flatten(1).sum(1) + 1)).mean()


def overlap(network: NanoPropagation, maps: ImageMaps, shown: Shown) -> tuple[float, int]:
    """Return the sum of the IoU of objects that are there, over frames, and how many it is of.

    Masks at a quarter of the images' size.
    """
    total, count = 0.0, 0
    for logits, masks in zip(carried(network, maps, shown), shown.masks[1:]):
        wanted = F.avg_pool2d(masks.float()[None], 4)[0] > 0.5
        found = F.one_hot(logits.argmax(0), len(logits)).permute(2, 0, 1)[1:].bool()
        there = wanted.flatten(1).any(1)
        both = (found & wanted).flatten(1).sum(1)[there]
        either = (found | wanted).flatten(1).sum(1)[there]
        total += float((both / either).sum())
        count += int(there.sum())
    return total, count
