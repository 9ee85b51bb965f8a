# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The method ``masa``: one network pass finds, describes and draws; association gives ids."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from masa_ros.detectors import load_beside
from masa_ros.detectors.masa import Encoded, MasaDetector
from masa_ros.detectors.prompted import MasaSegmenter
from masa_ros.detectors.protocol import Companion, Detector
from masa_ros.engines.prepare import Engines
from masa_ros.errors import ConfigError, PromptError
from masa_ros.methods import pointing
from masa_ros.methods.deva.segments import NOTHING
from masa_ros.methods.masa.options import OWN, MasaConfig
from masa_ros.methods.pointing import Meant
from masa_ros.methods.protocol import Log, Session
from masa_ros.methods.sought import Word, answering, names_of
from masa_ros.tracking import AnyTracker, Tracker, TrackerConfig, geometry, make_tracker
from masa_ros.types import Expected, Frame, Instances, Prompt, Result, TrackState

_SAME_BOX = 0.5  # IoU from which what is pointed at is a track that is there
_REMEMBERED = 1000  # frames, the most that a stream holds: where the tracks were in each


class MasaEncoded(NamedTuple):
    """A frame behind the network's image part, and what another detector found in it."""

    image: Encoded
    found: Instances | None


class Masa:
    """Segment and track everything (Li et al., CVPR 2024); see ``Method``.

    Parameters
    ----------
    detector: the network; shared by all sessions.
    config: of the method; what concerns loading is taken as it is.
    finder: finds the objects instead of the network's own proposals.
    log: takes lines about engines.

    """

    name: str = 'masa'
    options: type = MasaConfig
    accepts: frozenset[str] = frozenset({'point', 'box', 'mask', 'text'})

    def __init__(
        self,
        detector: MasaDetector,
        config: MasaConfig | None = None,
        finder: Detector | None = None,
        log: Log = lambda text: None,
    ) -> None:
        self.detector, self.config, self.finder = detector, config or MasaConfig(), finder
        self._check(self.config)
        self.device = detector.device
        self.segmenter = MasaSegmenter(detector)
        if isinstance(self.config.tracker, TrackerConfig):
            self.accepts = pointing.kinds(self.segmenter, finder or detector)
        else:
            self.accepts = frozenset()
        self.engines = Engines(detector, self.config.engines, log)
        detector.runs = self.engines.runs

    @classmethod
    def load(cls, options: MasaConfig, log: Log) -> Masa:
        """Load the network and begin with its engines where the size of the images is known.

        Raises
        ------
        ConfigError, WeightsError
            With a text that names the option or file.

        """
        detector = MasaDetector.load(options.network)
        finder = None
        if options.detector != OWN:
            finder = load_beside(options.detector, options.finder, detector)
        camera = options.engines.camera
        width, height = camera or (640, 480)
        # The first real image must not wait for kernels to be chosen and memory to be taken.
        blank = np.zeros((height, width, 3), np.uint8)
        detector.find(detector.encode([blank])[0])
        method = cls(detector, options, finder, log)
        if camera:
            method.engines.runs(detector.input_shape(height, width))
        return method

    def _check(self, config: MasaConfig) -> None:
        """Raise ConfigError where what is looked for does not go with the rest."""
        if self.detector.draws_only:
            raise ConfigError(
                f'the method {self.name} knows objects again by their embeddings, and '
                f'{self.detector.name} makes none: take another method, or another model'
            )
        config.fits(self.finder or self.detector)
        if config.find == 'nothing' and not isinstance(config.tracker, TrackerConfig):
            raise ConfigError('find is nothing, and the released associations take no prompts')

    def encode(self, frames: Sequence[Frame]) -> list[MasaEncoded]:
        """Run the network's image part, and the other detector where there is one."""
        encoded = self.detector.encode([frame.image for frame in frames])
        found: Sequence[Instances | None] = [None] * len(frames)
        if self.finder is not None and self.config.find != 'nothing':
            found = self._ask(self.finder, frames, encoded, self.config.sought)
        return [MasaEncoded(*pair) for pair in zip(encoded, found)]

    def _ask(
        self,
        finder: Detector,
        frames: Sequence[Frame],
        encoded: Sequence[Encoded],
        words: Sequence[Word],
    ) -> list[Instances]:
        """Ask the other detector."""
        asked = names_of(words)
        if isinstance(finder, Companion) and finder.shares:  # one pass of the backbone serves both
            found = finder.find(encoded, asked)
        else:
            found = finder.detect(frames, asked)
        return [answering(each, finder, words) for each in found]

    def find(self, encoded: MasaEncoded, words: Sequence[Word]) -> Instances:
        """Return what the network itself finds in a frame, of what words name if there are any."""
        found = self.detector.find(encoded.image, names_of(words))
        return answering(found, self.detector, words)

    def named(self, frame: Frame, encoded: MasaEncoded, words: Sequence[Word]) -> Instances:
        """Return what words name in a frame; raises ConfigError for one that is not known."""
        if self.finder is None:
            return self.find(encoded, words)
        return self._ask(self.finder, [frame], [encoded.image], words)[0]

    def session(self, after: Session[Any] | None = None) -> MasaSession:
        """Begin a session; ``after`` hands its tracks over."""
        return MasaSession(self, after if isinstance(after, MasaSession) else None)

    def configure(self, options: MasaConfig) -> None:
        """Take new thresholds; the network, the kind of association and the tracks stay."""
        if type(options.tracker) is not type(self.config.tracker):
            raise ConfigError('association: read when the method is loaded')
        self._check(options)
        self.detector.configure(options.network)
        self.config = options

    def describe(self) -> Mapping[str, Any]:
        """Return what was loaded and how it runs."""
        finder = {} if self.finder is None else dict(self.finder.facts())
        return {
            'method': self.name,
            **self.detector.facts(),
            **{f'detector_{name}': value for name, value in finder.items()},
            'engines': self.engines.status,
        }

    def prepare(self, height: int, width: int) -> bool:
        """Wait for the engines of images of this size; False when one runs eagerly."""
        self.engines.prepare(self.detector.input_shape(height, width))
        return not self.engines.failed

    def interrupt(self) -> None:
        """Let who waits for an engine go on eagerly."""
        self.engines.interrupt()

    def close(self) -> None:
        """Give the engines up: what is built for them now is not put to use any more."""
        self.engines.close()


class _Known(NamedTuple):
    """The tracks of an earlier frame: ids (N,), boxes (N, 4)."""

    stamp_ns: int
    ids: NDArray[np.int64]
    boxes: NDArray[np.floating]


class MasaSession:
    """See ``Session``: every frame is answered at once.

    Parameters
    ----------
    method: whose network and options are used.
    after: whose tracks go on.

    """

    def __init__(self, method: Masa, after: MasaSession | None = None) -> None:
        self.method = method
        self.tracker: AnyTracker = make_tracker(method.config.tracker)
        self._shape: tuple[int, int] | None = None
        self._expected: Expected | None = None
        self._known: collections.deque[_Known] = collections.deque(maxlen=_REMEMBERED)
        if after is not None:
            self.tracker, self._shape, self._known = after.tracker, after._shape, after._known

    def expect(self, expected: Expected) -> None:
        """Take where tracks should be seen in the next frame, see ``Expecting``."""
        self._expected = expected

    def update(
        self, frame: Frame, encoded: MasaEncoded, given: Instances | None = None
    ) -> list[Result]:
        """Find, describe and associate; what is given is all there is."""
        method, tracker = self.method, self.tracker
        detector = method.detector
        tracker.config = method.config.tracker  # type: ignore[assignment]
        self._follow_size(frame.shape)
        places, self._expected = self._expected, None
        described = given if given is not None else encoded.found
        names: Mapping[int, str] = MappingProxyType({})
        if described is not None:
            found = detector.describe(encoded.image, described)
            if given is None:
                names = getattr(method.finder or detector, 'class_names', names)
        else:
            found, names = method.find(encoded, method.config.sought), detector.class_names
        probe = functools.partial(detector.probe, encoded.image)
        # Whoever finds the objects decides what there is: nothing is added to them but what
        # somebody pointed at.
        if isinstance(tracker, Tracker):
            coast, begin = described is None, given is not None or method.config.find != 'nothing'
            tracks = tracker.update(
                found, frame.stamp_ns, probe, coast=coast, begin=begin, places=places
            )
            self._known.append(_Known(frame.stamp_ns, *tracker.seen()))
        else:
            tracks = tracker.update(found, frame.stamp_ns)
        return [Result(frame, tracks, names)]

    def _follow_size(self, shape: tuple[int, int]) -> None:
        """Bring the tracks to the size of the image: most cameras keep the view and scale it."""
        if self._shape is not None and self._shape != shape:
            height, width = self._shape
            self.tracker.rescale(shape[1] / width, shape[0] / height)
            self._known.clear()
        self._shape = shape

    def prompt(self, frame: Frame, encoded: MasaEncoded, prompt: Prompt) -> Instances:
        """Begin or correct a track; see ``Session``.

        It is described in its frame, and in later ones recognised among the detections as any
        other track. Where no detection is it, it is looked for where it should be, for ever. What
        is pointed at and tracked already is that track; where another track is corrected, that
        one ends.
        """
        tracker = self.tracker
        if not isinstance(tracker, Tracker):
            raise PromptError('the released associations take no prompts')
        if not self._known:
            raise PromptError('no image has been tracked yet')
        if frame.shape != self._shape:
            raise PromptError('the images have changed their size since')
        answered = self._answered(frame, encoded, prompt, tracker)
        seen = Instances(
            boxes=np.array([each.mask.box for each in answered], np.float32),
            scores=np.array([each.score for each in answered], np.float32),
            labels=np.array([each.label for each in answered], np.int32),
            masks=tuple(each.mask for each in answered),
        )
        seen = self.method.detector.describe(encoded.image, seen)
        ids = self._there(frame.stamp_ns, seen.boxes, tracker)
        if prompt.track_id:
            for other in set(ids.tolist()) - {0, prompt.track_id}:
                tracker.give_way(other)
            ids = np.array([prompt.track_id], np.int64)
        seen = dataclasses.replace(seen, track_ids=ids)
        # Of a track that is there, later frames say more than this one.
        later = frame.stamp_ns < self._known[-1].stamp_ns and not prompt.track_id
        held = (ids > 0) & later
        for track_id in ids[held].tolist():
            tracker.hold(track_id)
        states = np.full(len(seen), TrackState.TRACKED, np.uint8)
        made = tracker.point(seen[~held], frame.stamp_ns)
        return Instances.concatenate((dataclasses.replace(seen, states=states)[held], made))

    def _answered(
        self, frame: Frame, encoded: MasaEncoded, prompt: Prompt, tracker: Tracker
    ) -> list[Meant]:
        """Return what a prompt means in its frame."""
        method = self.method
        if prompt.track_id and prompt.track_id not in tracker.ids:
            raise PromptError(f'no track has the id {prompt.track_id}')
        if pointing.by_name(prompt):
            find = functools.partial(method.named, frame, encoded)
            return pointing.named(frame, prompt, find, method.detector)
        segment = functools.partial(method.segmenter.segment, encoded=encoded.image)
        own = tracker.mask(prompt.track_id) or NOTHING
        return [pointing.pointed_at(frame, prompt, segment, own)]

    def _there(
        self, stamp_ns: int, boxes: NDArray[np.float32], tracker: Tracker
    ) -> NDArray[np.int64]:
        """Return the track (N,) that each box was in the frame of a stamp; 0 for none."""
        ids = np.zeros(len(boxes), np.int64)
        known = next((each for each in self._known if each.stamp_ns == stamp_ns), None)
        if known is None or not len(known.ids):
            return ids
        overlap = geometry.ious(boxes.astype(np.float64), known.boxes)
        best = overlap.argmax(1)
        same = overlap.max(1) > _SAME_BOX
        ids[same] = known.ids[best[same]]
        ids[~np.isin(ids, tracker.ids)] = 0  # forgotten since
        first = np.unique(ids, return_index=True)[1]
        ids[np.setdiff1d(np.arange(len(ids)), first)] = 0  # no two are the same track
        return ids

    def ids(self) -> Sequence[int]:
        """Return the tracks that are remembered."""
        return self.tracker.ids

    def remove(self, track_id: int) -> bool:
        """Forget a track; False where none has this id."""
        return self.tracker.remove(track_id)

    def finish(self) -> list[Result]:
        """Return nothing: every frame is answered."""
        return []

    def reset(self) -> None:
        """Forget all tracks."""
        self.tracker.reset()
        self._known.clear()

    def figures(self) -> Mapping[str, Any]:
        """Return how many tracks are remembered, and detections that were not finite."""
        return {
            'tracks_in_memory': len(self.tracker),
            'detections_rejected': self.tracker.rejected,
        }
