# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a worker does with one recording: the same as ``masa_ros replay``, and a table of it."""

from __future__ import annotations

import dataclasses
import platform
import resource
import socket
import time
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import torch

import masa_ros
from masa_ros import methods, options
from masa_ros.errors import ConfigError, SourceError
from masa_ros.fleet.sources import fetched
from masa_ros.methods import Method
from masa_ros.recordings.fleet_folder import FleetFolder, write_json
from masa_ros.recordings.sources import open_source
from masa_ros.recordings.table import write_table
from masa_ros.replay.recording import Output, record, track_here
from masa_ros.streams.stream import StreamConfig


class Recording(NamedTuple):
    """A recording that is to be tracked.

    Attributes
    ----------
    name: of what comes of it.
    place: path or URL.
    truth: ground truth, None for none.

    """

    name: str
    place: str
    truth: Path | None = None


class Begun(NamedTuple):
    """What a worker loaded, and where.

    Attributes
    ----------
    host: its machine.
    weights: of what the method loaded, by part: name and check sum of the file.

    """

    host: str
    weights: dict[str, str]


@dataclasses.dataclass
class Tracker:
    """Tracks recordings into the folder of a fleet; its method is loaded once.

    Attributes
    ----------
    folder: of the fleet, the same one for all workers.
    run: what its fleet.json says: which it is.
    method, chosen, rules: way of tracking, its options, those of the stream.
    topic, fps, max_frames, overlay, points: as ``masa_ros replay`` has them.

    """

    folder: Path
    run: str
    method: str
    chosen: Any
    rules: StreamConfig
    topic: str = ''
    fps: float = 0.0
    max_frames: int = 0
    overlay: bool = False
    points: bool = False
    _loaded: Method[Any] | None = None

    def begin(self) -> Begun:
        """Load the method.

        Raises
        ------
        ConfigError
            When the folder is not the fleet's, as on a machine that does not share it.

        """
        host = socket.gethostname()
        try:
            same = FleetFolder(self.folder).begun()['run'] == self.run
        except SourceError:
            same = False
        if not same:
            raise ConfigError(f'{self.folder} is not the same folder on {host}: share it')
        self._loaded = methods.load(self.method, self.chosen)
        facts = self._loaded.describe()
        return Begun(host, {key: facts[key] for key in facts if key.endswith('weights')})

    def do(self, recording: Recording, attempt: int) -> dict[str, Any]:
        """Track a recording; returns its manifest, see docs/fleet.md."""
        assert self._loaded is not None
        method, folder = self._loaded, FleetFolder(self.folder)
        before = folder.manifest(recording.name)
        if before is not None and before['state'] == 'done':
            return before  # by a worker that was thought to be dead
        start, cpu = time.perf_counter(), time.process_time()
        with folder.part() as part, fetched(recording.place) as path:
            source = open_source(path, self.topic, self.fps)
            model = str(options.values_of(self.chosen).get('model', self.method))
            output = Output(part, model, self.overlay, self.points, (), recording.truth)
            summary = record(
                *(source, recording.place, output),
                lambda recorder: track_here(
                    source, method, self.rules, recorder, max_frames=self.max_frames
                ),
            )
            rows = write_table(part / 'tracks.json', part / 'tracks.parquet')
            manifest = {
                **_beginning(recording, 'done', attempt),
                'reason': '',
                'seconds': round(time.perf_counter() - start, 3),
                'cpu_seconds': round(time.process_time() - cpu, 3),
                'frames': summary['frames_tracked'],
                'refused': summary['frames_refused'],
                'tracks': summary['tracks'],
                'rows': rows,
                'bytes': sum(file.stat().st_size for file in part.iterdir()),
                'host': socket.gethostname(),
                'device': method.device,
                'memory_mib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
                'weights': {k: v for k, v in method.describe().items() if k.endswith('weights')},
                'versions': {
                    'masa_ros': masa_ros.__version__,
                    'torch': torch.__version__,
                    'pyarrow': pyarrow.__version__,
                    'python': platform.python_version(),
                },
            }
            write_json(part / 'manifest.json', manifest)
            if not folder.keep(part, recording.name):
                return folder.manifest(recording.name) or manifest
        return manifest


def failure(recording: Recording, attempts: int, reason: str) -> dict[str, Any]:
    """Return the manifest of a recording that failed."""
    return {**_beginning(recording, 'failed', attempts), 'reason': reason}


def waiting(recording: Recording) -> dict[str, Any]:
    """Return the manifest of a recording that nobody did yet."""
    return {**_beginning(recording, 'waiting', 0), 'reason': ''}


def _beginning(recording: Recording, state: str, attempts: int) -> dict[str, Any]:
    return {
        'recording': recording.name,
        'source': recording.place,
        'state': state,
        'attempts': attempts,
    }
