"""What the node knows of itself: counters, rates, latencies, and their report."""

from __future__ import annotations

import collections
import threading
import time
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

_WINDOW = 200  # images that rate and percentiles are taken over


class Statistics:
    """Counters of one camera; every image ends in exactly one of them.

    received = processed + skipped + sum(rejected) + failed + those waiting or being worked on.
    Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.received = self.processed = self.skipped = self.failed = 0
        self.rejected: collections.Counter[str] = collections.Counter()
        self.events: collections.Counter[str] = collections.Counter()
        self.last_problem = ''
        self.last_received = time.monotonic()
        self._problems_reported = 0
        self._latencies: collections.deque[float] = collections.deque(maxlen=_WINDOW)
        self._ages: collections.deque[float] = collections.deque(maxlen=_WINDOW)
        self._finished: collections.deque[float] = collections.deque(maxlen=_WINDOW)
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

    def fail(self, text: str) -> None:
        """Count an image on which the model failed."""
        with self._lock:
            self.failed += 1
            self.last_problem = text

    def event(self, name: str, text: str, count: int = 1) -> None:
        """Count something worth knowing that costs no image that was received."""
        with self._lock:
            self.events[name] += count
            self.last_problem = text

    def finish(self, latency_ms: float, age_ms: float | None) -> None:
        """Count a published image: milliseconds since its arrival, and since its stamp."""
        with self._lock:
            self.processed += 1
            self._latencies.append(latency_ms)
            self._finished.append(time.monotonic())
            if age_ms is not None:
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
            span = self._finished[-1] - self._finished[0] if len(self._finished) > 1 else 0.0
            figures: dict[str, Any] = {
                'received': self.received,
                'processed': self.processed,
                'skipped': self.skipped,
                'rejected': sum(self.rejected.values()),
                'failed': self.failed,
                'rate_hz': round((len(self._finished) - 1) / span, 2) if span else 0.0,
            }
            for name, values in (('latency_ms', self._latencies), ('age_ms', self._ages)):
                for percent in (50, 99):
                    value = float(np.percentile(values, percent)) if values else 0.0
                    figures[f'{name}_p{percent}'] = round(value, 1)
            figures |= {f'rejected_{cause}': count for cause, count in self.rejected.items()}
            figures |= {f'event_{name}': count for name, count in self.events.items()}
            figures['last_problem'] = self.last_problem
            return figures

    def level(self, silence_seconds: float, active: bool) -> tuple[bytes, str]:
        """Return the diagnostic level and its reason, judging what came since the last call."""
        with self._lock:
            problems = sum(self.rejected.values()) + sum(self.events.values()) + self.failed
            news = problems - self._problems_reported
            self._problems_reported = problems
            silent = time.monotonic() - self.last_received
            if news and self.failed and not self.processed:
                return DiagnosticStatus.ERROR, self.last_problem
            if news:
                return DiagnosticStatus.WARN, self.last_problem
            if not active:
                return DiagnosticStatus.OK, 'inactive'
            if silent > silence_seconds:
                return DiagnosticStatus.WARN, f'no image for {silent:.1f} s'
            return DiagnosticStatus.OK, 'tracking'


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
