# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What many recordings leave behind in one folder, whoever is killed while they do.

::

    DIR/fleet.json                  how it was begun
    DIR/recording=NAME/             of a recording that is done: it is there whole, or not at all
        tracks.json, tracks.mcap, tracks.parquet, summary.json, manifest.json, ...
    DIR/failed/NAME.json            of one that failed
    DIR/manifest.jsonl              a line a recording, made of these when the command ends
    DIR/.part/                      what is being written

A recording is written to ``.part`` and renamed, which file systems do whole or not at all. So two
workers that do the same recording, because one of them was thought to be dead, do no harm: the
second one finds that it is there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from masa_ros.errors import ConfigError, SourceError

FORMAT = 'masa_ros.fleet/1'
PREFIX = 'recording='  # hive's way of writing a column into the name of a folder
_THERE = (errno.ENOTEMPTY, errno.EEXIST)


class FleetFolder:
    """The output folder of a fleet; it is made where it does not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parts = path / '.part'

    def of(self, name: str) -> Path:
        """Return the folder of a recording."""
        return self.path / f'{PREFIX}{name}'

    def done(self) -> list[str]:
        """Return the names of the recordings that are done."""
        found = self.path.glob(f'{PREFIX}*')
        return sorted(folder.name.removeprefix(PREFIX) for folder in found)

    def begun(self) -> dict[str, Any]:
        """Return how the fleet was begun.

        Raises
        ------
        SourceError
            When the folder holds no fleet.

        """
        file = self.path / 'fleet.json'
        try:
            begun = json.loads(file.read_text())
            if begun['format'] != FORMAT:
                raise SourceError(f"{file}: format is '{begun['format']}', expected '{FORMAT}'")
        except OSError as error:
            raise SourceError(f'{self.path} holds no fleet: {error.strerror}') from error
        except (ValueError, LookupError, TypeError) as error:
            raise SourceError(f'{file} cannot be read: {error!r}') from error
        return dict(begun)

    def begin(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Note how the fleet is begun, or see that it goes on as it was begun; returns the note.

        Raises
        ------
        ConfigError
            Naming what differs.

        """
        self._parts.mkdir(parents=True, exist_ok=True)
        (self.path / 'failed').mkdir(exist_ok=True)
        if not (self.path / 'fleet.json').exists():
            written = {'format': FORMAT, 'run': uuid.uuid4().hex, **facts}
            write_json(self.path / 'fleet.json', written)
        begun = self.begun()
        for key, value in facts.items():
            self.agree(key, begun.get(key), value)
        return begun

    def note(self, what: str, now: Any) -> None:
        """Note what is known only later, or see that it is as it was; raises ConfigError."""
        begun = self.begun()
        if what in begun:
            self.agree(what, begun[what], now)
        else:
            write_json(self.path / 'fleet.json', {**begun, what: now})

    def agree(self, what: str, before: Any, now: Any) -> None:
        """Raise ConfigError where something is not what it was when the fleet was begun."""
        if isinstance(before, dict) and isinstance(now, dict):
            for key in dict.fromkeys((*before, *now)):
                self.agree(str(key), before.get(key), now.get(key))
        elif before != now:
            raise ConfigError(
                f'{self.path} was begun with {what} {before}, now it is {now}: go on as before, '
                'or take another folder'
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other fleets out, as long as this process lives.

        Raises
        ------
        ConfigError
            When one is at work in the folder.

        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / 'lock').open('a+') as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                who = file.read().strip() or 'unknown'
                raise ConfigError(
                    f'{self.path} is in use by another fleet ({who}): wait for it, or take '
                    'another folder'
                ) from None
            file.truncate(0)
            file.write(f'process {os.getpid()} on {socket.gethostname()}')
            file.flush()
            yield

    def sweep(self) -> None:
        """Remove what was being written by workers that are dead; only with the lock."""
        for part in self._parts.iterdir():
            # Renamed first: a worker that is not dead after all must not complete half of it.
            gone = part.with_name(f'gone-{uuid.uuid4().hex}')
            with contextlib.suppress(FileNotFoundError):
                part.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    @contextlib.contextmanager
    def part(self) -> Iterator[Path]:
        """Give an empty folder to write a recording to; what is not kept of it is removed."""
        folder = self._parts / uuid.uuid4().hex
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, part: Path, name: str) -> bool:
        """Let a recording appear, whole; False where it is there already."""
        for file in [*part.iterdir(), part]:
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        try:
            part.rename(self.of(name))
        except OSError as error:
            if error.errno not in _THERE:
                raise
            return False
        return True

    def manifest(self, name: str) -> dict[str, Any] | None:
        """Return what is known of a recording, None where nothing is."""
        for file in (self.of(name) / 'manifest.json', self.path / 'failed' / f'{name}.json'):
            with contextlib.suppress(FileNotFoundError):
                return dict(json.loads(file.read_text()))
        return None

    def fail(self, name: str, manifest: Mapping[str, Any]) -> None:
        """Note that a recording failed."""
        write_json(self.path / 'failed' / f'{name}.json', manifest)

    def forgive(self, name: str) -> None:
        """Forget that a recording failed."""
        (self.path / 'failed' / f'{name}.json').unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a file that is there whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + '\n')


def write_text(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    descriptor, name = tempfile.mkstemp(prefix='.', dir=path.parent)
    temporary = Path(name)
    try:
        with open(descriptor, 'w') as file:  # noqa: PTH123  # of a descriptor
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
