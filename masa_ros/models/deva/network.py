# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""DEVA's propagation network: image encoder, mask encoder, decoder. It remembers nothing."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from masa_ros.models.deva.blocks import FineSensoryUpdate, Fuser, Residual, SensoryUpdate, stage
from masa_ros.models.precision import at_least_float32

STRIDE = 16
"""Pixels along one side of a position of the memory; sides of the input are multiples of it."""


@dataclasses.dataclass(frozen=True)
class DevaSizes:
    """Channels of the network; the defaults are those of the published one.

    Attributes
    ----------
    key: of keys and selections.
    value: of values and of the sensory memory.
    pixel: of the two projections of the image's coarsest map.
    stem: of the first convolution of both encoders.
    fine: of the decoder at strides 8 and 4.
    image_depths, mask_depths: blocks of the stages of stride 4, 8 and 16.

    """

    key: int = 64
    value: int = 512
    pixel: int = 512
    stem: int = 64
    fine: int = 256
    image_depths: tuple[int, int, int] = (3, 4, 6)
    mask_depths: tuple[int, int, int] = (2, 2, 2)


class Maps(NamedTuple):
    """What is drawn by: f16, f8 and f4 of ``ImageMaps``, of one image."""

    f16: Tensor
    f8: Tensor
    f4: Tensor


class ImageMaps(NamedTuple):
    """What is seen in an image (B, 3, H, W).

    Attributes
    ----------
    f16, f8, f4: (B, C_s, H / s, W / s) for the decoder.
    key, shrinkage, selection: (B, K or 1, H / 16, W / 16) for the memory.

    """

    f16: Tensor
    f8: Tensor
    f4: Tensor
    key: Tensor
    shrinkage: Tensor
    selection: Tensor


class Decoded(NamedTuple):
    """What the decoder says of N objects.

    Attributes
    ----------
    logits: (N, H / 4, W / 4) of each object by itself.
    update: (N, C, H / 16, W / 16) what its sensory memory is updated with.

    """

    logits: Tensor
    update: Tensor


class PixelEncoder(nn.Module):
    """ResNet-50 without its last stage, and two projections of what it gives."""

    def __init__(self, sizes: DevaSizes) -> None:
        super().__init__()
        stem, depths = sizes.stem, sizes.image_depths
        self.conv1 = nn.Conv2d(3, stem, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.res2 = stage(Bottleneck, stem, stem, depths[0], 1)
        self.layer2 = stage(Bottleneck, 4 * stem, 2 * stem, depths[1], 2)
        self.layer3 = stage(Bottleneck, 8 * stem, 4 * stem, depths[2], 2)
        self.proj1 = nn.Conv2d(16 * stem, sizes.pixel, 1)
        self.proj2 = nn.Conv2d(16 * stem, sizes.pixel, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, 3, H, W) -> maps of stride 16, 8 and 4, and the one that keys are made of."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        f4 = self.res2(x)
        f8 = self.layer2(f4)
        x = self.layer3(f8)
        return self.proj1(x), f8, f4, self.proj2(x)


class KeyProjection(nn.Module):
    """Keys of the memory, how sharp each is as a memory, and which channels count when asking."""

    def __init__(self, sizes: DevaSizes) -> None:
        super().__init__()
        self.key_proj = nn.Conv2d(sizes.pixel, sizes.key, 3, padding=1)
        self.d_proj = nn.Conv2d(sizes.pixel, 1, 3, padding=1)
        self.e_proj = nn.Conv2d(sizes.pixel, sizes.key, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, h, w) -> key (B, K, h, w), shrinkage (B, 1, h, w), selection (B, K, h, w)."""
        return self.key_proj(x), self.d_proj(x).square() + 1, self.e_proj(x).sigmoid()


class MaskEncoder(nn.Module):
    """ResNet-18 without its last stage over image and mask; every object by itself."""

    reads_image = True

    def __init__(self, sizes: DevaSizes) -> None:
        super().__init__()
        stem, depths = sizes.stem, sizes.mask_depths
        self.conv1 = nn.Conv2d(4, stem, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = stage(BasicBlock, stem, stem, depths[0], 1)
        self.layer2 = stage(BasicBlock, stem, 2 * stem, depths[1], 2)
        self.layer3 = stage(BasicBlock, 2 * stem, 4 * stem, depths[2], 2)
        self.fuser = Fuser(sizes.pixel, 4 * stem, sizes.value)
        self.sensory_update = SensoryUpdate(sizes.value, sizes.value)

    def forward(self, image: Tensor, seen: ImageMaps | Maps, masks: Tensor) -> Tensor:
        """Image (1, 3, H, W) and what is seen in it, masks (N, H, W) -> values (N, C, h, w)."""
        x = torch.cat((image.expand(masks.shape[0], -1, -1, -1), masks[:, None]), 1)
        x = F.relu(F.max_pool2d(self.bn1(self.conv1(x)), 3, 2, padding=1))
        return self.fuser(seen.f16, self.layer3(self.layer2(self.layer1(x))))


class Upsample(nn.Module):
    """Twice as fine, with what is seen there added."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.out_conv = Residual(channels_in, channels_out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, C_in, h, w), skip (1, C_in, 2 h, 2 w) -> (N, C_out, 2 h, 2 w)."""
        return self.out_conv(skip + _enlarged(x, 2))


class Skips(nn.Module):
    """Projections of the image's finer maps."""

    def __init__(self, sizes: DevaSizes) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(
            (
                nn.Conv2d(8 * sizes.stem, sizes.value, 1),
                nn.Conv2d(4 * sizes.stem, sizes.fine, 1),
            )
        )

    def forward(self, *maps: Tensor) -> list[Tensor]:
        """Bring maps of strides 8 and 4 to the channels that the decoder has there."""
        return [transform(x) for transform, x in zip(self.transforms, maps)]


class SensoryHead(nn.Module):
    """Logits from the sensory memory alone; they teach it, nobody asks for them later."""

    def __init__(self, sizes: DevaSizes) -> None:
        super().__init__()
        self.projection = nn.Conv2d(sizes.value, sizes.pixel + 1, 1)

    def forward(self, f16: Tensor, sensory: Tensor) -> Tensor:
        """Image (1, C, h, w), sensory memory (N, C, h, w) -> logits (N, h, w)."""
        parameters = self.projection(sensory)
        return (f16 * parameters[:, :-1]).sum(1) + parameters[:, -1]


class MaskDecoder(nn.Module):
    """From what memory says of every object to its mask; every object by itself."""

    def __init__(self, sizes: DevaSizes) -> None:
        super().__init__()
        value, fine = sizes.value, sizes.fine
        self.fuser = Fuser(sizes.pixel, value, value)
        self.sensory_compress = nn.Conv2d(value + 1, value, 1)
        self.sensory_update = FineSensoryUpdate((value, fine, fine + 1), value)
        self.decoder_feat_proc = Skips(sizes)
        self.up_16_8 = Upsample(value, fine)
        self.up_8_4 = Upsample(fine, fine)
        self.pred = nn.Conv2d(fine, 1, 3, padding=1)
        self.sensory_linear_pred = SensoryHead(sizes)

    def forward(
        self, seen: ImageMaps | Maps, readout: Tensor, sensory: Tensor, last: Tensor
    ) -> Decoded:
        """Draw N objects.

        Parameters
        ----------
        seen: of one image.
        readout, sensory: (N, C, h, w) of each object.
        last: (N, h, w) its mask in the frame before, as ``coarse`` gives it.

        """
        known = readout + self.sensory_compress(torch.cat((sensory, last[:, None]), 1))
        p16 = self.fuser(seen.f16, known)
        skip8, skip4 = self.decoder_feat_proc(seen.f8, seen.f4)
        p8 = self.up_16_8(p16, skip8)
        p4 = self.up_8_4(p8, skip4)
        logits = self.pred(F.relu(p4))
        update = self.sensory_update.gather(p16, p8, torch.cat((p4, logits), 1))
        return Decoded(logits[:, 0], update)


class DevaNetwork(nn.Module):
    """The whole network; ``masa_ros.models.deva.stages`` says in which steps it runs."""

    def __init__(self, sizes: DevaSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.pixel_encoder = PixelEncoder(sizes)
        self.mask_encoder = MaskEncoder(sizes)
        self.key_proj = KeyProjection(sizes)
        self.mask_decoder = MaskDecoder(sizes)


def coarse(masks: Tensor) -> Tensor:
    """Masks (N, H, W) -> the mean over every position of the memory, (N, H / 16, W / 16)."""
    return F.avg_pool2d(masks[:, None], STRIDE)[:, 0]  # none at all is a batch of none


def aggregate(masks: Tensor) -> Tensor:
    """Put masks (N, H, W) in 0..1 that do not know of each other behind one background.

    That is where none of them is (STM, eq. 6). Returns logits (1 + N, H, W), the background
    first; their softmax are probabilities that sum to 1.
    """
    masks = at_least_float32(masks)
    every = torch.cat(((1 - masks).prod(0, keepdim=True), masks))
    # The upper limit is what float32 makes of 1 - 1e-7: logits are from -16.12 to 15.94.
    every = every.clamp(1e-7, 1 - 2**-23)
    return (every / (1 - every)).log()


def probabilities(logits: Tensor, scale: int = 4) -> Tensor:
    """Logits (N, h, w) of objects by themselves -> (1 + N, h * scale, w * scale).

    The background comes first; the sum is 1 in every pixel.
    """
    together = aggregate(at_least_float32(logits).sigmoid())
    return _enlarged(together[None], scale)[0].softmax(0)


def _enlarged(x: Tensor, scale: int) -> Tensor:
    return F.interpolate(x, scale_factor=float(scale), mode='bilinear', align_corners=False)
