# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Segmenting what somebody points at: by clicks, a box, or both, without SAM."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray

from masa_ros.detectors.masa import Encoded, MasaDetector
from masa_ros.errors import PromptError
from masa_ros.types import Frame, Instances, Mask, Prompt

_OFFERED = 40  # boxes around a click that masks are drawn in
_ALIKE = 0.8  # IoU from which one of two boxes is enough
_WEAKEST = 0.02  # score of what may be meant: somebody says that there is something
_FITS = 0.5  # share of the clicks that a mask must agree with


class Candidate(NamedTuple):
    """What may be meant: a mask, and how good it is, 0..1."""

    mask: Mask
    score: float


class Segmenter(Protocol):
    """Segments what is pointed at in single images; remembers nothing between them."""

    def segment(self, frame: Frame, prompt: Prompt) -> list[Candidate]:
        """Return what may be meant, at least one candidate, best first.

        A click on a part may mean the part or the whole: there are several answers then.

        Raises
        ------
        PromptError
            When nothing is there, or the prompt lies outside of the image.

        """
        ...


class MasaSegmenter:
    """Answers with what a network of MASA sees at the place; see ``Segmenter``.

    A mask is what was meant. A box is drawn in by the mask head. Of clicks all boxes of the
    network are taken that lie around them, however poor, and their masks must hold them.
    """

    def __init__(self, detector: MasaDetector) -> None:
        self.detector = detector

    @torch.inference_mode()
    def segment(self, frame: Frame, prompt: Prompt) -> list[Candidate]:
        """See ``Segmenter``."""
        check_inside(frame, prompt)
        if prompt.mask is not None:
            return [Candidate(prompt.mask, 1.0)]
        (encoded,) = self.detector.encode([frame.image])
        if prompt.box is not None:
            boxes, scores = prompt.box[None], np.ones(1, np.float32)
        else:
            boxes, scores = self._around(encoded, prompt.points[prompt.positive])
        asked = Instances(boxes, scores, np.full(len(boxes), -1, np.int32))
        drawn = self.detector.describe(encoded, asked).masks or ()
        fit = np.array([agreement(mask, prompt) if mask else 0 for mask in drawn], np.float32)
        order = [i for i in np.argsort(-(fit + scores), kind='stable') if fit[i] >= _FITS]
        found = [Candidate(mask, float(scores[i])) for i in order if (mask := drawn[i])]
        if not found:
            raise PromptError('nothing is seen there')
        return found

    def _around(
        self, encoded: Encoded, points: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return boxes (N, 4) around most of the points (P, 2), and their scores."""
        seen = self.detector.see(encoded)
        view = encoded.view
        at = torch.from_numpy(points).to(seen.boxes.device) * torch.tensor(
            view.scale, device=seen.boxes.device
        )
        inside = (at[None] >= seen.boxes[:, None, :2]) & (at[None] <= seen.boxes[:, None, 2:])
        held = inside.all(2).float().mean(1) >= _FITS
        seen = seen.some(held & (seen.scores > _WEAKEST))
        kept = torchvision.ops.nms(seen.boxes, seen.scores, _ALIKE)[:_OFFERED]
        boxes, scores, _ = seen.some(kept)
        scale = np.tile(np.array(view.scale, np.float32), 2)
        return np.asarray(boxes.cpu().numpy() / scale, np.float32), scores.cpu().numpy()


def check_inside(frame: Frame, prompt: Prompt) -> None:
    """Raise PromptError where a prompt lies outside of a frame, or says nothing of a place."""
    height, width = frame.shape
    if prompt.mask is None and prompt.box is None and not prompt.positive.any():
        raise PromptError('a prompt needs a mask, a box or a click on what is meant')
    for x, y in prompt.points:
        if not (0 <= x < width and 0 <= y < height):
            raise PromptError(f'the click ({x:g}, {y:g}) is outside of the {width}x{height} image')
    if prompt.mask is not None and not prompt.mask.width:
        raise PromptError('the mask is empty')
    if prompt.box is not None:
        x1, y1, x2, y2 = prompt.box
        if not (x1 < x2 and y1 < y2):
            raise PromptError(f'the box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) is empty')
        if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
            text = f'the box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) is outside'
            raise PromptError(f'{text} of the {width}x{height} image')


def agreement(mask: Mask, prompt: Prompt) -> float:
    """Return the share of clicks that a mask agrees with: on it where positive, else beside it."""
    if not len(prompt.points):
        return 1.0
    x, y = np.floor(prompt.points.T - ((mask.x,), (mask.y,))).astype(int)
    inside = (x >= 0) & (y >= 0) & (x < mask.width) & (y < mask.height)
    held = np.zeros(len(x), bool)
    held[inside] = mask.pixels[y[inside], x[inside]]
    return float((held == prompt.positive).mean())
