# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How many objects masa_nano finds by engines of OpenVINO in bf16, next to PyTorch in float32.

    python bench/recall.py [SET ...] [--data DIR]

Recall as bench/nano.py measures it, on the photographs of ``labelled/`` in --data. The engines are
those that a node would take: a stage in which bf16 does not agree with float32 runs in float32.
They are built for every shape of the images, which takes minutes.
"""

from __future__ import annotations

import argparse
import collections
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nano
import numpy as np
from common import keep

from masa_ros.detectors.masa import MasaDetector
from masa_ros.engines.prepare import EngineConfig
from masa_ros.engines.runtimes import RUNTIMES
from masa_ros.methods.masa import Masa, MasaConfig
from masa_ros.training.measure import hundred_best
from masa_ros.types import Frame, Instances


class ByEngines:
    """Finds the instances of an image by engines, which are built where they are missing.

    Attributes
    ----------
    ran: how often each stage ran how.

    """

    def __init__(self, precision: str, folder: str) -> None:
        chosen = hundred_best(model='masa_nano', device='cpu', precision=precision)
        self.detector = MasaDetector.load(chosen)
        engines = EngineConfig(runtime='openvino', folder=folder)
        self.method = Masa(self.detector, MasaConfig(chosen, engines))
        self.ran: collections.Counter[str] = collections.Counter()

    def __call__(self, pixels: np.ndarray) -> Instances:
        """Return the instances, best first."""
        shape = self.detector.input_shape(*pixels.shape[:2])
        for done in self.method.engines.prepare(shape):
            self.ran[f'{done.stage} {done.runtime} {done.precision}'] += 1
        return self.detector.detect([Frame(pixels, 0)])[0]


def main(names: Sequence[str] = (), data: Path = nano.DATA, quick: bool = False) -> dict[str, Any]:
    """Print a table for each set and return the figures."""
    missing = RUNTIMES['openvino'].missing('cpu')
    if missing or not data.is_dir():
        print(missing or f'there are no photographs: {data}')
        print('nothing is measured')
        return {}
    names = names or (['voc_boxes_a'] if quick else nano.SETS)
    eager = nano.finder(MasaDetector.load(hundred_best(model='masa_nano', device='cpu')))
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        precision = 'fp32' if quick else 'bf16'
        engines, title = ByEngines(precision, folder), f'openvino {precision}'
        for name in names:
            images = list(nano.photographs(data / 'labelled' / name, 1 if quick else None))
            figures[name] = nano.recalls({'eager fp32': eager, title: engines}, images, name)
        engines.method.close()
    figures['ran'] = dict(engines.ran)
    ran = ', '.join(f'{how}: {count}' for how, count in engines.ran.items())
    print(f'\nimages for which {title} ran as: {ran}')
    return figures


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('names', nargs='*', metavar='SET', default=[], help='else all')
    parser.add_argument('--data', type=Path, default=nano.DATA)
    keep('recall', main(**vars(parser.parse_args())))
