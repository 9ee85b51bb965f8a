# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a few frames of one's own camera are worth: the embedding head, before and after.

    python bench/adaptation.py [--sequences NAME ...] [--seeds N] [--steps N] [--quick]

The first half of a recording is the unlabelled training set, by the commands of docs/training.md;
the second half is what is measured. Retrieval: two strongly different views of one frame, how
many objects of the first are, by their embeddings, nearest to themselves among all of the second.
Palindrome: found again with the same id.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import keep
from palindromes import SEQUENCES

from masa_ros import cli
from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.evaluation.palindrome import palindrome
from masa_ros.models.zoo import model_config
from masa_ros.recordings.sources import frames_of, open_source
from masa_ros.streams.stream import Stream
from masa_ros.training.data import Photographs
from masa_ros.training.measure import eager, retrieval
from masa_ros.training.proposals import read_proposals
from masa_ros.training.views import ViewConfig, ViewPair
from masa_ros.types import Frame

CROWDED = ('fruit_conveyor', 'letter_blocks_hands', 'parking_lot_topdown', 'store_aisle_people')
SCENES = 40
FROZEN = ('backbone', 'pyramid', 'fusion', 'proposals', 'masks')


def command(*arguments: object) -> None:
    """Run ``masa_ros`` with arguments."""
    if cli.main([str(argument) for argument in arguments]):
        raise SystemExit(f'masa_ros {arguments[0]} failed')


def halves(sequence: Path, folder: Path, most: int | None = None) -> tuple[Path, Path]:
    """Copy the images of a recording, ``most`` of them, to two folders: first and second half."""
    files = sorted(sequence.glob('*.jpg'))[:most]
    for name, part in (('first', files[: len(files) // 2]), ('second', files[len(files) // 2 :])):
        (folder / name).mkdir()
        for file in part:
            shutil.copy(file, folder / name)
        shutil.copy(sequence / 'meta.json', folder / name)  # for the rate
    return folder / 'first', folder / 'second'


def views(images: Path, proposals: Path, scenes: int) -> list[ViewPair]:
    """Make pairs of views of the frames of a folder."""
    entries = read_proposals(proposals, images)
    source = Photographs(entries, ViewConfig(size=(320, 320), mixup=0.0), seed=5)
    return [source.pair(i) for i in range(scenes)]


def measure(weights: str, pairs: list[ViewPair], frames: list[Frame]) -> tuple[float, float]:
    """Measure retrieval within a frame, and the palindrome."""
    detector = MasaDetector.load(DetectorConfig(weights=weights, device='cpu'))
    shared = [p for p in pairs if len(set(p.ids[0].tolist()) & set(p.ids[1].tolist())) > 1]
    found = float(np.mean([retrieval(detector, [pair]) for pair in shared])) if shared else 0.0
    return found, palindrome(frames, Stream(eager(detector))).ids.value


def adapt(sequence: Path, seeds: int, steps: int, quick: bool) -> dict[str, Any]:
    """Adapt to one recording with several seeds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first, second = halves(sequence, folder, 6 if quick else None)
        for part in (first, second):
            output = folder / f'{part.name}-proposals'
            command('proposals', '--model', 'masa_nano', '--images', part, '--output', output)
        pairs = views(second, folder / 'second-proposals', 2 if quick else SCENES)
        frames = frames_of(open_source(second))
        figures: dict[str, Any] = {'before': measure('', pairs, frames), 'after': []}
        for seed in range(seeds):
            output = folder / f'seed{seed}'
            shipped = model_config('masa_nano').shipped_weights
            start = time.perf_counter()
            command(
                *('train', '--images', first, '--proposals', folder / 'first-proposals'),
                *('--share', 1, '--one-camera', '--weights', shipped, '--output', output),
                *('--learning-rate', 5e-4, '--steps', steps, '--seed', seed),
                *('--freeze', *FROZEN),
                *(('--pairs', 1, '--size', 128) if quick else ()),
            )
            figures['minutes'] = (time.perf_counter() - start) / 60
            figures['after'].append(measure(str(output / 'masa_nano.safetensors'), pairs, frames))
    return figures


def main(
    quick: bool = False,
    sequences: Sequence[str] = CROWDED,
    seeds: int = 3,
    steps: int = 150,
) -> dict[str, Any]:
    """Print the table and return its figures."""
    if not SEQUENCES.is_dir():
        print(f'there are no recordings: {SEQUENCES}')
        return {}
    if quick:
        sequences, seeds, steps = sequences[:1], 1, 1
    figures = {name: adapt(SEQUENCES / name, seeds, steps, quick) for name in sequences}
    print(f'\n{"":24}{"retrieval":>20}{"palindrome":>22}{"minutes":>9}')
    for name, row in figures.items():
        after = np.array(row['after'])
        cells = [
            f'{row["before"][i]:.3f} -> {after[:, i].mean():.3f} +- {after[:, i].std():.3f}'
            for i in (0, 1)
        ]
        print(f'{name:24}{cells[0]:>24}{cells[1]:>26}{row["minutes"]:9.1f}', flush=True)
    return figures


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--sequences', nargs='*', default=CROWDED)
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--steps', type=int, default=150)
    parser.add_argument('--quick', action='store_true', help='see that it runs')
    arguments = parser.parse_args()
    figures = main(**vars(arguments))
    if not arguments.quick:
        keep('adaptation', figures)
