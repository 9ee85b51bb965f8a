# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the page shows and steers: a ``Lane`` of tracks, of a recording or of a running node."""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from masa_ros import overlay
from masa_ros.studio.catalogue import Catalogue
from masa_ros.types import Mask, Prompt, Result

_QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 85]
_LARGEST_SIDE = 1280  # of a picture in a browser, pixels
_KEPT = 300  # images that figures are drawn of


class Shown(NamedTuple):
    """What a lane shows at a moment.

    Attributes
    ----------
    version: another one, and a larger one, whenever the picture is another one.
    number: of the image in its recording, or counted.
    name: of the image in its recording.
    result: the image and its tracks.

    """

    version: int
    number: int
    name: str
    result: Result


class Answer(NamedTuple):
    """What became of a prompt: the tracks, or why there are none."""

    track_ids: tuple[int, ...] = ()
    problem: str = ''


class Notice(NamedTuple):
    """Something worth telling: 'error', 'warning', 'ok' or 'fact', and a text."""

    level: str
    text: str


@dataclasses.dataclass(frozen=True)
class Field:
    """An option as a form shows it.

    Attributes
    ----------
    name, text: of the option.
    value: what it is set to.
    low, high: limits of a number, None for none.
    choices: of a text.
    live: takes effect at once; of the others all begins again.
    fixed: cannot be set here: a browser names no files.

    """

    name: str
    text: str
    value: Any
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = True

    @property
    def fixed(self) -> bool:
        """Whether a page may only show it: a text that may name a file, or several texts."""
        free = isinstance(self.value, str) and not self.choices
        words = self.name.rpartition('.')[2] == 'words'
        return (free and not words) or isinstance(self.value, list)

    def read(self, value: Any) -> Any:
        """Return what a form says in the type of the option; raises ValueError."""
        if self.fixed:
            raise ValueError(f'{self.name} cannot be set here')
        if isinstance(self.value, bool):
            return bool(value)
        if isinstance(self.value, int):
            return int(value)
        if isinstance(self.value, float):
            return float(value)
        text = str(value)
        if len(text) > 2000:
            raise ValueError(f'{self.name} has {len(text)} characters')
        return text


class Figures:
    """How long the last images took, and when they were there."""

    def __init__(self) -> None:
        self.took_ms: collections.deque[float] = collections.deque(maxlen=_KEPT)
        self.at: collections.deque[float] = collections.deque(maxlen=_KEPT)

    def add(self, milliseconds: float, now: float) -> None:
        """Note an image that was tracked."""
        self.took_ms.append(milliseconds)
        self.at.append(now)

    def median_ms(self) -> float:
        """Return the median of what the last images took, 0 before any."""
        took = list(self.took_ms)[-50:]
        return float(np.median(took)) if took else 0.0

    def rate(self, now: float) -> float:
        """Return the images a second, over the last two seconds."""
        return sum(1 for at in list(self.at) if now - at < 2) / 2


class Lane(Protocol):
    """Tracks of one stream, to look at and to steer.

    What may take long is called in threads of the page, several at once.

    """

    @property
    def title(self) -> str:
        """What tracks, in a word or two."""
        ...

    @property
    def catalogue(self) -> Catalogue:
        """The objects so far."""
        ...

    @property
    def figures(self) -> Figures:
        """Times of the last images."""
        ...

    @property
    def accepts(self) -> frozenset[str]:
        """Kinds of prompts that are understood, see ``Method.accepts``."""
        ...

    @property
    def shown(self) -> Shown | None:
        """What there is to see, None before there is anything."""
        ...

    def ask(self, shown: Shown, prompt: Prompt) -> Answer:
        """Follow, or correct, what somebody points at in what was shown."""
        ...

    def candidates(self, shown: Shown, prompt: Prompt) -> Sequence[Mask]:
        """Return what may be meant, best first; none where that cannot be told."""
        ...

    def remove(self, track_id: int) -> None:
        """Forget a track; raises PromptError where none has this id."""
        ...

    def keep_only(self, track_ids: Collection[int]) -> None:
        """Forget all other tracks; raises PromptError where one is not tracked."""
        ...

    def rename(self, track_id: int, name: str) -> None:
        """Call a track something else; raises PromptError where none has this id."""
        ...

    def fields(self) -> list[Field]:
        """Return the options as they are set."""
        ...

    def change(self, values: Mapping[str, Any]) -> None:
        """Set options, all or none; raises ConfigError and others, saying what is wrong."""
        ...

    def notices(self) -> list[Notice]:
        """Return how it goes, in words."""
        ...

    def begin(self) -> None:
        """Start what has to be started."""
        ...

    def close(self) -> None:
        """Give back what is held."""
        ...

    def memory_mib(self) -> float:
        """Return the memory of the process that tracks, 0 where that is not known."""
        ...


class Drawn:
    """The picture of what a lane shows, drawn once for all who look, when the first one asks."""

    def __init__(self, lane: Lane) -> None:
        self._lane, self._lock = lane, threading.Lock()
        self._version, self._jpeg = -1, b''

    def jpeg(self) -> bytes:
        """Return the newest picture as JPEG, b'' where there is none yet."""
        with self._lock:
            shown = self._lane.shown
            if shown is not None and shown.version != self._version:
                self._jpeg = encoded(shown.result, scale_of(shown.result.frame.shape))
                self._version = shown.version
            return self._jpeg


def scale_of(shape: tuple[int, int]) -> float:
    """Return how much smaller than an image of (height, width) its picture is, at most 1."""
    return min(1.0, _LARGEST_SIDE / max(shape))


def encoded(result: Result, scale: float = 1.0) -> bytes:
    """Return an image with its tracks as JPEG, ``scale`` times as large."""
    drawn = overlay.draw(result.frame.image, result.tracks, result.class_names)
    if scale < 1:
        drawn = cv2.resize(drawn, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode('.jpg', drawn[:, :, ::-1], _QUALITY)
    assert done
    return data.tobytes()
