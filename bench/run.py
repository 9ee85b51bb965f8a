"""Run every benchmark: print its table, write its figures to out/bench."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

OUTPUT = Path('out/bench')
MODULES = ('association', 'node_overhead', 'tracking', 'palindromes', 'models')


def main() -> int:
    """Run them one after the other."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for name in MODULES:
        print(f'\n{name}', flush=True)
        figures = importlib.import_module(name).main()
        (OUTPUT / f'{name}.json').write_text(json.dumps(figures, indent=1) + '\n')
    print(f'\nfigures: {OUTPUT}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
