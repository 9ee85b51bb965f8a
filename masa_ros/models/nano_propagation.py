# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A small propagation network on the backbone of masa_nano, after DEVA's.

The backbone is NanoDet-g's, as it was published, and stays so. Everything else has the parts of
``masa_ros.models.deva.network`` in small, so that one memory serves both.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masa_ros.models.configs import CspConfig
from masa_ros.models.csp import Csp
from masa_ros.models.deva.blocks import FineSensoryUpdate, Residual, SensoryUpdate
from masa_ros.models.deva.network import Decoded, ImageMaps, Maps
from masa_ros.models.deva.stages import ImageStage

_CELL = 0.7  # what one cell of stride 16 counts before training: four are 1 in similarity


@dataclasses.dataclass(frozen=True)
class NanoSizes:
    """Channels of the network.

    Attributes
    ----------
    key: of keys and selections; the last two of a key say where it is.
    pixel: of what keys are made of.
    value: of values and of the sensory memory, and of what is seen and drawn at stride 16.
    middle, fine: of what is seen and drawn at strides 8 and 4.

    """

    key: int = 48
    pixel: int = 96
    value: int = 64
    middle: int = 32
    fine: int = 16


class NanoImageEncoder(nn.Module):
    """The maps of the backbone, joined and narrowed."""

    def __init__(self, sizes: NanoSizes, backbone: CspConfig) -> None:
        super().__init__()
        c8, c16, c32 = backbone.pyramid_channels
        self.side4 = nn.Conv2d(backbone.detail_channels, sizes.fine, 1)
        self.side8 = nn.Conv2d(c8, sizes.middle, 1)
        self.side16 = nn.Conv2d(c16, sizes.pixel, 1)
        self.side32 = nn.Conv2d(c32, sizes.pixel, 1)
        self.finer = nn.Conv2d(sizes.fine + sizes.middle, sizes.pixel, 1)
        self.join = Residual(sizes.pixel, sizes.pixel)
        self.f16 = nn.Conv2d(sizes.pixel, sizes.value, 1)
        self.split = sizes.key - 2, sizes.key, 1
        self.key = nn.Conv2d(sizes.pixel, sum(self.split), 3, padding=1)

    def forward(self, detail: Tensor, maps: list[Tensor]) -> ImageMaps:
        """Join maps of stride 4 and of strides 8, 16 and 32 to what is seen."""
        f4, f8 = self.side4(detail), self.side8(maps[0])
        fine = torch.cat((F.avg_pool2d(f4, 4), F.avg_pool2d(f8, 2)), 1)
        x = self.side16(maps[1]) + _enlarged(self.side32(maps[2])) + self.finer(fine)
        x = self.join(x)
        what, selection, shrinkage = self.key(F.relu(x)).float().split(self.split, 1)
        key = torch.cat((what, _where(what)), 1)
        return ImageMaps(self.f16(x), f8, f4, key, shrinkage.square() + 1, selection.sigmoid())


class NanoImageStage(ImageStage):
    """See ``masa_ros.models.deva.stages``."""

    def __init__(self, network: NanoPropagation) -> None:
        super().__init__()
        self.backbone, self.encoder = network.backbone, network.image_encoder

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See there."""
        maps = self.backbone(images)
        return tuple(self.encoder(maps.detail, maps.maps))


class NanoMaskEncoder(nn.Module):
    """What is to be remembered of every object, by itself."""

    reads_image = False  # as DEVA's does; here what is seen at stride 4 must do

    def __init__(self, sizes: NanoSizes) -> None:
        super().__init__()
        self.mask4 = nn.Conv2d(1, sizes.fine, 3, padding=1)
        self.down8 = nn.Conv2d(sizes.fine, sizes.middle, 3, 2, padding=1)
        self.down16 = nn.Conv2d(sizes.middle, sizes.value, 3, 2, padding=1)
        self.fuser = Residual(sizes.value, sizes.value)
        self.sensory_update = SensoryUpdate(sizes.value, sizes.value, kernel=1)

    def forward(self, image: Tensor | None, seen: ImageMaps | Maps, masks: Tensor) -> Tensor:
        """Join what is seen in an image with masks (N, H, W) to values (N, C, H / 16, W / 16)."""
        x = F.relu(seen.f4 + self.mask4(F.avg_pool2d(masks[:, None], 4)))
        x = F.relu(seen.f8 + self.down8(x))
        return self.fuser(seen.f16 + self.down16(x))


class NanoMaskDecoder(nn.Module):
    """From what memory says of every object to its mask; every object by itself.

    What is seen is added at every stride, so that it is computed once, not once an object.
    """

    def __init__(self, sizes: NanoSizes) -> None:
        super().__init__()
        value, middle, fine = sizes.value, sizes.middle, sizes.fine
        self.sensory_compress = nn.Conv2d(value + 1, value, 1)
        self.fuser = Residual(value, value)
        self.down8 = nn.Conv2d(value, middle, 1)
        self.up8 = Residual(middle, middle)
        self.down4 = nn.Conv2d(middle, fine, 1)
        self.up4 = nn.Conv2d(fine, fine, 3, padding=1)
        self.pred = nn.Conv2d(fine, 1, 3, padding=1)
        self.sensory_update = FineSensoryUpdate((value, middle, fine + 1), value, kernel=1)

    def forward(
        self, seen: ImageMaps | Maps, readout: Tensor, sensory: Tensor, last: Tensor
    ) -> Decoded:
        """Draw N objects; see ``masa_ros.models.deva.network.MaskDecoder``."""
        known = readout + self.sensory_compress(torch.cat((sensory, last[:, None]), 1))
        p16 = self.fuser(seen.f16 + known)
        p8 = self.up8(seen.f8 + _enlarged(self.down8(p16)))
        p4 = self.up4(F.relu(seen.f4 + _enlarged(self.down4(p8))))
        logits = self.pred(F.relu(p4))
        update = self.sensory_update.gather(p16, p8, torch.cat((p4, logits), 1))
        return Decoded(logits[:, 0], update)


class NanoPropagation(nn.Module):
    """The whole network."""

    STRIDE = 32  # of the backbone's coarsest map; sides of the input are multiples of it

    def __init__(self, sizes: NanoSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.backbone = Csp(CspConfig())
        self.image_encoder = NanoImageEncoder(sizes, CspConfig())
        self.mask_encoder = NanoMaskEncoder(sizes)
        self.mask_decoder = NanoMaskDecoder(sizes)

    def forward(self, images: Tensor) -> ImageMaps:
        """(B, 3, H, W), normalised, sides multiples of 32 -> what is seen in each of them."""
        maps = self.backbone(images)
        return self.image_encoder(maps.detail, maps.maps)


def _where(x: Tensor) -> Tensor:
    """Return the position of every cell of (B, C, h, w), so that near ones are more similar.

    How much it counts is part of the selection, which learns.
    """
    height, width = x.shape[-2:]
    rows = torch.arange(height, dtype=x.dtype, device=x.device).view(1, 1, -1, 1)
    columns = torch.arange(width, dtype=x.dtype, device=x.device).view(1, 1, 1, -1)
    return _CELL * torch.cat((rows.expand_as(x[:, :1]), columns.expand_as(x[:, :1])), 1)


def _enlarged(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode='bilinear', align_corners=False)
