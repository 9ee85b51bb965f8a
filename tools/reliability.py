#!/usr/bin/env python3
# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Do every fault of test/faults.py to the node and write the table of docs/reliability.md."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'test'))

from conftest import seeded_weights_file  # noqa: E402  the tests are no package
from faults import FAULTS, run  # noqa: E402
from pages import write_between  # noqa: E402

PAGE = ROOT / 'docs/reliability.md'


def main() -> int:
    """Write the table; exit code 1 when a promise was not kept."""
    rows = [
        '| what happens | what is promised | what was seen | kept |',
        '| --- | --- | --- | --- |',
    ]
    broken = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, fault in FAULTS.items():
            weights = seeded_weights_file(Path(folder) / f'{name}.safetensors')
            observed = run(fault, str(weights))
            good = observed.good()
            broken += not good
            kept = 'yes' if good else '**no**'
            rows.append(f'| {fault.what} | {fault.promise} | {observed} | {kept} |')
            print(rows[-1], flush=True)
    write_between(PAGE, 'faults', '\n'.join(rows) + '\n')
    return 1 if broken else 0


if __name__ == '__main__':
    sys.exit(main())
