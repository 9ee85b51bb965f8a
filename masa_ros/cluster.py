# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tasks that do not need each other, spread over a Ray cluster: the only file that imports Ray.

A worker is a process that loads something once and then takes one task after the other. What a
task needs and what comes of it are files, so little more than names goes through Ray. Attempts
are counted here: a worker that dies takes with it the attempt that it was at, nothing else.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import errno
import ipaddress
import os
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from masa_ros.errors import ConfigError, MasaError
from masa_ros.options import option

_FULL = (errno.ENOSPC, errno.EDQUOT)
_BEGINNINGS = 3  # workers in a row that die while they load, before it is given up
_PATIENCE = 60.0  # seconds without a worker that has begun, before that is told
_LEAST_MEMORY = 80 << 20  # bytes that Ray's object store takes at least; nothing goes through it


@dataclasses.dataclass(frozen=True)
class ClusterConfig:
    """Where tasks run."""

    address: str = option(
        '',
        'Ray cluster: auto (the one that this machine belongs to) or HOST:PORT; without it '
        'RAY_ADDRESS, else this machine alone',
    )
    workers: int = option(
        0, 'processes', 1, 1e5, special=(0, 'as many as the cluster has room for now')
    )
    worker_cpus: float = option(1.0, 'CPUs of a worker', 0.01, 1e3)
    worker_gpus: float = option(
        *(-1.0, 'GPUs of a worker, 0.5: two share one', 0.0, 1e2),
        special=(-1, 'one where the cluster has any'),
    )
    attempts: int = option(3, 'of a task before it is given up', 1, 100)


class Work(Protocol):
    """What a worker does. It is sent to workers, so the package must be installed there."""

    def begin(self) -> Any:
        """Load what all tasks need; returns what whoever spreads them should know of it."""
        ...

    def do(self, task: Any, attempt: int) -> Any:
        """Do a task, for the first time where ``attempt`` is 1."""
        ...


class Outcome(NamedTuple):
    """What came of a task.

    Attributes
    ----------
    key: of the task.
    value: what ``Work.do`` returned, None where it failed.
    problem: why it failed, one line; '' where it did not.
    attempts: that were made.

    """

    key: str
    value: Any
    problem: str
    attempts: int


class _Answer(NamedTuple):
    value: Any = None
    problem: str = ''
    full: bool = False


class _Worker:
    """The process of a worker. Errors come back as texts: their classes may not be known here."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def begin(self) -> _Answer:
        if not ray_library().get_runtime_context().get_accelerator_ids().get('GPU'):
            os.environ['CUDA_VISIBLE_DEVICES'] = ''  # Ray leaves them to whoever has none
        return _answer(self._work.begin)

    def do(self, task: Any, attempt: int) -> _Answer:
        return _answer(lambda: self._work.do(task, attempt))


def _answer(call: Callable[[], Any]) -> _Answer:
    try:
        return _Answer(call())
    except OSError as error:
        return _Answer(problem=one_line(error), full=error.errno in _FULL)
    except MasaError as error:
        return _Answer(problem=one_line(error))
    except Exception as error:  # a mistake: of this task, the others go on
        traceback.print_exc()  # into the log of the worker
        return _Answer(problem=f'a mistake in masa_ros: {type(error).__name__}: {one_line(error)}')


def one_line(error: BaseException) -> str:
    """Return the first line that an error says, or what it is."""
    return next(iter(str(error).strip().splitlines()), '') or type(error).__name__


def ray_library() -> Any:
    """Return the library; nothing is sent to its makers, and it does not say that it starts."""
    os.environ['RAY_USAGE_STATS_ENABLED'] = '0'
    import ray

    return ray


@contextlib.contextmanager
def joined(config: ClusterConfig, shown: bool = False) -> Iterator[None]:
    """Join a cluster, or start Ray on this machine, where it listens on the loopback alone.

    What workers print is in their logs, and with ``shown`` printed here as well.

    Raises
    ------
    ConfigError
        When there is no such cluster.

    """
    address = config.address or os.environ.get('RAY_ADDRESS', '') or 'local'
    own: dict[str, Any] = {}
    if address == 'local':
        # Read when Ray is imported: without it every process listens on all interfaces.
        os.environ.setdefault('RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER', '0')
        own = {'include_dashboard': False, 'object_store_memory': _LEAST_MEMORY}
    ray = ray_library()
    try:
        ray.init(address, log_to_driver=shown, logging_level='ERROR', **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f'no Ray cluster at {address}: {one_line(error)}') from error
    try:
        if own and not ipaddress.ip_address(ray.util.get_node_ip_address()).is_loopback:
            raise ConfigError('Ray was imported before masa_ros.cluster.joined could tell it how')
        yield
    finally:
        ray.shutdown()


def spread(
    work: Work,
    tasks: Mapping[str, Any],
    config: ClusterConfig,
    tell: Callable[[str], None] = print,
    began: Callable[[Any], None] = lambda facts: None,
) -> Generator[Outcome, None, None]:
    """Do tasks on the cluster that was joined; gives what came of each as soon as it is known.

    Parameters
    ----------
    work: what is to be done.
    tasks: by their keys, the first ones first; one that failed waits behind the others.
    config: how many workers there are, and what each takes.
    tell: takes a line worth telling.
    began: takes what ``Work.begin`` returned, from every worker; what it raises ends it all.

    Raises
    ------
    MasaError
        When workers cannot begin, or a disk is full: the tasks that run then are waited for, and
        nothing is counted against those that wait.

    """
    pool = _Pool(work, tasks, config, tell, began)
    try:
        yield from pool.outcomes()
    except ray_library().exceptions.RayError as error:
        text = f'the Ray cluster is lost: {one_line(error)}; start again, it goes on'
        raise MasaError(text) from error
    finally:
        pool.close()


class _Pool:
    """The workers of one ``spread``: each is at a task, or loads (key None)."""

    def __init__(
        self,
        work: Work,
        tasks: Mapping[str, Any],
        config: ClusterConfig,
        tell: Callable[[str], None],
        began: Callable[[Any], None],
    ) -> None:
        self._ray = ray_library()
        self._tasks, self._config = tasks, config
        self._tell, self._began = tell, began
        self._waiting = collections.deque(tasks)
        self._attempts: collections.Counter[str] = collections.Counter()
        self._running: dict[Any, tuple[Any, str | None]] = {}
        cpus, gpus, self._most = resources(config)
        self._needs = f'{cpus:g} CPU and {gpus:g} GPU'
        self._kind = self._ray.remote(_Worker).options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy='SPREAD',
        )
        self._work = self._ray.put(work)
        self._full = ''

    def close(self) -> None:
        """End all workers."""
        with contextlib.suppress(Exception):  # the cluster may be gone
            for worker, _ in self._running.values():
                self._ray.kill(worker)

    def outcomes(self) -> Iterator[Outcome]:
        """Give what comes of the tasks."""
        died, quiet, some = 0, time.monotonic(), False
        while self._waiting or any(key is not None for _, key in self._running.values()):
            at_work = sum(key is not None for _, key in self._running.values())
            for _ in range(len(self._running), min(self._most, len(self._waiting) + at_work)):
                worker = self._kind.remote(self._work)
                self._running[worker.begin.remote()] = worker, None
            done, _ = self._ray.wait(list(self._running), timeout=1.0)
            if not done and not some and time.monotonic() - quiet > _PATIENCE:
                self._tell(f'no worker has begun yet; each takes {self._needs}')
                quiet = time.monotonic()
            for reference in done:
                worker, key = self._running.pop(reference)
                answer, alive = self._answered(reference)
                if key is None:
                    some = some or alive
                    died = 0 if alive else died + 1
                    if answer.problem and (alive or died == _BEGINNINGS):
                        if alive:
                            raise MasaError(f'no worker can begin: {answer.problem}')
                        raise MasaError(
                            f'workers die before they begin ({answer.problem}): is the cluster '
                            'still there? Start again, it goes on'
                        )
                    if alive:
                        self._began(answer.value)
                elif answer.full:
                    # It is not the task's fault, and the next one would fail as well.
                    self._full = answer.problem
                    self._waiting.clear()
                elif not answer.problem or self._attempts[key] >= self._config.attempts:
                    yield Outcome(key, answer.value, answer.problem, self._attempts[key])
                else:
                    self._waiting.append(key)
                if alive:
                    self._next(worker)
        if self._full:
            raise MasaError(f'{self._full}; make room and start again, it goes on')

    def _answered(self, reference: Any) -> tuple[_Answer, bool]:
        """Return what a worker answers, and whether it lives."""
        try:
            return self._ray.get(reference), True
        except self._ray.exceptions.OutOfMemoryError:
            return _Answer(problem='its node ran out of memory'), False
        except self._ray.exceptions.RayError as error:
            node = 'node' in one_line(error) or 'its node has died' in str(error)
            return _Answer(problem=f'its {"node" if node else "process"} died'), False

    def _next(self, worker: Any) -> None:
        """Give a worker the next task, or let it go."""
        if not self._waiting:
            self._ray.kill(worker)
            return
        key = self._waiting.popleft()
        self._attempts[key] += 1
        reference = worker.do.remote(self._tasks[key], self._attempts[key])
        self._running[reference] = worker, key


def together(work: Callable[[str], None], config: ClusterConfig, folder: Path) -> None:
    """Run the same work in processes that torch.distributed joins (Ray Train's TorchTrainer).

    Parameters
    ----------
    work: takes the device of its process; is sent there.
    config: how many processes there are, and what each takes.
    folder: for what Ray notes about the run; shared by all machines.

    Raises
    ------
    MasaError
        What a process raised, or that one died.

    """
    with joined(config, shown=True):
        try:
            from ray import train
            from ray.train.torch import TorchTrainer, get_device
        except ImportError as error:
            raise ConfigError("Ray Train is not installed: pip install 'ray[train]'") from error
        _, gpus, most = resources(config)
        trainer = TorchTrainer(
            lambda: work(str(get_device())),
            scaling_config=train.ScalingConfig(
                num_workers=most,
                use_gpu=gpus > 0,
                resources_per_worker={'CPU': config.worker_cpus, 'GPU': gpus},
            ),
            run_config=train.RunConfig(name='ray', storage_path=str(folder)),
        )
        try:
            trainer.fit()
        except train.TrainingFailedError as error:  # type: ignore[attr-defined]
            causes = list(getattr(error, 'worker_failures', {}).values()) or [error]
            raise MasaError(one_line(causes[0])) from error


def resources(config: ClusterConfig) -> tuple[float, float, int]:
    """Return CPUs and GPUs of a worker, and how many there are to be, on the cluster joined."""
    total = ray_library().cluster_resources()
    cpus, gpus = config.worker_cpus, config.worker_gpus
    gpus = float('GPU' in total) if gpus < 0 else gpus
    room = total.get('CPU', 0) // cpus
    room = min(room, total.get('GPU', 0) // gpus) if gpus else room
    return cpus, gpus, config.workers or max(int(room), 1)
