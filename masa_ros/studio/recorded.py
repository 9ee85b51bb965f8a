# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tracks of a recording, made while somebody looks: image by image, and again where it changes."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Generator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from masa_ros import methods, options, overlay
from masa_ros.errors import PromptError
from masa_ros.methods.protocol import Method
from masa_ros.options import group, option, variants
from masa_ros.recordings.prompts import RecordedPrompt
from masa_ros.recordings.sources import Item, Source
from masa_ros.recordings.tracks_file import write_tracks
from masa_ros.recordings.video import VideoWriter
from masa_ros.replay.run import Replay, merged
from masa_ros.streams.stream import Stream, StreamConfig
from masa_ros.studio.catalogue import Catalogue
from masa_ros.studio.history import History, Pictures
from masa_ros.studio.lane import Answer, Field, Figures, Notice
from masa_ros.studio.reading import Reading
from masa_ros.types import Mask, Prompt, Result

_TOLD = 20  # problems


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a recording is tracked, see ``masa_ros.options``."""

    method: str = option('masa', 'tracking method', choices=methods.names)
    chosen: Any = variants('method', methods.option_variants)
    stream: StreamConfig = group(StreamConfig)


@dataclasses.dataclass
class _Awaited:
    """Who waits for what a prompt becomes: its place among the prompts."""

    number: int
    frame: int
    future: Future[Answer]


class Recorded:
    """A ``Lane`` of a recording. All but the attributes is for one thread, that of ``Player``.

    What is shown is what ``masa_ros replay --prompts`` makes of the recording: a prompt in the
    past lets all be tracked again up to there.

    Parameters
    ----------
    source: the recording.
    settings: how it is tracked.
    pictures: keeps its images; several lanes may share them.
    reading: shows what a file says; then nothing is tracked, and the settings mean nothing.

    Attributes
    ----------
    prompts: made so far.
    history: what came of the images.
    ended: no more images come.

    """

    def __init__(
        self,
        source: Source,
        settings: Settings,
        pictures: Pictures,
        reading: Reading | None = None,
    ) -> None:
        self._source, self.settings, self._pictures = source, settings, pictures
        self._reading = reading
        self.method: Method[Any]
        if reading is not None:
            self.method = reading
        else:
            self.method = methods.load(settings.method, settings.chosen, print)
        self._images = iter(source)
        self.catalogue, self.figures = Catalogue(), Figures()
        self.prompts: list[RecordedPrompt] = []
        self._removed: list[tuple[int, frozenset[int]]] = []
        self._named: list[tuple[int, int, str]] = [] if reading is None else reading.named
        self._begun_with = settings  # what holds from the first image on
        self._set: list[tuple[int, Settings]] = []  # and what from later ones
        self._awaited: list[_Awaited] = []
        self._problems: collections.deque[str] = collections.deque(maxlen=_TOLD)
        self.history = History(pictures, self.catalogue, self.figures)
        self.restart()

    def restart(self) -> None:
        """Forget all tracks and begin with the first image again; what was asked for stays."""
        self._stop_reading()
        if self._set:
            self._use(self._begun_with)
        self.history.close()
        self.catalogue.clear()
        self.history = History(self._pictures, self.catalogue, self.figures)
        self._stream = Stream(self.method, self.settings.stream, tell=self.history.event)
        self._replay = Replay(self._stream, self.history, prompts=self.prompts)
        self._images = iter(self._source)
        self._head = -1
        self.ended = False

    def track_again(self) -> None:
        """Begin with the first image again; options that were set since hold from there on."""
        self._begun_with, self._set = self.settings, []
        self._abandon()
        self.restart()

    @property
    def title(self) -> str:
        """The method, and the model where it has one."""
        if self._reading is not None:
            return self._reading.name
        model = options.values_of(self.settings.chosen).get('model', '')
        return f'{self.settings.method} {model}'.strip()

    @property
    def accepts(self) -> frozenset[str]:
        """See ``Lane``."""
        return self.method.accepts

    def advance(self) -> None:
        """Track one image more."""
        try:
            item = next(self._images, None)
        except Exception as error:  # a recording that vanishes makes its reader raise anything
            self._problems.append(f'the recording breaks off: {type(error).__name__}: {error}')
            item = None
        if item is None:
            self.ended = True
            self._replay.finish()
        else:
            self._take(item)
        self._settle()

    def _take(self, item: Item) -> None:
        index = self._head = self._head + 1
        try:
            self._replay.take(index, item)
        except Exception as error:
            # A mistake in the step of one image must not end the studio.
            self.history.refuse(item.name, f'{type(error).__name__}: {error}')
        for frame, ids in self._removed:
            if frame == index:
                for track_id in ids:
                    self._stream.remove(track_id)
        for frame, track_id, name in self._named:
            if frame == index:
                self._call(track_id, name)
        for frame, settings in self._set:
            if frame == index:
                self._use(settings)

    def _use(self, settings: Settings) -> None:
        """Let options that are live hold from now on."""
        self.method.configure(settings.chosen)
        self._stream.config = settings.stream
        self.settings = settings

    def problem(self, text: str) -> None:
        """Note what went wrong, to be told."""
        self._problems.append(text)

    def _stop_reading(self) -> None:
        if isinstance(self._images, Generator):
            self._images.close()

    def _settle(self) -> None:
        """Answer who waits for a prompt whose image has come."""
        waiting, self._awaited = self._awaited, []
        for each in waiting:
            if each.frame > self._head and not self.ended:
                self._awaited.append(each)
                continue
            answer = self._replay.answers[each.number]
            if answer.problem:
                # Not kept: it would be refused again and again.
                del self.prompts[each.number]
                each.future.set_result(Answer((), answer.problem))
            else:
                each.future.set_result(Answer((answer.track_id,)))

    def ask(self, index: int, prompt: Prompt, answer: Future[Answer]) -> bool:
        """Follow a prompt made on image ``index``; True where all is tracked again up to there."""
        known = self.history.at(index)
        if known is None:
            raise PromptError('no image has been tracked yet')
        index = known[0]
        if index < self.history.newest:
            later = {
                n for n, p in enumerate(self.prompts) if p.frame > index and p.prompt.track_id
            }
            # Ids may be others from here on: corrections of later images mean nothing any more.
            self.prompts = [p for n, p in enumerate(self.prompts) if n not in later]
            self._removed = [each for each in self._removed if each[0] <= index]
            self._named = [each for each in self._named if each[0] <= index]
            # What is set now is what somebody wants: from here on at the latest.
            self._set = [(min(frame, index), settings) for frame, settings in self._set]
            self.prompts.append(RecordedPrompt(index, prompt))
            self._abandon()
            self._awaited = [_Awaited(len(self.prompts) - 1, index, answer)]
            self.restart()
            return True
        stamped = dataclasses.replace(prompt, stamp_ns=known[2].frame.stamp_ns)
        tracks = self._stream.ask(stamped).tracks
        if not len(tracks):
            raise PromptError('nothing was found there')
        self.prompts.append(RecordedPrompt(index, prompt))
        self.history.amend(lambda result: merged([result], result.frame, [tracks])[0])
        answer.set_result(Answer(tuple(tracks.track_ids.tolist())))
        return False

    def follow(self, prompts: Sequence[RecordedPrompt]) -> None:
        """Make these prompts instead of those so far; all is tracked again.

        Raises
        ------
        PromptError
            For a kind that the method does not understand; all is as it was.

        """
        wrong = {kind for each in prompts for kind in each.prompt.kinds} - self.accepts
        if wrong:
            raise PromptError(f'{self.title} does not understand {", ".join(sorted(wrong))}')
        self._abandon()
        self.prompts = list(prompts)
        self.restart()

    def _abandon(self) -> None:
        for each in self._awaited:
            each.future.set_result(Answer((), 'something else was asked for meanwhile'))
        self._awaited = []

    def candidates(self, result: Result, prompt: Prompt) -> list[Mask]:
        """See ``Lane``; may be called from any thread that nobody else tracks in meanwhile."""
        segmenter = getattr(self.method, 'segmenter', None)
        if segmenter is None or not prompt.kinds & {'point', 'box'}:
            return []
        found = segmenter.segment(result.frame, prompt)
        return [candidate.mask for candidate in found if candidate.mask.pixels.any()]

    def remove(self, track_id: int) -> None:
        """Forget a track from the newest image on."""
        if not self._stream.remove(track_id):
            raise PromptError(f'no track has the id {track_id}')
        self._forget([track_id])

    def keep_only(self, track_ids: Collection[int]) -> None:
        """Forget all tracks but these from the newest image on, and look for no others."""
        self._forget(self._stream.keep_only(track_ids))
        if 'find' in options.values_of(self.settings.chosen):
            self.change({'find': 'nothing'})

    def _forget(self, track_ids: list[int]) -> None:
        self._removed.append((self._head, frozenset(track_ids)))

        def without(result: Result) -> Result:
            tracks = result.tracks
            return result._replace(tracks=tracks[~np.isin(tracks.track_ids, track_ids)])

        self.history.amend(without)

    def rename(self, track_id: int, name: str) -> None:
        """Call a track something else from the newest image on."""
        self._stream.rename(track_id, name)
        self.catalogue.rename(track_id, name)

        def named(result: Result) -> Result:
            tracks = result.tracks
            ids = tracks.track_ids.tolist()
            names = [name if i == track_id else old for i, old in zip(ids, tracks.names)]
            return result._replace(tracks=dataclasses.replace(tracks, names=tuple(names)))

        self.history.amend(named)
        self._named.append((self._head, track_id, name))

    def _call(self, track_id: int, name: str) -> None:
        try:
            self._stream.rename(track_id, name)
        except PromptError as error:
            self._problems.append(str(error))

    def fields(self) -> list[Field]:
        """See ``Lane``."""
        if self._reading is not None:
            return []
        values = options.values_of(self.settings)
        return [field_of(each, values[each.name]) for each in options.listed(Settings, values)]

    def change(self, values: Mapping[str, Any]) -> None:
        """Set options; all is tracked again where one of them is not live.

        Raises
        ------
        ConfigError, WeightsError, EngineError
            Saying what cannot be; all is as it was.

        """
        before = options.values_of(self.settings)
        settings = options.build(Settings, before | dict(values))
        live = {each.name for each in options.listed(Settings, before) if each.live}
        if settings.method == self.settings.method and set(values) <= live:
            self._use(settings)
            self._set.append((self._head, settings))
            return
        method = methods.load(settings.method, settings.chosen, print)
        self.method.close()
        self.method, self.settings = method, settings
        known = method.accepts
        self.prompts = [each for each in self.prompts if each.prompt.kinds <= known]
        self.track_again()

    def notices(self) -> list[Notice]:
        """See ``Lane``."""
        history = self.history
        found = [Notice('warning', reason) for reason in history.reasons]
        if history.refused > len(history.reasons):
            found.append(Notice('warning', f'{history.refused} images could not be used'))
        found += [Notice('warning', f'{n}: {count}') for n, count in history.events.items()]
        found += [Notice('error', text) for text in self._problems]
        if self.catalogue.left_out:
            text = f'{self.catalogue.left_out} objects are not listed any more: too many'
            found.append(Notice('warning', text))
        about = dict(self.method.describe()) | dict(self._stream.figures())
        found += [Notice('fact', f'{name}: {value}') for name, value in about.items()]
        return found

    def save_tracks(self, path: Path) -> None:
        """Write tracks.json of what is tracked so far."""
        write_tracks(path, self.title, self.history.frames())

    def save_video(self, path: Path, fps: float) -> None:
        """Write a video of what is tracked so far."""
        with VideoWriter(path, fps) as video:
            for known in self.history.frames():
                image = self._pictures.get(known.index, (known.height, known.width))
                video.write(overlay.draw(image, known.instances, known.class_names))

    def close(self) -> None:
        """Give memory and disk back."""
        self._abandon()
        self._stop_reading()
        self.method.close()
        self.history.close()


def field_of(each: options.Option, value: Any) -> Field:
    """Return an option as a form shows it."""
    low, high = each.range or (None, None)
    return Field(each.name, each.described, value, low, high, each.choices, each.live)
