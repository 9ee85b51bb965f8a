# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The method ``sam_track``: what is pointed at, or found, is carried on from frame to frame.

Cheng et al., "Segment and Track Anything" (2023).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from masa_ros.detectors.prompted import Segmenter
from masa_ros.detectors.protocol import Detector
from masa_ros.errors import PromptError
from masa_ros.methods import pointing
from masa_ros.methods.carrying import Carrying, brought, networks
from masa_ros.methods.deva.detections import drawn, limited
from masa_ros.methods.deva.segments import (
    NOTHING,
    intersections,
    joined,
    most_probable,
    paint,
    split,
    stacked,
)
from masa_ros.methods.finding import eye, scaled
from masa_ros.methods.pieces import without
from masa_ros.methods.pointing import Meant
from masa_ros.methods.protocol import Log, Session
from masa_ros.methods.sam_track import rules
from masa_ros.methods.sam_track.options import SamTrackConfig
from masa_ros.methods.seeking import Object, lost, tracks
from masa_ros.methods.sought import class_names
from masa_ros.propagators.protocol import Propagator
from masa_ros.types import Frame, Instances, Mask, Prompt, Result


class SamTrack(Carrying):
    """Segment and track anything; see ``Method``.

    Parameters
    ----------
    detector: finds objects, where any are to be looked for.
    segmenter: answers prompts.
    propagator: carries masks on.
    config: of the method; what concerns loading is taken as it is.
    device: where all of them run.
    log: takes lines about engines.

    """

    name: str = 'sam_track'
    options: type = SamTrackConfig
    config: SamTrackConfig
    segmenter: Segmenter

    def __init__(
        self,
        detector: Detector,
        segmenter: Segmenter,
        propagator: Propagator[Any],
        config: SamTrackConfig | None = None,
        device: str = 'cpu',
        log: Log = lambda text: None,
    ) -> None:
        super().__init__(detector, propagator, config, device, log, segmenter)

    @classmethod
    def load(cls, options: SamTrackConfig, log: Log) -> SamTrack:
        """Load the networks, and begin with engines where the size of the images is known.

        Raises
        ------
        ConfigError, WeightsError
            With a text that names the option or file.

        """
        detector, propagator, device = networks(options)
        method = cls(detector, eye(detector, device), propagator, options, device, log)
        method.begin()
        return method

    def session(self, after: Session[Any] | None = None) -> SamTrackSession:
        """Begin a session; ``after`` hands its objects over."""
        return SamTrackSession(self, after if isinstance(after, SamTrackSession) else None)


class _Last(NamedTuple):
    """The last frame, what the propagator sees in it, and every object's mask by its id."""

    frame: Frame
    encoded: Any
    seen: dict[int, Mask]


class SamTrackSession:
    """See ``Session``. Every frame is answered at once; no pixel belongs to two objects.

    Images of another size are taken for the same view, scaled: the last image and its masks are
    brought to the new size, and the memory begins anew with them.

    Parameters
    ----------
    method: whose networks and options are used.
    after: whose objects are taken over.

    """

    def __init__(self, method: SamTrack, after: SamTrackSession | None = None) -> None:
        self.method = method
        self._objects: dict[int, Object] = {}
        self._ids = rules.Ids(method.config.rules)
        self._memory = method.propagator.memory()
        self._last: _Last | None = None
        self._index = self._refused = self._forgotten = 0
        self._names: Mapping[int, str] = class_names(method.detector)
        if after is not None:
            self._objects, self._ids, self._index = after._objects, after._ids, after._index
            self._ids.rules = method.config.rules
            self._refused, self._forgotten = after._refused, after._forgotten
            self._last = after._last
            if self._last is not None:
                self._begin_anew(self._last.frame.shape)

    @torch.inference_mode()
    def update(
        self, frame: Frame, encoded: Any, given: Instances | None = None
    ) -> Sequence[Result]:
        """Carry the objects on, and look for new ones when it is time; see ``Session``."""
        if self._last is not None and self._last.frame.shape != frame.shape:
            self._begin_anew(frame.shape)
        config = self.method.config
        seen = self._read(encoded)
        due = self._index % config.detection_every == 0
        self._index += 1
        begun: dict[int, Mask] = {}
        if due and (given is not None or config.find != 'nothing'):
            begun = self._new(frame, seen, self._look(frame, given))
        for track_id, mask in seen.items():
            each = self._objects[track_id]
            each.unseen = 0 if mask.width else each.unseen + 1
        gone = lost(self._objects, config, self._names)
        self._forgotten += len(gone)
        seen = {i: mask for i, mask in seen.items() if i not in gone} | begun
        self._remember(frame, encoded, seen, changed=bool(begun))
        return [Result(frame, tracks(self._objects, seen), self._names)]

    def _look(self, frame: Frame, given: Instances | None) -> Instances:
        """Return what is in a frame, with masks."""
        method = self.method
        if given is None:
            given = method.look(frame)
        most = len(given) if method.config.released else method.config.max_objects
        kept, refused = limited(given, frame.shape, most)
        self._refused += refused
        return drawn(kept, frame, method.detector)

    def _new(self, frame: Frame, seen: Mapping[int, Mask], found: Instances) -> dict[int, Mask]:
        """Begin objects with what lies where nothing is tracked (report, section 3.2)."""
        chosen = self.method.config.rules
        order = np.argsort(-found.scores, kind='stable')
        if not chosen.released:
            order = order[::-1]  # the best are painted last
        masks = [mask for i in order if (mask := (found.masks or ())[i])]
        numbers = rules.merge([mask.full(*frame.shape) for mask in masks], frame.shape, chosen)
        tracked = paint(list(seen.values()), frame.shape)
        new = rules.new_objects(tracked, numbers, self._next_id(), len(self._objects), chosen)
        begun: dict[int, Mask] = {}
        for track_id in np.unique(new[new > 0]).tolist():
            (mask,) = split((new == track_id).astype(np.int32), 1)
            if track_id in self._objects:  # with the released rules it may join one
                begun[track_id] = joined(seen[track_id], mask)
                continue
            source = int(order[np.argmax(intersections([mask], masks)[0])])
            begun[track_id] = mask
            self._objects[track_id] = Object(
                int(found.labels[source]), float(found.scores[source]), frame.stamp_ns, False
            )
        self._ids.given(new)
        return begun

    def _next_id(self) -> int:
        """Return the id of the first new object; one that is forgotten is joined by none."""
        following = self._ids.next
        joins = following in self._objects or not following
        return following if joins else self._ids.largest + 1

    def _read(self, encoded: Any) -> dict[int, Mask]:
        """Return where every object is, by its id."""
        seen = dict.fromkeys(self._objects, NOTHING)
        if self._memory.ids:
            seen |= most_probable(self._memory.read(encoded), self._memory.ids)
        return seen

    def _remember(self, frame: Frame, encoded: Any, seen: dict[int, Mask], changed: bool) -> None:
        """Put a frame into the memory; ``changed``: with masks that are not those it read."""
        self._last = _Last(frame, encoded, seen)
        if not seen:
            self._memory.forget()
        elif changed or set(seen) != set(self._memory.ids):
            masks = stacked(list(seen.values()), frame.shape, self.method.device)
            self._memory.remember(encoded, tuple(seen), masks, certain=True)
        else:
            self._memory.remember(encoded, tuple(seen))

    def _begin_anew(self, shape: tuple[int, int]) -> None:
        """Let a new memory begin with the last frame, scaled to a size."""
        assert self._last is not None
        frame, seen = scaled(self._last.frame, self._last.seen, shape)
        self._memory = self.method.propagator.memory()
        (encoded,) = self.method.propagator.encode([frame])
        self._remember(frame, encoded, seen, changed=True)

    @torch.inference_mode()
    def prompt(self, frame: Frame, encoded: Any, prompt: Prompt) -> Instances:
        """Begin or correct an object; see ``Session``.

        An object that is pointed at lies in front of all others, and is kept however long it is
        not seen. Text begins all objects that answer to it. Clicks that correct an object are
        about what is seen of it: a click beside it takes away what is seen at that place.
        """
        if self._last is None:
            raise PromptError('no image has been tracked yet')
        answered = self._answered(frame, prompt)
        there = frame, encoded
        here = self._last.frame, self._last.encoded
        masks = [each.mask for each in answered]
        now = brought(self.method.propagator, there, here, masks, self.method.device)
        seen = dict(self._last.seen)
        # What it knows of an object that is corrected is wrong.
        self._memory.drop([prompt.track_id])
        ids = []
        for each, mask in zip(answered, now):
            track_id = prompt.track_id or self._begin(each, frame.stamp_ns)
            seen = {i: without(other, mask) for i, other in seen.items() if i != track_id}
            seen[track_id] = mask
            ids.append(track_id)
        self._remember(self._last.frame, self._last.encoded, seen, changed=True)
        return tracks(self._objects, dict(zip(ids, masks)))

    def _answered(self, frame: Frame, prompt: Prompt) -> list[Meant]:
        """Return what a prompt means in its frame; what it corrects is kept from now on."""
        assert self._last is not None
        method, known = self.method, self._objects.get(prompt.track_id)
        if prompt.track_id and known is None:
            raise PromptError(f'no track has the id {prompt.track_id}')
        if pointing.by_name(prompt):
            find = functools.partial(method.named, frame)
            answered = pointing.named(frame, prompt, find, method.detector)
        else:
            own = self._last.seen.get(prompt.track_id, NOTHING)
            answered = [pointing.pointed_at(frame, prompt, method.segmenter.segment, own)]
        if known is None:
            pointing.check_room(len(self._objects), len(answered), method.config.max_objects)
        else:
            known.pointed_at, known.unseen = True, 0
        return answered

    def _begin(self, meant: Meant, stamp_ns: int) -> int:
        """Begin an object that is pointed at; returns its id."""
        track_id = self._ids.largest + 1
        self._ids.given(np.array([track_id]))
        self._objects[track_id] = Object(meant.label, meant.score, stamp_ns, True)
        return track_id

    def ids(self) -> Sequence[int]:
        """Return the objects that are remembered."""
        return list(self._objects)

    def remove(self, track_id: int) -> bool:
        """Forget an object; False where none has this id."""
        if self._objects.pop(track_id, None) is None:
            return False
        self._memory.drop([track_id])
        if self._last is not None:
            self._last.seen.pop(track_id, None)
        return True

    def finish(self) -> Sequence[Result]:
        """No frame is ever open."""
        return []

    def reset(self) -> None:
        """Forget all objects; where any are looked for, that is at once."""
        self._objects, self._last, self._index = {}, None, 0
        self._memory.forget()

    def figures(self) -> Mapping[str, Any]:
        """Return how much is remembered, and what was refused or forgotten so far."""
        held = self._memory.figures()
        return {
            'tracks_in_memory': len(self._objects),
            'memory_frames': held['memory_frames'],
            'memory_bytes': held['memory_bytes'],
            'detections_refused': self._refused,
            'objects_forgotten': self._forgotten,
        }
