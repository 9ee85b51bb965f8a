# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The three bodies of ``conftest.scene`` in motion, and what somebody points at them with."""

import numpy as np
from conftest import scene

from masa_ros.types import Frame, Prompt

RED, BLUE, YELLOW = (36, 46, 105, 115), (180, 110, 251, 191), (40, 156, 141, 205)
"""Boxes of the bodies; the last one does not move."""


def frame(t, size=(240, 320), shift=1):
    return Frame(np.ascontiguousarray(scene(shift * t, size)), (t + 1) * 100_000_000)


def shifted(box, t):
    return (box[0] + t, box[1], box[2] + t, box[3])


def overlap(box, other):
    left, top = np.maximum(box[:2], other[:2])
    right, bottom = np.minimum(box[2:], other[2:])
    if left >= right or top >= bottom:
        return 0.0
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    shared = (right - left) * (bottom - top)
    return shared / (sum(areas) - shared)


def click(*places, track_id=0, stamp_ns=0, positive=None):
    points = np.array(places, np.float32)
    signs = None if positive is None else np.array(positive)
    return Prompt(stamp_ns, track_id, points, signs)
