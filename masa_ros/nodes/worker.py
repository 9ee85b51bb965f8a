# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One thread that always works on the newest images."""

from __future__ import annotations

import collections
import concurrent.futures
import threading
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from masa_ros.errors import PromptError

K = TypeVar('K', bound=Hashable)
T = TypeVar('T')
R = TypeVar('R')

_MOST_JOBS = 32


class NewestWorker(Generic[K, T]):
    """Call ``work`` in a thread of its own with the newest item of every key that has one.

    An item that was not looked at when the next one of its key came is dropped, so that no key
    waits for another longer than one call. Between two calls it does one of the jobs that are
    asked for, so that neither keeps the other waiting for long.

    Parameters
    ----------
    work: takes the items by key.
    mistake: takes what ``work`` raises, which it should not; the thread goes on.

    """

    def __init__(
        self, work: Callable[[dict[K, T]], None], mistake: Callable[[Exception], None]
    ) -> None:
        self._work, self._mistake = work, mistake
        self._condition = threading.Condition()
        self._waiting: dict[K, T] = {}
        self._jobs: collections.deque[tuple[Callable[[], Any], Any]] = collections.deque()
        self._running = True
        self._thread = threading.Thread(target=self._run, name='masa_tracker', daemon=True)
        self._thread.start()

    def offer(self, key: K, item: T) -> bool:
        """Hand over an item; False when one is dropped for it, or itself after ``stop``."""
        with self._condition:
            if not self._running:
                return False
            replaces = key in self._waiting
            self._waiting[key] = item
            self._condition.notify()
            return not replaces

    def submit(self, job: Callable[[], R]) -> concurrent.futures.Future[R]:
        """Ask for a job; what it returns or raises is the future's.

        Raises
        ------
        PromptError
            When too many wait already, or after ``stop``; in the future when it is stopped before.

        """
        future: concurrent.futures.Future[R] = concurrent.futures.Future()
        with self._condition:
            if not self._running:
                raise PromptError('the node is not active any more')
            if len(self._jobs) >= _MOST_JOBS:
                raise PromptError(f'{len(self._jobs)} prompts wait already: ask again later')
            self._jobs.append((job, future))
            self._condition.notify()
        return future

    def waiting(self, key: K) -> int:
        """Return the number of items of a key that wait, 0 or 1."""
        return int(key in self._waiting)

    def stop(self) -> list[K]:
        """Finish the items in work and end the thread; gives the keys of those still waiting."""
        with self._condition:
            self._running = False
            dropped, self._waiting = list(self._waiting), {}
            jobs, self._jobs = self._jobs, collections.deque()
            self._condition.notify()
        self._thread.join()
        for _, future in jobs:
            future.set_exception(PromptError('the node is not active any more'))
        return dropped

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._waiting or self._jobs or not self._running)
                if not self._running:
                    return
                items, self._waiting = self._waiting, {}
                asked = self._jobs.popleft() if self._jobs else None
            if asked is not None:
                self._do(*asked)
            if items:
                try:
                    self._work(items)
                except Exception as error:
                    self._mistake(error)

    def _do(self, job: Callable[[], R], future: concurrent.futures.Future[R]) -> None:
        try:
            done = job()
        except Exception as error:  # is for whoever asked
            future.set_exception(error)
        else:
            future.set_result(done)
