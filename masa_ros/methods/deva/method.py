# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The method ``deva``: masks are carried on; every few frames detections are merged with them.

Cheng et al., "Tracking Anything with Decoupled Video Segmentation" (ICCV 2023).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from masa_ros.errors import PromptError
from masa_ros.methods import pointing
from masa_ros.methods.carrying import Carrying, brought, networks
from masa_ros.methods.deva.consensus import consensus
from masa_ros.methods.deva.detections import drawn, limited, segments, tracks
from masa_ros.methods.deva.merging import Object, Table
from masa_ros.methods.deva.options import DevaConfig
from masa_ros.methods.deva.segments import (
    NOTHING,
    Segment,
    Shape,
    Votes,
    cut,
    free_layer,
    most_probable,
    stacked,
)
from masa_ros.methods.finding import eye, scaled
from masa_ros.methods.pieces import without
from masa_ros.methods.pointing import Meant
from masa_ros.methods.protocol import Log, Session
from masa_ros.propagators.protocol import Memory
from masa_ros.types import Frame, Instances, Mask, Prompt, Result


class Deva(Carrying):
    """Track anything with decoupled video segmentation; see ``Method`` and ``Carrying``."""

    name: str = 'deva'
    options: type = DevaConfig
    config: DevaConfig

    @classmethod
    def load(cls, options: DevaConfig, log: Log) -> Deva:
        """Load both networks and begin with engines where the size of the images is known.

        Raises
        ------
        ConfigError, WeightsError
            With a text that names the option or file.

        """
        detector, propagator, device = networks(options)
        segmenter = eye(detector, device)
        method = cls(detector, propagator, options, device, log, segmenter)
        method.begin()
        return method

    def session(self, after: Session[Any] | None = None) -> DevaSession:
        """Begin a session; ``after`` hands its objects and open frames over."""
        return DevaSession(self, after if isinstance(after, DevaSession) else None)


class _Open(NamedTuple):
    """A frame that is not answered yet, and the segments found in it.

    Attributes
    ----------
    frame, encoded, found: see above.
    asked: masks that somebody pointed at, by the ids of their objects.

    """

    frame: Frame
    encoded: Any
    found: list[Segment]
    asked: dict[int, Mask]


class _Last(NamedTuple):
    """The last frame that was answered, and the mask of every object in it by its id."""

    frame: Frame
    encoded: Any
    seen: dict[int, Mask]


class DevaSession:
    """See ``Session``. With ``clip_frames`` of 1 every frame is answered at once.

    Every ``detection_every`` frames the detections of ``clip_frames`` frames make a consensus for
    the first of them, which is merged with what the memory says of that frame; the others, and all
    between, are carried on. The frames of a clip are answered with its last.

    Images of another size are taken for the same view, scaled: the last image and its masks are
    brought to the new size, and the memory begins anew with them.

    Parameters
    ----------
    method: whose networks and options are used.
    after: whose objects and open frames are taken over.

    """

    def __init__(self, method: Deva, after: DevaSession | None = None) -> None:
        self.method = method
        self.table = Table()
        self._clear()
        self._refused = self._deleted = 0
        if after is not None:
            self._take_over(after)

    def _clear(self) -> None:
        self._memories: list[Memory[Any]] = []  # one a layer of objects
        self._open: list[_Open] = []
        self._last: _Last | None = None
        self._index, self._vote_at = 0, self.method.config.clip_frames - 1
        self._names: Mapping[int, str] = MappingProxyType({})

    def _take_over(self, after: DevaSession) -> None:
        """Go on where another session stands, with networks of one's own."""
        self.table, self._last, self._names = after.table, after._last, after._names
        self._index, self._vote_at = after._index, after._vote_at
        self._refused, self._deleted = after._refused, after._deleted
        encode = self.method.propagator.encode
        self._open = [each._replace(encoded=encode([each.frame])[0]) for each in after._open]
        if self._last is not None:
            self._begin_anew(self._last.frame.shape)

    @torch.inference_mode()
    def update(
        self, frame: Frame, encoded: Any, given: Instances | None = None
    ) -> Sequence[Result]:
        """Carry the objects on, and look for new ones when it is time.

        Of given detections those are taken that come with a frame in which objects are looked for.
        """
        config = self.method.config
        answered = self._follow_size(frame.shape)
        # Looks that were far apart come closer when the options change.
        most = max(config.detection_every, config.clip_frames)
        self._vote_at = min(self._vote_at, self._index + most - 1)
        looked = bool(self._open) or self._index + config.clip_frames > self._vote_at
        if given is None and config.find == 'nothing':
            looked, answered = False, [*answered, *self._close()]
        # A clip that is complete is late where looking failed when it was its time.
        due = self._index >= self._vote_at or len(self._open) + 1 >= config.clip_frames
        self._index += 1
        if not looked:
            return [*answered, self._carry_on(frame, encoded)]
        if due:
            self._vote_at = self._index - 1 + config.detection_every
        self._open.append(_Open(frame, encoded, self._look(frame, given), {}))
        return [*answered, *self._decide()] if due else answered

    def _look(self, frame: Frame, given: Instances | None) -> list[Segment]:
        """Return what is in a frame."""
        detector, config = self.method.detector, self.method.config
        self._names = MappingProxyType({})
        if given is None:
            self._names = getattr(detector, 'class_names', self._names)
            given = self.method.look(frame)
        kept, refused = limited(given, frame.shape, config.max_objects)
        self._refused += refused
        return segments(drawn(kept, frame, detector), frame.shape, config.keep_overlaps)

    def _decide(self) -> list[Result]:
        """Answer the open frames: what is found in them is true of the first."""
        clip, self._open = self._open, []  # at once: what fails is not to be tried for ever
        first = clip[0]
        found = first.found
        if len(clip) > 1:
            agreed = consensus([self._aligned(each, first) for each in clip])
            masks = [segment.mask for segment in agreed]
            if not self.method.config.keep_overlaps:
                masks = cut(masks, first.frame.shape)
            found = [Segment(mask, each.votes) for mask, each in zip(masks, agreed)]
        answered = [self._merge(first, found)]
        return answered + [self._carry_on(*each[:2], each.asked) for each in clip[1:]]

    def _aligned(self, source: _Open, target: _Open) -> list[Segment]:
        """Return the segments of a frame as they lie in another one (equation 1)."""
        if source is target:
            return source.found
        layers: list[list[int]] = [[] for _ in range(self.method.config.rules.layers)]
        for i, segment in enumerate(source.found):
            held = [[source.found[j].mask for j in layer] for layer in layers]
            layers[free_layer(segment.mask, held)].append(i)
        moved: dict[int, Mask] = {}
        for layer in filter(None, layers):
            memory = self.method.propagator.memory()
            masks = cut([source.found[i].mask for i in layer], source.frame.shape)
            painted = stacked(masks, source.frame.shape, self.method.device)
            memory.remember(source.encoded, layer, painted, True)
            moved |= most_probable(memory.read(target.encoded), layer)
        return [Segment(moved[i], each.votes) for i, each in enumerate(source.found)]

    def _merge(self, clip: _Open, found: Sequence[Segment]) -> Result:
        """Merge what was found in the first frame of a clip with what the memory says of it."""
        rules, objects = self.method.config.rules, self.table.objects
        frame, encoded = clip.frame, clip.encoded
        seen = self._read(encoded)
        # A detection of which nothing is seen must not become an object.
        visible = [segment for segment in found if segment.mask.width]
        propagated = [seen[each.track_id] for each in objects]
        masks = self.table.merge(propagated, visible, frame.shape, rules, frame.stamp_ns)
        seen = {each.track_id: mask for each, mask in zip(self.table.objects, masks)}
        gone = self.table.missed(rules)
        self.table.remove(gone)
        self._deleted += len(gone)
        return self._remembered(frame, encoded, self._in_front(seen, clip.asked))

    def _in_front(self, seen: dict[int, Mask], asked: Mapping[int, Mask]) -> dict[int, Mask]:
        """Put what somebody pointed at over what is seen, in the same layer."""
        layers = {each.track_id: each.layer for each in self.table.objects}
        for track_id, mask in asked.items():
            if track_id not in layers:
                continue  # removed since
            seen = {
                i: without(other, mask) if layers.get(i) == layers[track_id] else other
                for i, other in seen.items()
            } | {track_id: mask}
            # What they know of an object that is corrected is wrong.
            for memory in self._memories:
                if track_id in memory.ids:
                    memory.drop([track_id])
        return seen

    def _remembered(self, frame: Frame, encoded: Any, seen: dict[int, Mask]) -> Result:
        """Put what is certain of a frame into the memories, and answer it."""
        layers = 1 + max((each.layer for each in self.table.objects), default=0)
        while len(self._memories) < layers:
            self._memories.append(self.method.propagator.memory())
        for layer, memory in enumerate(self._memories):
            ids = [each.track_id for each in self.table.objects if each.layer == layer]
            if ids:
                masks = stacked([seen[i] for i in ids], frame.shape, self.method.device)
                memory.remember(encoded, ids, masks, certain=True)
            else:
                memory.forget()
        return self._answer(frame, encoded, seen)

    def _carry_on(
        self, frame: Frame, encoded: Any, asked: Mapping[int, Mask] = MappingProxyType({})
    ) -> Result:
        """Answer a frame by what the memory says of it, and what somebody pointed at in it."""
        seen = self._read(encoded)
        if asked:
            return self._remembered(frame, encoded, self._in_front(seen, asked))
        for memory in self._memories:
            if memory.ids:
                memory.remember(encoded, memory.ids)
        return self._answer(frame, encoded, seen)

    def _read(self, encoded: Any) -> dict[int, Mask]:
        """Return where every object is, by its id; nowhere, where the memory failed to take it."""
        seen = self._nowhere()
        for memory in self._memories:
            if memory.ids:
                seen |= most_probable(memory.read(encoded), memory.ids)
        return seen

    def _nowhere(self) -> dict[int, Mask]:
        return dict.fromkeys((each.track_id for each in self.table.objects), NOTHING)

    def _answer(self, frame: Frame, encoded: Any, seen: dict[int, Mask]) -> Result:
        objects = self.table.objects
        known = {each.track_id: seen[each.track_id] for each in objects}
        self._last = _Last(frame, encoded, known)
        found = tracks(objects, list(known.values()))
        return Result(frame, found, self._names)

    def _follow_size(self, shape: Shape) -> list[Result]:
        """Answer open frames of another size, and bring the objects to the new one."""
        before = self._open[-1].frame if self._open else self._last and self._last.frame
        if before is None or before.shape == shape:
            return []
        answered = self._close()
        self._begin_anew(shape)
        return answered

    def _begin_anew(self, shape: Shape) -> None:
        """Let new memories begin with the last frame, scaled to a size."""
        assert self._last is not None
        frame, seen = scaled(self._last.frame, self._last.seen, shape)
        self._memories = []
        (encoded,) = self.method.propagator.encode([frame])
        self._remembered(frame, encoded, self._nowhere() | seen)

    @torch.inference_mode()
    def prompt(self, frame: Frame, encoded: Any, prompt: Prompt) -> Instances:
        """Begin or correct an object; see ``Session``.

        What is pointed at lies in front of all others until detections are merged the next time,
        and is not deleted when they miss it. It is carried to the last frame that was answered
        and remembered there; where its own frame is open, it is when that is answered.
        """
        opened = next((o for o in self._open if o.frame.stamp_ns == frame.stamp_ns), None)
        last = self._last
        if opened is None and last is None:
            raise PromptError('no image has been tracked yet')
        corrected, answered = self._answered(frame, prompt, opened)
        masks = now = [each.mask for each in answered]
        if opened is None and last is not None:
            there, here = (frame, encoded), (last.frame, last.encoded)
            now = brought(self.method.propagator, there, here, masks, self.method.device)
        if corrected is None:
            objects = [self._begin(*each, frame.stamp_ns) for each in zip(answered, now)]
        else:
            objects, corrected.pointed_at, corrected.missed = [corrected], True, 0
        asked = {each.track_id: mask for each, mask in zip(objects, now)}
        if opened is not None:
            opened.asked.update(asked)
        elif last is not None:
            seen = self._in_front(self._nowhere() | last.seen, asked)
            self._remembered(last.frame, last.encoded, seen)
        return tracks(objects, masks)

    def _answered(
        self, frame: Frame, prompt: Prompt, opened: _Open | None
    ) -> tuple[Object | None, list[Meant]]:
        """Return the object that a prompt corrects, if any, and what it means in its frame."""
        method, known = self.method, self.table.find(prompt.track_id)
        if prompt.track_id and known is None:
            raise PromptError(f'no track has the id {prompt.track_id}')
        if pointing.by_name(prompt):
            find = functools.partial(method.named, frame)
            answered = pointing.named(frame, prompt, find, method.detector)
        else:
            if method.segmenter is None:
                raise PromptError('nothing answers prompts here')
            seen = (self._last.seen if self._last else {}) | (opened.asked if opened else {})
            own = seen.get(prompt.track_id, NOTHING)
            answered = [pointing.pointed_at(frame, prompt, method.segmenter.segment, own)]
        if known is None:
            pointing.check_room(len(self.table), len(answered), method.config.max_objects)
        return known, answered

    def _begin(self, meant: Meant, mask: Mask, stamp_ns: int) -> Object:
        """Begin an object that somebody points at; ``mask``: where the memory begins with it."""
        count, seen = self.method.config.rules.layers, self._last.seen if self._last else {}
        layers: list[list[Mask]] = [[] for _ in range(count)]
        for each in self.table.objects:
            if each.layer < count:
                layers[each.layer].append(seen.get(each.track_id, NOTHING))
        made = self.table.begin(
            Votes.of(meant.label, meant.score), stamp_ns, free_layer(mask, layers)
        )
        made.pointed_at = True
        return made

    def ids(self) -> Sequence[int]:
        """Return the objects that are remembered."""
        return [each.track_id for each in self.table.objects]

    def remove(self, track_id: int) -> bool:
        """Forget an object; False where none has this id."""
        for memory in self._memories:
            if track_id in memory.ids:
                memory.drop([track_id])
        if self._last is not None:
            self._last.seen.pop(track_id, None)
        return self.table.remove([track_id])

    @torch.inference_mode()
    def finish(self) -> Sequence[Result]:
        """Answer the frames of a clip that is not complete: by what the memory says of them.

        Where it knows no object yet, what was found in them must do.
        """
        return self._close()

    def _close(self) -> list[Result]:
        if self._open and not any(memory.ids for memory in self._memories):
            return self._decide()
        clip, self._open = self._open, []
        return [self._carry_on(*each[:2], each.asked) for each in clip]

    def reset(self) -> None:
        """Forget all objects and open frames; objects are looked for at once."""
        self.table.remove([each.track_id for each in self.table.objects])
        self._clear()

    def figures(self) -> Mapping[str, Any]:
        """Return how much is remembered, and what was refused or deleted so far."""
        held = [memory.figures() for memory in self._memories]
        return {
            'tracks_in_memory': len(self.table),
            'memory_frames': max((each['memory_frames'] for each in held), default=0),
            'memory_bytes': sum(each['memory_bytes'] for each in held),
            'frames_open': len(self._open),
            'detections_refused': self._refused + self.table.refused,
            'objects_deleted': self._deleted,
        }
