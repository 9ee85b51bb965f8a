# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A method of tracking that follows colours and looks one frame ahead.

Whatever it is pointed at has a colour, and the pixels of that colour are the object. A frame is
answered when the next one has come: what is gone by then is said to be coasting.
"""

import dataclasses

import numpy as np

from masa_ros.errors import PromptError
from masa_ros.masks import crop
from masa_ros.options import option
from masa_ros.types import Instances, Result, TrackState


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    tolerance: int = option(40, 'largest difference in colour', 0, 255, live=True)
    red: bool = option(True, 'follow what is red from the first frame on')


class ToySession:
    def __init__(self, method, after=None):
        self.method = method
        self.colours = dict(after.colours) if after is not None else {}
        self._next = after._next if after is not None else 1
        self._open = None
        self._began = after is not None

    def update(self, frame, encoded, given=None):
        if not self._began and self.method.config.red:
            self._begin((220, 60, 50))
        self._began = True
        if given is not None:
            for box in given.boxes:
                x, y = ((box[:2] + box[2:]) / 2).astype(int)
                self._begin(encoded[y, x])
        now = self._find(encoded, frame.stamp_ns)
        before, self._open = self._open, (frame, now)
        return [] if before is None else [self._decided(*before, now)]

    def _begin(self, colour):
        self.colours[self._next] = np.array(colour, int)
        self._next += 1
        return self._next - 1

    def _find(self, encoded, stamp_ns):
        found = []
        for track_id, colour in self.colours.items():
            mask = crop((np.abs(encoded - colour) <= self.method.config.tolerance).all(axis=2))
            if mask.width:
                found.append((track_id, mask))
        boxes = [(m.x, m.y, m.x + m.width, m.y + m.height) for _, m in found]
        return Instances(
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            masks=tuple(mask for _, mask in found),
            track_ids=np.array([track_id for track_id, _ in found], np.int64),
            states=np.full(len(found), TrackState.TRACKED, np.uint8),
            first_seen_ns=np.full(len(found), stamp_ns, np.int64),
        )

    def _decided(self, frame, tracks, following):
        stay = np.isin(tracks.track_ids, following.track_ids)
        states = np.where(stay, TrackState.TRACKED, TrackState.COASTED).astype(np.uint8)
        return Result(frame, dataclasses.replace(tracks, states=states), {-1: 'colour'})

    def prompt(self, frame, encoded, prompt):
        if prompt.box is not None:
            x, y = ((prompt.box[:2] + prompt.box[2:]) / 2).astype(int)
        else:
            x, y = prompt.points[prompt.positive][0].astype(int)
        if not (0 <= y < encoded.shape[0] and 0 <= x < encoded.shape[1]):
            raise PromptError(f'({x}, {y}) is outside the image')
        if prompt.track_id:
            self.colours[prompt.track_id] = encoded[y, x]
        track_id = prompt.track_id or self._begin(encoded[y, x])
        tracks = self._find(encoded, frame.stamp_ns)
        made = tracks[tracks.track_ids == track_id]
        if self._open is not None and self._open[0] is frame:
            self._open = (frame, tracks)
        return made

    def ids(self):
        return list(self.colours)

    def remove(self, track_id):
        return self.colours.pop(track_id, None) is not None

    def finish(self):
        before, self._open = self._open, None
        return [] if before is None else [self._decided(*before, before[1])]

    def reset(self):
        self.colours, self._open, self._began = {}, None, False

    def figures(self):
        return {'colours': len(self.colours)}


class Toy:
    name = 'toy'
    options = ToyConfig
    accepts = frozenset({'point', 'box'})
    device = 'cpu'

    def __init__(self, config):
        self.config = config

    @classmethod
    def load(cls, options, log):
        return cls(options)

    def encode(self, frames):
        return [frame.image.astype(int) for frame in frames]

    def session(self, after=None):
        return ToySession(self, after)

    def configure(self, options):
        self.config = options

    def describe(self):
        return {'model': 'toy', 'device': 'cpu'}

    def prepare(self, height, width):
        return True

    def interrupt(self):
        pass

    def close(self):
        pass
