"""Everything that a replay leaves behind in its output folder."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from masa_ros import overlay
from masa_ros.replay.bags import TRACKS_TYPE, BagWriter
from masa_ros.replay.video import VideoWriter
from masa_ros.tracks_file import TrackedFrame, write_tracks
from masa_ros.types import Frame, Instances


class Recorder:
    """Write tracks.json, tracks.mcap, overlay.mp4 and summary.json to a folder.

    Attributes
    ----------
    frames: what was tracked so far.
    refused: images that could not be used, by name.

    """

    def __init__(self, folder: Path, model: str, fps: float, video: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.model = folder, model
        self.frames: list[TrackedFrame] = []
        self.refused: dict[str, str] = {}
        self._open = contextlib.ExitStack()
        self._bag = self._open.enter_context(
            BagWriter(folder / 'tracks.mcap', '/masa_tracker/tracks', TRACKS_TYPE)
        )
        self._video = (
            self._open.enter_context(VideoWriter(folder / 'overlay.mp4', fps)) if video else None
        )

    def __enter__(self) -> Recorder:
        """Return the open recorder."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the files; tracks.json is written even after an interruption."""
        self._open.__exit__(kind, error, trace)
        write_tracks(self.folder / 'tracks.json', self.model, self.frames)

    def add(self, index: int, source: str, frame: Frame, tracks: Instances) -> None:
        """Add the tracks of image number ``index``."""
        shape = (frame.image.shape[0], frame.image.shape[1])
        self.frames.append(TrackedFrame(index, source, frame.stamp_ns, *shape, tracks))
        self._bag.write_tracks(tracks, frame.stamp_ns, frame.frame_id, shape, self.model)
        if self._video is not None:
            self._video.write(overlay.draw(frame.image, tracks))

    def refuse(self, source: str, reason: str) -> None:
        """Note an image that could not be used."""
        self.refused[source] = reason

    def summary(self, latencies_ms: list[float], **more: Any) -> dict[str, Any]:
        """Write and return summary.json."""
        ids = [f.instances.track_ids for f in self.frames]
        tracked = len(self.frames)
        percentiles = np.percentile(latencies_ms, [50, 99]) if latencies_ms else (0.0, 0.0)
        figures = {
            'frames_tracked': tracked,
            'frames_refused': len(self.refused),
            'refused': self.refused,
            'latency_ms_p50': round(float(percentiles[0]), 2),
            'latency_ms_p99': round(float(percentiles[1]), 2),
            'tracks': len(set(np.concatenate(ids).tolist())) if ids else 0,
            'instances_per_frame': round(sum(map(len, ids)) / tracked, 2) if tracked else 0.0,
            'model': self.model,
            **more,
        }
        (self.folder / 'summary.json').write_text(json.dumps(figures, indent=1) + '\n')
        return figures
