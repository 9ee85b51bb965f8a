# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What draws the masks: SAM's decoder as the paper asks it, or the mask head of another network.

Without SAM a mask is drawn inside a box. The box is the one of the frame before, moved as the
points of the object have moved, or what the network sees in that place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from masa_ros.detectors.masa import Encoded, MasaDetector
from masa_ros.masks import crop
from masa_ros.methods.deva.segments import NOTHING
from masa_ros.methods.sam_pt.following import Drawer, Moment, Wanted
from masa_ros.methods.sam_pt.prompting import Answer, Asked, Passes, draw, gather
from masa_ros.models.precision import storage
from masa_ros.point_trackers.protocol import Points
from masa_ros.types import Instances, Mask

_SAME_PLACE = 0.6  # IoU from which what the network sees is the object in its place
_LARGER = 1.15  # most that an object grows or shrinks from one frame to the next
_HELD = 0.5  # share of the points on an object that must lie on its mask
_NO_SCORE = -np.inf

Box = NDArray[np.float32]


class SamPicture:
    """See ``Picture``: an image embedding that SAM's decoder reads."""

    def __init__(self, detector: MasaDetector, encoded: Encoded) -> None:
        self._decoder, self._view = detector.network.masks, encoded.view
        self._embedding = encoded.tensors['detail'].to(storage(detector.precision))
        self.scale = encoded.view.scale

    def ask(
        self,
        points: Points,
        positive: NDArray[np.bool_],
        box: Box | None,
        low: torch.Tensor | None,
    ) -> Answer:
        """Ask for one mask; see ``Picture``."""
        device = self._embedding.device
        logits, quality = self._decoder.answer(
            self._embedding,
            torch.from_numpy(points).to(device),
            torch.from_numpy(positive).to(device),
            None if box is None else torch.from_numpy(box).to(device),
            low,
        )
        view, side = self._view, self._decoder.prompt_encoder.input_image_size
        whole = F.interpolate(logits[None].float(), side, mode='bilinear')
        inside = whole[..., : view.rows, : view.columns]
        full = F.interpolate(inside, (view.height, view.width), mode='bilinear')[0, 0]
        return Answer(full.cpu().numpy(), float(quality[0]), logits[0].float())


class SamDrawer:
    """Draws by SAM's decoder, in the passes of the paper; see ``Drawer``."""

    def __init__(self, detector: MasaDetector, passes: Passes) -> None:
        self.detector, self.passes = detector, passes

    @torch.inference_mode()
    def draw(self, moment: Moment, objects: Sequence[Wanted]) -> list[tuple[Mask, float]]:
        """See ``Drawer``."""
        picture = SamPicture(self.detector, moment.picture)
        seen = [Asked(each.points[each.visible], each.positive[each.visible]) for each in objects]
        drawn = [
            draw(picture, gather(seen, i, self.passes), self.passes) for i in range(len(objects))
        ]
        return [
            (NOTHING if logits is None else crop(logits > 0), score) for logits, score in drawn
        ]


class HeadDrawer:
    """Draws by the mask head of a network, inside boxes; see ``Drawer``."""

    def __init__(self, detector: MasaDetector) -> None:
        self.detector = detector

    @torch.inference_mode()
    def draw(self, moment: Moment, objects: Sequence[Wanted]) -> list[tuple[Mask, float]]:
        """See ``Drawer``."""
        answers = [(NOTHING, _NO_SCORE) for _ in objects]
        there = [i for i, each in enumerate(objects) if (each.visible & each.positive).any()]
        if not there:
            return answers
        boxes = self._boxes(moment.picture, [objects[i] for i in there])
        drawn = self.detector.describe(moment.picture, Instances(boxes)).masks or ()
        for i, mask in zip(there, drawn):
            if mask is None or not mask.width:
                answers[i] = NOTHING, 0.0
                continue
            mask = mask.clipped(*moment.frame.shape)
            score = _held(mask, objects[i])
            answers[i] = (mask if score >= _HELD else NOTHING), score
        return answers

    def _boxes(self, encoded: Encoded, objects: Sequence[Wanted]) -> Box:
        """Return the box (N, 4) of each object: what is seen where it is expected, or that."""
        seen = self.detector.see(encoded)
        scale = np.tile(np.array(encoded.view.scale, np.float32), 2)
        boxes = (seen.boxes.float().cpu().numpy() / scale).astype(np.float32)
        scores = seen.scores.float().cpu().numpy()
        limits = np.array((encoded.view.width, encoded.view.height) * 2, np.float32)
        chosen = []
        for each in objects:
            expected = np.clip(moved(each), 0, limits)
            overlap = _overlap(expected, boxes)
            best = int((overlap * (0.5 + scores)).argmax()) if len(boxes) else -1
            found = best >= 0 and overlap[best] >= _SAME_PLACE
            box = boxes[best] if found else expected
            if (box[2:] - box[:2] < 1).any():  # nothing is left of it in the image
                box = np.clip(_around(each), 0, limits)
            chosen.append(box)
        return np.array(chosen, np.float32)


def _around(wanted: Wanted) -> Box:
    """Return a box around the points that are seen."""
    points = wanted.points[wanted.visible & wanted.positive]
    return np.concatenate((points.min(0) - 1, points.max(0) + 2)).astype(np.float32)


def moved(wanted: Wanted) -> Box:
    """Return the last box of an object, moved and scaled as its points have been."""
    before = wanted.before
    both = wanted.visible & wanted.positive & before.visible
    if not before.mask.width or not both.any():
        return _around(wanted)
    old, new = before.points[both], wanted.points[both]
    growth = 1.0
    if len(old) > 2:
        pairs = np.triu_indices(len(old), 1)
        apart = [np.linalg.norm(p[pairs[0]] - p[pairs[1]], axis=1) for p in (old, new)]
        far = apart[0] > 1
        if far.any():
            growth = float(np.clip(np.median(apart[1][far] / apart[0][far]), 1 / _LARGER, _LARGER))
    box = np.array(before.mask.box, np.float32).reshape(2, 2)
    middle = np.median(old, 0)
    shift = np.median(new - old, 0)
    return np.asarray(((box - middle) * growth + middle + shift).reshape(4), np.float32)


def _overlap(box: Box, boxes: Box) -> NDArray[np.float32]:
    """Return the IoU (N,) of a box with others (N, 4)."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = np.clip(high - low, 0, None).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return np.asarray(shared / np.maximum(areas - shared, 1e-6), np.float32)


def _held(mask: Mask, wanted: Wanted) -> float:
    """Return the share of the points on an object that lie on its mask."""
    points = wanted.points[wanted.visible & wanted.positive]
    x, y = np.rint(points - (mask.x, mask.y)).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < mask.width) & (y < mask.height)
    return float(mask.pixels[y[inside], x[inside]].sum() / len(points))


def drawer_of(detector: MasaDetector, passes: Passes) -> Drawer:
    """Return what draws with a network: SAM's decoder where it has one."""
    if getattr(detector.network.masks, 'takes_prompts', False):
        return SamDrawer(detector, passes)
    return HeadDrawer(detector)
