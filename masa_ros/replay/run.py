# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Track a recording in this process: the same rules as in the node, the same output every time."""

from __future__ import annotations

import collections
import dataclasses
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from masa_ros.errors import ImageError, PromptError
from masa_ros.recordings.detections import GivenDetections
from masa_ros.recordings.prompts import PromptAnswer, RecordedPrompt, answered, every_answer
from masa_ros.recordings.sources import Item, Source
from masa_ros.replay.space import RecordedSpace
from masa_ros.space.locate import Place
from masa_ros.streams.stream import Refused, Stream
from masa_ros.types import Frame, Instances, Result


class Taker(Protocol):
    """Takes what comes of a recording, as ``Recorder`` does: see there."""

    def add(
        self, index: int, name: str, result: Result, places: Sequence[Place] | None = None
    ) -> None:
        """Take the tracks of image number ``index``."""
        ...

    def refuse(self, name: str, reason: str) -> None:
        """Take note of an image that could not be used."""
        ...

    def took(self, milliseconds: float) -> None:
        """Take note of how long an image took."""
        ...


class _Open(NamedTuple):
    """An image whose tracks are not decided yet."""

    number: int
    name: str
    frame: Frame


class Replay:
    """One recording on its way through a stream to who takes its tracks.

    Parameters
    ----------
    stream: tracks; nobody else may use it meanwhile.
    recorder: takes what comes of it.
    given: detections to track instead of the method's own.
    prompts: made on the images by their numbers.
    space: says where in space tracks are, None where nobody asks.

    Attributes
    ----------
    answers: to the prompts, in their order, as far as their images have come.

    """

    def __init__(
        self,
        stream: Stream[Any],
        recorder: Taker,
        given: GivenDetections | None = None,
        prompts: Sequence[RecordedPrompt] = (),
        space: RecordedSpace | None = None,
    ) -> None:
        self._space = space
        self._stream, self._recorder, self._given = stream, recorder, given
        self._prompts: dict[int, list[int]] = collections.defaultdict(list)
        for number, recorded in enumerate(prompts):
            self._prompts[recorded.frame].append(number)
        self._recorded = prompts
        self._answers: dict[int, PromptAnswer] = {}
        self._open: collections.deque[_Open] = collections.deque()

    @property
    def answers(self) -> list[PromptAnswer]:
        """One answer a prompt; an image that the recording does not have is a problem too."""
        return every_answer(self._answers, len(self._recorded))

    def run(self, source: Source, max_frames: int = 0, realtime: bool = False) -> None:
        """Track all images, or the first ``max_frames``.

        With ``realtime`` at the pace of their stamps: images whose time has passed are skipped, as
        a node would skip them.
        """
        start: tuple[int, float] | None = None
        total = min(len(source), max_frames) if max_frames else len(source)
        bar = tqdm(source, total=total or None, unit='image', disable=not sys.stderr.isatty())
        for index, item in enumerate(bar):
            if max_frames and index >= max_frames:
                break
            if realtime and isinstance(item.frame, Frame):
                now = time.perf_counter()
                start = start or (item.frame.stamp_ns, now)
                ahead = (item.frame.stamp_ns - start[0]) * 1e-9 - (now - start[1])
                if ahead < -0.5 and item.frame.stamp_ns < start[0]:
                    start, ahead = (item.frame.stamp_ns, now), 0.0  # it begins again
                if ahead < -0.1:
                    self._recorder.refuse(item.name, 'skipped: its time had passed')
                    continue
                time.sleep(max(ahead, 0))
            self.take(index, item)
        self.finish()

    def finish(self) -> None:
        """Record the images that are still open: no more come."""
        self._record(self._stream.finish())

    def take(self, index: int, item: Item) -> None:
        """Track image number ``index``, counted from 0."""
        if isinstance(item.frame, ImageError):
            self._recorder.refuse(item.name, str(item.frame))
            return
        before = time.perf_counter()
        frame = self._stream.admit(item.frame, item.arrived_ns)
        if isinstance(frame, Refused):
            self._recorder.refuse(item.name, frame.text)
            return
        self._open.append(_Open(index, item.name, frame))
        boxes = self._given.at(index, item.name) if self._given is not None else None
        (encoded,) = self._stream.method.encode([frame])
        space = self._space
        expected = partial(space.expected, index, item.name, frame) if space is not None else None
        results = self._stream.update(frame, encoded, boxes, expected)
        self._recorder.took((time.perf_counter() - before) * 1e3)
        prompted = [self._ask(number, frame) for number in self._prompts.get(index, ())]
        self._record(merged(results, frame, prompted))

    def _ask(self, number: int, frame: Frame) -> Instances:
        """Follow a prompt made on the image that was just tracked."""
        try:
            tracks = self._stream.ask(self._recorded[number].prompt).tracks
        except PromptError as error:
            self._answers[number] = PromptAnswer(number, 0, str(error))
            return Instances.empty()
        self._answers[number] = answered(number, tracks.track_ids)
        return tracks

    def _record(self, results: Iterable[Result]) -> None:
        """Write what is decided; images that are passed over, which none should be, are told."""
        for result in results:
            while self._open:
                number, name, frame = self._open.popleft()
                if frame is result.frame:
                    space = self._space
                    places = space.places(number, name, result) if space is not None else None
                    self._recorder.add(number, name, result, places)
                    break
                self._recorder.refuse(name, 'the method did not answer for it')


def merged(results: list[Result], frame: Frame, prompted: Sequence[Instances]) -> list[Result]:
    """Put the tracks of prompts into the result of their image, where it is decided already."""
    some = [_without_embeddings(tracks) for tracks in prompted if len(tracks)]
    if not some:
        return results
    made = []
    for result in results:
        tracks = result.tracks
        if result.frame is frame:
            tracks = _without_embeddings(tracks)
            for new in some:
                old = tracks[~np.isin(tracks.track_ids, new.track_ids)]
                tracks = Instances.concatenate((old, new))
            tracks = tracks[np.argsort(-tracks.scores, kind='stable')]
        made.append(result._replace(tracks=tracks))
    return made


def _without_embeddings(tracks: Instances) -> Instances:
    """Return tracks as they are recorded."""
    return dataclasses.replace(tracks, embeddings=np.zeros((len(tracks), 0), np.float32))
