# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The engines of a network for one input shape: taken from disk or built, checked, kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

import torch

from masa_ros.engines import trust
from masa_ros.engines.cache import EngineCache, Stored, key_of
from masa_ros.engines.calibration_set import calibration_images, calibration_version
from masa_ros.engines.compilable import Compilable, Reference
from masa_ros.engines.identity import identity_of
from masa_ros.engines.runtimes import Runtime
from masa_ros.engines.tensorrt import first_line
from masa_ros.errors import EngineError
from masa_ros.models.precision import storage
from masa_ros.models.stages import Case, Run, Stage


class Prepared(NamedTuple):
    """How a stage is run, and why so.

    Attributes
    ----------
    stage, runtime, precision: what runs and how.
    origin: 'built', 'kept' on disk, or 'refused': no precision agreed and PyTorch runs eagerly.
    seconds: that building and checking took.
    size: bytes of the engine.
    agreement: with float32, measured when it was built.
    notes: precisions that were tried before, and what was wrong with them.

    """

    stage: str
    runtime: str
    precision: str
    origin: str
    seconds: float
    size: int
    agreement: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Prepared:
        """Return what was stored beside an engine."""
        values = {name: record[name] for name in cls._fields}
        return cls(**values | {k: tuple(values[k]) for k in ('agreement', 'notes')})

    def __str__(self) -> str:
        """Return one line for a log."""
        line = f'{self.stage}: {self.runtime} {self.precision}, {self.origin}'
        if self.origin == 'built':
            line += f' in {self.seconds:.1f} s'
        if self.size:
            line += f', {self.size / 2**20:.1f} MiB'
        return '; '.join((line, *self.agreement, *self.notes))


class Stopped(Exception):  # noqa: N818 - it tells no error
    """Nobody wants what is being built any more."""


class Progress:
    """What a build is at, and whether it is still wanted; for several threads.

    Attributes
    ----------
    doing: in words, '' when nothing is built.
    since: when that began, seconds of ``time.monotonic``.

    """

    def __init__(self) -> None:
        self.doing, self.since = '', 0.0
        self.stopped = threading.Event()


class Builder:
    """Make the engines of a network; loads the float32 network only when it must build.

    Parameters
    ----------
    network: whose stages are compiled.
    runtime, cache: what compiles and keeps them.
    calibration: folder of images besides those of the package, or ''.
    log: takes a line about everything worth telling.
    progress: is kept up to date.

    """

    def __init__(
        self,
        network: Compilable,
        runtime: Runtime,
        cache: EngineCache,
        calibration: str,
        log: Callable[[str], None],
        progress: Progress,
    ) -> None:
        self.network, self.runtime, self.cache = network, runtime, cache
        self.calibration, self.log, self.progress = calibration, log, progress
        self._identities: dict[str, dict[str, Any]] = {}

    def all(self, shape: tuple[int, int]) -> Iterator[tuple[Prepared, Run]]:
        """Take every stage from disk or build it, for network inputs of (height, width).

        Raises
        ------
        Stopped
            Between two engines, when ``progress`` says so.
        WeightsError, ConfigError
            When the float32 network or the calibration images cannot be loaded.

        """
        workshop = _Workshop(self.network, shape, self.calibration)
        for name in self.network.stages:
            self._check_wanted()
            made = self._stage(name, shape, workshop)
            self.log(str(made[0]))
            yield made

    def _check_wanted(self) -> None:
        if self.progress.stopped.is_set():
            raise Stopped

    def cases(self, shape: tuple[int, int]) -> Sequence[Case]:
        """Return what the float32 network makes of the calibration images at an input shape."""
        return _Workshop(self.network, shape, self.calibration).cases

    def facts(self, name: str, shape: tuple[int, int]) -> dict[str, Any]:
        """Return everything that the engine of a stage depends on."""
        stage, device = self.network.stages[name], torch.device(self.network.device)
        if name not in self._identities:
            self._identities[name] = identity_of(stage)
        gpu = 'cpu'
        if device.type == 'cuda':
            major, minor = torch.cuda.get_device_capability(device)
            gpu = f'{torch.cuda.get_device_name(device)} {major}.{minor}'
        return {
            'stage': name,
            **self._identities[name],
            'runtime': self.runtime.name,
            'version': self.runtime.version(),
            'gpu': gpu,
            'wanted': self.network.precision,
            'input': shape,
            'limits': dict(stage.limits),
            'calibration': calibration_version(self.calibration),
        }

    def _stage(
        self, name: str, shape: tuple[int, int], workshop: _Workshop
    ) -> tuple[Prepared, Run]:
        """Take one stage from disk or build it."""
        if not self.runtime.keeps:
            return self._build(name, workshop)[:2]
        facts = self.facts(name, shape)
        key = key_of(facts)
        with self.cache.lock(key):
            stored = self.cache.read(key)
            if self.cache.problem:
                self.log(self.cache.problem)
            if stored is not None:
                kept = Prepared.from_record(stored.record)
                try:
                    return kept._replace(origin='kept'), self._load(kept, stored.data)
                except EngineError as error:
                    self.log(f'{error}; it is built again')
            done, run, data = self._build(name, workshop)
            # What failed, for want of memory perhaps, may succeed the next time.
            if done.origin == 'built' or all('disagrees' in note for note in done.notes):
                date = datetime.now(timezone.utc).isoformat(timespec='seconds')
                told = {'model': self.network.name, 'date': date}
                self.cache.write(key, Stored(facts | done._asdict() | told, data))
                if self.cache.problem:
                    self.log(self.cache.problem)
            return done, run

    def _load(self, kept: Prepared, data: bytes) -> Run:
        if kept.runtime == 'eager':
            # What did not agree when it was built does not agree now: nothing of it has changed.
            return self.network.eager[kept.stage]
        stage, dtype = self.network.stages[kept.stage], storage(kept.precision)
        return self.runtime.load(stage, data, dtype, self.network.device)

    def _build(self, name: str, workshop: _Workshop) -> tuple[Prepared, Run, bytes]:
        """Build in the wanted precision or the next one that agrees."""
        stage, wanted = self.network.stages[name], self.network.precision
        start, notes = time.monotonic(), []
        self.progress.since = start
        self.progress.doing = f'building {name}'
        try:
            cases = workshop.cases
            for precision in stage.precisions(wanted):
                self._check_wanted()
                self.progress.doing = f'building {name} ({self.runtime.name} {precision})'
                self.log(self.progress.doing)
                try:
                    data, run = workshop.build(self.runtime, name, precision)
                    measures = trust.compare(stage, run, cases)
                except (EngineError, RuntimeError) as error:  # RuntimeError: all torch raises
                    notes.append(f'{precision} failed: {first_line(error)}')
                    continue
                wrong = [str(measure) for measure in measures if not measure.good]
                if wrong:
                    notes.append(f'{precision} disagrees: {", ".join(wrong)}')
                    continue
                seconds = round(time.monotonic() - start, 1)
                made = (name, self.runtime.name, precision, 'built', seconds, len(data))
                return Prepared(*made, tuple(map(str, measures)), tuple(notes)), run, data
        finally:
            self.progress.doing = ''
        seconds = round(time.monotonic() - start, 1)
        refused = (name, 'eager', wanted, 'refused', seconds, 0)
        return Prepared(*refused, (), tuple(notes)), self.network.eager[name], b''


class _Workshop:
    """The float32 network and its results at one input shape, made when they are needed."""

    def __init__(self, network: Compilable, shape: tuple[int, int], calibration: str) -> None:
        self._network, self._shape, self._calibration = network, shape, calibration
        self._reference: Reference | None = None
        self._cases: list[Case] = []
        self._stages: dict[str, Mapping[str, Stage]] = {}

    @property
    def reference(self) -> Reference:
        if self._reference is None:
            self._reference = self._network.reference()
        return self._reference

    @property
    def cases(self) -> list[Case]:
        if not self._cases:
            images = calibration_images(self._shape, self._calibration)
            self._cases = self.reference.cases(images)
        return self._cases

    def build(self, runtime: Runtime, name: str, precision: str) -> tuple[bytes, Run]:
        """Build one stage in one precision, for the shapes of the cases."""
        if precision not in self._stages:
            self._stages[precision] = self.reference.stages_in(precision)
        stage, dtype = self._stages[precision][name], storage(precision)
        inputs = stage.arrange(self.cases[0].inputs[name], dtype)
        data = runtime.build(stage, inputs)
        return data, runtime.load(stage, data, dtype, self.reference.device)
