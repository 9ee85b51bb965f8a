# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Detections become segments, objects become tracks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.protocol import Detector
from masa_ros.methods.deva.merging import Object
from masa_ros.methods.deva.segments import Segment, Shape, Votes, cut
from masa_ros.types import Frame, Instances, Mask, TrackState


class Limited(NamedTuple):
    """The best of some detections, and how many were left out."""

    kept: Instances
    refused: int


def limited(found: Instances, shape: Shape, most: int) -> Limited:
    """Keep the best of the detections that lie in an image of this size, in their order."""
    usable = found[found.finite].clipped(*shape)
    best = np.sort(np.argsort(-usable.scores, kind='stable')[:most])
    return Limited(usable[best], len(usable) - len(best))


def drawn(found: Instances, frame: Frame, detector: Detector) -> Instances:
    """Give masks to the detections that have none: the detector's, where it draws any.

    Where it draws nothing, the object is taken for what fills its box.
    """
    masks = list(found.masks or [None] * len(found))
    bare = [i for i, mask in enumerate(masks) if mask is None]
    if bare and isinstance(detector, MasaDetector):
        (encoded,) = detector.encode([frame.image])
        boxes = dataclasses.replace(found, masks=None)[bare]
        for i, mask in zip(bare, detector.describe(encoded, boxes).masks or ()):
            masks[i] = mask if mask is not None and mask.width else None
    for i, (box, mask) in enumerate(zip(found.boxes, masks)):
        if mask is None:
            (left, top), (right, bottom) = np.floor(box[:2]), np.ceil(box[2:])
            pixels = np.ones((int(bottom - top), int(right - left)), np.bool_)
            masks[i] = Mask(int(left), int(top), pixels)
    return dataclasses.replace(found, masks=tuple(masks))


def segments(found: Instances, shape: Shape, overlap: bool) -> list[Segment]:
    """Return detections with masks as segments of an image.

    Unless they may overlap, smaller ones lie in front of larger ones, and of equal ones the first
    (as the released code prepares masks). What is hidden behind others stays, as an empty segment:
    it may be seen from another frame.
    """
    masks = [mask.clipped(*shape) for mask in found.masks or () if mask is not None]
    if not overlap:
        masks = cut(masks[::-1], shape)[::-1]
    said = zip(found.labels.tolist(), found.scores.tolist())
    return [Segment(mask, Votes.of(*each)) for mask, each in zip(masks, said)]


def tracks(objects: Sequence[Object], seen: Sequence[Mask]) -> Instances:
    """Return the objects that are seen, best first, as they are in a frame."""
    pairs = [pair for pair in zip(objects, seen) if pair[1].width]
    pairs.sort(key=lambda pair: -pair[0].votes.score)
    return Instances(
        boxes=np.array([mask.box for _, mask in pairs], np.float32).reshape(-1, 4),
        scores=np.array([each.votes.score for each, _ in pairs], np.float32),
        labels=np.array([each.votes.label for each, _ in pairs], np.int32),
        masks=tuple(mask for _, mask in pairs),
        track_ids=np.array([each.track_id for each, _ in pairs], np.int64),
        states=np.full(len(pairs), TrackState.TRACKED, np.uint8),
        first_seen_ns=np.array([each.first_seen_ns for each, _ in pairs], np.int64),
    )
