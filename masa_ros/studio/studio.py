# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What all browsers share: what is shown, and the files that came or are made."""

from __future__ import annotations

import collections
import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from masa_ros import options
from masa_ros.errors import ConfigError, PromptError, SourceError
from masa_ros.masks import coco_rle
from masa_ros.recordings.prompts import FORMAT as PROMPTS
from masa_ros.recordings.prompts import RecordedPrompt, read_prompts
from masa_ros.recordings.sources import BAGS, VIDEOS, Source, open_source
from masa_ros.recordings.tracks_file import FORMAT as TRACKS
from masa_ros.recordings.tracks_file import read_tracks
from masa_ros.studio.lane import Drawn, Lane, encoded
from masa_ros.studio.player import PlayedLane, Player
from masa_ros.studio.reading import Reading
from masa_ros.studio.recorded import Settings

_RECORDINGS = (*BAGS, *VIDEOS)
_PER_SECOND = 20  # of what people ask for; a flood beyond it is refused


class Studio:
    """A recording, or a running node, and whoever looks at it.

    Parameters
    ----------
    settings: how recordings are tracked.
    live: the lane of a running node, None for recordings.

    Attributes
    ----------
    player: plays a recording, None where there is none.
    version: another one whenever forms have to be made anew.
    name: of what is shown.

    """

    def __init__(self, settings: Settings, live: Lane | None = None, name: str = '') -> None:
        self._settings, self._live = settings, live
        self.player: Player | None = None
        self.name, self.version = name, 0
        self._begun = False
        self._folder = Path(tempfile.mkdtemp(prefix='masa_ros_studio_'))
        self._numbers = itertools.count()
        self._asked: collections.deque[float] = collections.deque(maxlen=_PER_SECOND)
        self._drawn: list[tuple[Lane, Drawn]] = []

    @property
    def lanes(self) -> Sequence[Lane]:
        """What is shown, side by side."""
        if self._live is not None:
            return [self._live]
        return list(self.player.lanes) if self.player is not None else []

    def picture(self, number: int) -> bytes:
        """Return the newest picture of a lane as JPEG, b'' where there is none."""
        lanes = self.lanes
        if not 0 <= number < len(lanes):
            return b''
        known = [(lane, drawn) for lane, drawn in self._drawn if lane in lanes]
        for lane in lanes:
            if all(lane is not old for old, _ in known):
                known.append((lane, Drawn(lane)))
        self._drawn = known
        return next(drawn for lane, drawn in known if lane is lanes[number]).jpeg()

    def admit(self) -> None:
        """Count something that is asked for; raises PromptError where that is a flood."""
        now = time.monotonic()
        if len(self._asked) == _PER_SECOND and now - self._asked[0] < 1:
            raise PromptError('too much at once; wait a second')
        self._asked.append(now)

    def open(self, source: Source, name: str) -> None:
        """Show a recording instead of the one so far."""
        before = self.player
        self.player = Player(source, self._settings)
        if self._begun:
            self.player.begin()
        self.name, self.version = name, self.version + 1
        if before is not None:
            before.close()

    def begin(self) -> None:
        """Start the threads.

        Not before the server has started: NiceGUI then looks at all objects of the process, and
        one that another thread is just making breaks in its hands (CPython: SystemError).
        """
        self._begun = True
        if self.player is not None:
            self.player.begin()
        if self._live is not None:
            self._live.begin()

    def compare(self, settings: Settings | None) -> None:
        """Track in a second way beside the first one; None: not any more."""
        self._playing().compare(settings)
        self.version += 1

    def temporary(self, suffix: str) -> Path:
        """Return a new path for a file that nobody else sees."""
        return self._folder / f'{next(self._numbers)}{suffix}'

    def take(self, path: Path, name: str) -> str:
        """Open a file that somebody brought; returns what was done with it.

        Parameters
        ----------
        path: of the file, here.
        name: that it has there.

        Raises
        ------
        SourceError, PromptError
            Saying what is wrong with it.

        """
        if Path(name).suffix.lower() == '.json':
            return self._take_json(path, name)
        if self._live is not None:
            raise SourceError('recordings are not opened beside a running node')
        if path.suffix not in _RECORDINGS:
            known = ', '.join(sorted(_RECORDINGS))
            raise SourceError(f'{name} is no recording: no {known}')
        try:
            self.open(open_source(path), name)
        except SourceError as error:
            raise SourceError(str(error).replace(str(path), name)) from None
        return f'{name} is opened'

    def _take_json(self, path: Path, name: str) -> str:
        player = self._playing()
        try:
            kind = json.loads(path.read_text()).get('format')
        except (ValueError, AttributeError, RecursionError):
            kind = None
        if kind not in (PROMPTS, TRACKS):
            raise SourceError(f'{name} has neither prompts nor tracks: no {PROMPTS}, no {TRACKS}')
        try:
            if kind == PROMPTS:
                prompts = read_prompts(path)
                player.lanes[0].open_prompts(prompts)
                return f'{len(prompts)} prompts of {name} are followed'
            frames = read_tracks(path)
        except SourceError as error:
            raise SourceError(str(error).replace(str(path), name)) from None
        player.compare(self._settings, Reading(frames))
        self.version += 1
        return f'the tracks of {name} are shown beside'

    def _playing(self) -> Player:
        if self.player is None:
            raise SourceError('there is no recording')
        return self.player

    def prompts_json(self) -> str:
        """Return what was asked for so far as prompts.json."""
        player = self._playing()
        shown = player.lanes[0].shown
        height, width = shown.result.frame.shape if shown is not None else (0, 0)
        made = [_prompt_to_json(each, height, width) for each in player.lanes[0].prompts]
        return json.dumps({'format': PROMPTS, 'prompts': made}, indent=1)

    def save(self, suffix: str, write: Callable[[PlayedLane, Path], None]) -> Path:
        """Let the first lane write a file, and return where it is."""
        path = self.temporary(suffix)
        write(self._playing().lanes[0], path)
        return path

    def still(self) -> bytes:
        """Return what the first lane shows as JPEG."""
        lanes = self.lanes
        shown = lanes[0].shown if lanes else None
        if shown is None:
            raise SourceError('there is nothing to see yet')
        return encoded(shown.result)

    def close(self) -> None:
        """Give memory and disk back."""
        if self.player is not None:
            self.player.close()
        if self._live is not None:
            self._live.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def other_settings(settings: Settings, method: str) -> Settings:
    """Return the settings with another method, and what else both have in common."""
    values = options.values_of(settings) | {'method': method}
    try:
        return options.build(Settings, values)
    except ConfigError:  # something that only the other one has
        runtime = {name: values[name] for name in ('method', 'runtime', 'warm_start', 'device')}
        return options.build(Settings, runtime)


def _prompt_to_json(recorded: RecordedPrompt, height: int, width: int) -> dict[str, Any]:
    prompt = recorded.prompt
    made: dict[str, Any] = {'frame': recorded.frame}
    if prompt.track_id:
        made['track_id'] = prompt.track_id
    if len(prompt.points):
        made['points'] = [[round(float(v), 2) for v in point] for point in prompt.points]
        made['positive'] = prompt.positive.tolist()
    if prompt.box is not None:
        made['box'] = [round(float(v), 2) for v in prompt.box]
    if prompt.mask is not None:
        made['mask'] = coco_rle(prompt.mask, height, width)
    return made | {n: v for n, v in (('text', prompt.text), ('name', prompt.name)) if v}
