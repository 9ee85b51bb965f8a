# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Detic: pyramid, proposals, cascade, classes by words, masks."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from masa_ros.detectors.detic import DeticConfig, DeticDetector, released_choice, released_names
from masa_ros.detectors.masa import Encoded, MasaDetector
from masa_ros.detectors.on_swin import in_image, shared_maps
from masa_ros.models.detic import _STDS, Detic, Seen, as_words, paste
from masa_ros.models.heads import clip_boxes, decode_boxes
from masa_ros.models.masks import View
from masa_ros.types import Instances
from parity_checks.detectors import Stored, below, compare_input, compare_unified, loaded
from parity_checks.report import Array, Fixtures, Report

_SCORES = 1e-5


class Tap:
    """Keeps what the heads of the cascade are given and give."""

    def __init__(self, network: Detic) -> None:
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []
        for head in network.stages:
            head.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, given: Any, made: Any) -> None:
        self.seen.append((given[0], *made))


def _with_background(words: Tensor) -> Tensor:
    return torch.cat((words, words.new_zeros((len(words), 1))), 1)


def _compare_text(report: Report, cases: list[dict[str, Any]]) -> None:
    for case in cases:
        text = case['text']
        if 'error' in case or isinstance(text, list):
            continue  # upstream ends with a KeyError; a list is taken as it is
        names = released_names(text)
        if 'class_names' in case:
            good = names == case['class_names']
            good &= [f'a {name}' for name in names] == case['clip_texts']
        else:
            first, last = case['first'], case['last']
            good = len(names) == case['num_classes'] and names[: len(first)] == first
            good &= names[-len(last) :] == last
        report.line(f'detic text {text[:28]}', '0' if good else 'differs', '', 'equal', good)


def _compare_cascade(
    stored: Stored, network: Detic, tap: Tap, levels: list[Tensor], words: Tensor, view: View
) -> Seen:
    """Compare what does not depend on the words, the stored proposals fed; returns the end."""
    tap.seen = []
    boxes, scores = (torch.from_numpy(stored.arrays[f'rpn.{k}']) for k in ('boxes', 'scores'))
    shape = (view.rows, view.columns)
    seen = network.refine(levels, boxes, scores, words, shape)
    for k, (features, _, deltas) in enumerate(tap.seen):
        stored.near(f's{k}.rois', boxes, 0.01, relative=False)
        stored.near(f's{k}.roi_feats', features)
        stored.near(f's{k}.deltas', deltas)
        boxes = clip_boxes(decode_boxes(boxes, deltas, _STDS[k]), *shape)
    return seen


def _instances(chosen: tuple[Tensor, Tensor, Tensor], view: View) -> Instances:
    boxes, scores, labels = chosen
    return Instances(in_image(boxes, view), scores.numpy(), labels.int().numpy())


def _compare_words(stored: Stored, seen: Seen, tap: Tap, view: View, network: Detic) -> None:
    """Compare logits, scores and final boxes of a vocabulary."""
    for k, (_, logits, _) in enumerate(tap.seen):
        stored.near(f's{k}.logits', logits)
    stored.near('scores', seen.scores)
    chosen = released_choice(seen.boxes, seen.scores[:, :-1], 0.02, 0.5, 50)
    stored.rows('det', _instances(chosen, view), _SCORES)
    scaled = stored.instances('det', boxes='boxes_network')
    network_boxes = in_image(torch.from_numpy(scaled.boxes), view)
    stored.near('det.boxes', network_boxes, 0.01, relative=False)


def _compare_masks(stored: Stored, network: Detic, levels: list[Tensor], view: View) -> None:
    boxes = torch.from_numpy(stored.arrays['det.boxes_network'])
    logits = network.draw(levels, boxes)
    stored.near('det.mask_logits', logits)
    masks = paste(logits, in_image(boxes, view), view)
    shape = tuple(int(n) for n in stored('det.masks_shape'))
    packed = stored('det.masks_packed')
    theirs = np.unpackbits(packed, axis=1)[:, : shape[1] * shape[2]].astype(bool)
    ours = np.stack(
        [
            np.zeros(shape[1:], bool) if mask is None else mask.full(*shape[1:]).astype(bool)
            for mask in masks
        ]
    ).reshape(theirs.shape)
    union = np.maximum((ours | theirs).sum(1), 1)
    least = float(np.where(theirs.any(1) | ours.any(1), (ours & theirs).sum(1) / union, 1).min())
    stored.report.line(stored.label + 'mask IoU', f'{1 - least:.1e}', '', '1e-03', least >= 0.999)
    stored.near('det.mask_area', ours.sum(1), 3, relative=False)


def _compare_image(
    report: Report,
    arrays: dict[str, Array],
    label: str,
    encoded: Encoded,
    image: Stored,
    detector: DeticDetector,
    tap: Tap,
    words: Tensor,
    high: float,
) -> None:
    """Compare everything of one image."""
    network, view = detector.network, encoded.view
    assert isinstance(network, Detic)
    levels = network.neck(shared_maps(encoded))
    heat, distances = network.rpn_head(levels)
    for k, level in enumerate(levels):
        image.near(f'neck.l{k}', level[0])
        image.near(f'rpn.heat.l{k}', heat[k][0, 0])
        image.near(f'rpn.reg.l{k}', distances[k][0])
    boxes, scores = network.propose(heat, distances)
    report.boxes(
        f'{label}rpn.boxes',
        boxes.numpy(),
        scores.numpy(),
        image('rpn.boxes'),
        image('rpn.scores'),
        0.99,
        2e-5,
    )
    vocabularies = {
        'custom': _with_background(words),
        'lvis': _with_background(network.vocabulary),
    }
    for name, matrix in vocabularies.items():
        stored = Stored(report, f'{label}{name}.', below(arrays, f'{name}.'))
        seen = _compare_cascade(image, network, tap, levels, matrix, view)
        _compare_words(stored, seen, tap, view, network)
        pairs = (seen.boxes, seen.scores[:, :-1])
        if name == 'custom':
            _compare_masks(stored, network, levels, view)
            image.near('s3.boxes', seen.boxes, 0.01, relative=False)
            base = Stored(report, f'{label}custom_base.', below(arrays, 'custom_base.'))
            base.rows('det', _instances(released_choice(*pairs, 0.01, 0.5, 100), view), _SCORES)
            base.rest()
        else:
            most = Stored(report, f'{label}lvis_hi.', below(arrays, 'lvis_hi.'))
            most.rows('det', _instances(released_choice(*pairs, high, 0.5, 50), view), _SCORES)
            most.rest()
        stored.rest()
    image.rest()


@torch.inference_mode()
def compare_detic(report: Report, fixtures: Fixtures) -> None:
    """Compare all stages of Detic, and the unified path."""
    print('-- detectors/detic: detic')
    arrays, inputs = fixtures.arrays('reference.npz'), fixtures.arrays('input.npz')
    embeddings = torch.from_numpy(arrays['custom.text_embeddings'])
    words = as_words(embeddings)

    def load(path: Path, masa: MasaDetector) -> DeticDetector:
        found = DeticDetector.beside(DeticConfig(weights=str(path), released=True), masa)
        assert found is not None
        return found

    masa, detector = loaded(fixtures, 'detic_masa.pth', 'masa_detic', load)
    assert isinstance(detector, DeticDetector) and isinstance(detector.network, Detic)
    prompts = json.loads((fixtures.folder / 'prompts.json').read_text())
    _compare_text(report, prompts['text_cases'])
    tap = Tap(detector.network)
    names = ('custom.', 'lvis.', 'lvis_hi.', 'custom_base.')
    for i in range(sum(key.endswith('.rgb') for key in inputs)):
        start = time.perf_counter()
        mine = below(arrays, f'img{i}.')
        alone = {k: v for k, v in mine.items() if not k.startswith(names)}
        image = Stored(report, f'detic img{i}.', alone)
        encoded = compare_input(image, masa, inputs[f'img{i}.rgb'])
        high = prompts['lvis_hi_score_thr'][f'img{i}']
        label = f'detic img{i}.'
        _compare_image(report, mine, label, encoded, image, detector, tap, words, high)
        print(f'   img{i}: {time.perf_counter() - start:.1f} s')
    detector._encode = lambda texts: embeddings[: len(texts)]
    asked = [f'word {i}' for i in range(len(embeddings))]

    def find(encoded: Encoded, stored: dict[str, Array]) -> Instances:
        return detector.find([encoded], asked)[0]

    compare_unified(report, fixtures, masa, find, 'detic ', _SCORES)
