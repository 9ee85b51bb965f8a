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

from masa_ros.engines import race, trust
from masa_ros.engines.cache import EngineCache, Stored, key_of
from masa_ros.engines.calibration_set import calibration_images, calibration_version
from masa_ros.engines.compilable import Compilable, Reference
from masa_ros.engines.identity import cpu_version, identity_of
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
    notes: what was tried before or beside it, and what was wrong with that.
    choice: why this one where several were compared, with their times; '' where none were.

    """

    stage: str
    runtime: str
    precision: str
    origin: str
    seconds: float
    size: int
    agreement: tuple[str, ...]
    notes: tuple[str, ...] = ()
    choice: str = ''

    @property
    def refused(self) -> bool:
        """Whether PyTorch runs eagerly what should be compiled, and not because it is faster."""
        return self.runtime == 'eager' and not self.choice

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
        return '; '.join(filter(None, (line, self.choice, *self.agreement, *self.notes)))


class _Made(NamedTuple):
    """What became of a stage, what runs it, and what of that is kept."""

    done: Prepared
    run: Run
    data: bytes = b''


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
    runtimes: what compiles them. Of one, the first precision that agrees is taken; of several,
        the fastest of all that agree, by measurement.
    cache: keeps them.
    calibration: folder of images besides those of the package, or ''.
    log: takes a line about everything worth telling.
    progress: is kept up to date.

    """

    def __init__(
        self,
        network: Compilable,
        runtimes: Sequence[Runtime],
        cache: EngineCache,
        calibration: str,
        log: Callable[[str], None],
        progress: Progress,
    ) -> None:
        self.network, self.runtimes, self.cache = network, runtimes, cache
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
        if device.type == 'cuda':
            major, minor = torch.cuda.get_device_capability(device)
            machine = {'gpu': f'{torch.cuda.get_device_name(device)} {major}.{minor}'}
        else:
            machine = {'gpu': 'cpu', 'cpu': cpu_version()}
        return {
            'stage': name,
            **self._identities[name],
            'runtime': ' or '.join(runtime.name for runtime in self.runtimes),
            'version': '; '.join(runtime.version() for runtime in self.runtimes),
            **machine,
            'wanted': [self.network.precision, *(self._wanted(r) for r in self.runtimes)],
            'input': shape,
            'limits': dict(stage.limits),
            'calibration': calibration_version(self.calibration),
        }

    def _stage(
        self, name: str, shape: tuple[int, int], workshop: _Workshop
    ) -> tuple[Prepared, Run]:
        """Take one stage from disk or build it."""
        if not any(runtime.keeps for runtime in self.runtimes):
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
            if done.runtime != 'eager' or all('disagrees' in note for note in done.notes):
                date = datetime.now(timezone.utc).isoformat(timespec='seconds')
                told = {'model': self.network.name, 'date': date}
                self.cache.write(key, Stored(facts | done._asdict() | told, data))
                if self.cache.problem:
                    self.log(self.cache.problem)
            return done, run

    def _load(self, kept: Prepared, data: bytes) -> Run:
        if kept.runtime == 'eager':
            # What did not agree or was slower when it was built is so now: nothing has changed.
            return self.network.eager[kept.stage]
        stage, dtype = self.network.stages[kept.stage], storage(kept.precision)
        runtime = next(each for each in self.runtimes if each.name == kept.runtime)
        return runtime.load(stage, data, dtype, self.network.device)

    def _wanted(self, runtime: Runtime) -> str:
        """Return the least exact precision that engines of a runtime may have."""
        network = self.network
        if network.asked == 'auto':
            return runtime.lower(network.device) or network.precision
        return network.asked

    def _build(self, name: str, workshop: _Workshop) -> _Made:
        """Build in the wanted precision or the next one that agrees; the fastest of several."""
        self.progress.since = start = time.monotonic()
        self.progress.doing = f'building {name}'
        try:
            made, notes = self._candidates(name, workshop)
            if len(self.runtimes) > 1:
                made = [self._fastest(name, made, workshop)]
        finally:
            self.progress.doing = ''
        seconds = round(time.monotonic() - start, 1)
        if made:
            done, run, data = made[0]
            return _Made(done._replace(seconds=seconds, notes=notes), run, data)
        refused = (name, 'eager', self.network.precision, 'refused', seconds, 0)
        return _Made(Prepared(*refused, (), notes), self.network.eager[name])

    def _candidates(self, name: str, workshop: _Workshop) -> tuple[list[_Made], tuple[str, ...]]:
        """Return what agrees with float32: of one runtime the first, of several all.

        Less exact ones come first, eager PyTorch last. With them, what was wrong with the others.
        """
        stage, several = self.network.stages[name], len(self.runtimes) > 1
        found: list[_Made] = []
        notes: list[str] = []
        for runtime in self.runtimes:
            if runtime.name == 'eager':  # what engines are compared with, or warm starts run
                done = Prepared(name, 'eager', self.network.precision, 'built', 0.0, 0, ())
                found.append(_Made(done, self.network.eager[name]))
                continue
            for precision in stage.precisions(self._wanted(runtime)):
                if found and not several:
                    break
                self._check_wanted()
                made = self._candidate(name, runtime, precision, workshop)
                if isinstance(made, _Made):
                    found.append(made)
                else:
                    notes.append(f'{f"{runtime.name} " * several}{precision} {made}')
        return found, tuple(notes)

    def _candidate(
        self, name: str, runtime: Runtime, precision: str, workshop: _Workshop
    ) -> _Made | str:
        """Build a stage in one precision and compare it; what is wrong with it, if anything."""
        cases = workshop.cases
        self.progress.doing = f'building {name} ({runtime.name} {precision})'
        self.log(self.progress.doing)
        try:
            data, run = workshop.build(runtime, name, precision)
            measures = trust.compare(self.network.stages[name], run, cases)
        except (EngineError, RuntimeError) as error:  # RuntimeError: all torch raises
            return f'failed: {first_line(error)}'
        wrong = [str(measure) for measure in measures if not measure.good]
        if wrong:
            return f'disagrees: {", ".join(wrong)}'
        agreement = tuple(map(str, measures))
        done = Prepared(name, runtime.name, precision, 'built', 0.0, len(data), agreement)
        return _Made(done, run, data)

    def _fastest(self, name: str, made: Sequence[_Made], workshop: _Workshop) -> _Made:
        """Measure what agrees and return the fastest, the most exact of those hardly slower."""
        names = [f'{each.done.runtime} {each.done.precision}' for each in made]
        if len(made) == 1:
            return made[0]._replace(done=made[0].done._replace(choice=f'{names[0]} alone agrees'))
        self._check_wanted()
        self.progress.doing = f'timing {name}'
        inputs = [case.inputs[name] for case in workshop.cases]
        seconds = race.medians([each.run for each in made], inputs)
        best = made[race.fastest(seconds)]
        times = ', '.join(f'{each} {value * 1e3:.1f} ms' for each, value in zip(names, seconds))
        return best._replace(done=best.done._replace(choice=f'fastest of {times}'))


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
