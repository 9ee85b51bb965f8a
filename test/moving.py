# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A propagator that carries masks on by a rule, without a network."""

import dataclasses

import torch

from masa_ros.propagators.protocol import PropagatorKind

STEP = 2  # pixels to the right that everything moves in a unit of time


class MovingMemory:
    """Knows that everything moves to the right."""

    def __init__(self, failing, step):
        self.masks, self.stamp, self.failing, self.step = {}, 0, failing, step

    @property
    def ids(self):
        return tuple(self.masks)

    def read(self, frame):
        if self.failing:
            raise RuntimeError(self.failing.pop())
        drawn = torch.zeros(1 + len(self.masks), *frame.shape)
        by, width = self.step * (frame.stamp_ns - self.stamp), frame.shape[1]
        for mask, out in zip(self.masks.values(), drawn[1:]):
            assert mask.shape == frame.shape, 'a memory is of one size'
            if abs(by) < width:
                out[:, max(by, 0) : width + min(by, 0)] = mask[:, max(-by, 0) : width - max(by, 0)]
        drawn[0] = 1 - drawn[1:].sum(0)
        self.last = frame, drawn
        return drawn

    def remember(self, frame, ids, masks=None, certain=False):
        if masks is None:
            assert self.last[0] is frame and tuple(ids) == self.ids
            masks = self.last[1]
        assert masks.shape == (1 + len(ids), *frame.shape) and masks.dtype == torch.float32
        assert (masks.sum(0) == 1).all(), 'one owner of each pixel'
        self.masks, self.stamp = dict(zip(ids, masks[1:])), frame.stamp_ns

    def drop(self, ids):
        self.masks = {i: mask for i, mask in self.masks.items() if i not in ids}

    def forget(self):
        self.masks = {}

    def figures(self):
        return {'memory_frames': int(bool(self.masks)), 'memory_bytes': len(self.masks)}


class Moving:
    """Carries masks to the right; a frame is its own encoding."""

    def __init__(self, step=STEP):
        self.failing, self.encoded, self.step = [], [], step

    def encode(self, frames):
        self.encoded += frames
        return list(frames)

    def memory(self):
        return MovingMemory(self.failing, self.step)

    def configure(self, config):
        assert dataclasses.is_dataclass(config)

    def facts(self):
        return {'model': 'moving'}


@dataclasses.dataclass(frozen=True)
class StillConfig:
    """No options."""


STILL = PropagatorKind(StillConfig, lambda config, device: Moving(0))
"""For pictures in which nothing moves."""
DEVA = {'method': 'deva', 'propagator': 'still'}
"""Parameters of a node; registers nothing: that is ``PROPAGATORS['still'] = STILL``."""
