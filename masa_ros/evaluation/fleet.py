# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The tracks of a fleet against the truth: all recordings as one set, and each by itself."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from masa_ros.errors import ConfigError, SourceError
from masa_ros.evaluation import metrics
from masa_ros.evaluation.metrics import Parts, Scores, text_of
from masa_ros.evaluation.truth import read_truth
from masa_ros.recordings.fleet_folder import FleetFolder
from masa_ros.recordings.tracks_file import read_tracks

_COLUMNS = ('hota', 'deta', 'assa', 'idf1', 'mota', 'id_switches', 'jf', 'track_ap')


class Scored(NamedTuple):
    """The scores of a fleet.

    Attributes
    ----------
    folder: of the fleet.
    scores: of all recordings as one set, see ``metrics.combine``.
    worst_first: name and scores of each recording, the lowest HOTA first.
    without: names of those that are done and have no truth.
    failed: names of those that failed, with why.

    """

    folder: Path
    scores: Scores
    worst_first: Sequence[tuple[str, Scores]]
    without: Sequence[str]
    failed: Mapping[str, str]


def truth_for(pattern: str, place: str) -> Path | None:
    """Return the ground truth of a recording, None where there is none.

    Parameters
    ----------
    pattern: a path with {stem}, what the recording is called without its ending, and perhaps
        {folder}, the folder that it lies in; or a folder that holds STEM.json, STEM.txt or a
        folder STEM.
    place: path or URL of the recording.

    """
    path = PurePosixPath(urlsplit(place).path if '://' in place else place)
    if '{stem}' in pattern or '{folder}' in pattern:
        named = pattern.replace('{stem}', path.stem).replace('{folder}', str(path.parent))
        candidates = [Path(named)]
    else:
        candidates = [Path(pattern) / f'{path.stem}{end}' for end in ('.json', '.txt', '')]
    return next((each.absolute() for each in candidates if each.exists()), None)


def check_pattern(pattern: str) -> None:
    """Raise ConfigError for a pattern that can be the truth of no recording, or of all alike."""
    if not ('{stem}' in pattern or '{folder}' in pattern or Path(pattern).is_dir()):
        raise ConfigError(
            f'--ground-truth {pattern}: for many recordings it is a folder, or a path with '
            '{stem} or {folder}'
        )


def read_fleet(path: Path, pattern: Path | None = None) -> Scored:
    """Score the recordings of a fleet that are done.

    Parameters
    ----------
    path: folder of the fleet.
    pattern: see ``truth_for``; None: what was scored while they were tracked.

    Raises
    ------
    SourceError
        When the folder holds no fleet, or nothing that can be scored.

    """
    folder = FleetFolder(path)
    folder.begun()
    if pattern is not None:
        check_pattern(str(pattern))
    found: dict[str, tuple[Scores, Parts]] = {}
    without = []
    for name in folder.done():
        one = _kept(folder.of(name)) if pattern is None else _measured(folder, name, str(pattern))
        if one is None:
            without.append(name)
        else:
            found[name] = one
    if not found:
        raise SourceError(f'{path}: no recording has ground truth; give --ground-truth')
    rows = [(name, scores) for name, (scores, _) in found.items()]
    rows.sort(key=lambda row: (row[1].hota, row[0]))
    names = sorted(file.stem for file in (path / 'failed').glob('*.json'))
    manifests = ((name, folder.manifest(name) or {}) for name in names)
    failed = {name: each['reason'] for name, each in manifests if each.get('state') == 'failed'}
    return Scored(path, metrics.combine(found), rows, without, failed)


def _kept(folder: Path) -> tuple[Scores, Parts] | None:
    file = folder / 'scores.json'
    try:
        kept = json.loads(file.read_text())
        return Scores(**kept['scores']), kept['parts']
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise SourceError(f'{file} cannot be read: {error!r}') from error


def _measured(folder: FleetFolder, name: str, pattern: str) -> tuple[Scores, Parts] | None:
    manifest = folder.manifest(name) or {}
    truth = truth_for(pattern, str(manifest.get('source', '')))
    if truth is None:
        return None
    found = read_tracks(folder.of(name) / 'tracks.json')
    return metrics.measure(*metrics.pair(found, read_truth(truth, found)))


def fleet_table(fleet: Scored) -> str:
    """Return the figures as lines of text: the whole set first, then recordings, worst first."""
    rows = [('all', fleet.scores), *fleet.worst_first]
    wide = max(len(name) for name, _ in rows)
    lines = [f'  {"":{wide}}' + ''.join(f'{name:>12}' for name in _COLUMNS)]
    for name, scores in rows:
        figures = ''.join(f'{_figure(scores, column):>12}' for column in _COLUMNS)
        lines.append(f'  {name:{wide}}{figures}')
    if fleet.without:
        lines.append(f'  without ground truth: {len(fleet.without)}')
    if fleet.failed:
        lines.append(f'  failed: {len(fleet.failed)}')
    return '\n'.join(lines)


def _figure(scores: Scores, name: str) -> str:
    return text_of(getattr(scores, name))


def fleet_page(fleet: Scored, file: Path) -> str:
    """Return a page of HTML for ``file``, with links to the page of every recording."""
    home = os.path.relpath(fleet.folder.absolute(), file.absolute().parent)
    head = ''.join(f'<th>{name}</th>' for name in ('recording', 'frames', *_COLUMNS))

    def row(name: str, text: str, scores: Scores) -> str:
        cells: list[Any] = [scores.frames, *(_figure(scores, column) for column in _COLUMNS)]
        return f'<tr><td>{text}</td>' + ''.join(f'<td>{each}</td>' for each in cells) + '</tr>'

    rows = [row('all', f'all {len(fleet.worst_first)}', fleet.scores)]
    for name, scores in fleet.worst_first:
        folder = FleetFolder(fleet.folder).of(name)
        there = [each for each in ('evaluation.html', 'tracks.json') if (folder / each).exists()]
        target = quote(f'{home}/{folder.name}/{there[0]}') if there else '#'
        rows.append(row(name, f'<a href="{target}">{html.escape(name)}</a>', scores))
    notes = [f'{html.escape(name)}: {html.escape(why)}' for name, why in fleet.failed.items()]
    notes += [f'{html.escape(name)}: no ground truth' for name in fleet.without]
    return _PAGE.format(
        title=html.escape(str(fleet.folder)),
        head=head,
        rows='\n'.join(rows),
        notes=''.join(f'<li>{note}</li>' for note in notes),
    )


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 14px sans-serif; margin: 2em; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: .2em .8em; text-align: right; border-bottom: 1px solid #ddd; }}
td:first-child, th:first-child {{ text-align: left; }}
tr:nth-child(2) {{ font-weight: bold; }}
</style>
<h1>{title}</h1>
<p>The first row is all recordings as one set, not a mean. The others come worst first.</p>
<table><tr>{head}</tr>
{rows}
</table>
<ul>{notes}</ul>
</html>
"""
