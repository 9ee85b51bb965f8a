# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Engines on disk: private to the user, named by everything they depend on, whole or absent.

One file an engine: a magic line, the SHA-256 of all that follows, a line of JSON that tells what
it is, the engine. A file that is not exactly that, or does not belong to the user, is not read: an
engine is code, and whoever can put one here would have it run.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from masa_ros.models.files import user_folder

_MAGIC = b'masa_ros engine 1\n'
_SUFFIX = '.engine'


def engines_folder() -> Path:
    """Folder of the engines: ``MASA_ROS_ENGINES``, or one in the user's cache."""
    return user_folder('MASA_ROS_ENGINES', 'engines')


def key_of(facts: dict[str, Any]) -> str:
    """Name of the engine that depends on these facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


class Stored(NamedTuple):
    """An engine and what is known of it."""

    record: dict[str, Any]
    data: bytes


class EngineCache:
    """The folder of engines. Nothing that happens to it keeps an engine from being used.

    Attributes
    ----------
    problem: what went wrong at the last call, '' when nothing did; for the log.

    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or engines_folder()
        self.problem = ''

    def _path(self, key: str) -> Path:
        return self.folder / (key + _SUFFIX)

    def read(self, key: str) -> Stored | None:
        """Return an engine; None where there is none that may be used, see ``problem``."""
        self.problem = ''
        path = self._path(key)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.problem = f'{path} cannot be read ({error.strerror}) and is not used'
            return None
        with os.fdopen(descriptor, 'rb') as file:
            status = os.fstat(descriptor)
            if status.st_uid != os.getuid() or status.st_mode & 0o022:
                self.problem = f'{path} belongs to or can be written by others and is not used'
                return None
            content = file.read()
        stored = _parse(content)
        if stored is None:
            self.problem = f'{path} is cut off or damaged and is not used'
        return stored

    def write(self, key: str, stored: Stored) -> Path | None:
        """Store an engine whole or not at all; None where that failed, see ``problem``."""
        self.problem = ''
        content = json.dumps(stored.record).encode() + b'\n' + stored.data
        digest = hashlib.sha256(content).hexdigest().encode()
        temporary = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor, temporary = tempfile.mkstemp(dir=self.folder, suffix='.part')  # 0600
            with os.fdopen(descriptor, 'wb') as file:
                file.write(_MAGIC + digest + b'\n' + content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self._path(key))
        except OSError as error:
            self.problem = f'the engine is not kept: {self.folder}: {error.strerror}'
            if temporary:
                with contextlib.suppress(OSError):
                    Path(temporary).unlink()
            return None
        return self._path(key)

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Let one process at a time build an engine; the others find it when they come in.

        Without a folder to lock in, everybody builds for himself.
        """
        descriptor = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.folder / f'{key}.lock', os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            pass
        try:
            yield
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def stored(self) -> list[tuple[Path, dict[str, Any] | None]]:
        """Files and records of all engines, None for files that may not be used."""
        files = sorted(self.folder.glob('*' + _SUFFIX)) if self.folder.is_dir() else []
        found = ((file, self.read(file.stem)) for file in files)
        return [(file, engine.record if engine else None) for file, engine in found]

    def clear(self, model: str = '') -> int:
        """Delete the engines of a model, or all and what else lies here; returns how many."""
        count = 0
        for file, record in self.stored():
            if not model or (record is not None and record.get('model') == model):
                file.unlink(missing_ok=True)
                count += 1
        if not model and self.folder.is_dir():
            for file in [*self.folder.glob('*.lock'), *self.folder.glob('*.part')]:
                file.unlink(missing_ok=True)
        return count


def _parse(content: bytes) -> Stored | None:
    """Take a file apart; None when a byte of it is not what was written."""
    magic, rest = content[: len(_MAGIC)], content[len(_MAGIC) :]
    digest, _, rest = rest.partition(b'\n')
    if magic != _MAGIC or hashlib.sha256(rest).hexdigest().encode() != digest:
        return None
    record, _, data = rest.partition(b'\n')
    return Stored(json.loads(record), data)
