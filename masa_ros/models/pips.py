# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""PIPs, persistent independent particles (Harley et al. 2022): points followed through 8 frames.

The modules are called as in the published weights, so that those load as they are. Every point is
followed by itself. What the network sees of a frame does not depend on the points: it is made once
and read by as many windows as there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masa_ros.models import checkpoints
from masa_ros.models.stages import Stage, Tensors

FRAMES = 8
"""Frames of a window."""
STRIDE = 4
"""Pixels of the image from one place of a map to the next."""
FEATURES = 128
"""Channels of a map, and numbers that a point is known by."""

_LEVELS = 4  # maps, each of half the size
LEVELS = tuple(f'level{i}' for i in range(_LEVELS))
_REACH = 3  # places to each side that are compared
_TIMES = 6  # iterations
_WAVES = 64  # of each coordinate of the motion


class Maps(NamedTuple):
    """What is seen in a frame: maps (h, w, C), each level of half the size."""

    levels: tuple[Tensor, ...]


class Path8(NamedTuple):
    """Where N points are in the frames of a window.

    Attributes
    ----------
    points: (I, 8, N, 2) x y in pixels of the image, after each iteration.
    visible: (8, N) logits.

    """

    points: Tensor
    visible: Tensor


class _Residual(nn.Module):
    """Residual block of two 3x3 convolutions with instance norm."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H / stride, W / stride)."""
        y = F.relu(F.instance_norm(self.conv1(x)))
        y = F.relu(F.instance_norm(self.conv2(y)))
        if self.downsample is not None:
            x = F.instance_norm(self.downsample(x))
        return F.relu(x + y)


def _stage(channels_in: int, channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        _Residual(channels_in, channels, stride), _Residual(channels, channels, 1)
    )


class Encoder(nn.Module):
    """Residual network whose stages are brought to one size and merged."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3)
        self.layer1 = _stage(64, 64, 1)
        self.layer2 = _stage(64, 96, 2)
        self.layer3 = _stage(96, 128, 2)
        self.layer4 = _stage(128, 128, 2)
        self.conv2 = nn.Conv2d(64 + 96 + 128 + 128, 2 * FEATURES, 3, padding=1)
        self.conv3 = nn.Conv2d(2 * FEATURES, FEATURES, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> (B, 128, H / 4, W / 4)."""
        size = images.shape[2] // STRIDE, images.shape[3] // STRIDE
        x = F.relu(F.instance_norm(self.conv1(images)))
        parts = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            parts.append(F.interpolate(x, size, mode='bilinear', align_corners=True))
        x = self.conv2(torch.cat(parts, 1))
        return self.conv3(F.relu(F.instance_norm(x)))


class _Mix(nn.Module):
    """A layer of the mixer: two small networks in a row, one over frames or over channels."""

    def __init__(self, width: int, hidden: int, over_frames: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(512)
        first: nn.Module
        last: nn.Module
        if over_frames:
            first, last = nn.Conv1d(width, hidden, 1), nn.Conv1d(hidden, width, 1)
        else:
            first, last = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.fn = nn.Sequential(first, nn.GELU(), nn.Identity(), last)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 8, 512) -> the same."""
        return self.fn(self.norm(x)) + x


class _Mean(nn.Module):
    """Mean over the frames."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 8, C) -> (N, C)."""
        return x.mean(1)


class DeltaBlock(nn.Module):
    """The mixer: how far points, and what they are known by, have to be moved."""

    def __init__(self) -> None:
        super().__init__()
        compared = _LEVELS * (2 * _REACH + 1) ** 2
        layers = [
            nn.Sequential(_Mix(FRAMES, 4 * FRAMES, True), _Mix(512, 2048, False))
            for _ in range(12)
        ]
        self.to_delta = nn.Sequential(
            nn.Linear(FEATURES + compared + 3 * _WAVES + 3, 512),
            *layers,
            nn.LayerNorm(512),
            _Mean(),
            nn.Linear(512, FRAMES * (FEATURES + 2)),
        )

    def forward(self, known: Tensor, compared: Tensor, motion: Tensor) -> Tensor:
        """Look at points once more.

        Parameters
        ----------
        known: (N, 8, 128) features.
        compared: (N, 8, 196) likeness of the places around them.
        motion: (N, 8, 3) x y since the first frame, in places, and the time.

        Returns
        -------
        (N, 8, 2 + 128) changes of the places and of the features.

        """
        x = torch.cat((known, compared, _waves(motion)), 2).to(known.dtype)
        return self.to_delta(x).view(-1, FRAMES, FEATURES + 2)


class Follows:
    """Following points through a window: what the network and a stage of it have in common."""

    delta_block: nn.Module
    norm: nn.Module
    ffeat_updater: nn.Module
    vis_predictor: nn.Module

    def follow(
        self, levels: Sequence[Tensor], points: Tensor, known: Tensor, times: int = _TIMES
    ) -> Path8:
        """Follow points through a window (section 3 of the paper).

        Parameters
        ----------
        levels: (8, h, w, C) each, of the frames.
        points: (N, 2) pixels, in the first frame.
        known: (N, 128) of ``features``; they stay those of the frame that a point is from.
        times: iterations.

        """
        start = (points / STRIDE)[:, None]
        places = start.expand(-1, FRAMES, 2)
        known = known[:, None].expand(-1, FRAMES, FEATURES)
        # As it was trained: not 0 .. 7.
        when = torch.linspace(0, FRAMES, FRAMES, device=points.device)
        when = when[None, :, None].expand(points.shape[0], FRAMES, 1)
        found = []
        for _ in range(times):
            motion = torch.cat((places - places[:, :1], when), 2)
            delta = self.delta_block(known, _compare(levels, places, known), motion)
            # An axis more than group norm needs: TensorRT wants three.
            moved = self.norm(delta[..., 2:].reshape(-1, FEATURES, 1))[..., 0]
            known = self.ffeat_updater(moved).view_as(known) + known
            # The first place is the one that was asked for.
            places = torch.cat((start, (places + delta[..., :2])[:, 1:]), 1)
            found.append(places.transpose(0, 1) * STRIDE)
        return Path8(torch.stack(found), self.vis_predictor(known)[..., 0].T)


class Pips(Follows, nn.Module):
    """The whole network."""

    def __init__(self) -> None:
        super().__init__()
        self.fnet = Encoder()
        self.delta_block = DeltaBlock()
        self.norm = nn.GroupNorm(1, FEATURES)
        self.ffeat_updater = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.GELU())
        self.vis_predictor = nn.Sequential(nn.Linear(FEATURES, 1))

    def features(self, maps: Maps, points: Tensor) -> Tensor:
        """Return what points (N, 2), pixels, are known by in a frame: (N, 128)."""
        level = maps.levels[0]
        places = points / STRIDE
        low = places.floor()
        part = (places - low)[..., None]
        limit = torch.tensor((level.shape[1] - 1, level.shape[0] - 1), device=points.device)
        (x0, y0), (x1, y1) = (
            torch.minimum(at.long().clamp(min=0), limit).unbind(1) for at in (low, low + 1)
        )
        dx, dy = part.unbind(1)
        above = (1 - dx) * level[y0, x0] + dx * level[y0, x1]
        below = (1 - dx) * level[y1, x0] + dx * level[y1, x1]
        return (1 - dy) * above + dy * below


def seen_by(encoder: Encoder, images: Tensor) -> tuple[Tensor, ...]:
    """(B, 3, H, W) of 0..255 -> levels (B, h, w, C) of what is seen in each of them."""
    levels = [encoder(2 * (images.to(encoder.conv1.weight.dtype) / 255) - 1)]
    for _ in range(_LEVELS - 1):
        levels.append(F.avg_pool2d(levels[-1], 2, 2))
    return tuple(level.permute(0, 2, 3, 1).contiguous() for level in levels)


def stacked(window: Sequence[Maps]) -> list[Tensor]:
    """Put the levels of frames on one another: (T, h, w, C) each."""
    return [torch.stack(every) for every in zip(*(maps.levels for maps in window))]


def _waves(motion: Tensor) -> Tensor:
    """(N, 8, 3) -> sines and cosines of each number in turn, then the numbers: (N, 8, 195)."""
    speeds = torch.arange(0, _WAVES, 2, device=motion.device) * (1000 / _WAVES)
    angles = motion[..., None] * speeds
    both = torch.stack((angles.sin(), angles.cos()), -1)
    return torch.cat((both.flatten(2), motion), 2)


def _compare(levels: Sequence[Tensor], places: Tensor, known: Tensor) -> Tensor:
    """Compare what points are known by with the places around them.

    The original compares every place of a map and reads 7 x 7 values between them; only the 8 x 8
    places that these lie between are compared here.

    Parameters
    ----------
    levels: (8, h, w, C) each.
    places: (N, 8, 2) of the first level.
    known: (N, 8, C).

    Returns
    -------
    (N, 8, 196), of every level 7 x 7, columns first.

    """
    side = torch.arange(-_REACH, _REACH + 2, device=places.device)
    frame = torch.arange(FRAMES, device=places.device)[None, :, None, None]
    every = []
    for i, level in enumerate(levels):
        height, width = level.shape[1:3]
        at = places / 2**i
        # Beyond these nothing is seen, and no whole number would hold what a lost point may reach.
        low = at.floor().clamp(-2 * _REACH, max(height, width) + 2 * _REACH)
        part = (at - low).clamp(0, 1)
        x, y = (low.long()[..., None, :] + side[:, None]).unbind(-1)  # (N, 8, 8) each
        inside = ((y >= 0) & (y < height))[..., None] & ((x >= 0) & (x < width))[..., None, :]
        row = frame * height + y.clamp(0, height - 1)[..., None]
        # By one index: with three of them TensorRT converts nothing.
        index = row * width + x.clamp(0, width - 1)[..., None, :]
        seen = F.embedding(index, level.flatten(0, 2))  # (N, 8, 8, 8, C)
        alike = (seen @ known[..., None, :, None])[..., 0] * inside / FEATURES**0.5
        dx, dy = part[..., 0, None, None], part[..., 1, None, None]
        between = (1 - dx) * alike[..., :-1] + dx * alike[..., 1:]
        between = (1 - dy) * between[..., :-1, :] + dy * between[..., 1:, :]
        every.append(between.transpose(-1, -2).flatten(2))
    return torch.cat(every, 2)


class ImageStage(Stage):
    """What is seen in an image; see ``pips_stages``."""

    name = 'image'
    inputs = ('images',)
    outputs = LEVELS
    mixed = True

    def __init__(self, network: Pips) -> None:
        super().__init__()
        self.encoder = network.fnet

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See there."""
        return seen_by(self.encoder, images)


class WindowStage(Follows, Stage):
    """Points followed through 8 frames; see ``pips_stages``."""

    name = 'window'
    rows = ('points', 'known')
    inputs = (*rows, *LEVELS)
    outputs = ('places', 'visible')
    exact = ('points',)
    most = 256
    mixed = True
    limits: ClassVar[Mapping[str, float]] = {
        'places, share within a pixel': 0.95,
        'visible, 1 - mean error': 0.98,
    }

    def __init__(self, network: Pips) -> None:
        super().__init__()
        self.times = _TIMES
        self.delta_block, self.norm = network.delta_block, network.norm
        self.ffeat_updater, self.vis_predictor = network.ffeat_updater, network.vis_predictor

    def forward(self, points: Tensor, known: Tensor, *levels: Tensor) -> tuple[Tensor, ...]:
        """See there."""
        path = self.follow(levels, points, known, self.times)
        return path.points[-1].transpose(0, 1), path.visible.T

    def agreement(self, inputs: Tensors, expected: Tensors, found: Tensors) -> dict[str, float]:
        """Compare where points are at last, and whether they are seen."""
        apart = (found['places'] - expected['places']).norm(dim=-1)
        error = found['visible'].sigmoid() - expected['visible'].sigmoid()
        return {
            'places, share within a pixel': float((apart < 1).float().mean()),
            'visible, 1 - mean error': 1 - float(error.abs().mean()),
        }


def pips_stages(network: Pips) -> dict[str, Stage]:
    """Return the stages of a network by name; they share its parameters.

    ======  ========================================  ==========================================
    stage   inputs                                    outputs
    ======  ========================================  ==========================================
    image   images (B, 3, H, W) of 0..255             level0 ... (B, h, w, C)
    window  points (N, 2), known (N, 128),            places (N, 8, 2), visible (N, 8) logits
            level0 ... (8, h, w, C)
    ======  ========================================  ==========================================
    """
    stages: list[Stage] = [ImageStage(network), WindowStage(network)]
    return {stage.name: stage.eval() for stage in stages}


def load(network: Pips, path: Path) -> None:
    """Fill the network from a safetensors file or a checkpoint as it was published.

    Raises
    ------
    WeightsError
        When the file is missing, damaged or of another network: when a tensor of the network is
        missing, one of the file unknown, or a shape different.

    """
    checkpoints.fill(
        network, checkpoints.read_either(path), f'{path} does not fit the network of PIPs'
    )
