# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The method ``sam_pt``: points of objects are followed, and a mask is asked for by them.

Rajic et al., "Segment Anything Meets Point Tracking" (2023).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from masa_ros.detectors import DETECTORS
from masa_ros.detectors.masa import Encoded
from masa_ros.detectors.prompted import MasaSegmenter
from masa_ros.detectors.protocol import Detector
from masa_ros.errors import PromptError
from masa_ros.methods import pointing
from masa_ros.methods.deva.detections import drawn, limited
from masa_ros.methods.deva.segments import NOTHING, intersections, paint, split
from masa_ros.methods.finding import Finding, eye, scaled
from masa_ros.methods.pointing import Meant
from masa_ros.methods.protocol import Log, Session
from masa_ros.methods.sam_pt.drawers import drawer_of
from masa_ros.methods.sam_pt.following import Drawer, Follower, Found, Moment
from masa_ros.methods.sam_pt.options import SamPtConfig
from masa_ros.methods.sam_track.rules import merge, new_objects
from masa_ros.methods.seeking import Object, lost, tracks
from masa_ros.methods.sought import answering, class_names, names_of
from masa_ros.models.devices import choose_device
from masa_ros.point_trackers import POINT_TRACKERS
from masa_ros.point_trackers.protocol import PointTracker
from masa_ros.types import Frame, Instances, Mask, Prompt, Result


class Looked(NamedTuple):
    """What the point tracker and what the network that draws have made of a frame."""

    points: Any
    picture: Encoded


class SamPt(Finding):
    """Follow points, draw masks by them; see ``Method``.

    Parameters
    ----------
    detector: finds objects, where any are to be looked for.
    segmenter: answers prompts; its network draws the masks.
    tracker: follows points.
    config: of the method; what concerns loading is taken as it is.
    device: where the networks run.
    log: takes lines about engines.

    """

    name: str = 'sam_pt'
    options: type = SamPtConfig
    loaded = ('detector', 'point_tracker', 'released')
    config: SamPtConfig
    segmenter: MasaSegmenter

    def __init__(
        self,
        detector: Detector,
        segmenter: MasaSegmenter,
        tracker: PointTracker[Any],
        config: SamPtConfig | None = None,
        device: str = 'cpu',
        log: Log = lambda text: None,
    ) -> None:
        super().__init__(detector, config, device, log, segmenter)
        self.tracker = tracker
        self._compile('point_tracker', tracker, log)

    @classmethod
    def load(cls, options: SamPtConfig, log: Log) -> SamPt:
        """Load the networks, and begin with engines where the size of the images is known.

        Raises
        ------
        ConfigError, WeightsError
            With a text that names the option or file.

        """
        device = str(choose_device(options.device))
        tracker = POINT_TRACKERS[options.point_tracker].load(options.pointer, device)
        detector = DETECTORS[options.detector].load(options.finder, device)
        method = cls(detector, eye(detector, device), tracker, options, device, log)
        method.begin()
        return method

    @property
    def drawer(self) -> Drawer:
        """What draws the masks."""
        return drawer_of(self.segmenter.detector, self.config.passes)

    def encode(self, frames: Sequence[Frame]) -> list[Looked]:
        """Let the point tracker and the network that draws see the frames; see ``Method``."""
        if not frames:
            return []
        pictures = self.segmenter.detector.encode([frame.image for frame in frames])
        return [Looked(*both) for both in zip(self.tracker.encode(frames), pictures)]

    def search(self, frame: Frame, looked: Looked) -> Instances:
        """Find what is looked for in a frame that the networks have seen."""
        own, words = self.segmenter.detector, self.config.sought
        if self.detector is not own:
            return self.look(frame)
        return answering(own.find(looked.picture, names_of(words)), own, words)

    def session(self, after: Session[Any] | None = None) -> SamPtSession:
        """Begin a session; ``after`` hands its objects over."""
        return SamPtSession(self, after if isinstance(after, SamPtSession) else None)

    def parts(self) -> dict[str, Mapping[str, Any]]:
        """Return what the networks tell of themselves, by what each is."""
        return {'point_tracker': self.tracker.facts(), **super().parts()}


class SamPtSession:
    """See ``Session``. Frames are answered when their points are decided.

    Objects begin anew with the masks they had last: when images of another size come, which are
    taken for the same view, scaled; after an end; and after an error, which may have come between
    the points and their frame.

    Parameters
    ----------
    method: whose networks and options are used.
    after: whose objects are taken over.

    """

    _broken: bool

    def __init__(self, method: SamPt, after: SamPtSession | None = None) -> None:
        self.method = method
        self._objects: dict[int, Object] = {}
        self._largest = self._refused = self._forgotten = 0
        self._random = np.random.default_rng(0)
        self._given: dict[int, Instances | None] = {}
        self._looked: dict[int, Looked] = {}
        self._seen: dict[int, Mask] = {}
        self._shown: Frame | None = None  # the last that was answered
        self._count = 0  # frames that were answered
        self._names = class_names(method.detector)
        self._begin()
        if after is not None:
            self._objects, self._largest = after._objects, after._largest
            self._refused, self._forgotten = after._refused, after._forgotten
            self._seen, self._shown, self._count = after._seen, after._shown, after._count
            if self._shown is not None and not after._broken:
                self._take_over(after)
            self._broken = after._broken

    def _begin(self) -> None:
        """Follow nothing."""
        method = self.method
        self._follower = Follower(
            method.tracker, method.drawer, method.config.rules, self._random.permutation
        )
        self._answered = -1
        self._broken = False  # what is followed, and has to begin anew
        self._given.clear()
        self._looked.clear()

    def update(
        self, frame: Frame, encoded: Looked, given: Instances | None = None
    ) -> Sequence[Result]:
        """Follow the objects, and look for new ones when it is time; see ``Session``."""
        results = []
        shown = self._shown
        if shown is not None and (self._broken or shown.shape != frame.shape):
            if not self._broken:
                results = self.finish()
            self._begin_anew(frame.shape)
        follower, self._broken = self._follower, True
        follower.rules, follower.drawer = self.method.config.rules, self.method.drawer
        self._take(frame, encoded, given)
        follower.advance()
        results += self._answer()
        self._broken = False
        return results

    def _take(self, frame: Frame, encoded: Looked, given: Instances | None) -> None:
        follower = self._follower
        follower.take(Moment(frame, *encoded))
        self._given[follower.last], self._looked[follower.last] = given, encoded

    def _answer(self, end: bool = False) -> list[Result]:
        """Answer the frames that are decided."""
        follower, results = self._follower, []
        while self._answered < (follower.last if end else follower.decided):
            self._answered += 1
            results.append(self._result(self._answered))
        follower.forget(self._answered)
        return results

    def _result(self, number: int) -> Result:
        """Answer a frame, and look for new objects in it when it is time."""
        follower, config = self._follower, self.method.config
        frame, given = follower.moment(number).frame, self._given.pop(number)
        looked = self._looked.pop(number)
        found = {i: each for i, each in follower.found(number).items() if i in self._objects}
        due = self._count % config.detection_every == 0
        self._count += 1
        begun: dict[int, Mask] = {}
        if due and (given is not None or config.find != 'nothing'):
            masks = {i: each.mask for i, each in found.items()}
            begun = self._new(frame, masks, self._look(frame, looked, given))
            if begun:
                follower.begin_masks(number, begun)
                follower.advance()
        for track_id, each in self._objects.items():
            seen = track_id in begun or (track_id in found and found[track_id].mask.width > 0)
            each.unseen = 0 if seen else each.unseen + 1
        for track_id in lost(self._objects, config, self._names):
            follower.remove(track_id)
            self._forgotten += 1
        found = {i: each for i, each in follower.found(number).items() if i in self._objects}
        self._seen, self._shown = {i: each.mask for i, each in found.items()}, frame
        return Result(frame, self._tracks(self._seen, found), self._names)

    def _look(self, frame: Frame, looked: Looked, given: Instances | None) -> Instances:
        """Return what is in a frame, with masks."""
        method = self.method
        if given is None:
            given = method.search(frame, looked)
        kept, refused = limited(given, frame.shape, method.config.max_objects)
        self._refused += refused
        return drawn(kept, frame, method.segmenter.detector)

    def _new(self, frame: Frame, seen: Mapping[int, Mask], found: Instances) -> dict[int, Mask]:
        """Begin objects with what lies where nothing is tracked, as SAM-Track does."""
        chosen = self.method.config.finding
        order = np.argsort(-found.scores, kind='stable')[::-1]  # the best are painted last
        masks = [mask for i in order if (mask := (found.masks or ())[i])]
        numbers = merge([mask.full(*frame.shape) for mask in masks], frame.shape, chosen)
        tracked = paint(list(seen.values()), frame.shape)
        new = new_objects(tracked, numbers, self._largest + 1, len(self._objects), chosen)
        begun: dict[int, Mask] = {}
        for track_id in np.unique(new[new > 0]).tolist():
            (mask,) = split((new == track_id).astype(np.int32), 1)
            source = int(order[np.argmax(intersections([mask], masks)[0])])
            begun[track_id] = mask
            self._objects[track_id] = Object(
                int(found.labels[source]), float(found.scores[source]), frame.stamp_ns, False
            )
        self._largest = max([self._largest, *begun])
        return begun

    def _begin_anew(self, shape: tuple[int, int]) -> None:
        """Begin with the masks of the last frame that was answered, scaled to a size."""
        assert self._shown is not None
        frame, seen = scaled(self._shown, self._seen, shape)
        (looked,) = self.method.encode([frame])
        self._begin()
        self._follower.take(Moment(frame, *looked))
        self._answered = 0
        there = {i: mask for i, mask in seen.items() if mask.width and i in self._objects}
        if there:
            self._follower.begin_masks(0, there)

    def _take_over(self, after: SamPtSession) -> None:
        """Follow the objects of another session through the frames that it has not answered."""
        theirs, known = after._follower, set[int]()
        for number in range(after._answered, theirs.last + 1):
            frame = theirs.moment(number).frame
            (looked,) = self.method.encode([frame])
            self._take(frame, looked, after._given.get(number))
            begun = {
                i: each.mask
                for i, each in theirs.found(number).items()
                if each.mask.width and i in self._objects.keys() - known
            }
            if begun:
                self._follower.begin_masks(self._follower.last, begun)
            known |= begun.keys()
        del self._given[0], self._looked[0]
        self._answered = 0

    def prompt(self, frame: Frame, encoded: Looked, prompt: Prompt) -> Instances:
        """Begin or correct an object; see ``Session``.

        It is followed from the last frame that was taken, and kept however long it is not seen.
        Text begins all objects that answer to it.
        """
        if self._follower.last < 0:
            raise PromptError('no image has been tracked yet')
        answered = self._meant(frame, encoded, prompt)
        now = self._brought(frame, encoded, [each.mask for each in answered])
        ids = []
        for each, mask in zip(answered, now):
            track_id = prompt.track_id or self._largest + 1
            if not prompt.track_id:
                self._objects[track_id] = Object(each.label, each.score, frame.stamp_ns, True)
            self._largest = max(self._largest, track_id)
            self._follower.remove(track_id)
            if mask.width:
                self._follower.begin_masks(self._follower.last, {track_id: mask})
            self._seen[track_id] = mask
            ids.append(track_id)
        return tracks(self._objects, dict(zip(ids, (each.mask for each in answered))))

    def _meant(self, frame: Frame, encoded: Looked, prompt: Prompt) -> list[Meant]:
        """Return what a prompt means in its frame; what it corrects is kept from now on."""
        method, known = self.method, self._objects.get(prompt.track_id)
        if prompt.track_id and known is None:
            raise PromptError(f'no track has the id {prompt.track_id}')
        if pointing.by_name(prompt):
            find = functools.partial(method.named, frame)
            answered = pointing.named(frame, prompt, find, method.detector)
        else:
            own = self._follower.newest(prompt.track_id)
            segment = functools.partial(method.segmenter.segment, encoded=encoded.picture)
            answered = [pointing.pointed_at(frame, prompt, segment, own)]
        if known is None:
            pointing.check_room(len(self._objects), len(answered), method.config.max_objects)
        else:
            known.pointed_at, known.unseen = True, 0
        return answered

    def _brought(self, frame: Frame, encoded: Looked, masks: Sequence[Mask]) -> list[Mask]:
        """Follow masks from a frame to the last one that was taken."""
        follower = self._follower
        last = follower.moment(follower.last)
        if frame.stamp_ns == last.frame.stamp_ns:
            return list(masks)
        if frame.shape != last.frame.shape:
            raise PromptError('the images have changed their size since')
        only = Follower(
            self.method.tracker,
            self.method.drawer,
            dataclasses.replace(follower.rules, variant=None, released=False),
            self._random.permutation,
        )
        only.take(Moment(frame, *encoded))
        only.begin_masks(0, dict(enumerate(masks)))
        only.take(last)
        only.advance(end=True)
        found = only.found(1)
        now = [found[i].mask if i in found else NOTHING for i in range(len(masks))]
        if not any(mask.width for mask in now):
            raise PromptError('it is not seen any more')
        return now

    def _tracks(self, seen: Mapping[int, Mask], found: Mapping[int, Found]) -> Instances:
        """Return the objects that are seen, best first, with their points."""
        made = tracks(self._objects, seen)
        points = tuple(found[i].tracked if i in found else None for i in made.track_ids.tolist())
        return dataclasses.replace(made, points=points)

    def ids(self) -> Sequence[int]:
        """Return the objects that are remembered."""
        return list(self._objects)

    def remove(self, track_id: int) -> bool:
        """Forget an object; False where none has this id."""
        if self._objects.pop(track_id, None) is None:
            return False
        self._follower.remove(track_id)
        self._seen.pop(track_id, None)
        return True

    def finish(self) -> list[Result]:
        """Answer the frames that are open with what is known of them."""
        if self._broken or self._answered == self._follower.last:
            return []
        self._broken = True
        self._follower.advance(end=True)
        return self._answer(end=True)

    def reset(self) -> None:
        """Forget all objects; where any are looked for, that is at once."""
        self._objects, self._seen, self._shown, self._count = {}, {}, None, 0
        self._begin()

    def figures(self) -> Mapping[str, Any]:
        """Return how much is remembered, and what was refused or forgotten so far."""
        return {
            'tracks_in_memory': len(self._objects),
            'frames_open': self._follower.last - self._answered,
            'detections_refused': self._refused,
            'objects_forgotten': self._forgotten,
        }
