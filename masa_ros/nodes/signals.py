# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""An end by SIGINT or SIGTERM at which the last images are still published."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rclpy.task import Future

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def ended_by_signals(done: Future, busy: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Let a signal complete ``done``, which the executor spins for.

    rclpy's own handlers, which must be off, shut the context down at once: what is in work could
    not be published any more. A thread is told by the signal itself, because Python runs handlers
    only when the executor comes back from waiting. While ``busy``, when nobody waits for ``done``,
    the main thread is interrupted with KeyboardInterrupt.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def handle(number: int, stack: Any) -> None:
        if busy():
            raise KeyboardInterrupt

    def wait() -> None:
        if reader.recv(1) and not done.done():
            done.set_result(0)

    before = [(number, signal.signal(number, handle)) for number in _SIGNALS]
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=wait, name='signals', daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before:
            signal.signal(number, handler)
        with contextlib.closing(reader), contextlib.closing(writer):
            writer.shutdown(socket.SHUT_WR)
            thread.join()
