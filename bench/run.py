"""Run every benchmark: print its table, write its figures to out/bench."""

from __future__ import annotations

import importlib
import sys

from common import OUTPUT, keep

MODULES = ('association', 'node_overhead', 'tracking', 'palindromes', 'models')


def main() -> int:
    """Run them one after the other."""
    for name in MODULES:
        print(f'\n{name}', flush=True)
        figures = importlib.import_module(name).main()
        keep(name, figures)
    print(f'\nfigures: {OUTPUT}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
