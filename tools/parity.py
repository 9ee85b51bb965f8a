# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Compare this code with numbers of the original one: ``make parity FIXTURES=<dir>``.

Every folder that is called like a published model holds one: its seeded weights are written as a
checkpoint of the published form, read by the loader that users have, run, and compared stage by
stage. The folder ``ops`` holds single operators. One line a stage; the exit code is 1 when a line
fails. What the fixtures hold and this code has no counterpart of yet is listed as missing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from parity_checks.detic import compare_detic
from parity_checks.deva import compare_deva
from parity_checks.grounding_dino import compare_grounding_dino
from parity_checks.losses import compare_losses
from parity_checks.masa import MODELS, compare_model
from parity_checks.operators import compare_operators
from parity_checks.report import Fixtures, Report, load_seeded
from parity_checks.sam_pt import compare_sam_pt
from parity_checks.sam_track import compare_sam_track
from parity_checks.trackers import compare_trackers

DETECTORS = {'gdino': compare_grounding_dino, 'detic': compare_detic}


def main() -> int:
    """Compare everything in a folder of fixtures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('fixtures', type=Path)
    parser.add_argument('--only', nargs='*', default=[], help='these folders')
    arguments = parser.parse_args()
    seeded = load_seeded(arguments.fixtures)
    report = Report()
    for folder in sorted(p for p in arguments.fixtures.iterdir() if p.is_dir()):
        if arguments.only and folder.name not in arguments.only:
            continue
        fixtures = Fixtures(folder, seeded)
        if folder.name in MODELS:
            compare_model(report, fixtures)
        elif folder.name == 'ops':
            compare_operators(report, fixtures)
        elif (folder / 'sequences.json').is_file():
            compare_trackers(report, fixtures)
        elif folder.name == 'losses':
            compare_losses(report, fixtures)
        elif folder.name == 'deva':
            compare_deva(report, fixtures)
        elif folder.name == 'sam_track':
            compare_sam_track(report, fixtures)
        elif folder.name == 'sam_pt':
            compare_sam_pt(report, fixtures)
        elif folder.name == 'detectors':
            for name, compare in DETECTORS.items():
                if (folder / name).is_dir():
                    compare(report, Fixtures(folder / name, seeded))
        else:
            report.missing(folder.name)
    print(f'{report.lines} comparisons, {len(report.failed)} failed: {report.failed[:10]}')
    return 1 if report.failed or not report.lines else 0


if __name__ == '__main__':
    sys.exit(main())
