# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How long ids last on real recordings: the palindrome of every sequence in ``../shared/data``."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from common import keep
from first_answer import on_cpu

from masa_ros.evaluation.palindrome import AGES, Palindrome, Share, palindrome
from masa_ros.methods import Method
from masa_ros.recordings.sources import frames_of, open_source
from masa_ros.streams.stream import Stream

SEQUENCES = Path(__file__).resolve().parents[2] / 'shared/data/sequences'


def palindromes(
    method: Method[Any],
    folder: Path = SEQUENCES,
    most: int | None = None,
    frames: int | None = None,
) -> Iterator[tuple[str, Palindrome]]:
    """Give the name and the result of every sequence of a folder.

    ``most`` of them and so many ``frames`` of each, the first ones, where that is not all.
    """
    for path in sorted(path.parent for path in folder.glob('*/meta.json'))[:most]:
        first = frames_of(itertools.islice(open_source(path), frames))
        yield path.name, palindrome(first, Stream(method))


def added(shares: Iterable[Share]) -> Share:
    """Return the share of everything together."""
    parts = list(shares)
    return Share(sum(part.kept for part in parts), sum(part.count for part in parts))


def text(share: Share) -> str:
    """Return a share as per cent, or nothing where there was nothing."""
    return f'{100 * share.value:.0f}' if share.count else '-'


def main(quick: bool = False) -> dict[str, Any]:
    """Print the table and return its figures."""
    if not SEQUENCES.is_dir():
        print(f'there are no recordings: {SEQUENCES}')
        return {}
    limits = [f'..{age:g} s' for age in AGES]
    print(
        'again: per cent of what is seen that is seen again at its place; ids: per cent of that '
        'with the same id, by time between\nrecall: per cent with the same id of all that is '
        'larger than 32 x 32 pixels, crowd: how many such a frame'
    )
    heads = ('frames', 'seen', 'again', 'ids', *limits, 'recall', 'crowd')
    print(f'{"":30}' + ''.join(f'{head:>8}' for head in heads))
    results = {}
    method = on_cpu('masa')
    for name, result in palindromes(method, SEQUENCES, *((1, 4) if quick else ())):
        by_age = [text(share) for share in list(result.by_age.values())[: len(AGES)]]
        row = (
            *(str(result.frames), str(result.seen_again.count)),
            *(text(result.seen_again), text(result.ids), *by_age, text(result.recall)),
            f'{result.crowd:.1f}',
        )
        print(f'{name:30}' + ''.join(f'{value:>8}' for value in row), flush=True)
        results[name] = result
    method.close()
    again, ids, recall = (
        text(added(getattr(r, key) for r in results.values()))
        for key in ('seen_again', 'ids', 'recall')
    )
    print(f'{"all":46}{again:>8}{ids:>8}{"":32}{recall:>8}')
    return {name: dataclasses.asdict(result) for name, result in results.items()}


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--quick', action='store_true', help='see that it runs')
    if parser.parse_args().quick:
        main(quick=True)
    else:
        keep('palindromes', main())
