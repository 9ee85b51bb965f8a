# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Engines of a network by the shape of its input: built in the background, watched in use."""

from __future__ import annotations

import atexit
import dataclasses
import re
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from masa_ros import options
from masa_ros.engines.build import Builder, Prepared, Progress, Stopped
from masa_ros.engines.cache import EngineCache
from masa_ros.engines.calibration_set import calibration_images
from masa_ros.engines.compilable import Compilable
from masa_ros.engines.runtimes import RUNTIMES, choose, left_out
from masa_ros.engines.tensorrt import first_line
from masa_ros.errors import ConfigError, EngineError
from masa_ros.models.devices import lost_device
from masa_ros.models.stages import Case, Run
from masa_ros.options import option

Shape = tuple[int, int]
"""Height and width of the input of a network."""


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """How a network is run; raises ConfigError naming an option that means nothing.

    Attributes
    ----------
    folder: where engines are kept; '' for the user's cache.

    """

    runtime: str = option(
        'auto',
        'what runs the network; auto: TensorRT where it is installed, else torch.compile; on a '
        'CPU the faster of OpenVINO, where it is installed, and eager PyTorch',
        choices=lambda: ('auto', *RUNTIMES),
    )
    warm_start: bool = option(
        True, 'track with eager PyTorch until the engines are built; otherwise wait for them'
    )
    camera_size: str = option(
        '',
        'size of the images as WIDTHxHEIGHT, for which engines are prepared at once; empty: at '
        'the first image',
    )
    calibration: str = option(
        '', 'folder of images on which engines are compared with PyTorch, besides built-in ones'
    )
    folder: str = ''

    def __post_init__(self) -> None:
        """Check every value by itself."""
        options.check(self)
        if self.camera_size and self.camera is None:
            raise ConfigError(
                f"camera_size is '{self.camera_size}'; it must be WIDTHxHEIGHT, as 1280x720"
            )

    @property
    def camera(self) -> tuple[int, int] | None:
        """(width, height) of the images, None where it is not told."""
        found = re.fullmatch(r'([1-9]\d{0,4})x([1-9]\d{0,4})', self.camera_size)
        return (int(found[1]), int(found[2])) if found else None


_ONE_AT_A_TIME = threading.Lock()
"""Held by whoever builds: two builds at once would need the memory of two."""
_EVERY: weakref.WeakSet[Engines] = weakref.WeakSet()


@atexit.register
def _finish() -> None:
    """Wait for the engine that is being built, begin no other.

    Python's end would cut its thread off in a library's own code, which aborts the process.
    """
    for engines in list(_EVERY):
        engines.close()
        engines.join()


class _Made(NamedTuple):
    """The engines for one input shape."""

    prepared: tuple[Prepared, ...]
    runs: Mapping[str, Run]


class Engines:
    """What runs a network: engines where they are ready, plain PyTorch everywhere else.

    They are built in the network's precision; what does not agree with float32 is built again in
    the next higher one. Where several runtimes may run it, each stage gets the fastest. One shape
    is built at a time: what is asked for meanwhile is built when it is asked for once more. Safe
    to use from several threads.

    Parameters
    ----------
    network: whose stages are compiled.
    config: see there.
    log: takes a line about everything worth telling; called from other threads too.

    Raises
    ------
    ConfigError
        For a runtime that does not run here, or a calibration folder without images.

    """

    def __init__(
        self,
        network: Compilable,
        config: EngineConfig,
        log: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.network, self.config, self.log = network, config, log
        runtimes = choose(config.runtime, network.device)
        self.runtime = runtimes[0]
        if missing := left_out(config.runtime, network.device):
            log(f'runtime auto: {self.runtime.name} alone, {missing}')
        self.cache = EngineCache(Path(config.folder).expanduser() if config.folder else None)
        self._progress = Progress()
        self._builder = Builder(
            network, runtimes, self.cache, config.calibration, log, self._progress
        )
        # All below is read and written under the lock of ``_changed``.
        self._changed = threading.Condition()
        self._shape: Shape | None = None
        self._made: dict[Shape, _Made] = {}
        self._failures: dict[Shape, Exception] = {}
        self._building = self._hurried = False
        self._given_up = ''
        self._thread: threading.Thread | None = None
        _EVERY.add(self)
        if config.calibration:
            calibration_images((32, 32), config.calibration)  # better told now than in an hour

    @property
    def prepared(self) -> tuple[Prepared, ...]:
        """What became of every stage at the shape in use; nothing until it is ready."""
        with self._changed:
            made = self._made.get(self._shape) if self._shape else None
            return made.prepared if made else ()

    @property
    def busy(self) -> bool:
        """Whether engines are being prepared."""
        with self._changed:
            return self._building

    @property
    def failed(self) -> bool:
        """Whether something that should be compiled is run eagerly at the shape in use."""
        with self._changed:
            failed = bool(self._given_up) or self._shape in self._failures
        return failed or any(done.refused for done in self.prepared)

    @property
    def status(self) -> str:
        """What runs at the shape in use, or is being done for it: one line for diagnostics."""
        with self._changed:
            failure = self._failures.get(self._shape) if self._shape else None
            if self._given_up:
                return f'eager: {self._given_up}'
        doing = self._progress.doing
        if prepared := self.prepared:
            return ', '.join(f'{p.stage} {p.runtime} {p.precision}' for p in prepared)
        if failure is not None:
            return f'eager: {first_line(failure)}'
        if doing:
            return f'{doing}, {time.monotonic() - self._progress.since:.0f} s'
        return 'eager'

    def runs(self, shape: Shape) -> Mapping[str, Run]:
        """Return what runs the stages for inputs of (height, width); asked with every image.

        Costs nothing for a shape that was met before. A new one is built: in the background with
        ``warm_start``, otherwise this waits for it. What fails is logged, and plain PyTorch runs.
        """
        if self.runtime.name == 'eager':
            return self.network.eager
        with self._changed:
            self._shape = shape
            if not self.config.warm_start:
                self._wait_for(shape)
            elif not (self._known(shape) or self._building):
                self._start(shape)
            made = self._made.get(shape)
            return made.runs if made else self.network.eager

    def prepare(self, shape: Shape) -> tuple[Prepared, ...]:
        """Wait for the engines of a shape; what failed before is tried again.

        Returns
        -------
        What became of every stage; nothing when ``close`` or ``interrupt`` ended the waiting.

        Raises
        ------
        WeightsError, ConfigError
            When the float32 network that engines are checked against cannot be loaded.

        """
        if self.runtime.name == 'eager':
            return ()
        with self._changed:
            self._shape, self._hurried = shape, False
            self._failures.pop(shape, None)
            self._wait_for(shape)
            if shape in self._failures:
                raise self._failures[shape]
        return self.prepared

    def cases(self, shape: Shape) -> Sequence[Case]:
        """Return what the float32 network makes of the calibration images at an input shape."""
        return self._builder.cases(shape)

    def interrupt(self) -> None:
        """Let who waits go on eagerly, until what is built next is ready; from another thread."""
        with self._changed:
            self._hurried = True
            self._changed.notify_all()

    def close(self) -> None:
        """Give up for good, at once and in silence: nobody waits, nothing more is built."""
        self._end('closed')

    def join(self) -> None:
        """Wait until nothing is being built any more."""
        if self._thread is not None:
            self._thread.join()

    def give_up(self, reason: str) -> None:
        """Run eagerly from now on, whatever was built."""
        if self._end(reason):
            self.log(f'the engines are given up, PyTorch runs eagerly: {reason}')

    def _end(self, reason: str) -> bool:
        """Stop everything; False where that was done before."""
        with self._changed:
            if self._given_up:
                return False
            self._given_up = reason
            self._made.clear()
            self._progress.stopped.set()
            self._changed.notify_all()
            return True

    def _known(self, shape: Shape) -> bool:
        """Whether nothing is to be built for a shape."""
        return bool(self._given_up) or shape in self._made or shape in self._failures

    def _wait_for(self, shape: Shape) -> None:
        """Have a shape built and wait; the lock is held and let go meanwhile."""
        while not (self._known(shape) or (self._hurried and self._building)):
            if not self._building:
                self._start(shape)
            if not self._hurried:
                self._changed.wait()

    def _start(self, shape: Shape) -> None:
        """Begin to build; the lock is held."""
        self._building = True
        self._thread = threading.Thread(
            target=self._build, args=(shape,), name='engines', daemon=True
        )
        self._thread.start()

    def _build(self, shape: Shape) -> None:
        made: _Made | None = None
        failure: Exception | None = None
        try:
            with _ONE_AT_A_TIME:
                done = list(self._builder.all(shape))
            eager = self.network.eager
            runs: Mapping[str, Run] = {p.stage: self._watched(p.stage, run) for p, run in done}
            if all(run is eager[name] for name, run in runs.items()):
                runs = eager  # which takes a batch of images
            made = _Made(tuple(p for p, _ in done), runs)
        except Stopped:
            pass
        except Exception as error:
            failure = error
            self.log(f'no engines, PyTorch runs eagerly: {first_line(error)}')
        finally:
            with self._changed:
                self._building = self._hurried = False
                if made and not self._given_up:
                    self._made[shape] = made
                if failure:
                    self._failures[shape] = failure
                self._changed.notify_all()

    def _watched(self, name: str, run: Run) -> Run:
        """Let plain PyTorch answer where an engine fails, and run all from then on.

        A GPU that is lost is not the engine's fault: that is for others to see.
        """
        eager = self.network.eager[name]
        if run is eager:
            return eager

        def watched(**tensors: Tensor) -> dict[str, Tensor]:
            if self._given_up:
                return eager(**tensors)
            try:
                return run(**tensors)
            except (EngineError, RuntimeError) as error:
                if lost_device(error):
                    raise
                found = eager(**tensors)  # raises too where the image is at fault
                self.give_up(str(error) if isinstance(error, EngineError) else first_line(error))
                return found

        return watched
