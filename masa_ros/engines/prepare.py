"""Engines of one detector: taken from disk or built, checked against PyTorch, put to use."""

from __future__ import annotations

import copy
import dataclasses
import re
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from masa_ros.engines import cache, trust
from masa_ros.engines.cache import EngineCache, Stored
from masa_ros.engines.runtimes import choose
from masa_ros.engines.tensorrt import first_line
from masa_ros.errors import ConfigError, EngineError
from masa_ros.models.detector import Detector
from masa_ros.models.precision import PRECISIONS, storage
from masa_ros.models.stages import Run, Stage, stages_of

_CALIBRATION = Path(__file__).parent / 'calibration'


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """How a detector is run.

    Attributes
    ----------
    runtime: 'auto', 'tensorrt', 'compile' or 'eager'.
    warm_start: run eagerly until the engines are ready, instead of waiting for them.
    camera: size of the images as 'WIDTHxHEIGHT', for which engines are prepared at once; ''
        to see it at the first image.
    calibration: folder of images that engines are checked on besides those of the package.
    folder: where engines are kept; '' for the user's cache.

    """

    runtime: str = 'eager'
    warm_start: bool = True
    camera: str = ''
    calibration: str = ''
    folder: str = ''


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
    def from_record(cls, record: dict[str, Any]) -> Prepared:
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


class Engines:
    """Prepare a detector's engines for the image sizes that it meets.

    They are built in the detector's precision; what does not agree with float32 is built again
    in the next higher one.

    Parameters
    ----------
    detector: whose ``engines`` are filled.
    config: see there.
    log: takes a line about everything worth telling.
    reference: gives the same detector in float32, run eagerly, when engines are to be built.

    Attributes
    ----------
    camera: (width, height) of the images, None where the configuration does not tell.
    prepared: what became of every stage at the last image size.

    """

    def __init__(
        self,
        detector: Detector,
        config: EngineConfig,
        log: Callable[[str], None] = lambda text: None,
        reference: Callable[[], Detector] | None = None,
    ) -> None:
        self.detector, self.config, self.log = detector, config, log
        self.runtime = choose(config.runtime, detector.device)
        self.camera = _size(config.camera) if config.camera else None
        self.cache = EngineCache(Path(config.folder).expanduser() if config.folder else None)
        self.prepared: tuple[Prepared, ...] = ()
        self._reference = reference or self._load_reference
        self._weights = ''
        self._known: set[tuple[int, int]] = set()
        self._thread: threading.Thread | None = None
        self._doing = self._failure = ''
        self._given_up = False
        self._since = 0.0
        if config.calibration:
            calibration_images((32, 32), config.calibration)  # better told now than in an hour

    def _load_reference(self) -> Detector:
        return Detector.load(dataclasses.replace(self.detector.config, precision='fp32'))

    @property
    def busy(self) -> bool:
        """Whether engines are being prepared."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def failed(self) -> bool:
        """Whether something that should be compiled is run eagerly."""
        return bool(self._failure) or any(done.runtime == 'eager' for done in self.prepared)

    @property
    def status(self) -> str:
        """What is being done, or what runs: one line for diagnostics."""
        if self._doing:
            return f'{self._doing}, {time.monotonic() - self._since:.0f} s'
        if self._failure:
            return f'eager: {self._failure}'
        if not self.prepared:
            return 'eager'
        return ', '.join(f'{p.stage} {p.runtime} {p.precision}' for p in self.prepared)

    def meet(self, height: int, width: int) -> None:
        """Have engines for images of this size: now, or a while after with ``warm_start``.

        Costs nothing for a size that was met before. What fails is logged: the detector can
        always go on eagerly.
        """
        size = (height, width)
        if self.runtime.name == 'eager' or self._given_up:
            return
        # One size at a time: a camera that changes its mind is met again with its next image.
        if size not in self._known and not self.busy:
            self._known.add(size)
            self._thread = threading.Thread(
                target=self._prepare_quietly, args=size, name='engines', daemon=True
            )
            self._thread.start()
        if self._thread is not None and not self.config.warm_start:
            self._thread.join()

    def give_up(self, reason: str) -> None:
        """Run eagerly from now on; what is being built is not put to use."""
        self._given_up, self._failure = True, reason
        self.detector.engines = {}

    def _prepare_quietly(self, height: int, width: int) -> None:
        try:
            self.prepare(height, width)
        except Exception as error:
            self._failure = f'{type(error).__name__}: {error}'
            self.log(f'no engines, PyTorch runs eagerly: {self._failure}')

    def prepare(self, height: int, width: int) -> tuple[Prepared, ...]:
        """Take the engines for images of this size from disk or build them, and put them to use.

        Raises
        ------
        WeightsError, ConfigError
            When the float32 network that engines are checked against cannot be loaded.

        """
        if self.runtime.name == 'eager':
            return ()
        blank = np.zeros((height, width, 3), np.uint8)
        tensor, _ = self.detector.preprocess(blank)
        shape = (tensor.shape[2], tensor.shape[3])
        if shape in self.detector.engines:  # another camera size, the same network input
            return self.prepared
        workshop = _Workshop(self, (height, width))
        runs: dict[str, Run] = {}
        prepared = []
        for name in self.detector.stages:
            done, run = self._stage(name, shape, workshop)
            self.log(str(done))
            prepared.append(done)
            runs[name] = run
        if not self._given_up:
            self.detector.engines[shape] = runs
        self.prepared = tuple(prepared)
        return self.prepared

    def samples(self, height: int, width: int) -> list[trust.Sample]:
        """Return what the float32 network makes of the calibration images at a camera's size."""
        return _Workshop(self, (height, width)).samples

    def facts(self, stage: str, shape: tuple[int, int]) -> dict[str, Any]:
        """Return everything that the engine of a stage depends on."""
        if not self._weights:
            self._weights = cache.weights_version(self.detector.network)
        device = torch.device(self.detector.device)
        gpu = 'cpu'
        if device.type == 'cuda':
            major, minor = torch.cuda.get_device_capability(device)
            gpu = f'{torch.cuda.get_device_name(device)} {major}.{minor}'
        return {
            'model': self.detector.model.name,
            'stage': stage,
            'weights': self._weights,
            'code': cache.code_version(),
            'runtime': self.runtime.name,
            'version': self.runtime.version(),
            'gpu': gpu,
            'wanted': self.detector.precision,
            'input': shape,
            'limits': trust.LIMITS,
        }

    def _stage(
        self, name: str, shape: tuple[int, int], workshop: _Workshop
    ) -> tuple[Prepared, Run]:
        """Take one stage from disk or build it."""
        if not self.runtime.keeps:
            return self._build(name, workshop)[:2]
        facts = self.facts(name, shape)
        key = cache.key_of(facts)
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
                self.cache.write(key, Stored(facts | done._asdict() | _now(), data))
                if self.cache.problem:
                    self.log(self.cache.problem)
            return done, run

    def _load(self, kept: Prepared, data: bytes) -> Run:
        if kept.runtime == 'eager':
            # What did not agree when it was built does not agree now: nothing of it has changed.
            return self.detector.eager[kept.stage]
        stage, dtype = self.detector.stages[kept.stage], storage(kept.precision)
        return self.runtime.load(stage, data, dtype, self.detector.device)

    def _build(self, name: str, workshop: _Workshop) -> tuple[Prepared, Run, bytes]:
        """Build in the wanted precision or the next one that agrees."""
        samples = workshop.samples
        self._since, notes = time.monotonic(), []
        try:
            for precision in _at_least(self.detector.precision, name):
                self._doing = f'building {name} ({self.runtime.name} {precision})'
                self.log(self._doing)
                try:
                    data, run = workshop.build(name, precision)
                    measures = trust.compare(name, run, samples)
                except (EngineError, RuntimeError) as error:  # RuntimeError: all that torch raises
                    notes.append(f'{precision} failed: {first_line(error)}')
                    continue
                wrong = [str(measure) for measure in measures if not measure.good]
                if wrong:
                    notes.append(f'{precision} disagrees: {", ".join(wrong)}')
                    continue
                seconds = round(time.monotonic() - self._since, 1)
                agreement = tuple(map(str, measures))
                made = (name, self.runtime.name, precision, 'built', seconds, len(data))
                return Prepared(*made, agreement, tuple(notes)), run, data
        finally:
            self._doing = ''
        seconds = round(time.monotonic() - self._since, 1)
        refused = (name, 'eager', self.detector.precision, 'refused', seconds, 0)
        return Prepared(*refused, (), tuple(notes)), self.detector.eager[name], b''


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r'(\d{1,5})x(\d{1,5})', text)
    if found is None or '0' in found.groups():
        raise ConfigError(f"camera_size is '{text}'; it must be WIDTHxHEIGHT, as 1280x720")
    return int(found[1]), int(found[2])


def _now() -> dict[str, str]:
    return {'date': datetime.now(timezone.utc).isoformat(timespec='seconds')}


def _at_least(precision: str, stage: str) -> list[str]:
    """Precisions to try, the wanted one first, each more exact than the one before."""
    order = list(PRECISIONS)
    tried = order[order.index(precision) :]
    if stage != 'image' and precision != 'mixed':
        # The small stages lose nothing by full precision; SAM's decoder has no mixed form.
        tried = [p for p in tried if p != 'mixed']
    return tried


class _Workshop:
    """The float32 network and its results: needed only when something must be built."""

    def __init__(self, engines: Engines, size: tuple[int, int]) -> None:
        self._engines, self._size = engines, size
        self._samples: list[trust.Sample] | None = None
        self._stages: dict[str, dict[str, Stage]] = {}
        self._detector: Detector | None = None

    @property
    def reference(self) -> Detector:
        if self._detector is None:
            self._detector = self._engines._reference()
        return self._detector

    @property
    def samples(self) -> list[trust.Sample]:
        if self._samples is None:
            images = calibration_images(self._size, self._engines.config.calibration)
            inputs = [self.reference.preprocess(image) for image in images]
            self._samples = trust.make_samples(self.reference, inputs)
        return self._samples

    def build(self, name: str, precision: str) -> tuple[bytes, Run]:
        """Build one stage in one precision, for the shapes of the samples."""
        if precision not in self._stages:
            network = copy.deepcopy(self.reference.network)
            PRECISIONS[precision](network)
            self._stages[precision] = stages_of(network, self.reference.model)
        stage, dtype = self._stages[precision][name], storage(precision)
        inputs = stage.arrange(self.samples[0].tensors[name], dtype)
        runtime, device = self._engines.runtime, self.reference.device
        data = runtime.build(stage, inputs)
        return data, runtime.load(stage, data, dtype, device)


def calibration_images(size: tuple[int, int], folder: str = '') -> Sequence[NDArray[np.uint8]]:
    """Images that engines are checked on, RGB, (height, width) = ``size``.

    Raises
    ------
    ConfigError
        When the folder of further ones has no image.

    """
    files = sorted(_CALIBRATION.glob('*.jpg'))
    if folder:
        own = sorted(p for p in Path(folder).expanduser().glob('*') if p.suffix in _SUFFIXES)
        if not own:
            raise ConfigError(f'calibration: no image (jpg, png) in {folder}')
        files += own[:_MOST_OWN]
    images = []
    for file in files:
        image = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if image is None:
            raise ConfigError(f'calibration: {file} is not an image')
        image = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA)
        images.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    return images


_SUFFIXES = ('.jpg', '.jpeg', '.png')
_MOST_OWN = 20
