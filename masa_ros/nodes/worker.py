# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One thread that always works on the newest images."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar('K', bound=Hashable)
T = TypeVar('T')


class NewestWorker(Generic[K, T]):
    """Call ``work`` in a thread of its own with the newest item of every key that has one.

    An item that was not looked at when the next one of its key came is dropped, so that no key
    waits for another longer than one call.

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

    def waiting(self, key: K) -> int:
        """Return the number of items of a key that wait, 0 or 1."""
        return int(key in self._waiting)

    def stop(self) -> list[K]:
        """Finish the items in work and end the thread; gives the keys of those still waiting."""
        with self._condition:
            self._running = False
            dropped, self._waiting = list(self._waiting), {}
            self._condition.notify()
        self._thread.join()
        return dropped

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._waiting or not self._running)
                if not self._running:
                    return
                items, self._waiting = self._waiting, {}
            try:
                self._work(items)
            except Exception as error:
                self._mistake(error)
