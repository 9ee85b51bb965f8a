# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Segmenting what somebody points at: by clicks, a box, or both, with SAM or without."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
import torchvision
from numpy.typing import NDArray

from masa_ros.detectors.masa import Encoded, MasaDetector
from masa_ros.errors import PromptError
from masa_ros.models.masks import covers_of, mask_nms
from masa_ros.models.precision import storage
from masa_ros.types import Frame, Instances, Mask, Prompt

_OFFERED = 40  # boxes around a click that masks are drawn in
_ALIKE = 0.8  # IoU from which one of two boxes is enough
_WEAKEST = 0.02  # score of what may be meant: somebody says that there is something
_FITS = 0.5  # share of the clicks that a mask must agree with
_DEEP = 1 / 3  # power of how deep clicks lie in a mask, beside its score
_SAME = 0.7  # IoU above which two masks are one answer
_ANSWERS = 3  # as many as SAM gives


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

    A mask is what was meant. Otherwise a network on SAM answers by SAM's decoder: a single click
    has three answers, the whole, a part and a part of that; a mask beside clicks or a box is where
    it begins.

    Of other networks, a box is drawn in by the mask head. Of clicks all boxes of the network are
    taken that lie around them, however poor, and their masks must hold them. Of masks that are not
    alike those are answered that are the best, and in which the clicks lie deep: people click into
    the middle of what they mean.
    """

    def __init__(self, detector: MasaDetector) -> None:
        self.detector = detector

    @torch.inference_mode()
    def segment(
        self, frame: Frame, prompt: Prompt, encoded: Encoded | None = None
    ) -> list[Candidate]:
        """See ``Segmenter``; ``encoded``: what the network's image part made of the frame."""
        check_inside(frame, prompt)
        by_sam = getattr(self.detector.network.masks, 'takes_prompts', False)
        if prompt.mask is not None and not (by_sam and prompt.kinds & {'point', 'box'}):
            return [Candidate(prompt.mask, 1.0)]
        if encoded is None:
            (encoded,) = self.detector.encode([frame.image])
        found = (self._by_sam if by_sam else self._by_boxes)(encoded, prompt)
        if not found:
            raise PromptError('nothing is seen there')
        return found

    def _by_sam(self, encoded: Encoded, prompt: Prompt) -> list[Candidate]:
        """Ask SAM's decoder, on the image embedding that is there."""
        detector, view = self.detector, encoded.view
        decoder = detector.network.masks
        embedding = encoded.tensors['detail'].to(storage(detector.precision))
        scale = torch.tensor(view.scale, device=embedding.device)
        box = begun = None
        if prompt.box is not None:
            box = torch.from_numpy(prompt.box).to(scale) * scale.repeat(2)
        if prompt.mask is not None:
            begun = decoder.logits_of(prompt.mask, view).to(embedding.device)
        logits, quality = decoder.answer(
            embedding,
            torch.from_numpy(prompt.points).to(scale) * scale,
            torch.from_numpy(prompt.positive).to(embedding.device),
            box,
            begun,
            multiple=len(prompt.points) == 1 and box is None and begun is None,
        )
        boxes = np.zeros((len(logits), 4), np.float32)  # these masks are not drawn inside boxes
        drawn = decoder.paste(logits.float(), boxes, view).masks
        scores = quality.clamp(0, 1).tolist()
        return [
            Candidate(mask, scores[i])
            for i in quality.argsort(descending=True, stable=True).tolist()
            if (mask := drawn[i]) is not None
        ]

    def _by_boxes(self, encoded: Encoded, prompt: Prompt) -> list[Candidate]:
        """Draw in the box, or in boxes around the clicks."""
        if prompt.box is not None:
            boxes, scores = prompt.box[None], np.ones(1, np.float32)
        else:
            boxes, scores = self._around(encoded, prompt.points[prompt.positive])
        asked = Instances(boxes, scores, np.full(len(boxes), -1, np.int32))
        drawn = self.detector.describe(encoded, asked).masks or ()
        fit = np.array([agreement(mask, prompt) if mask else 0 for mask in drawn], np.float32)
        deep = [depth(mask, prompt) if mask else 0 for mask in drawn]
        rank = fit + scores * np.array(deep, np.float32) ** _DEEP
        order = [i for i in np.argsort(-rank, kind='stable') if fit[i] >= _FITS]
        found = [Candidate(mask, float(scores[i])) for i in order if (mask := drawn[i])]
        covers = covers_of([mask for mask, _ in found], encoded.view.height, encoded.view.width)
        return [found[i] for i in mask_nms(covers, 1.0, _SAME)[:_ANSWERS]]

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
    return float(((_at(prompt, mask, mask.pixels) > 0) == prompt.positive).mean())


def depths(mask: Mask) -> NDArray[np.float32]:
    """Distance (height, width) of every pixel of a mask from what is not on it, 0 beside it.

    The border of its window, and so of the image, is a rim too.
    """
    inside = np.pad(mask.pixels, 1).astype(np.uint8)
    found = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    return np.asarray(found, np.float32)


def depth(mask: Mask, prompt: Prompt) -> float:
    """Return how deep the deepest click on what is meant lies in a mask.

    1 is its deepest pixel, and what is said of a prompt without such clicks; 0 is beside it.
    """
    if not prompt.positive.any():
        return 1.0
    deep = depths(mask)
    return float(_at(prompt, mask, deep)[prompt.positive].max() / max(deep.max(initial=0), 1))


def _at(prompt: Prompt, mask: Mask, values: NDArray[Any]) -> NDArray[Any]:
    """Return the values of a mask's window at the clicks (P,), 0 outside of it."""
    x, y = np.floor(prompt.points.T - ((mask.x,), (mask.y,))).astype(int)
    inside = (x >= 0) & (y >= 0) & (x < mask.width) & (y < mask.height)
    found = np.zeros(len(x), values.dtype)
    found[inside] = values[y[inside], x[inside]]
    return found
