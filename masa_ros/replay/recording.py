# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One recording into one output folder: what ``masa_ros replay`` and ``masa_ros fleet`` do."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from masa_ros.errors import ImageError, SourceError
from masa_ros.evaluation.command import report
from masa_ros.evaluation.truth import read_truth
from masa_ros.methods import Method
from masa_ros.recordings.detections import GivenDetections
from masa_ros.recordings.prompts import RecordedPrompt
from masa_ros.recordings.recorder import Recorder
from masa_ros.recordings.sources import Source
from masa_ros.recordings.tracks_file import read_tracks
from masa_ros.replay.run import Replay
from masa_ros.replay.space import RecordedSpace
from masa_ros.streams.stream import Stream, StreamConfig


@dataclasses.dataclass(frozen=True)
class Output:
    """What is made of a recording.

    Attributes
    ----------
    folder: for all of it.
    model: what the tracks are said to be of.
    overlay: whether a video is drawn.
    points: whether tracks.json has the points that tracks are followed by.
    prompts: shown in the video.
    truth: ground truth to score the tracks against.
    video: of a ground truth of several.

    """

    folder: Path
    model: str
    overlay: bool = True
    points: bool = False
    prompts: Sequence[RecordedPrompt] = ()
    truth: Path | None = None
    video: str = ''


def record(
    source: Source, name: str, output: Output, track: Callable[[Recorder], dict[str, Any]]
) -> dict[str, Any]:
    """Track a recording and write its folder; returns the summary.

    With ground truth that is tracks.json, tracks.mcap, overlay.mp4, summary.json, evaluation.html
    and scores.json, which holds the counts that ``masa_ros evaluate --fleet`` adds up.

    Parameters
    ----------
    source: the recording.
    name: what it is called in texts.
    output: what is wanted of it.
    track: tracks it into a recorder; returns what else belongs into the summary.

    Raises
    ------
    SourceError
        When no image could be tracked, or the ground truth cannot be read.

    """
    folder, fps = output.folder, _rate(source)
    with Recorder(
        *(folder, output.model, fps, output.overlay, output.prompts, output.points)
    ) as recorder:
        more = track(recorder)
    if not recorder.tracked:
        reasons = '; '.join(list(recorder.reasons.values())[:3]) or 'it holds no images'
        raise SourceError(f'{name}: nothing could be tracked: {reasons}')
    if output.truth is not None:
        tracked = read_tracks(folder / 'tracks.json')
        truth = read_truth(output.truth, tracked, output.video)
        told = report(tracked, truth, folder / 'evaluation.html', source, name)
        more |= told.scores.rounded()
        if told.positions is not None:
            more['positions'] = dataclasses.asdict(told.positions)
        kept = {'scores': dataclasses.asdict(told.scores), 'parts': told.parts}
        (folder / 'scores.json').write_text(json.dumps(kept) + '\n')
    return recorder.summary(**more)


def track_here(
    source: Source,
    method: Method[Any],
    rules: StreamConfig,
    recorder: Recorder,
    given: GivenDetections | None = None,
    prompts: Sequence[RecordedPrompt] = (),
    space: RecordedSpace | None = None,
    max_frames: int = 0,
    realtime: bool = False,
) -> dict[str, Any]:
    """Track a recording in this process by a loaded method; returns what the summary says of it.

    The parameters are those of ``Replay`` and of its ``run``.
    """
    stream = Stream(method, rules, tell=recorder.event)
    if given is not None:
        stream.classes.names.update(given.class_names)
    replay = Replay(stream, recorder, given, prompts, space)
    replay.run(source, max_frames, realtime)
    more: dict[str, Any] = {'method': method.name, 'device': method.device}
    if prompts:
        more['prompts'] = [dataclasses.asdict(answer) for answer in replay.answers]
    return more


def _rate(source: Source) -> float:
    """Frames per second by the first stamps of a recording."""
    stamps: list[int] = []
    for item in source:
        if not isinstance(item.frame, ImageError):
            stamps.append(item.frame.stamp_ns or item.arrived_ns)
        if len(stamps) == 10:
            break
    span = stamps[-1] - stamps[0] if stamps else 0
    return min(max((len(stamps) - 1) * 1e9 / span, 1.0), 120.0) if span > 0 else 10.0
