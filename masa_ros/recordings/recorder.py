# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Everything that a replay leaves behind in its output folder, written while it goes on."""

from __future__ import annotations

import array
import collections
import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from masa_ros import overlay
from masa_ros.recordings.bags import TRACKS_TYPE, BagWriter
from masa_ros.recordings.prompts import RecordedPrompt
from masa_ros.recordings.tracks_file import TrackedFrame, TracksWriter
from masa_ros.recordings.video import VideoWriter
from masa_ros.space.locate import Place
from masa_ros.types import Result

_NAMED = 1000  # refused images that the summary names; of more it gives the number


class Recorder:
    """Write tracks.json, tracks.mcap, overlay.mp4 and summary.json to a folder.

    What it remembers does not grow with the recording, but for a number a frame and a track.

    Parameters
    ----------
    folder: is made.
    model: what the tracks are said to be of.
    fps: of the video.
    video: whether one is drawn.
    points: whether tracks.json has the points that tracks are followed by.
    prompts: shown in the video for a second from their image on.

    Attributes
    ----------
    tracked, refused: number of images.
    reasons: why images could not be used, by name, of the first ones.
    events: what happened that cost no image, by name.

    """

    def __init__(
        self,
        folder: Path,
        model: str,
        fps: float,
        video: bool = True,
        prompts: Sequence[RecordedPrompt] = (),
        points: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.model = folder, model
        self._prompts, self._shown = prompts, max(round(fps), 1)
        self._points = points
        self.tracked = self.refused = 0
        self.reasons: dict[str, str] = {}
        self.events: collections.Counter[str] = collections.Counter()
        self._instances, self._ids = 0, set[int]()
        self._latencies = array.array('f')
        self._open = contextlib.ExitStack()
        self._bag = self._open.enter_context(
            BagWriter(folder / 'tracks.mcap', '/masa_tracker/tracks', TRACKS_TYPE)
        )
        self._video = (
            self._open.enter_context(VideoWriter(folder / 'overlay.mp4', fps)) if video else None
        )
        self._tracks = TracksWriter(folder / 'tracks.json', model)
        self._open.callback(self._tracks.close)

    def __enter__(self) -> Recorder:
        """Return the open recorder."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Complete the files, also after an interruption."""
        self._open.__exit__(kind, error, trace)

    def add(
        self, index: int, name: str, result: Result, places: Sequence[Place] | None = None
    ) -> None:
        """Add the tracks of image number ``index``, called ``name`` in its recording.

        ``places`` is where in space each of them is, where that is asked.
        """
        frame, tracks = result.frame, result.tracks
        self.tracked += 1
        self._instances += len(tracks)
        self._ids.update(tracks.track_ids.tolist())
        shape = frame.shape
        written = tracks if self._points else dataclasses.replace(tracks, points=None)
        self._tracks.write(
            TrackedFrame(index, name, frame.stamp_ns, *shape, written, result.class_names),
            places,
        )
        self._bag.write_tracks(result, self.model)
        if self._video is not None:
            notes = _distances(tracks.track_ids.tolist(), places or ())
            drawn = overlay.draw(frame.image, tracks, result.class_names, notes)
            for number, prompt in self._prompts:
                if number <= index < number + self._shown:
                    overlay.point_out(drawn, prompt)
            self._video.write(drawn)

    def refuse(self, name: str, reason: str) -> None:
        """Note an image that could not be used."""
        self.refused += 1
        if len(self.reasons) < _NAMED:
            self.reasons[name] = reason

    def event(self, name: str, text: str, count: int = 1) -> None:
        """Note something that costs no image."""
        self.events[name] += count

    def took(self, milliseconds: float) -> None:
        """Note how long an image took."""
        self._latencies.append(milliseconds)

    def summary(self, **more: Any) -> dict[str, Any]:
        """Write and return summary.json."""
        percentiles = np.percentile(self._latencies, [50, 99]) if self._latencies else (0.0, 0.0)
        tracked = self.tracked
        figures = {
            'frames_tracked': tracked,
            'frames_refused': self.refused,
            'refused': self.reasons,
            'events': dict(self.events),
            'latency_ms_p50': round(float(percentiles[0]), 2),
            'latency_ms_p99': round(float(percentiles[1]), 2),
            'tracks': len(self._ids),
            'instances_per_frame': round(self._instances / tracked, 2) if tracked else 0.0,
            'model': self.model,
            **more,
        }
        (self.folder / 'summary.json').write_text(json.dumps(figures, indent=1) + '\n')
        return figures


def _distances(track_ids: Sequence[int], places: Sequence[Place]) -> dict[int, str]:
    """Return how far away tracks are, by their ids; about so far where that is predicted."""
    return {
        track_id: f'{"~" if place.reason else ""}{np.linalg.norm(place.position):.2f} m'
        for track_id, place in zip(track_ids, places)
        if place.position is not None
    }
