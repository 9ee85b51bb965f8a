# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Masks: the light head that draws inside boxes, and pasting of mask logits into the image."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from masa_ros.models import packed
from masa_ros.models.configs import MaskConfig
from masa_ros.models.layers import ConvNorm
from masa_ros.models.sampling import RoIAlign
from masa_ros.types import Mask


class View(NamedTuple):
    """How an image lies in the network input.

    Attributes
    ----------
    height, width: of the image.
    rows, columns: of the image in the network input, without padding.

    """

    height: int
    width: int
    rows: int
    columns: int

    @property
    def scale(self) -> tuple[float, float]:
        """Network pixels per image pixel along x and y."""
        return self.columns / self.width, self.rows / self.height


class Pasted(NamedTuple):
    """Masks in an image.

    Attributes
    ----------
    masks: one for each box, None where no pixel belongs to the object.
    covers: (N, cells) float32, 1 where a mask holds the pixel, of every ``STEP``-th pixel of each
        axis of the image.

    """

    masks: list[Mask | None]
    covers: Tensor


STEP = 4

_SURE = 1e-3  # what a mask that is given leaves open of a pixel


def covers_of(masks: Sequence[Mask | None], height: int, width: int) -> Tensor:
    """Look at every ``STEP``-th pixel of masks in an image; see ``Pasted``."""
    covers = np.zeros((len(masks), -(-height // STEP), -(-width // STEP)), np.float32)
    for cover, mask in zip(covers, masks):
        if mask is not None:
            y, x = -mask.y % STEP, -mask.x % STEP
            seen = mask.pixels[y::STEP, x::STEP]
            top, left = (mask.y + y) // STEP, (mask.x + x) // STEP
            cover[top : top + seen.shape[0], left : left + seen.shape[1]] = seen
    return torch.from_numpy(covers.reshape(len(masks), covers.shape[1] * covers.shape[2]))


def mask_overlaps(covers: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Overlap of every two masks: share (N, N) of the smaller that lies in the other, IoU (N, N).

    A mask that holds none of the pixels looked at overlaps nothing.
    """
    areas, both = covers.sum(1), covers @ covers.T
    share = both / torch.minimum(areas[:, None], areas[None]).clamp(min=1)
    iou = both / (areas[:, None] + areas[None] - both).clamp(min=1)
    return np.asarray(share.cpu().numpy()), np.asarray(iou.cpu().numpy())


def mask_nms(covers: Tensor, share: float, iou: float) -> NDArray[np.int64]:
    """Choose the masks, best first, that no better chosen one covers or repeats.

    Two masks that overlap by more than ``iou`` are one object found twice. A body and its parts,
    or a group and its members, claim the same pixels without being the same: with a ``share``
    below 1 only the better scored of them stays. Objects that hide each other do not share pixels
    and all stay.
    """
    shares, ious = mask_overlaps(covers)
    against = (shares > share) | (ious > iou)
    chosen: list[int] = []
    for i in range(len(covers)):
        if not against[i, chosen].any():
            chosen.append(i)
    return np.array(chosen, np.int64)


class DetailMap(nn.Module):
    """Join the finest map of a backbone, stride 4, with the finest of the pyramid."""

    def __init__(self, fine: nn.Module, coarse: nn.Module, detail: nn.Module) -> None:
        super().__init__()
        self.fine, self.coarse, self.detail = fine, coarse, detail

    def forward(self, levels: list[Tensor], finest: Tensor | None) -> Tensor:
        """Pyramid (B, C, ., .), finest map (B, F, H / 4, W / 4) -> (B, D, H / 4, W / 4)."""
        if finest is None:
            raise ValueError('this backbone gives no detail to draw masks from')
        fine = self.fine(finest)
        coarse = F.interpolate(
            self.coarse(levels[0]), size=fine.shape[-2:], mode='bilinear', align_corners=False
        )
        return self.detail(F.relu(fine + coarse))


class BoxDrawing(nn.Module):
    """Draw inside boxes, out of the detail map and the 7x7 features of each box."""

    SIZE = 28

    def __init__(
        self, pool: nn.Module, context: nn.Module, convs: nn.ModuleList, logits: nn.Module
    ) -> None:
        super().__init__()
        self.pool, self.context, self.convs, self.logits = pool, context, convs, logits

    def forward(self, detail: Tensor, pooled: Tensor, boxes: Tensor, image: Tensor) -> Tensor:
        """Draw the mask of every box.

        Parameters
        ----------
        detail: (B, D, H / 4, W / 4) from ``DetailMap``.
        pooled: (N, C, 7, 7) features of the boxes.
        boxes: (N, 4) float32 xyxy in network-input pixels.
        image: (N,) int64 index of each box's image in the batch.

        Returns
        -------
        (N, 28, 28) logits over the box.

        """
        context = F.interpolate(
            self.context(pooled), size=self.SIZE, mode='bilinear', align_corners=False
        )
        x = self.pool([detail], boxes, image) + context
        for conv in self.convs:
            x = conv(x)
        return self.logits(x)[:, 0]


class BoxMasks(nn.Module):
    """Class-agnostic masks inside boxes: fine detail at stride 4 plus the box's 7x7 features.

    The 7x7 features say which object is meant, the detail map where its edge runs. All weights
    are held here, under the names they have in files; ``detail_map`` and ``drawing`` share them.
    """

    reads_pooled = True
    takes_prompts = False

    def __init__(self, config: MaskConfig, finest: int, channels: int) -> None:
        super().__init__()
        width = config.detail
        self.fine = ConvNorm(finest, width, 1)
        self.coarse = ConvNorm(channels, width, 1)
        self.detail = ConvNorm(width, width, relu=True)
        self.pool = RoIAlign(BoxDrawing.SIZE, (4,), 1)
        self.context = ConvNorm(channels, width, relu=True)
        self.convs = nn.ModuleList(ConvNorm(width, width, relu=True) for _ in range(config.convs))
        self.logits = nn.Conv2d(width, 1, 1)

    @property
    def detail_map(self) -> DetailMap:
        """What makes the map that masks are drawn from."""
        return DetailMap(self.fine, self.coarse, self.detail)

    @property
    def drawing(self) -> BoxDrawing:
        """What draws masks."""
        return BoxDrawing(self.pool, self.context, self.convs, self.logits)

    def forward(self, detail: Tensor, pooled: Tensor, boxes: Tensor, image: Tensor) -> Tensor:
        """Draw the mask of every box, see ``BoxDrawing``."""
        return self.drawing(detail, pooled, boxes, image)

    def paste(self, logits: Tensor, boxes: NDArray[np.float32], view: View) -> Pasted:
        """Bring logits (N, 28, 28) of boxes (N, 4), image pixels, to the pixels of the image.

        The window of a mask is its box, rounded outwards to whole pixels and clipped.
        """
        paste = paste_boxes_packed if logits.is_cuda else paste_boxes
        return paste(logits, boxes, view)


def _windows(boxes: NDArray[np.float32], view: View) -> NDArray[np.int64]:
    """Whole pixels (N, 4) x0 y0 x1 y1 that boxes touch inside the image; none: no area."""
    limit = np.array([view.width, view.height])
    low = np.clip(np.floor(boxes[:, :2]), 0, limit)
    high = np.maximum(np.clip(np.ceil(boxes[:, 2:]), 0, limit), low)
    return np.hstack((low, high)).astype(np.int64)


def paste_boxes(logits: Tensor, boxes: NDArray[np.float32], view: View) -> Pasted:
    """Paste on a CPU, one mask after the other; see ``BoxMasks.paste``."""
    drawn = zip(logits.float().cpu().numpy(), boxes, _windows(boxes, view).tolist())
    masks = [_paste_box(logit, box, window) for logit, box, window in drawn]
    return Pasted(masks, covers_of(masks, view.height, view.width))


def _paste_box(
    logit: NDArray[np.float32], box: NDArray[np.float32], window: list[int]
) -> Mask | None:
    (x0, y0, x1, y1), (left, top, right, bottom) = box, window
    if right <= left or bottom <= top:
        return None
    # Cell s of the logits covers box pixels [s, s + 1) * side / S; sample pixel centres.
    scale_x, scale_y = logit.shape[1] / max(x1 - x0, 1e-3), logit.shape[0] / max(y1 - y0, 1e-3)
    across = _sampled(logit.T, (np.arange(left, right) + 0.5 - x0) * scale_x - 0.5)
    pixels = _sampled(across.T, (np.arange(top, bottom) + 0.5 - y0) * scale_y - 0.5)
    inside = pixels > 0
    return Mask(left, top, inside) if inside.any() else None


def _sampled(rows: NDArray[np.float32], places: NDArray[np.floating]) -> NDArray[np.float32]:
    """Interpolate rows (S, W) linearly at places (H,) among them; beyond the ends they stay."""
    rows = np.ascontiguousarray(rows)
    places = np.minimum(np.maximum(places, 0), len(rows) - 1)
    before = np.minimum(places.astype(np.intp), len(rows) - 2)
    # One axis after the other, with whole rows: a warp looks up every pixel on its own.
    made = np.diff(rows, axis=0).take(before, axis=0)
    made *= (places - before).astype(np.float32)[:, None]
    made += rows.take(before, axis=0)
    return made


def paste_boxes_packed(logits: Tensor, boxes: NDArray[np.float32], view: View) -> Pasted:
    """Paste on a GPU, all masks at once; see ``BoxMasks.paste``."""
    corners = torch.from_numpy(boxes).to(logits.device)
    scale = logits.shape[1] / (corners[:, 2:] - corners[:, :2]).clamp(min=1e-3)

    def taps(pixels: packed.Pixels, group: slice) -> tuple[packed.Taps, packed.Taps]:
        low, by = corners[group, :2][pixels.mask], scale[group][pixels.mask]
        x = (pixels.x + 0.5 - low[:, 0]) * by[:, 0] - 0.5
        y = (pixels.y + 0.5 - low[:, 1]) * by[:, 1] - 0.5
        return packed.box_taps(y, logits.shape[1]), packed.box_taps(x, logits.shape[2])

    return _paste_packed(logits, _windows(boxes, view), view, taps)


def _paste_packed(
    logits: Tensor,
    windows: NDArray[np.int64],
    view: View,
    taps: Callable[[packed.Pixels, slice], tuple[packed.Taps, packed.Taps]],
) -> Pasted:
    masks: list[Mask | None] = []
    covers: list[Tensor] = []
    for group in packed.groups_of(windows):
        some = windows[group]
        pixels = packed.unroll(some, logits.device)
        inside = packed.sample(logits[group], pixels, *taps(pixels, group))
        masks += packed.encode(inside, some)
        covers.append(packed.cover(inside, pixels, len(some), view.height, view.width, STEP))
    if not covers:
        return Pasted(masks, torch.zeros((0, 1), device=logits.device))
    return Pasted(masks, torch.cat(covers))


def _resize_matrix(source: int, target: int, device: torch.device) -> Tensor:
    """(target, source) weights of a bilinear resize of one axis, half-pixel centres."""
    eye = torch.eye(source, device=device)[None, None]
    return F.interpolate(eye, (target, source), mode='bilinear', align_corners=False)[0, 0]


@functools.lru_cache(maxsize=8)
def resize_matrices(
    side: int, frame: int, view: View, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Matrices (height, side), (width, side) that bring logits over the input to the image.

    SAM resizes twice, to the input size and then, without the padding, to the image size. Both
    are linear in each axis, so that one matrix an axis stands for them.
    """
    enlarge = _resize_matrix(side, frame, device)
    rows = _resize_matrix(view.rows, view.height, device) @ enlarge[: view.rows]
    columns = _resize_matrix(view.columns, view.width, device) @ enlarge[: view.columns]
    return rows, columns


@functools.lru_cache(maxsize=8)
def _resize_taps(side: int, frame: int, view: View, device: torch.device) -> list[packed.Taps]:
    matrices = resize_matrices(side, frame, view, torch.device('cpu'))
    taps = (packed.matrix_taps(matrix) for matrix in matrices)
    return [packed.Taps(*(value.to(device) for value in some)) for some in taps]


def paste_frames(logits: Tensor, frame: int, view: View) -> Pasted:
    """Bring logits over the whole square network input to the pixels of the image.

    Only the rows and columns in which a mask can be positive are ever computed.

    Parameters
    ----------
    logits: (N, S / 4, S / 4).
    frame: S, side of the network input.
    view: of the image in it.

    """
    windows = _near(logits, frame, view)
    if logits.is_cuda:
        return paste_frames_packed(logits, windows, frame, view)
    rows, columns = resize_matrices(logits.shape[-1], frame, view, logits.device)
    masks: list[Mask | None] = []
    for logit, (left, top, right, bottom) in zip(logits.float(), windows.tolist()):
        inside = (rows[top:bottom] @ logit @ columns[left:right].T > 0).numpy()
        y, x = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        if not len(y):
            masks.append(None)
            continue
        tight = inside[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
        masks.append(Mask(left + int(x[0]), top + int(y[0]), np.ascontiguousarray(tight)))
    return Pasted(masks, covers_of(masks, view.height, view.width))


def paste_frames_packed(
    logits: Tensor, windows: NDArray[np.int64], frame: int, view: View
) -> Pasted:
    """Paste on a GPU, all masks at once; windows (N, 4) hold all positive pixels."""
    rows, columns = _resize_taps(logits.shape[-1], frame, view, logits.device)
    return _paste_packed(
        logits,
        windows,
        view,
        lambda pixels, _: (packed.pick(rows, pixels.y), packed.pick(columns, pixels.x)),
    )


def frame_logits(mask: Mask, frame: int, view: View) -> Tensor:
    """Return a mask as logits over the whole square network input, as SAM takes masks.

    What ``paste_frames`` brings to the pixels of the image is the mask again, nearly.

    Parameters
    ----------
    mask: in the image.
    frame: S, side of the network input.
    view: of the image in it.

    Returns
    -------
    (S / 4, S / 4) float32, of the share of each cell that the mask covers; at most +-6.9.

    """
    whole = mask.clipped(view.height, view.width).full(view.height, view.width)
    seen = cv2.resize(whole.astype(np.float32), (view.columns, view.rows))
    padded = F.pad(torch.from_numpy(seen), (0, frame - view.columns, 0, frame - view.rows))
    return F.avg_pool2d(padded[None], STEP)[0].logit(_SURE)


def _near(logits: Tensor, frame: int, view: View) -> NDArray[np.int64]:
    """Windows (N, 4) x0 y0 x1 y1 of the image outside which a mask cannot be positive."""
    rows, columns = resize_matrices(logits.shape[-1], frame, view, logits.device)
    positive = logits > 0
    ends = []
    for matrix, seen in ((columns, positive.any(1)), (rows, positive.any(2))):
        near = (seen.float() @ (matrix != 0).T.float() > 0).int()  # (N, width), (N, height)
        low, high = near.argmax(1), near.shape[1] - near.flip(1).argmax(1)
        ends.append(torch.stack((low, torch.where(near.any(1), high, low)), 1))
    return torch.stack(ends, 2).flatten(1).cpu().numpy()
