"""One thread that always works on the newest image."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar('T')


class NewestWorker(Generic[T]):
    """Call ``work`` in a thread of its own with the newest item; older waiting ones are dropped.

    ``work`` must not raise: an exception ends the thread and comes out of ``stop``.
    """

    def __init__(self, work: Callable[[T], None]) -> None:
        self._work = work
        self._condition = threading.Condition()
        self._waiting: T | None = None
        self._running = True
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name='masa_tracker', daemon=True)
        self._thread.start()

    def offer(self, item: T) -> bool:
        """Hand over an item; True when it replaced one that nobody had looked at."""
        with self._condition:
            replaced = self._waiting is not None
            self._waiting = item
            self._condition.notify()
            return replaced

    @property
    def waiting(self) -> int:
        """Number of items that wait, 0 or 1."""
        return int(self._waiting is not None)

    def stop(self) -> bool:
        """Finish the item in work and end the thread; True when one was still waiting."""
        with self._condition:
            self._running = False
            dropped = self._waiting is not None
            self._waiting = None
            self._condition.notify()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return dropped

    def _run(self) -> None:
        try:
            while True:
                with self._condition:
                    self._condition.wait_for(
                        lambda: self._waiting is not None or not self._running
                    )
                    if not self._running:
                        return
                    item, self._waiting = self._waiting, None
                assert item is not None
                self._work(item)
        except BaseException as error:  # a bug: shown by stop()
            self._error = error
