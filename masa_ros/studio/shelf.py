# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Records on disk: what has been shown once can be shown again, and takes no memory."""

from __future__ import annotations

import os
import tempfile
import threading


class Shelf:
    """Records under whole numbers, in a temporary file that nobody else sees.

    Safe to use from several threads. A record that is replaced stays in the file until the end.

    Parameters
    ----------
    largest: bytes that the file may take.

    """

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close
        self._lock = threading.Lock()
        self._places: dict[int, tuple[int, int]] = {}
        self._end = 0

    def __contains__(self, number: int) -> bool:
        """Tell whether there is a record of this number."""
        return number in self._places

    def __getitem__(self, number: int) -> bytes:
        """Return a record; raises KeyError where there is none."""
        place, size = self._places[number]
        return os.pread(self._file.fileno(), size, place)

    def put(self, number: int, record: bytes) -> bool:
        """Keep a record; False, and it is not kept, where there is no room."""
        with self._lock:
            if self._end + len(record) > self._largest:
                return False
            try:
                os.pwrite(self._file.fileno(), record, self._end)
            except OSError:  # the disk is full
                return False
            self._places[number] = self._end, len(record)
            self._end += len(record)
            return True

    def clear(self) -> None:
        """Forget all records."""
        with self._lock:
            self._places, self._end = {}, 0
            self._file.truncate(0)

    def close(self) -> None:
        """Give the file back."""
        self._file.close()
