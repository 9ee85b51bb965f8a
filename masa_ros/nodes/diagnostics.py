# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the node knows of itself: counters, rates, latencies, and their report."""

from __future__ import annotations

import collections
import contextlib
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from masa_ros.models.devices import resident_mib

_WINDOW = 200  # images that percentiles are taken over
_RATE_SECONDS = 5.0  # that the rate is taken over
_STEPS = ('read', 'encode', 'track', 'publish')  # that an image goes through


class Statistics:
    """Counters of one camera; every image ends in exactly one of them.

    received = processed + skipped + sum(rejected) + failed + those waiting or being worked on.
    Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.received = self.processed = self.skipped = self.failed = self.mistakes = 0
        self.prompts = 0
        self.rejected: collections.Counter[str] = collections.Counter()
        self.events: collections.Counter[str] = collections.Counter()
        self.last_problem = ''
        self.last_received = time.monotonic()
        self._reported = (0, 0, 0, 0)
        self._latencies: collections.deque[float] = collections.deque(maxlen=_WINDOW)
        self._ages: collections.deque[float] = collections.deque(maxlen=_WINDOW)
        self._finished: collections.deque[float] = collections.deque(maxlen=_WINDOW)
        self._steps: dict[str, collections.deque[float]] = {
            step: collections.deque(maxlen=_WINDOW) for step in _STEPS
        }
        self._news: collections.deque[float] = collections.deque(maxlen=_WINDOW)

    def receive(self) -> None:
        """Count an image that arrived."""
        with self._lock:
            self.received += 1
            self.last_received = time.monotonic()

    def skip(self) -> None:
        """Count an image that a newer one replaced, or that the rate limit passed over."""
        with self._lock:
            self.skipped += 1

    def reject(self, cause: str, text: str) -> None:
        """Count an image that cannot be used."""
        with self._lock:
            self.rejected[cause] += 1
            self.last_problem = text

    def prompt(self) -> None:
        """Count a prompt that is followed."""
        with self._lock:
            self.prompts += 1

    def fail(self, text: str, mistake: bool = False) -> None:
        """Count an image on which the model failed, or the program by a mistake in it."""
        with self._lock:
            self.failed += 1
            self.mistakes += mistake
            self.last_problem = text

    def mistake(self, text: str) -> None:
        """Count a mistake in the program that cost no image."""
        with self._lock:
            self.mistakes += 1
            self.last_problem = text

    def event(self, name: str, text: str, count: int = 1) -> None:
        """Count something worth knowing that costs no image that was received."""
        with self._lock:
            self.events[name] += count
            self.last_problem = text

    def finish(self, latency_ms: float) -> None:
        """Count an image that is tracked: milliseconds since its arrival."""
        with self._lock:
            self.processed += 1
            self._latencies.append(latency_ms)
            self._finished.append(time.monotonic())

    @contextlib.contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Note how long a step of one image takes, unless it fails."""
        begin = time.monotonic()
        yield
        self.took(step, (time.monotonic() - begin) * 1e3)

    def took(self, step: str, milliseconds: float) -> None:
        """Note how long a step took: 'read', 'encode', 'track' or 'publish'."""
        with self._lock:
            self._steps[step].append(milliseconds)

    def publish(self, age_ms: float) -> None:
        """Note the age of an image when its tracks were published."""
        with self._lock:
            self._ages.append(age_ms)
            self._news.append(age_ms)

    def new_ages(self) -> list[float]:
        """Return the milliseconds from stamp to publication since the last call."""
        with self._lock:
            news = list(self._news)
            self._news.clear()
            return news

    def report(self) -> dict[str, Any]:
        """Return all figures by name."""
        with self._lock:
            now = time.monotonic()
            recent = [at for at in self._finished if now - at <= _RATE_SECONDS]
            rate = (len(recent) - 1) / (now - recent[0]) if len(recent) > 1 else 0.0
            figures: dict[str, Any] = {
                'received': self.received,
                'processed': self.processed,
                'skipped': self.skipped,
                'rejected': sum(self.rejected.values()),
                'failed': self.failed,
                'mistakes': self.mistakes,
                'prompts': self.prompts,
                'process_mib': round(resident_mib()),
                'rate_hz': round(rate, 2),
            }
            for name, values in (('latency_ms', self._latencies), ('age_ms', self._ages)):
                for percent in (50, 99):
                    value = float(np.percentile(values, percent)) if values else 0.0
                    figures[f'{name}_p{percent}'] = round(value, 1)
            for step, took in self._steps.items():
                figures[f'{step}_ms_p50'] = round(float(np.median(took)) if took else 0.0, 1)
            figures |= {f'rejected_{cause}': count for cause, count in self.rejected.items()}
            figures |= {f'event_{name}': count for name, count in self.events.items()}
            figures['last_problem'] = self.last_problem
            return figures

    def level(self, silence_seconds: float, active: bool) -> tuple[bytes, str]:
        """Return the diagnostic level and its reason, judging what came since the last call."""
        with self._lock:
            problems = sum(self.rejected.values()) + sum(self.events.values()) + self.failed
            now = (problems, self.processed, self.failed, self.mistakes)
            news, processed, failed, mistakes = (n - b for n, b in zip(now, self._reported))
            self._reported = now
            silent = time.monotonic() - self.last_received
            if mistakes or (failed and not processed):
                return DiagnosticStatus.ERROR, self.last_problem
            if news:
                return DiagnosticStatus.WARN, self.last_problem
            if not active:
                return DiagnosticStatus.OK, 'inactive'
            if silent > silence_seconds:
                return DiagnosticStatus.WARN, f'no image for {silent:.1f} s'
            return DiagnosticStatus.OK, 'tracking'


def with_trace(text: str, error: Exception) -> str:
    """Return a text with where in the program an error comes from, for whoever mends it."""
    return text + '\n' + ''.join(traceback.format_exception(error)).rstrip()


def status_message(
    stamp: Time, name: str, hardware: str, level: bytes, text: str, figures: dict[str, Any]
) -> DiagnosticArray:
    """Build the message for /diagnostics."""
    status = DiagnosticStatus(
        level=level,
        name=name,
        message=text,
        hardware_id=hardware,
        values=[KeyValue(key=key, value=str(value)) for key, value in figures.items()],
    )
    message = DiagnosticArray(status=[status])
    message.header.stamp = stamp
    return message
