"""How long ids last on real recordings: the palindrome of every sequence in ``../shared/data``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from masa_ros.errors import ImageError
from masa_ros.evaluation.palindrome import AGES, Share, palindrome
from masa_ros.pipeline import Pipeline, PipelineConfig
from masa_ros.replay.sources import open_source

SEQUENCES = Path(__file__).parents[2] / 'shared/data/sequences'


def text(share: Share) -> str:
    """Return a share as per cent, or nothing where there was nothing."""
    return f'{100 * share.value:.0f}' if share.count else '-'


def main() -> dict[str, Any]:
    """Print the table and return its figures."""
    folders = sorted(path.parent for path in SEQUENCES.glob('*/meta.json'))
    if not folders:
        print(f'no sequences in {SEQUENCES}')
        return {}
    pipeline = Pipeline.build(PipelineConfig())
    limits = [f'..{age:g} s' for age in AGES]
    print('per cent of what is seen again at its place that has the same id, by time between')
    print(
        f'{"":30}{"frames":>7}{"seen":>7}{"again":>7}{"ids":>7}'
        + ''.join(f'{v:>9}' for v in limits)
    )
    figures = {}
    total = [Share(0, 0)] * 2
    for folder in folders:
        items = open_source(folder)
        frames = [item.frame for item in items if not isinstance(item.frame, ImageError)]
        result = palindrome(frames, pipeline)
        by_age = ''.join(
            f'{text(share):>9}' for share in list(result.by_age.values())[: len(AGES)]
        )
        print(
            f'{folder.name:30}{result.frames:>7}{result.seen_again.count:>7}'
            f'{text(result.seen_again):>7}{text(result.ids):>7}{by_age}',
            flush=True,
        )
        figures[folder.name] = dataclasses.asdict(result)
        parts = (result.seen_again, result.ids)
        total = [Share(a.kept + b.kept, a.count + b.count) for a, b in zip(total, parts)]
    print(f'{"all":37}{total[0].count:>7}{text(total[0]):>7}{text(total[1]):>7}')
    return figures


if __name__ == '__main__':
    main()
