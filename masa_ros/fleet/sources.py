# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which recordings there are: in folders, by patterns, in lists, in object stores."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from masa_ros.cluster import one_line
from masa_ros.errors import ConfigError, SourceError
from masa_ros.images import natural_order
from masa_ros.recordings.fleet_folder import PREFIX
from masa_ros.recordings.sources import BAGS, IMAGES, VIDEOS

_SCRATCH, _LOCK = 'masa_ros_fleet_', '.lock'


def find_recordings(sources: Iterable[str]) -> dict[str, str]:
    """Return the recordings of some sources: where each is, by its name.

    A source is a recording, a folder of such at any depth, a pattern, @FILE for a list of sources
    (one a line, # before comments, relative to the list), or a URL that pyarrow opens. A name is
    the recording's own with eight digits of a check sum of where it is: it stays when other
    recordings come, and no two are alike.

    Raises
    ------
    SourceError
        When a source is not there, holds no recording, or cannot be listed.

    """
    found = dict.fromkeys(place for source in sources for place in _places(source))
    return {_name(place): place for place in found}


def is_url(place: str) -> bool:
    """Tell whether a place is a URL rather than a path."""
    return '://' in place


@contextlib.contextmanager
def fetched(place: str) -> Iterator[Path]:
    """Give a recording as a path; what a URL names is fetched and removed afterwards.

    Raises
    ------
    SourceError
        When it cannot be fetched.

    """
    if not is_url(place):
        yield Path(place)
        return
    from pyarrow import fs

    with _scratch() as folder:
        store, path = _opened(place)
        target = folder / PurePosixPath(path).name
        try:
            whole = store.get_file_info(path).type == fs.FileType.Directory
            if whole:
                target.mkdir()
            fs.copy_files(path, str(target), store, fs.LocalFileSystem(), use_threads=False)
        except OSError as error:
            if error.errno is not None and not isinstance(error, FileNotFoundError):
                raise  # of this machine: a full disk
            raise SourceError(f'{place} cannot be fetched: {one_line(error)}') from error
        yield target


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """Give a private folder; those of processes that were killed are removed."""
    root = Path(tempfile.gettempdir())
    for old in root.glob(f'{_SCRATCH}*'):
        with contextlib.suppress(OSError), (old / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_SCRATCH))
    try:
        with (folder / '.new').open('w') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / '.new').rename(folder / _LOCK)  # nobody sees it without being locked
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _name(place: str) -> str:
    path = PurePosixPath(urlsplit(place).path if is_url(place) else place)
    own = path.stem if _is_recording(path.name) else path.name
    plain = re.sub(r'[^A-Za-z0-9_.-]+', '_', own).strip('.')[:80]
    return f'{plain}-{hashlib.sha256(place.encode()).hexdigest()[:8]}'


def _places(source: str) -> Iterator[str]:
    """Give where the recordings of a source are, files with absolute paths."""
    if source.startswith('@'):
        yield from _of_list(Path(source[1:]))
    elif is_url(source):
        yield from _of_url(source)
    elif Path(source).exists():
        yield from _of_path(Path(source))
    elif glob.has_magic(source):
        every = sorted(glob.glob(source, recursive=True))  # noqa: PTH207  # absolute ones, too
        matches = natural_order(map(Path, every))
        if not matches:
            raise SourceError(f'nothing matches {source}')
        for match in matches:
            if match.is_dir() or _is_recording(match.name):
                yield from _of_path(match, strict=False)
    else:
        raise SourceError(f'{source} does not exist')


def _of_list(file: Path) -> Iterator[str]:
    try:
        lines = file.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f'{file}: the list cannot be read: {one_line(error)}') from error
    for line in map(str.strip, lines):
        if not line or line.startswith('#'):
            continue
        if is_url(line) or line.startswith('@'):
            yield from _places(line)
        elif (path := file.parent / line).exists():
            yield from _of_path(path)
        else:  # told with those that fail; the others go on
            yield str(path.absolute())


def _of_path(path: Path, strict: bool = True) -> Iterator[str]:
    root = path.absolute()
    if not root.is_dir():
        yield str(root)
        return
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        within = Path(folder).relative_to(root)
        files += [str(within / name) for name in names]
    found = recordings_among(files)
    if strict and not found:
        raise SourceError(f'{path} holds no recording')
    for inner in found:
        yield str(root / inner) if inner else str(root)


def _of_url(url: str) -> Iterator[str]:
    from pyarrow import fs

    store, path = _opened(url)
    scheme = url.partition('://')[0]
    query = urlsplit(url).query
    end = f'?{query}' if query else ''
    try:
        info = store.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            raise SourceError(f'{url} does not exist')
        if info.type == fs.FileType.File:
            yield url
            return
        every = store.get_file_info(fs.FileSelector(path, recursive=True))
    except OSError as error:
        raise SourceError(f'{url} cannot be listed: {one_line(error)}') from error
    inside = [each.path for each in every if each.type == fs.FileType.File]
    files = [str(PurePosixPath(each).relative_to(path)) for each in inside]
    found = recordings_among(files)
    if not found:
        raise SourceError(f'{url} holds no recording')
    for inner in found:
        yield f'{scheme}://{PurePosixPath(path) / inner}{end}'


def _opened(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path there.

    Raises
    ------
    ConfigError
        When there is none, or the URL holds a password, which would be written down.

    """
    from pyarrow import fs

    if '@' in urlsplit(url).netloc:
        raise ConfigError('a URL with a password: give credentials by the environment instead')
    try:
        store, path = fs.FileSystem.from_uri(url)
    except (OSError, ValueError) as error:
        raise ConfigError(f'{url} cannot be opened: {one_line(error)}') from error
    return store, path


def recordings_among(files: Iterable[str]) -> list[str]:
    """Return which of some files, or folders of them, are recordings; '' is the root itself.

    Parameters
    ----------
    files: paths relative to one root, with slashes. What is in a rosbag2 folder belongs to it, and
        names that begin with a dot, and what a fleet wrote, count for nothing.

    """
    paths = [PurePosixPath(file) for file in files]
    hidden = ('.', PREFIX)
    paths = [path for path in paths if not any(part.startswith(hidden) for part in path.parts)]
    bags = {path.parent for path in paths if path.name == 'metadata.yaml'}
    found = set(bags)
    for path in paths:
        if not bags.isdisjoint(path.parents):
            continue
        if _is_recording(path.name):
            found.add(path)
        elif path.suffix.lower() in IMAGES:
            found.add(path.parent)
    texts = {Path(path): '' if path == PurePosixPath('.') else str(path) for path in found}
    return [texts[path] for path in natural_order(sorted(texts))]


def _is_recording(name: str) -> bool:
    return Path(name).suffix.lower() in (*BAGS, *VIDEOS)
