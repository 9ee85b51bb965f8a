# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How far half precision and the compiled forms are from float32: every stage, on real frames.

    python bench/agreement.py [MODEL ...] [--fixtures DIR] [--frames DIR] [--images N]

Runs on a CPU. Products of half precision are computed as a GPU computes them, accumulated in
float32 and rounded once; everything else runs in torch's own half precision. Weights of the
published models are the seeded ones of the parity fixtures where these exist, else random.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from common import keep
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.engines import trust
from masa_ros.engines.calibration_set import calibration_images
from masa_ros.models.forms import portable_forms
from masa_ros.models.masa_stages import masa_stages
from masa_ros.models.network import MasaNetwork
from masa_ros.models.precision import PRECISIONS
from masa_ros.models.stages import Case, Eager
from masa_ros.models.zoo import model_config

MODELS = {
    'masa_nano': '',
    'masa_r50': 'masa_r50',
    'masa_sam_vitb': 'sam_vitb_masa',
    'masa_detic': 'detic_masa',
    'masa_gdino': 'gdino_masa',
}
SHARED = Path(__file__).parents[2] / 'shared'
FIXTURES, FRAMES = SHARED / 'parity', SHARED / 'data/sequences'
_aten = torch.ops.aten
_PRODUCTS = {_aten.convolution, _aten.mm, _aten.bmm, _aten.addmm, _aten.baddbmm}


class HalfAsOnAGpu(TorchDispatchMode):
    """Products of half precision accumulate in float32 and are rounded once."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run one operation."""
        kwargs = kwargs or {}
        if function.overloadpacket not in _PRODUCTS:
            if function._can_decompose():  # in inference mode nobody has taken it apart yet
                with self:
                    parts = function.decompose(*args, **kwargs)
                    if parts is not NotImplemented:
                        return parts
            return function(*args, **kwargs)
        if args[0].dtype != torch.float16:
            return function(*args, **kwargs)
        wide = tree_map(
            lambda x: x.float() if isinstance(x, Tensor) and x.dtype == torch.float16 else x, args
        )
        return function(*wide, **kwargs).half()


def seeded(name: str, fixtures: Path) -> MasaDetector:
    """Return a float32 detector with weights that do not depend on any file."""
    config = DetectorConfig(model=name, device='cpu', precision='fp32')
    if name == 'masa_nano':
        return MasaDetector.load(config)
    folder = fixtures / MODELS.get(name, '')
    source = fixtures / 'seeded_weights.py'
    if not MODELS.get(name) or not source.is_file():
        torch.manual_seed(0)
        model = model_config(name)
        return MasaDetector(model, MasaNetwork(model.network), config, 'cpu')
    spec = importlib.util.spec_from_file_location('seeded_weights', source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    manifest = json.loads((folder / 'manifest.json').read_text())
    salt = folder / 'salt.json'
    salt_text = str(json.loads(salt.read_text())['salt']) if salt.is_file() else ''
    state = module.seeded_state_dict(manifest, salt_text)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / manifest['official_checkpoint']['file']
        torch.save({'state_dict': {k: torch.from_numpy(v) for k, v in state.items()}}, path)
        return MasaDetector.load(DetectorConfig(model=name, weights=str(path), device='cpu'))


def real_frames(folder: Path, count: int) -> list[np.ndarray]:
    """Frames spread over all sequences of a folder; the calibration images where it has none."""
    files = sorted(folder.rglob('*.jpg')) if folder.is_dir() else []
    if not files:
        return list(calibration_images((480, 640)))[:count]
    chosen = [files[int((i + 0.5) * len(files) / count)] for i in range(count)]
    return [cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB) for file in chosen]


def cases(reference: MasaDetector, images: list[np.ndarray]) -> list[Case]:
    """Run the reference on images, each brought to the shape of its network input."""
    shapes = [reference.input_shape(*image.shape[:2]) for image in images]
    return reference.cases(
        [cv2.resize(x, s[::-1], interpolation=cv2.INTER_AREA) for x, s in zip(images, shapes)]
    )


def all_half(network: nn.Module) -> nn.Module:
    """Half precision without islands, but for what does not run otherwise."""
    network.half()
    for module in network.modules():
        if type(module).__name__ == 'PositionEmbeddingRandom':
            module.float()
    return network


FORMS = {
    'fp32, compiled forms': (PRECISIONS['fp32'], torch.float32),
    'fp16': (PRECISIONS['fp16'], torch.float16),
    'fp16 without islands': (all_half, torch.float16),
    'mixed': (PRECISIONS['mixed'], torch.float32),
}


def compare(reference: MasaDetector, images: list[np.ndarray]) -> Iterator[dict[str, Any]]:
    """Measures of all forms and stages of one model."""
    known = cases(reference, images)
    for form, (convert, dtype) in FORMS.items():
        network = copy.deepcopy(reference.network)
        convert(network)
        for name, stage in masa_stages(network, reference.model).items():
            with portable_forms(), HalfAsOnAGpu():
                for measure in trust.compare(stage, Eager(stage, dtype), known):
                    yield {
                        'model': reference.model.name,
                        'form': form,
                        'stage': name,
                        'measure': measure.name,
                        'value': measure.value,
                        'limit': measure.limit,
                    }


def main(
    models: Sequence[str] = (),
    fixtures: Path = FIXTURES,
    frames: Path = FRAMES,
    images: int = 2,
    quick: bool = False,
) -> dict[str, Any]:
    """Print the table and return its figures."""
    if quick:
        models, images = ['masa_nano'], 1
    rows = []
    pictures = real_frames(frames, images)
    print(f'{len(pictures)} frames, agreement with float32 (1: equal); * below what is accepted')
    for name in models or MODELS:
        found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
        reference = seeded(name, fixtures)
        for row in compare(reference, pictures):
            rows.append(row)
            found.setdefault((row['stage'], row['measure']), {})[row['form']] = row
        del reference
        print(f'\n{name:44}' + ''.join(f'{form:>22}' for form in FORMS), flush=True)
        for (stage, measure), forms in found.items():
            values = [forms[form] for form in FORMS]
            cells = [
                f'{row["value"]:.5f}{" " if row["value"] >= row["limit"] else "*"}'
                for row in values
            ]
            print(f'{stage:12}{measure:32}' + ''.join(f'{cell:>22}' for cell in cells))
    return {'rows': rows, 'frames': len(pictures)}


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('models', nargs='*', metavar='MODEL', default=[])
    parser.add_argument('--fixtures', type=Path, default=FIXTURES)
    parser.add_argument('--frames', type=Path, default=FRAMES)
    parser.add_argument('--images', type=int, default=2)
    keep('agreement', main(**vars(parser.parse_args())))
