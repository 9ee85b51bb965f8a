# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The method ``sam_track``: what is pointed at, or found, is carried on from frame to frame.

Cheng et al., "Segment and Track Anything" (2023).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch

from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.detectors.prompted import MasaSegmenter, Segmenter, agreement
from masa_ros.detectors.protocol import Detector
from masa_ros.errors import ConfigError, PromptError
from masa_ros.methods.carrying import Carrying, networks, scaled
from masa_ros.methods.deva.detections import drawn, limited
from masa_ros.methods.deva.segments import (
    NOTHING,
    intersections,
    most_probable,
    paint,
    split,
    stacked,
)
from masa_ros.methods.protocol import Log, Session
from masa_ros.methods.sam_track import rules
from masa_ros.methods.sam_track.options import SamTrackConfig
from masa_ros.methods.sam_track.pieces import large, without
from masa_ros.propagators.protocol import Propagator
from masa_ros.types import Frame, Instances, Mask, Prompt, Result, TrackState


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
    accepts: frozenset[str] = frozenset({'point', 'box', 'mask', 'text'})
    config: SamTrackConfig

    def __init__(
        self,
        detector: Detector,
        segmenter: Segmenter,
        propagator: Propagator[Any],
        config: SamTrackConfig | None = None,
        device: str = 'cpu',
        log: Log = lambda text: None,
    ) -> None:
        super().__init__(detector, propagator, config, device, log)
        self.segmenter = segmenter
        if not detector.takes_words:
            self.accepts = self.accepts - {'text'}
        self._check_words(self.config)

    @classmethod
    def load(cls, options: SamTrackConfig, log: Log) -> SamTrack:
        """Load the networks, and begin with engines where the size of the images is known.

        Raises
        ------
        ConfigError, WeightsError
            With a text that names the option or file.

        """
        detector, propagator, device = networks(options)
        eye = detector
        if not isinstance(eye, MasaDetector):
            eye = MasaDetector.load(DetectorConfig(device=device))
        method = cls(detector, MasaSegmenter(eye), propagator, options, device, log)
        method.begin()
        return method

    def _check_words(self, config: SamTrackConfig) -> None:
        """Raise ConfigError where words are wanted and none are, or none can be, given."""
        if config.find != 'words':
            return
        if not self.detector.takes_words:
            raise ConfigError(f'find: the detector {config.detector} takes no words')
        if not config.wanted:
            raise ConfigError('words is empty, and find is words: say what is to be found')

    def session(self, after: Session[Any] | None = None) -> SamTrackSession:
        """Begin a session; ``after`` hands its objects over."""
        return SamTrackSession(self, after if isinstance(after, SamTrackSession) else None)

    def configure(self, options: SamTrackConfig) -> None:
        """Take new rules and thresholds; the networks and the objects stay."""
        self._check_words(options)
        super().configure(options)


@dataclasses.dataclass
class _Object:
    """What is known of one object.

    Attributes
    ----------
    label, score: of what found it; -1 and the segmenter's where it was pointed at.
    first_seen_ns: stamp of the frame that it began in.
    pointed_at: by somebody, who wants it kept.
    unseen: for so many frames.

    """

    label: int
    score: float
    first_seen_ns: int
    pointed_at: bool
    unseen: int = 0


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
        self._objects: dict[int, _Object] = {}
        self._ids = rules.Ids(method.config.rules)
        self._memory = method.propagator.memory()
        self._last: _Last | None = None
        self._index = self._refused = self._forgotten = 0
        self._names: Mapping[int, str] = MappingProxyType(dict(_class_names(method.detector)))
        if after is not None:
            self._objects, self._ids, self._index = after._objects, after._ids, after._index
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
        gone = self._lost()
        seen = {i: mask for i, mask in seen.items() if i not in gone} | begun
        self._remember(frame, encoded, seen, changed=bool(begun))
        return [Result(frame, self._tracks(seen), self._names)]

    def _look(self, frame: Frame, given: Instances | None) -> Instances:
        """Return what is in a frame, with masks."""
        method = self.method
        words = method.config.wanted if method.config.find == 'words' else ()
        if given is None:
            (given,) = method.detector.detect([frame], words)
        kept, refused = limited(given, frame.shape, method.config.max_objects)
        self._refused += refused
        return drawn(kept, frame, method.detector)

    def _new(self, frame: Frame, seen: Mapping[int, Mask], found: Instances) -> dict[int, Mask]:
        """Begin objects with what lies where nothing is tracked (report, section 3.2)."""
        chosen = self.method.config.rules
        order = np.argsort(-found.scores, kind='stable')[::-1]  # the best are painted last
        masks = [mask for i in order if (mask := (found.masks or ())[i])]
        numbers = rules.merge([mask.full(*frame.shape) for mask in masks], frame.shape, chosen)
        tracked = paint(list(seen.values()), frame.shape)
        new = rules.new_objects(tracked, numbers, self._ids.next, len(self._objects), chosen)
        begun: dict[int, Mask] = {}
        for track_id in np.unique(new[new > 0]).tolist():
            (mask,) = split((new == track_id).astype(np.int32), 1)
            source = int(order[np.argmax(intersections([mask], masks)[0])])
            begun[track_id] = mask
            self._objects[track_id] = _Object(
                int(found.labels[source]), float(found.scores[source]), frame.stamp_ns, False
            )
        self._ids.given(new)
        return begun

    def _lost(self) -> set[int]:
        """Forget what was found and is not seen for long; returns the ids."""
        limit = self.method.config.forget_after
        gone = {
            track_id
            for track_id, each in self._objects.items()
            if limit and not each.pointed_at and each.unseen >= limit
        }
        for track_id in gone:
            del self._objects[track_id]
        self._forgotten += len(gone)
        return gone

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
        if prompt.kinds == {'text'}:
            answered = self._named(frame, prompt)
        else:
            answered = [(self._meant(frame, prompt), self._known(prompt))]
        now = self._brought_to_now(frame, encoded, [mask for mask, _ in answered])
        seen = dict(self._last.seen)
        # What it knows of an object that is corrected is wrong.
        self._memory.drop([prompt.track_id])
        ids = []
        for (_, each), mask in zip(answered, now):
            track_id = prompt.track_id or self._begin(each)
            seen = {i: without(other, mask) for i, other in seen.items() if i != track_id}
            seen[track_id] = mask
            ids.append(track_id)
        self._remember(self._last.frame, self._last.encoded, seen, changed=True)
        return self._tracks(dict(zip(ids, (mask for mask, _ in answered))))

    def _known(self, prompt: Prompt) -> _Object:
        """Return the object that a prompt corrects, or a new one."""
        if not prompt.track_id:
            return _Object(-1, 1.0, prompt.stamp_ns, True)
        if prompt.track_id not in self._objects:
            raise PromptError(f'no track has the id {prompt.track_id}')
        each = self._objects[prompt.track_id]
        each.pointed_at, each.unseen = True, 0
        return each

    def _begin(self, each: _Object) -> int:
        """Give an object its id."""
        track_id = self._ids.largest + 1
        self._ids.given(np.array([track_id]))
        self._objects[track_id] = each
        return track_id

    def _room(self, count: int) -> None:
        most = self.method.config.max_objects
        if len(self._objects) + count > most:
            raise PromptError(
                f'{len(self._objects)} objects are tracked, and max_objects is {most}'
            )

    def _named(self, frame: Frame, prompt: Prompt) -> list[tuple[Mask, _Object]]:
        """Return what answers to the words of a prompt."""
        words = [word for part in prompt.text.split('.') if (word := part.strip())]
        try:
            (found,) = self.method.detector.detect([frame], words)
        except ConfigError as error:
            raise PromptError(str(error)) from error
        found = drawn(found, frame, self.method.detector)
        named = [
            (mask, _Object(int(label), float(score), prompt.stamp_ns, True))
            for mask, label, score in zip(found.masks or (), found.labels, found.scores)
            if mask is not None and mask.width
        ]
        if not named:
            raise PromptError(f"nothing that answers to '{prompt.text}' is seen")
        self._room(len(named))
        return named

    def _meant(self, frame: Frame, prompt: Prompt) -> Mask:
        """Return the mask that somebody pointed at in a frame."""
        assert self._last is not None
        if not prompt.track_id:
            self._room(1)
        own = self._last.seen.get(prompt.track_id, NOTHING)
        away = len(prompt.points) > 0 and not prompt.positive.any() and prompt.box is None
        if away and prompt.mask is None:
            if not own.width:
                raise PromptError('clicks on what is not meant need an object that is seen')
            there = dataclasses.replace(prompt, positive=~prompt.positive)
            left = without(own, self.method.segmenter.segment(frame, there)[0].mask)
            if not left.width:
                raise PromptError('nothing would be left of the object')
            return large(left)
        found = self.method.segmenter.segment(frame, prompt)
        best = [each for each in found if agreement(each.mask, prompt) == 1] or found
        return best[0].mask.clipped(*frame.shape)

    def _brought_to_now(self, frame: Frame, encoded: Any, masks: Sequence[Mask]) -> list[Mask]:
        """Carry masks of an earlier frame to the last one."""
        assert self._last is not None
        if frame.stamp_ns == self._last.frame.stamp_ns:
            return list(masks)
        if frame.shape != self._last.frame.shape:
            raise PromptError('the images have changed their size since')
        now = []
        for mask in masks:
            memory = self.method.propagator.memory()
            both = stacked([mask], frame.shape, self.method.device)
            memory.remember(encoded, [1], both, certain=True)
            now.append(most_probable(memory.read(self._last.encoded), [1])[1])
        if not any(mask.width for mask in now):
            raise PromptError('it is not seen any more')
        return now

    def _tracks(self, seen: Mapping[int, Mask]) -> Instances:
        """Return the objects that are seen, best first."""
        pairs = [(i, self._objects[i], mask) for i, mask in seen.items() if mask.width]
        pairs.sort(key=lambda pair: -pair[1].score)
        return Instances(
            boxes=np.array([mask.box for *_, mask in pairs], np.float32).reshape(-1, 4),
            scores=np.array([each.score for _, each, _ in pairs], np.float32),
            labels=np.array([each.label for _, each, _ in pairs], np.int32),
            masks=tuple(mask for *_, mask in pairs),
            track_ids=np.array([i for i, *_ in pairs], np.int64),
            states=np.full(len(pairs), TrackState.TRACKED, np.uint8),
            first_seen_ns=np.array([each.first_seen_ns for _, each, _ in pairs], np.int64),
        )

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


def _class_names(detector: Detector) -> Mapping[int, str]:
    names: Mapping[int, str] = getattr(detector, 'class_names', {})
    return names
