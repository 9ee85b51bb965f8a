# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The detectors inside the published checkpoints, and detection and tracking by one backbone."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from masa_ros.detectors.masa import Encoded, MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.detectors.on_swin import SwinDetector
from masa_ros.models.configs import ModelConfig
from masa_ros.tracking import ReleasedConfig, ReleasedTracker
from masa_ros.types import Instances
from parity_checks.report import Array, Fixtures, Report

SIZES = (416, 320)
"""Long and short side that the images of these fixtures are brought to."""


_SWAPPED = 0.05
"""Share of ids that may differ. The embeddings of a random network are so much alike that rounding
swaps pairs of ids, which ones depends on the processor; where the originals ran, none do."""


class Stored:
    """Compares with the stored arrays of one image, prompt or frame, and tells what was left."""

    def __init__(self, report: Report, label: str, arrays: dict[str, Array]) -> None:
        self.report, self.label, self.arrays = report, label, arrays
        self.done: set[str] = set()

    def __contains__(self, key: str) -> bool:
        """Tell whether an array is stored."""
        return key in self.arrays

    def __call__(self, key: str) -> Array:
        """Return a stored array."""
        self.done.update((key, *(f'{key}.{more}' for more in ('stride', 'shape', 'stats'))))
        return self.arrays[key]

    def near(
        self, key: str, ours: Tensor | Array, limit: float = 1e-4, relative: bool = True
    ) -> None:
        """Compare an array, or the stored part of it; infinite values must be the same ones."""
        theirs = self(key)
        mine = ours.float().cpu().numpy() if isinstance(ours, Tensor) else np.asarray(ours)
        if f'{key}.stride' in self.arrays:
            full = tuple(int(n) for n in self.arrays[f'{key}.shape'])
            if mine.shape != full:
                self.report.line(self.label + key, str(mine.shape), str(full), 'shape', False)
                return
            mine = mine[tuple(slice(None, None, int(n)) for n in self.arrays[f'{key}.stride'])]
        same = mine.shape == theirs.shape and bool((np.isinf(mine) == np.isinf(theirs)).all())
        if not same:
            self.report.line(self.label + key, 'infinite', '', 'equal', False)
            return
        there = np.isfinite(theirs)
        self.report.close(self.label + key, mine[there], theirs[there], limit, relative)

    def same(self, key: str, ours: Tensor | Array) -> None:
        """Compare integers."""
        self.report.same(self.label + key, ours, self(key))

    def rows(
        self, key: str, found: Instances, limit: float, share: float = 1.0, suffix: str = ''
    ) -> None:
        """Compare detections as sets: boxes, scores and labels."""
        apart = 1e5 * np.stack([found.labels] * 4, 1)  # boxes of other labels are far away
        boxes, scores, labels = (self(f'{key}.{part}') for part in ('boxes', 'scores', 'labels'))
        self.report.boxes(
            f'{self.label}{key}{suffix}',
            found.boxes.astype(np.float64) + apart,
            found.scores,
            boxes + 1e5 * np.stack([labels] * 4, 1),
            scores,
            share,
            limit,
        )

    def instances(self, key: str, boxes: str = 'boxes') -> Instances:
        """Return stored detections, their boxes of this name."""
        return Instances(
            boxes=self(f'{key}.{boxes}'),
            scores=self(f'{key}.scores'),
            labels=self(f'{key}.labels'),
        )

    def rest(self) -> None:
        """Fail for what is stored and was not compared."""
        left = sorted(set(self.arrays) - self.done)
        if left:
            self.report.line(
                f'{self.label}not compared: {left[0]}', str(len(left)), '', '0', False
            )


def below(arrays: dict[str, Array], prefix: str) -> dict[str, Array]:
    """Return the arrays whose names begin so, without the beginning."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def seeded_state(fixtures: Fixtures) -> dict[str, Tensor]:
    """Make the weights of a manifest, and check their sums where these are known."""
    manifest = json.loads((fixtures.folder / 'manifest.json').read_text())
    seeded = fixtures.seeded
    state: dict[str, Tensor] = {}
    for entry in manifest['tensors']:
        name = entry['name']
        if entry.get('rule') == 'unit_columns':
            head = 'detector.roi_head.bbox_head.0.fc_cls.zs_weight'
            value = seeded.seeded_tensor(head, entry['shape'], fixtures.salt)
            value[:, -1] = 0
            length = np.linalg.norm(value.astype(np.float64), axis=0)
            value = (value / np.where(length, length, 1)).astype(np.float32)
        else:
            value = seeded.seeded_tensor(name, entry['shape'], fixtures.salt)
        if 'scale' in entry:
            value = value * np.float32(entry['scale'])
        if 'offset' in entry:
            value = value + np.float32(entry['offset'])
        value = np.asarray(value)
        if 'crc32' in entry and seeded.crc32(value) != entry['crc32']:
            raise SystemExit(f'{name}: the seeded tensor is not that of the fixtures')
        state[name] = torch.from_numpy(value)
    return state


def sized(model: ModelConfig) -> ModelConfig:
    """Return a model with the input sizes of these fixtures."""
    return dataclasses.replace(model, input_size=SIZES[0], short_side=SIZES[1])


Load = Callable[[Path, MasaDetector], SwinDetector]


def loaded(
    fixtures: Fixtures, file: str, name: str, load: Load
) -> tuple[MasaDetector, SwinDetector]:
    """Write the seeded weights as they are published, and read them as users do."""
    state = seeded_state(fixtures)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file
        torch.save({'meta': {'epoch': 12}, 'state_dict': state, 'message_hub': {}}, path)
        del state
        for text in fixtures.folder.glob('*.txt'):
            shutil.copy(text, folder)
        masa = MasaDetector.load(
            DetectorConfig(model=name, weights=str(path), device='cpu', precision='fp32')
        )
        detector = load(path, masa)
    masa.model, detector.model = sized(masa.model), sized(detector.model)
    return masa, detector


def compare_input(stored: Stored, masa: MasaDetector, image: Array) -> Encoded:
    """Compare the input of the network and the maps of its backbone; returns them."""
    tensor, view = masa.preprocess(image)
    stored.near('input', tensor[0])
    stored.same('img_shape', np.array(view[2:]))
    stored.same('pad_shape', np.array(tensor.shape[2:]))
    stored.same('ori_shape', np.array(view[:2]))
    stored.near('scale_factor_wh', np.array(view.scale), 1e-6, relative=False)
    (encoded,) = masa.encode_tensor(tensor, view)
    for i in range(3):
        stored.near(f'backbone.l{i}', encoded.tensors[f'map{i}'][0])
    return encoded


class Passes:
    """Counts the passes of a backbone."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        self.count = 0
        backbone.register_forward_hook(self._count)

    def _count(self, *arguments: Any) -> None:
        self.count += 1


def compare_unified(
    report: Report,
    fixtures: Fixtures,
    masa: MasaDetector,
    find: Callable[[Encoded, dict[str, Array]], Instances],
    label: str,
    limit: float,
) -> None:
    """Compare detection, embeddings and ids over frames, by one pass of the backbone each.

    ``find`` is given what the backbone made of a frame, and the stored arrays of the frame.
    """
    arrays = fixtures.arrays('unified.npz')
    passes, tracker = Passes(masa.network.backbone), ReleasedTracker(_rules(fixtures))
    frames = arrays['frames.rgb']
    for k, frame in enumerate(frames):
        stored = Stored(report, f'{label}frame{k}.', below(arrays, f'frame{k}.'))
        (encoded,) = masa.encode([frame])
        stored.near('adapter1.l0', encoded.tensors['level0'][0])
        found = find(encoded, stored.arrays)
        stored('topk_indices') if 'topk_indices' in stored else None
        stored.rows('det', found, limit)
        # In their order, that equal scores are met in the same one by the tracker.
        theirs = stored.instances('det')
        described = masa.describe(encoded, theirs)
        stored.near('embeddings_sub', described.embeddings[:, ::8])
        rows, ids = tracker.track(
            theirs.boxes,
            theirs.scores,
            theirs.labels.astype(np.int64),
            described.embeddings,
            k,
        )
        rows, ids = rows[ids > -1], ids[ids > -1]
        known = stored('track.ids')
        differ = float((ids != known).mean()) if ids.shape == known.shape else 1.0
        text = f'{differ:.1%} differ'
        report.line(f'{label}frame{k}.track.ids', text, '', f'{_SWAPPED:.0%}', differ <= _SWAPPED)
        for part in ('boxes', 'scores', 'labels'):
            stored.near(f'track.{part}', getattr(theirs, part)[rows], 1e-6, relative=False)
        stored.rest()
    report.same(f'{label}backbone passes', np.array(passes.count), np.array(len(frames)))


def _rules(fixtures: Fixtures) -> ReleasedConfig:
    values = json.loads((fixtures.folder / 'config.json').read_text())['tracker']
    known = ReleasedConfig.__dataclass_fields__
    return ReleasedConfig(rules='tao', **{k: v for k, v in values.items() if k in known})
