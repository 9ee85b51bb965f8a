# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``masa_ros weights``: list, fetch and verify the published weights files."""

from __future__ import annotations

import argparse
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from masa_ros.errors import WeightsError
from masa_ros.models.files import (
    MODEL_FILES,
    PUBLISHED,
    WeightsFile,
    fingerprint,
    weights_folder,
)

_TIMEOUT = 30  # seconds without a byte


def add_arguments(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    text = 'list the published files, and which of them are here'
    actions.add_parser('list', help=text, description=text)
    for name, text in (
        ('fetch', 'download files; goes on where it was interrupted'),
        ('verify', 'compare files that are here with their check sums'),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument(
            'names', nargs='*' if name == 'verify' else '+', metavar='NAME', help='file or model'
        )


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked; returns the exit code."""
    folder = weights_folder()
    if arguments.action == 'list':
        _list(folder)
        return 0
    files = [file for name in arguments.names for file in _named(name)]
    if arguments.action == 'fetch':
        for file in files:
            fetch(file, folder)
        return 0
    here = [file for file in files or PUBLISHED.values() if (folder / file.name).is_file()]
    absent = [file.name for file in files if file not in here]
    if absent:
        raise WeightsError(f'{", ".join(absent)} not in {folder}')
    if not here:
        print(f'no published weights in {folder}')
    good = [_verify(file, folder / file.name) for file in here]
    return 0 if all(good) else 1


def _named(name: str) -> list[WeightsFile]:
    if name in PUBLISHED:
        return [PUBLISHED[name]]
    if name in MODEL_FILES:
        return [PUBLISHED[MODEL_FILES[name]]]
    files = [file for file in PUBLISHED if file not in MODEL_FILES.values()]
    known = ', '.join((*MODEL_FILES, *files))
    raise WeightsError(f"no published weights are called '{name}'; there are: {known}")


def _list(folder: Path) -> None:
    print(f'folder: {folder}   (MASA_ROS_WEIGHTS chooses another)')
    models = {file: model for model, file in MODEL_FILES.items()}
    for file in PUBLISHED.values():
        state = 'here' if (folder / file.name).is_file() else '-'
        size = f'{file.size / 1e6:.0f} MB' if file.size else ''
        print(
            f'{file.name:22} {models.get(file.name, ""):15} {size:>8}  {state:4}  '
            f'{file.licence:15}  sha256 {file.sha256[:12] or "not published"}  {file.what}'
        )


def _verify(file: WeightsFile, path: Path) -> bool:
    actual = fingerprint(path)
    if not file.sha256:
        print(f'{file.name}: sha256 {actual}; its authors publish none to compare with')
        return True
    good = actual == file.sha256
    print(f'{file.name}: ' + ('good' if good else f'BAD: sha256 {actual}, not {file.sha256}'))
    return good


def fetch(file: WeightsFile, folder: Path) -> Path:
    """Download a file into a folder and check it; an interrupted download is gone on with.

    Raises
    ------
    WeightsError
        When it cannot be had, or is not what its authors published.

    """
    path, partial = folder / file.name, folder / f'{file.name}.part'
    if path.is_file():
        print(f'{file.name} is in {folder}')
        return path
    print(f'{file.name}: {file.what}, licence {file.licence}, {file.url}')
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    begun = partial.stat().st_size if partial.is_file() else 0
    request = urllib.request.Request(file.url, headers={'Range': f'bytes={begun}-'})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as reply:
            if reply.status != 206:  # the server starts over
                begun = 0
            left = int(reply.headers.get('Content-Length') or 0)
            with (
                partial.open('ab' if begun else 'wb') as target,
                tqdm(
                    total=begun + left or None,
                    initial=begun,
                    unit='B',
                    unit_scale=True,
                    disable=not sys.stderr.isatty(),
                ) as bar,
            ):
                while block := reply.read(1 << 20):
                    target.write(block)
                    bar.update(len(block))
                got = target.tell()
    except (OSError, urllib.error.URLError) as error:
        if not (isinstance(error, urllib.error.HTTPError) and error.code == 416 and begun):
            raise WeightsError(
                f'{file.name} could not be fetched ({error}); without a network put the file '
                f'into {folder} by other means, from {file.url}'
            ) from error
        got, left = begun, 0  # nothing is left to fetch
    else:
        if left and got != begun + left:
            raise WeightsError(f'{file.name}: the connection ended early; fetch it again')
    actual = fingerprint(partial)
    if file.sha256 and actual != file.sha256:
        partial.unlink()
        raise WeightsError(
            f'{file.name}: what {file.url} gave has sha256 {actual}, its authors published '
            f'{file.sha256}; it was thrown away'
        )
    partial.replace(path)
    print(f'{path}  {got / 1e6:.0f} MB  sha256 {actual}')
    return path
