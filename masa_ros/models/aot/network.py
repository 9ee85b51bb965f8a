# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""DeAOT's network: image encoder, identities, gated propagation, decoder. It remembers nothing.

One pass knows up to ten objects, which share the softmax of their identities: what is read is
who is where, not a mask for every object.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from masa_ros.models.aot.attention import (
    GatedPropagation,
    LocalGatedPropagation,
    SelfPropagation,
    Size,
    Written,
    to_map,
    to_positions,
    window_index,
)
from masa_ros.models.deva.blocks import stage

Reads = tuple[Sequence[Written], Written] | Tensor
"""What a layer reads: frames of the long-term memory and the frame before, or its own frame with
identities (T, C)."""

STRIDE = 16
"""Pixels from a position to the next; sides of the input are multiples of it, and one."""


@dataclasses.dataclass(frozen=True)
class AotSizes:
    """Channels of the network; the defaults are those of the published one.

    Attributes
    ----------
    stem: of the first convolution of the encoder.
    depths: blocks of its stages of stride 4, 8 and 16.
    embed: of visual features, and as many of identities.
    layers: of propagation.
    reach: positions that the short-term memory looks to each side.
    objects: identities there are, without the background.

    """

    stem: int = 64
    depths: tuple[int, int, int] = (3, 4, 6)
    embed: int = 256
    layers: int = 3
    reach: int = 7
    objects: int = 10


class ImageMaps(NamedTuple):
    """What is seen in images (B, 3, H, W).

    Attributes
    ----------
    f4, f8, f16: (B, C_s, ., .) for the decoder; sides are (side - 1) / s + 1.
    embedding: (B, C, h, w) of stride 16, for the propagation.

    """

    f4: Tensor
    f8: Tensor
    f16: Tensor
    embedding: Tensor


class Seen(NamedTuple):
    """What a layer has seen at T positions; with identities it becomes ``Written``.

    Attributes
    ----------
    key, value: as there.
    known: (T, C) what it already knows of identities; None in the first layer.

    """

    key: Tensor
    value: Tensor
    known: Tensor | None


class Passed(NamedTuple):
    """What came of a pass through all layers.

    Attributes
    ----------
    final: (1, 2 C, h, w) for the decoder.
    seen: of every layer.

    """

    final: Tensor
    seen: tuple[Seen, ...]


class Encoder(nn.Module):
    """ResNet-50 without its last stage."""

    def __init__(self, sizes: AotSizes) -> None:
        super().__init__()
        stem, depths = sizes.stem, sizes.depths
        self.conv1 = nn.Conv2d(3, stem, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = stage(Bottleneck, stem, stem, depths[0], 1)
        self.layer2 = stage(Bottleneck, 4 * stem, 2 * stem, depths[1], 2)
        self.layer3 = stage(Bottleneck, 8 * stem, 4 * stem, depths[2], 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) -> maps of stride 4, 8 and 16."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        f4 = self.layer1(x)
        f8 = self.layer2(f4)
        return f4, f8, self.layer3(f8)


class Layer(nn.Module):
    """One layer of gated propagation (Yang and Yang 2022, section 4.3).

    ``first``: nothing is known of identities yet, so that only the memory tells them.
    """

    def __init__(self, sizes: AotSizes, first: bool) -> None:
        super().__init__()
        channels, key, value = sizes.embed, sizes.embed // 2, 2 * sizes.embed
        self.split = key, value
        self.norm1 = nn.LayerNorm(channels)
        self.linear_QV = nn.Linear(channels, key + value)
        self.linear_U = nn.Linear(channels, value)
        self.id_norm1 = None if first else nn.LayerNorm(channels)
        self.linear_ID_V = nn.Linear(channels if first else 2 * channels, value)
        self.linear_ID_U = None if first else nn.Linear(channels, value)
        self.long_term_attn = GatedPropagation(value, channels)
        self.short_term_attn = LocalGatedPropagation(key, value, channels, sizes.reach)
        self.norm2 = nn.LayerNorm(channels)
        self.id_norm2 = nn.LayerNorm(channels)
        self.self_attn = SelfPropagation(key, value, channels)

    def write(self, seen: Seen, identities: Tensor) -> Written:
        """Write down who is where: identities (T, C) of ``DeAotNetwork.identities``."""
        known = identities if seen.known is None else torch.cat((seen.known, identities), 1)
        return Written(seen.key, seen.value, F.silu(self.linear_ID_V(known)))

    def forward(
        self,
        x: Tensor,
        known: Tensor | None,
        memory: Reads,
        size: Size,
        index: Tensor,
    ) -> tuple[Tensor, Tensor, Seen]:
        """Propagate.

        Parameters
        ----------
        x, known: (T, C) visual features and identities; None in the first layer.
        memory: what is read.
        size: of the positions.
        index: of ``window_index``.

        Returns
        -------
        Features, identities, and what the layer has seen.

        """
        normed = self.norm1(x)
        key, value = self.linear_QV(normed).split(self.split, 1)
        gate = self.linear_U(normed)
        if self.id_norm1 is None or self.linear_ID_U is None or known is None:
            seen = Seen(key.contiguous(), F.silu(value), None)
            gates = torch.cat((F.silu(gate), torch.ones_like(gate)), 1)
        else:
            seen = Seen(key.contiguous(), F.silu(value), self.id_norm1(known))
            gates = F.silu(torch.cat((gate, self.linear_ID_U(seen.known)), 1))
        if isinstance(memory, Tensor):
            before = self.write(seen, memory)
            memory = [before], before
        read = self.long_term_attn(seen.key, memory[0], gates, size)
        read = read + self.short_term_attn(seen.key, memory[1], gates, size, index)
        more, more_known = read.chunk(2, 1)
        x, known = x + more, more_known if known is None else known + more_known
        more, more_known = self.self_attn(self.norm2(x), self.id_norm2(known), size).chunk(2, 1)
        return x + more, known + more_known, seen


class _GroupNorm(nn.Module):
    """Group norm over positions."""

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__()
        self.gn = nn.GroupNorm(groups, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(1, C, h, w) -> the same shape."""
        return self.gn(x)


class Propagation(nn.Module):
    """All layers, and the norm of what the last one gives: one group for each branch."""

    def __init__(self, sizes: AotSizes) -> None:
        super().__init__()
        self.reach = sizes.reach
        self.layers = nn.ModuleList(Layer(sizes, i == 0) for i in range(sizes.layers))
        self.decoder_norms = nn.ModuleList((_GroupNorm(2, 2 * sizes.embed),))

    def forward(
        self,
        embedding: Tensor,
        memory: tuple[Sequence[Sequence[Written]], Sequence[Written]] | Tensor,
    ) -> Passed:
        """Find the objects of a memory in an embedding (1, C, h, w).

        Parameters
        ----------
        embedding: of the image.
        memory: frames of the long-term memory, and the frame before, each with what every layer
            has written; or the identities (T, C) of this frame itself.

        """
        rows, columns = embedding.shape[-2:]
        size = rows, columns
        index = window_index(size, self.reach, embedding.device)
        x, known = to_positions(embedding), None
        every = []
        for i, layer in enumerate(self.layers):
            own: Reads
            if isinstance(memory, Tensor):
                own = memory
            else:
                own = [frame[i] for frame in memory[0]], memory[1][i]
            x, known, seen = layer(x, known, own, size, index)
            every.append(seen)
        assert known is not None, 'there are layers'
        both = torch.cat((x, known), 1)
        return Passed(self.decoder_norms[0](to_map(both, size)), tuple(every))

    def write(self, seen: Sequence[Seen], identities: Tensor) -> tuple[Written, ...]:
        """Write down in every layer who is where: identities (T, C)."""
        return tuple(
            layer.write(each, identities)  # type: ignore[operator]  # a list of modules
            for layer, each in zip(self.layers, seen)
        )


class _ConvNorm(nn.Module):
    """Convolution and group norm."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2)
        self.gn = nn.GroupNorm(8, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        return self.gn(self.conv(x))


class Decoder(nn.Module):
    """From what the layers give to logits of every identity, by way of the image's finer maps."""

    def __init__(self, sizes: AotSizes) -> None:
        super().__init__()
        stem, channels, fine = sizes.stem, sizes.embed, sizes.embed // 2
        self.conv_in = _ConvNorm(2 * channels, channels, 1)
        self.conv_16x = _ConvNorm(channels, channels, 3)
        self.conv_8x = _ConvNorm(channels, fine, 3)
        self.conv_4x = _ConvNorm(fine, fine, 3)
        self.adapter_16x = nn.Conv2d(16 * stem, channels, 1)
        self.adapter_8x = nn.Conv2d(8 * stem, channels, 1)
        self.adapter_4x = nn.Conv2d(4 * stem, fine, 1)
        self.conv_out = nn.Conv2d(fine, 1 + sizes.objects, 1)

    def forward(self, maps: ImageMaps, final: Tensor) -> Tensor:
        """Decode maps of one image and (1, 2 C, h, w): logits (1 + 10, H / 4, W / 4)."""
        x = F.relu(self.conv_in(final))
        x = F.relu(self.conv_16x(self.adapter_16x(maps.f16) + x))
        x = enlarged(x, maps.f8)
        x = F.relu(self.conv_8x(self.adapter_8x(maps.f8) + x))
        x = enlarged(x, maps.f4)
        x = F.relu(self.conv_4x(self.adapter_4x(maps.f4) + x))
        return self.conv_out(x)[0]


class DeAotNetwork(nn.Module):
    """The whole network; ``masa_ros.models.aot.stages`` says in which steps it runs."""

    def __init__(self, sizes: AotSizes) -> None:
        super().__init__()
        self.sizes, channels = sizes, sizes.embed
        self.encoder = Encoder(sizes)
        self.encoder_projector = nn.Conv2d(16 * sizes.stem, channels, 1)
        self.LSTT = Propagation(sizes)
        self.decoder = Decoder(sizes)
        self.patch_wise_id_bank = nn.Conv2d(
            1 + sizes.objects, channels, STRIDE + 1, STRIDE, padding=STRIDE // 2
        )
        self.id_norm = nn.LayerNorm(channels)

    def identities(self, labels: Tensor) -> Tensor:
        """Embed who is where: labels (H, W) of the input, 0 or 1 .. 10 -> (T, C).

        The identity bank of AOT (Yang et al. 2021, section 4.1), over patches.
        """
        planes = torch.arange(1 + self.sizes.objects, device=labels.device)
        one_hot = (labels == planes[:, None, None]).to(self.patch_wise_id_bank.weight.dtype)
        return self.id_norm(to_positions(self.patch_wise_id_bank(one_hot[None])))


def enlarged(x: Tensor, like: Tensor) -> Tensor:
    """Bring maps (B, C, h, w) to the size of others; corners stay where they are."""
    return F.interpolate(x, like.shape[-2:], mode='bilinear', align_corners=True)
