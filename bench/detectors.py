# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Grounding DINO as it is run here, and the library's class for it, with the same weights.

    python bench/detectors.py [--fixtures DIR] [--quick]

The weights are those of the parity fixtures, of full size, read into the library's
``GroundingDinoForObjectDetection`` by the stored map of keys, its own Swin included. Both are
given the same input, and look further at the places that the original chose: in another order of
nearly equal ones, boxes change their queries. Printed for every image and caption: the largest
difference from what the original code made of it; milliseconds of processor time for an image
whose caption has been seen before, on one thread: whole, and on maps that the network that embeds
has made already.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common import keep
from torch import Tensor
from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

from masa_ros.detectors.grounding_dino import label_scores
from masa_ros.detectors.on_swin import own_backbone
from masa_ros.models.grounding_dino import Grounded, GroundingDino
from masa_ros.models.preprocess import fitted_to, padded_input
from masa_ros.models.swin import Swin
from masa_ros.models.zoo import model_config

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'tools'))
from parity_checks.detectors import below, seeded_state, sized  # noqa: E402
from parity_checks.report import Array, Fixtures, load_seeded  # noqa: E402

FIXTURES = ROOT.parent / 'shared/parity'
ROUNDS = 2
COMPARED = {'logits': 'logits', 'boxes': 'boxes_cxcywh', 'scores': 'class_scores'}
WAYS = 'library', 'ours'
TIMED = 'library ms', 'ours ms', 'behind ms'
HEADS = (*(f'{key}, {way}' for key in COMPARED for way in WAYS), *TIMED)
_REST = 'everything else'
_MERGED = 0, 2, 1, 3  # four neighbours: the published order in that of the library


class Case(NamedTuple):
    """An image in the network's input, a caption, and what the original made of them.

    Attributes
    ----------
    name: of both.
    pixels: (1, 3, H, W) float32, normalised and padded.
    shape: rows and columns of the image in it.
    ids: (T,) tokens.
    labels: tokens of each label.
    stored: the original's arrays.

    """

    name: str
    pixels: Tensor
    shape: tuple[int, int]
    ids: Tensor
    labels: list[list[int]]
    stored: Mapping[str, Array]


def cases(fixtures: Fixtures) -> Iterator[Case]:
    """Give every image with every caption."""
    arrays, images = fixtures.arrays('reference.npz'), fixtures.arrays('input.npz')
    prompts = json.loads((fixtures.folder / 'prompts.json').read_text())['prompts']
    model = sized(model_config('masa_gdino'))
    for name in dict.fromkeys(key.split('.')[0] for key in images):
        image = images[f'{name}.rgb']
        shape = fitted_to(model, 0, *image.shape[:2])
        pixels = padded_input(image, shape, model.pad_multiple, False, 'cpu')
        for i, prompt in enumerate(prompts):
            stored = below(arrays, f'{name}.p{i}.')
            labels = list(prompt['label_to_token'].values())
            ids = torch.tensor(prompt['input_ids'])
            yield Case(f'{name} p{i}', pixels, shape, ids, labels, stored)


def library_class(state: Mapping[str, Tensor], stored: Mapping[str, Any]) -> Any:
    """Return the library's class with published tensors, by a stored map of keys."""
    chosen = {k: v for k, v in stored['config']['GroundingDinoConfig'].items() if k != _REST}
    backbone = SwinConfig(**stored['config']['SwinConfig'])
    network: Any = GroundingDinoForObjectDetection(
        GroundingDinoConfig(backbone_config=backbone, **chosen)
    )
    tensors: dict[str, Tensor] = {}
    for entry in stored['map']:
        value, names = state[entry['official']], entry['hf']
        if entry['op'] == 'split3':
            tensors |= zip(names, value.chunk(3))
            continue
        if entry['op'] == 'patch_merging_columns':
            value = value.unflatten(-1, (-1, 4))[..., _MERGED].transpose(-1, -2).flatten(-2)
        tensors |= dict.fromkeys(names, value)
    left = network.load_state_dict(tensors, strict=False)
    if left.unexpected_keys or set(left.missing_keys) - set(stored['hf_only']):
        raise SystemExit(f'the map of keys does not fit: {left}')
    return network.eval()


def library_way(network: Any) -> Callable[[Case], Grounded]:
    """Run the library's class on cases."""

    def run(case: Case) -> Grounded:
        mask = torch.zeros((1, *case.pixels.shape[2:]), dtype=torch.long)
        mask[:, : case.shape[0], : case.shape[1]] = 1
        ids = case.ids[None]
        found = network(
            pixel_values=case.pixels,
            pixel_mask=mask,
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            token_type_ids=torch.zeros_like(ids),
        )
        return Grounded(found.logits[0, :, : len(case.ids)], found.pred_boxes[0])

    return run


class Choice:
    """Lets networks take the places (Q,) of the encoder that the original took."""

    places: Array

    def force(self, network: Any) -> None:
        """Begin with a network."""
        network.model.encoder_output_class_embed.register_forward_hook(self._ranked)

    def _ranked(self, module: Any, given: Any, logits: Tensor) -> Tensor:
        if logits.shape[1] == len(self.places):  # a second call, of those that were chosen
            return logits
        chosen = torch.full_like(logits, -1e4)
        ranks = torch.arange(len(self.places), 0, -1.0)
        chosen[0, torch.from_numpy(self.places.astype(np.int64))] = ranks[:, None]
        return chosen


def apart(found: Grounded, case: Case) -> dict[str, float]:
    """Return the largest differences from the original: logits, boxes, scores of labels."""
    mine = {
        'logits': found.logits,
        'boxes': found.boxes,
        'scores': label_scores(found.logits, case.labels),
    }
    differences = {}
    for key, name in COMPARED.items():
        steps = case.stored.get(f'{name}.stride', ())
        some = mine[key].numpy()[tuple(slice(None, None, int(n)) for n in steps)]
        differences[key] = float(np.abs(some - case.stored[name]).max())
    return differences


def timed(run: Callable[[], Grounded], rounds: int) -> tuple[float, Grounded]:
    """Return the median milliseconds of processor time of some calls, and what it answers."""
    answer, times = run(), []
    for _ in range(rounds):
        start = time.process_time()
        answer = run()
        times.append(1e3 * (time.process_time() - start))
    return float(np.median(times)), answer


@torch.inference_mode()
def main(quick: bool = False, fixtures: Path = FIXTURES) -> dict[str, Any]:
    """Print the table and return its figures."""
    folder = fixtures / 'detectors/gdino'
    if not folder.is_dir():
        print(f'no fixtures in {folder}: --fixtures names the folder that they are in')
        return {}
    given = Fixtures(folder, load_seeded(fixtures))
    state = seeded_state(given)
    model = model_config('masa_gdino')
    backbone, own = own_backbone(model, state, folder).eval(), GroundingDino()
    own.read(state, f'{folder} does not fit')
    network = library_class(state, json.loads((folder / 'transformers_key_map.json').read_text()))
    theirs = library_way(network)
    del state
    choice = Choice()
    for each in (network, own.network):
        choice.force(each)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    print(f'{"":9}' + ''.join(f'{head:>17}' for head in HEADS))
    rows = []
    for case in list(cases(given))[: 1 if quick else None]:
        choice.places = case.stored['topk_indices']
        row = compared(case, theirs, backbone, own, 1 if quick else ROUNDS)
        rows.append(row)
        cells = [f'{row[way][key]:>17.1e}' for key in COMPARED for way in WAYS]
        cells += [f'{row[head]:>17.0f}' for head in TIMED]
        print(f'{row["case"]:9}' + ''.join(cells), flush=True)
    torch.set_num_threads(threads)
    return {'rows': rows}


def compared(
    case: Case,
    theirs: Callable[[Case], Grounded],
    backbone: Swin,
    own: GroundingDino,
    rounds: int,
) -> dict[str, Any]:
    """Return the row of a case."""
    height, width = case.pixels.shape[2:]

    def behind(maps: Any) -> Grounded:
        return own(maps, case.shape, (height, width), case.ids)

    ready = backbone(case.pixels).maps
    ways = {
        'library ms': lambda: theirs(case),
        'ours ms': lambda: behind(backbone(case.pixels).maps),
        'behind ms': lambda: behind(ready),
    }
    took, found = {}, {}
    for name, run in ways.items():
        took[name], found[name] = timed(run, rounds)
    differences = {way: apart(found[f'{way} ms'], case) for way in WAYS}
    return {'case': case.name, **differences, **took}


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--fixtures', type=Path, default=FIXTURES)
    parser.add_argument('--quick', action='store_true', help='see that it runs')
    arguments = parser.parse_args()
    figures = main(**vars(arguments))
    if not arguments.quick:
        keep('detectors', figures)
