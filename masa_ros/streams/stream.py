# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One stream of images: which are taken, under which time and ids, and what comes of them."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from masa_ros.errors import PromptError
from masa_ros.methods.protocol import Expecting, Method
from masa_ros.options import option
from masa_ros.streams.classes import ClassNames
from masa_ros.streams.numbering import Numbering
from masa_ros.types import Expected, Frame, Instances, Prompt, Result

E = TypeVar('E')
Tell = Callable[[str, str, int], None]
"""Takes something worth counting: its name, a text, how often it happened."""

_LATE_NS = 500_000_000  # further back than this is a jump of time, not an image out of order


@dataclasses.dataclass(frozen=True)
class StreamConfig:
    """Options of a stream, see ``masa_ros.options``."""

    on_time_jump: str = option(
        'reset',
        'what to do with the tracks when stamps jump back (a bag that loops)',
        choices=('reset', 'continue'),
        live=True,
    )
    held_frames: int = option(
        30,
        'recent images that are kept where the method takes prompts: one made on any of them, or '
        'between them, can be followed',
        1,
        1000,
        live=True,
    )


class Refused(NamedTuple):
    """Why an image is not tracked: a word to count by, and a text."""

    cause: str
    text: str


class Stream(Generic[E]):
    """The rules of one stream, the same for a node, a replay and an evaluation.

    Not safe for use by several threads at once.

    Parameters
    ----------
    method: tracks.
    config: see there; may be replaced between frames.
    numbering: gives the ids; by default 1, 2, ...
    tell: takes what happens that costs no image.

    Attributes
    ----------
    method: as given, or as it was moved to.
    classes: numbers of the class names in given detections.

    """

    def __init__(
        self,
        method: Method[E],
        config: StreamConfig | None = None,
        numbering: Numbering | None = None,
        tell: Tell = lambda name, text, count: None,
    ) -> None:
        self.method, self.config = method, config or StreamConfig()
        self.classes = ClassNames()
        self._numbering = numbering or Numbering()
        self._tell = tell
        self._session = method.session()
        self._held: collections.deque[Frame] = collections.deque()
        self._names: dict[int, str] = {}  # that prompts gave, by the stream's ids
        self._answered: list[Result] = []  # of a session that has ended
        self._last: Frame | None = None
        self._last_arrived_ns = 0

    @property
    def highest_id(self) -> int:
        """The largest id given so far, 0 before any."""
        return self._numbering.highest

    def admit(self, frame: Frame, arrived_ns: int = 0) -> Frame | Refused:
        """Decide whether a frame is tracked, and under which time; to be called once for each.

        An image behind a newer one is refused. Stamps that jump back begin again, see
        ``StreamConfig.on_time_jump``. An image without a stamp (0) is as much later than the one
        before as it arrived later; the first one counts by its arrival.

        Parameters
        ----------
        frame: as it came.
        arrived_ns: when, on any clock that goes on; 0 where nobody knows.

        """
        last = self._last
        if not frame.stamp_ns and arrived_ns:
            stamp_ns = arrived_ns
            if last is not None and self._last_arrived_ns:
                stamp_ns = last.stamp_ns + max(arrived_ns - self._last_arrived_ns, 0)
            frame = frame._replace(stamp_ns=stamp_ns, stamped=False)
            self._tell('no_stamp', 'images have no stamp; the time of their arrival is taken', 1)
        back = 0 if last is None else last.stamp_ns - frame.stamp_ns
        if 0 < back <= _LATE_NS:
            text = f'an image {back / 1e6:.0f} ms behind a newer one is dropped'
            return Refused('late', text)
        if back > 0:
            action = self.config.on_time_jump
            text = f'stamps jump back by {back / 1e9:.1f} s; tracks: {action}'
            self._tell('time_jump', text, 1)
            if action == 'reset':
                self.reset()
        if last is not None and last.shape != frame.shape:
            (before, width), (height, now) = last.shape, frame.shape
            text = f'images change from {width} x {before} to {now} x {height} pixels'
            self._tell('size_change', text, 1)
        self._last, self._last_arrived_ns = frame, arrived_ns
        return frame

    def update(
        self,
        frame: Frame,
        encoded: E,
        given: Instances | None = None,
        expected: Callable[[], Expected | None] | None = None,
    ) -> list[Result]:
        """Track an admitted frame; returns the frames that are decided now, see ``Session``.

        Ids are the stream's, boxes and masks lie inside the image.

        Parameters
        ----------
        frame: as ``admit`` returned it.
        encoded: what the method's ``encode`` made of it.
        given: detections to track instead of the method's own, in any place and order.
        expected: says where tracks should be seen in it; asked where the method takes notice.

        """
        if expected is not None and isinstance(self._session, Expecting):
            places = expected()
            if places is not None:
                own = [self._numbering.own(track_id) for track_id in places.track_ids.tolist()]
                self._session.expect(places._replace(track_ids=np.array(own, np.int64)))
        if self.method.accepts:
            self._held.append(frame)
            while len(self._held) > self.config.held_frames:
                self._held.popleft()
        if given is not None:
            given = self._usable(given, frame)
        decided = self._finished(self._session.update(frame, encoded, given))
        # Not before: an update that fails must not take along what others have answered.
        answered, self._answered = self._answered, []
        return answered + decided

    def track(
        self, frame: Frame, given: Instances | None = None, arrived_ns: int = 0
    ) -> list[Result]:
        """Admit, encode and update at once: for one stream and no batches."""
        admitted = self.admit(frame, arrived_ns)
        if isinstance(admitted, Refused):
            return []
        (encoded,) = self.method.encode([admitted])
        return self.update(admitted, encoded, given)

    def ask(self, prompt: Prompt) -> Result:
        """Follow a prompt made on a recent frame.

        That is the frame nearest to the prompt's stamp among those that are held. A stamp behind
        all of them, or 0, means the last one: whoever looks at a stream has seen nothing newer.

        Returns
        -------
        The tracks that it became, as they are in that frame.

        Raises
        ------
        PromptError
            Saying why it cannot be followed.

        """
        accepts = self.method.accepts
        if not prompt.kinds:
            raise PromptError('the prompt is empty: no point, box, mask or text')
        if not prompt.kinds <= accepts:
            wrong, known = (', '.join(sorted(k)) for k in (prompt.kinds - accepts, accepts))
            what = f'it takes: {known}' if accepts else 'it takes no prompts'
            raise PromptError(f'the method {self.method.name} does not understand {wrong}; {what}')
        frame = self._seen_at(prompt.stamp_ns)
        mask = prompt.mask
        if mask is not None and mask.clipped(*frame.shape) is not mask:
            height, width = frame.shape
            raise PromptError(f'the mask reaches beyond the {width}x{height} image')
        track_id = self._numbering.own(prompt.track_id) if prompt.track_id else 0
        if prompt.track_id and not track_id:
            raise PromptError(f'no track has the id {prompt.track_id}')
        (encoded,) = self.method.encode([frame])
        asked = dataclasses.replace(prompt, stamp_ns=frame.stamp_ns, track_id=track_id)
        tracks = self._session.prompt(frame, encoded, asked)
        ids = self._numbering.number(np.asarray(tracks.track_ids, np.int64))
        if prompt.name:
            self._names.update(dict.fromkeys(ids.tolist(), prompt.name))
        return self._finished([Result(frame, tracks)])[0]

    def _seen_at(self, stamp_ns: int) -> Frame:
        """Return the held frame that somebody saw who points at an image of this stamp."""
        if not self._held:
            raise PromptError('no image has been tracked yet')
        if not stamp_ns or stamp_ns > self._held[-1].stamp_ns:
            return self._held[-1]
        gone = self._held[0].stamp_ns - stamp_ns
        if gone > 0:
            raise PromptError(
                f'the image is gone: its stamp is {gone / 1e9:.3g} s before the oldest of the '
                f'{len(self._held)} that are held (held_frames: {self.config.held_frames})'
            )
        return min(self._held, key=lambda frame: abs(frame.stamp_ns - stamp_ns))

    def remove(self, track_id: int) -> bool:
        """Forget a track; False where none has this id."""
        own = self._numbering.own(track_id)
        self._names.pop(track_id, None)
        return bool(own) and self._session.remove(own)

    def rename(self, track_id: int, name: str) -> None:
        """Call a track something else; '' is what its class is called.

        Raises
        ------
        PromptError
            Where none has this id.

        """
        own = self._numbering.own(track_id)
        if own not in self._session.ids():
            raise PromptError(f'no track has the id {track_id}')
        self._names[track_id] = name

    def keep_only(self, track_ids: Collection[int]) -> list[int]:
        """Forget all tracks but these; returns the ids that are forgotten.

        Raises
        ------
        PromptError
            Where one of them is not tracked; then nothing is forgotten.

        """
        ids = self._numbering.number(np.array(self._session.ids(), np.int64)).tolist()
        unknown = sorted(set(track_ids) - set(ids))
        if unknown:
            raise PromptError(f'no track has the id {", ".join(map(str, unknown))}')
        others = [track_id for track_id in ids if track_id not in track_ids]
        return [track_id for track_id in others if self.remove(track_id)]

    def move(self, method: Method[E]) -> None:
        """Go on with another method; one of the same kind takes the tracks over."""
        same = type(method) is type(self.method)
        if not same:
            self._answered += self._finished(self._session.finish())
        self._session = method.session(self._session if same else None)
        if not same:
            self._numbering.begin_session()
            self._names.clear()
        self.method = method

    def reset(self) -> None:
        """Forget all tracks; ids already given are not given again.

        Frames that are still open are answered with what was known of them, at the next call.
        """
        try:
            self._answered += self._finished(self._session.finish())
        finally:
            self._session.reset()
            self._held.clear()
            self._names.clear()

    def finish(self) -> list[Result]:
        """Answer the frames that are still open: no more come, or not soon."""
        decided = self._finished(self._session.finish())
        answered, self._answered = self._answered, []
        return answered + decided

    def figures(self) -> Mapping[str, Any]:
        """Return what the session tells of itself."""
        return self._session.figures()

    def _usable(self, given: Instances, frame: Frame) -> Instances:
        """Return the given detections that lie in the image, cut to it."""
        inside = given[given.finite].clipped(*frame.shape)
        if len(inside) < len(given):
            count = len(given) - len(inside)
            text = f'{count} given detections have no finite box with an area inside the image'
            self._tell('bad_detections', text, count)
        return inside

    def _finished(self, results: Sequence[Result]) -> list[Result]:
        """Return results with the stream's ids and names, cut to their images."""
        return [
            Result(
                result.frame, self._placed(result), {**self.classes.names, **result.class_names}
            )
            for result in results
        ]

    def _placed(self, result: Result) -> Instances:
        tracks = result.tracks.clipped(*result.frame.shape)
        if len(tracks) < len(result.tracks):
            count = len(result.tracks) - len(tracks)
            self._tell('outside', f'{count} tracks have no area inside the image', count)
        ids = self._numbering.number(np.asarray(tracks.track_ids, np.int64))
        names = tuple(self._names.get(track_id, '') for track_id in ids.tolist())
        return dataclasses.replace(tracks, track_ids=ids, names=names)
