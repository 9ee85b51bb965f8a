# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A recording that is played, in a thread of its own, through one lane or through two."""

from __future__ import annotations

import itertools
import queue
import threading
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from masa_ros.errors import PromptError
from masa_ros.models.devices import resident_mib
from masa_ros.recordings.prompts import RecordedPrompt
from masa_ros.recordings.sources import Source
from masa_ros.studio.catalogue import Catalogue
from masa_ros.studio.history import Pictures
from masa_ros.studio.lane import Answer, Field, Figures, Notice, Shown
from masa_ros.studio.reading import Reading
from masa_ros.studio.recorded import Recorded, Settings
from masa_ros.types import Mask, Prompt

T = TypeVar('T')

SPEEDS = {'0.25x': 0.25, '0.5x': 0.5, '1x': 1.0, '2x': 2.0, 'as fast as it goes': 0.0}
_PATIENCE_SECONDS = 600.0  # for what somebody asks for: all may have to be tracked again
_IDLE_SECONDS = 0.02
_WAITING = 16  # jobs; of a flood of clicks no more are remembered


class BusyError(PromptError):
    """Too much was asked for at once."""


class Player:
    """Plays a recording; everything but the attributes is done in one thread, in turn.

    Parameters
    ----------
    source: the recording.
    settings: of the first lane.

    Attributes
    ----------
    lanes: one, or two that are compared.
    position: number of the image that is shown.
    target: of the image that shall be shown; ahead of ``position`` while that is tracked.
    length: number of images, as far as is known.
    playing, loop, speed: as set; a speed of 0 waits for nothing.

    """

    def __init__(self, source: Source, settings: Settings) -> None:
        self._source = source
        self._pictures = Pictures()
        self._jobs: queue.Queue[Callable[[], None]] = queue.Queue(maxsize=_WAITING)
        self._versions = itertools.count()
        self.lanes = [PlayedLane(self, Recorded(source, settings, self._pictures))]
        self.position, self.target = -1, 0
        self.length = len(source)
        self.playing, self.loop, self.speed = False, False, 1.0
        self._turn = threading.Lock()  # of who says whether and where it goes on
        self._due = time.monotonic()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name='player', daemon=True)

    def begin(self) -> None:
        """Start the thread, with the first image."""
        self._thread.start()

    def do(self, job: Callable[[], T]) -> T:
        """Let the player do something between two images, and return what comes of it.

        Raises
        ------
        BusyError
            Where much is waiting already; and whatever the job raises.

        """
        done: Future[T] = Future()

        def carry_out() -> None:
            try:
                done.set_result(job())
            except Exception as error:  # whoever asked is told
                done.set_exception(error)

        try:
            self._jobs.put_nowait(carry_out)
        except queue.Full:
            raise BusyError('still busy with what was asked for before') from None
        return done.result(_PATIENCE_SECONDS)

    def play(self, playing: bool) -> None:
        """Go on, or stop at the image that is shown; at the end it begins again."""
        with self._turn:
            if playing and self.at_end:
                self.target = 0
            self._due = time.monotonic()
            self.playing = playing
            if not playing:
                # The image that is in work is shown too: prompts are made on the newest one.
                self.target = max(min(self.target, self.position + 1), 0)

    def seek(self, index: int) -> None:
        """Show image ``index``; what lies before it and is not tracked yet is, at once."""
        self.target = max(index, 0) if not self.length else min(max(index, 0), self.length - 1)

    def step(self, by: int) -> None:
        """Show the image ``by`` images further, and stop."""
        self.playing = False
        self.seek(self.target + by)

    @property
    def at_end(self) -> bool:
        """Whether the last image is shown."""
        return self.position >= self.length - 1 if self.length else self._ended

    @property
    def _ended(self) -> bool:
        return all(lane.recorded.ended for lane in self.lanes)

    @property
    def _newest(self) -> int:
        """Number of the newest image that all lanes have answered."""
        return min(lane.recorded.history.newest for lane in self.lanes)

    @property
    def fps(self) -> float:
        """Images a second by the stamps so far."""
        return 1 / self.lanes[0].recorded.history.period

    def compare(self, settings: Settings | None, reading: Reading | None = None) -> None:
        """Track the recording in a second way too, up to where it is; None: not any more.

        ``reading`` shows what a file says instead.
        """

        def change() -> None:
            while len(self.lanes) > 1:
                self.lanes.pop().close()
            if settings is not None:
                recorded = Recorded(self._source, settings, self._pictures, reading)
                self.lanes.append(PlayedLane(self, recorded))
            self._show()

        self.do(change)

    def close(self) -> None:
        """End the thread, and give memory and disk back."""
        self._closing = True
        if self._thread.ident is not None:
            self._thread.join()
        for lane in self.lanes:
            lane.close()
        self._pictures.close()

    def _run(self) -> None:
        while not self._closing:
            more = self._contained(self._work)
            try:
                job = self._jobs.get(timeout=0 if more else _IDLE_SECONDS)
            except queue.Empty:
                continue
            job()
            self._contained(self._look_again)

    def _contained(self, act: Callable[[], bool]) -> bool:
        """Do something; after a mistake in it one can still look around."""
        try:
            return act()
        except Exception as error:
            traceback.print_exc()
            self.lanes[0].recorded.problem(f'a mistake: {type(error).__name__}: {error}')
            self.playing, self.target = False, self.position
            return False

    def _look_again(self) -> bool:
        """Show what holds after a job, which may have let all begin again."""
        self.position = min(self.target, self._newest)
        self._show()
        return True

    def _work(self) -> bool:
        """Do one step towards what shall be shown; False where there is nothing to do."""
        behind = [
            lane.recorded
            for lane in self.lanes
            if lane.recorded.history.newest < self.target and not lane.recorded.ended
        ]
        if behind:
            for recorded in behind:
                recorded.advance()
        newest = self._newest
        if self._ended:
            self.length = newest + 1
            self.target = min(self.target, max(newest, 0))
        position = min(self.target, newest)
        if position != self.position:
            self.position = position
            self._show()
        if behind or position < self.target:
            return True
        with self._turn:
            return self._go_on()

    def _go_on(self) -> bool:
        """Take the next image for the target when its time has come."""
        now = time.monotonic()
        if not self.playing or now < self._due:
            return False
        if self.at_end:
            self.playing = self.loop
            self.target = 0 if self.loop else self.target
            return self.loop
        period = 1 / self.fps / self.speed if self.speed else 0.0
        self._due = max(self._due + period, now - 0.2)  # who is late does not rush for long
        self.target += 1
        return True

    def _show(self) -> None:
        for lane in self.lanes:
            lane.show(self.position, next(self._versions))


class PlayedLane:
    """A ``Lane`` of a recording that is played.

    Attributes
    ----------
    recorded: the tracks, which the player's thread makes.

    """

    def __init__(self, player: Player, recorded: Recorded) -> None:
        self._player, self.recorded = player, recorded
        self._shown: Shown | None = None

    @property
    def title(self) -> str:
        """See ``Lane``."""
        return self.recorded.title

    @property
    def catalogue(self) -> Catalogue:
        """See ``Lane``."""
        return self.recorded.catalogue

    @property
    def figures(self) -> Figures:
        """See ``Lane``."""
        return self.recorded.figures

    @property
    def accepts(self) -> frozenset[str]:
        """See ``Lane``."""
        return self.recorded.accepts

    @property
    def shown(self) -> Shown | None:
        """See ``Lane``."""
        return self._shown

    def show(self, index: int, version: int) -> None:
        """Show image ``index``; in the player's thread."""
        known = self.recorded.history.at(index)
        self._shown = None if known is None else Shown(version, *known)

    def ask(self, shown: Shown, prompt: Prompt) -> Answer:
        """See ``Lane``; what lies in the past is tracked again up to there first."""
        player, answer = self._player, Future[Answer]()

        def ask() -> None:
            if self.recorded.ask(shown.number, prompt, answer):
                player.playing = False
                player.target = shown.number

        try:
            player.do(ask)
        except PromptError as error:
            return Answer((), str(error))
        return answer.result(_PATIENCE_SECONDS)

    @property
    def prompts(self) -> list[RecordedPrompt]:
        """What was asked for so far, by the images in their order."""
        return sorted(self.recorded.prompts, key=lambda each: each.frame)

    def open_prompts(self, prompts: list[RecordedPrompt]) -> None:
        """Make these prompts instead of those so far: all is tracked again."""
        self._player.do(lambda: self.recorded.follow(prompts))

    def candidates(self, shown: Shown, prompt: Prompt) -> list[Mask]:
        """See ``Lane``."""
        return self._player.do(lambda: self.recorded.candidates(shown.result, prompt))

    def remove(self, track_id: int) -> None:
        """See ``Lane``."""
        self._player.do(lambda: self.recorded.remove(track_id))

    def keep_only(self, track_ids: Collection[int]) -> None:
        """See ``Lane``."""
        self._player.do(lambda: self.recorded.keep_only(track_ids))

    def rename(self, track_id: int, name: str) -> None:
        """See ``Lane``."""
        self._player.do(lambda: self.recorded.rename(track_id, name))

    def fields(self) -> list[Field]:
        """See ``Lane``."""
        return self.recorded.fields()

    def change(self, values: Mapping[str, Any]) -> None:
        """See ``Lane``."""
        self._player.do(lambda: self.recorded.change(values))

    def track_again(self) -> None:
        """Track all again, from the first image on."""
        self._player.do(self.recorded.track_again)

    def notices(self) -> list[Notice]:
        """See ``Lane``."""
        return self.recorded.notices()

    def begin(self) -> None:
        """Do nothing: the player has the thread."""

    def close(self) -> None:
        """Give memory and disk back; not while the player plays it."""
        self.recorded.close()

    def memory_mib(self) -> float:
        """See ``Lane``."""
        return resident_mib()

    def save_tracks(self, path: Path) -> None:
        """Write tracks.json of what is tracked so far."""
        self._player.do(lambda: self.recorded.save_tracks(path))

    def save_video(self, path: Path) -> None:
        """Write a video of what is tracked so far; not in the player's thread."""
        self.recorded.save_video(path, self._player.fps)
