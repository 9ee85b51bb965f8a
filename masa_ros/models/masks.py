"""Masks: the light head that draws inside boxes, and placing of mask logits into the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

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


def mask_shares(
    masks: Sequence[Mask | None], height: int, width: int, step: int = 4
) -> NDArray[np.float32]:
    """Return the share (N, N) of the smaller of every two masks that lies in the other.

    Every ``step``-th pixel of each axis is looked at; a mask that has none of them shares nothing.
    """
    covers = np.zeros((len(masks), -(-height // step), -(-width // step)), np.float32)
    for cover, mask in zip(covers, masks):
        if mask is not None:
            y, x = -mask.y % step, -mask.x % step
            seen = mask.pixels[y::step, x::step]
            top, left = (mask.y + y) // step, (mask.x + x) // step
            cover[top : top + seen.shape[0], left : left + seen.shape[1]] = seen
    rows = covers.reshape(len(masks), covers.shape[1] * covers.shape[2])
    areas = rows.sum(axis=1)
    smaller = np.minimum(areas[:, None], areas[None])
    return rows @ rows.T / np.maximum(smaller, 1)


def distinct(
    masks: Sequence[Mask | None], height: int, width: int, limit: float
) -> NDArray[np.int64]:
    """Choose the masks, best first, that lie in no better chosen one by more than ``limit``.

    A body and its parts, or a group and its members, claim the same pixels: the better scored of
    them stays. Objects that hide each other do not share pixels and all stay.
    """
    shares = mask_shares(masks, height, width)
    chosen: list[int] = []
    for i in range(len(masks)):
        if not chosen or shares[i, chosen].max() <= limit:
            chosen.append(i)
    return np.array(chosen, np.int64)


class BoxMasks(nn.Module):
    """Class-agnostic masks inside boxes: fine detail at stride 4 plus the box's 7x7 features.

    The 7x7 features say which object is meant, the detail map where its edge runs.
    """

    SIZE = 28
    reads_pooled = True

    def __init__(self, config: MaskConfig, finest: int, channels: int) -> None:
        super().__init__()
        width = config.detail
        self.fine = ConvNorm(finest, width, 1)
        self.coarse = ConvNorm(channels, width, 1)
        self.detail = ConvNorm(width, width, relu=True)
        self.pool = RoIAlign(self.SIZE, (4,), 1)
        self.context = ConvNorm(channels, width, relu=True)
        self.convs = nn.ModuleList(ConvNorm(width, width, relu=True) for _ in range(config.convs))
        self.logits = nn.Conv2d(width, 1, 1)

    def prepare(self, levels: list[Tensor], detail: Tensor | None) -> Tensor | None:
        """Join the finest map of the backbone, stride 4, with the finest of the pyramid."""
        if detail is None:
            raise ValueError('this backbone gives no detail to draw masks from')
        fine = self.fine(detail)
        coarse = F.interpolate(
            self.coarse(levels[0]), size=fine.shape[-2:], mode='bilinear', align_corners=False
        )
        return self.detail(F.relu(fine + coarse))

    def forward(self, detail: Tensor, pooled: Tensor, boxes: Tensor, image: Tensor) -> Tensor:
        """Draw the mask of every box.

        Parameters
        ----------
        detail: (B, D, H / 4, W / 4) from ``prepare``.
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

    def place(self, logits: Tensor, boxes: NDArray[np.float32], view: View) -> list[Mask | None]:
        """Bring logits (N, 28, 28) of boxes (N, 4), image pixels, to the pixels of the image.

        The window of a mask is its box, rounded outwards to whole pixels and clipped; None where
        no pixel belongs to the object.
        """
        drawn = zip(logits.float().cpu().numpy(), boxes)
        return [_place_box(logit, box, view.height, view.width) for logit, box in drawn]


def _place_box(
    logit: NDArray[np.float32], box: NDArray[np.float32], height: int, width: int
) -> Mask | None:
    x0, y0, x1, y1 = box
    left, top = max(0, int(np.floor(x0))), max(0, int(np.floor(y0)))
    right, bottom = min(width, int(np.ceil(x1))), min(height, int(np.ceil(y1)))
    if right <= left or bottom <= top:
        return None
    # Cell s of the logits covers box pixels [s, s + 1) * side / S; sample pixel centres.
    scale_x, scale_y = logit.shape[1] / max(x1 - x0, 1e-3), logit.shape[0] / max(y1 - y0, 1e-3)
    transform = np.array(
        [
            [scale_x, 0, (left + 0.5 - x0) * scale_x - 0.5],
            [0, scale_y, (top + 0.5 - y0) * scale_y - 0.5],
        ]
    )
    pixels = cv2.warpAffine(
        logit,
        transform,
        (right - left, bottom - top),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    inside = pixels > 0
    return Mask(left, top, inside) if inside.any() else None


def _resize_matrix(source: int, target: int, device: torch.device) -> Tensor:
    """(target, source) weights of a bilinear resize of one axis, half-pixel centres."""
    eye = torch.eye(source, device=device)[None, None]
    return F.interpolate(eye, (target, source), mode='bilinear', align_corners=False)[0, 0]


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


def place_frames(logits: Tensor, frame: int, view: View) -> list[Mask | None]:
    """Bring logits over the whole square network input to the pixels of the image.

    Only the rows and columns in which a mask can be positive are ever computed.

    Parameters
    ----------
    logits: (N, S / 4, S / 4).
    frame: S, side of the network input.
    view: of the image in it.

    """
    rows, columns = resize_matrices(logits.shape[-1], frame, view, logits.device)
    touched_rows, touched_columns = rows != 0, columns != 0
    positive = logits > 0
    near_row = (positive.any(2).float() @ touched_rows.T.float() > 0).cpu().numpy()
    near_column = (positive.any(1).float() @ touched_columns.T.float() > 0).cpu().numpy()
    masks: list[Mask | None] = []
    for logit, near_y, near_x in zip(logits.float(), near_row, near_column):
        y, x = np.flatnonzero(near_y), np.flatnonzero(near_x)
        if not len(y) or not len(x):
            masks.append(None)
            continue
        top, bottom, left, right = int(y[0]), int(y[-1]) + 1, int(x[0]), int(x[-1]) + 1
        window = rows[top:bottom] @ logit @ columns[left:right].T > 0
        inside = window.cpu().numpy()
        y, x = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        if not len(y):
            masks.append(None)
            continue
        tight = inside[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
        masks.append(Mask(left + int(x[0]), top + int(y[0]), np.ascontiguousarray(tight)))
    return masks
