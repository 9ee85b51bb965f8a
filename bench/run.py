# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Run benchmarks: print their tables, write their figures to out/bench.

    python bench/run.py [--quick] [NAME ...]

Without names the ones that `make bench` is made of. ``--quick`` runs them on next to nothing, only
to see that they run: the figures mean nothing and are not kept.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from common import OUTPUT, keep

USUAL = ('association', 'node_overhead', 'tracking', 'palindromes', 'propagation', 'models')
NOT_BENCHMARKS = ('common', 'run', 'clips', 'sequences', 'depth_scenes')


def names() -> list[str]:
    """Return the names of all benchmarks."""
    files = Path(__file__).parent.glob('*.py')
    return sorted(file.stem for file in files if file.stem not in NOT_BENCHMARKS)


def main() -> int:
    """Run them one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('names', nargs='*', choices=(*names(), []), metavar='NAME')
    parser.add_argument('--quick', action='store_true', help='see that it runs')
    arguments = parser.parse_args()
    for name in arguments.names or USUAL:
        print(f'\n{name}', flush=True)
        figures = importlib.import_module(name).main(quick=arguments.quick)
        if not arguments.quick:
            keep(name, figures)
    if not arguments.quick:
        print(f'\nfigures: {OUTPUT}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
