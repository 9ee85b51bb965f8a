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
    waits for another longer than one call. ``work`` must not raise: an exception ends the thread
    and comes out of ``check`` and ``stop``.
    """

    def __init__(self, work: Callable[[dict[K, T]], None]) -> None:
        self._work = work
        self._condition = threading.Condition()
        self._waiting: dict[K, T] = {}
        self._running = True
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name='masa_tracker', daemon=True)
        self._thread.start()

    def offer(self, key: K, item: T) -> bool:
        """Hand over an item; True when it replaced one that nobody had looked at."""
        with self._condition:
            replaced = key in self._waiting
            self._waiting[key] = item
            self._condition.notify()
            return replaced

    def waiting(self, key: K) -> int:
        """Return the number of items of a key that wait, 0 or 1."""
        return int(key in self._waiting)

    def check(self) -> None:
        """Raise the exception that ended the thread, if one did."""
        if self._error is not None:
            raise self._error

    def stop(self) -> list[K]:
        """Finish the items in work and end the thread; gives the keys of those still waiting."""
        with self._condition:
            self._running = False
            dropped, self._waiting = list(self._waiting), {}
            self._condition.notify()
        self._thread.join()
        self.check()
        return dropped

    def _run(self) -> None:
        try:
            while True:
                with self._condition:
                    self._condition.wait_for(lambda: self._waiting or not self._running)
                    if not self._running:
                        return
                    items, self._waiting = self._waiting, {}
                self._work(items)
        except BaseException as error:  # a bug: shown by check() and stop()
            self._error = error
