# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Compiled networks compute what eager ones do: portable forms, half precision, torch.compile."""

import copy
import dataclasses

import pytest
import torch
import torchvision
from conftest import scene
from engine_kit import detector

from masa_ros.engines import runtimes
from masa_ros.engines.tensorrt import export
from masa_ros.models.configs import SamConfig
from masa_ros.models.forms import portable_forms
from masa_ros.models.network import MasaNetwork
from masa_ros.models.precision import PRECISIONS, storage
from masa_ros.models.sampling import ModulatedDeformConv, RoIAlign, roi_levels
from masa_ros.models.stages import Stage, run_rows
from masa_ros.models.zoo import model_config


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
@pytest.mark.parametrize('stride', [1, 2])
def test_the_portable_deformable_convolution_equals_torchvision(stride, dtype):
    torch.manual_seed(0)
    conv = ModulatedDeformConv(16, 8, stride)
    x = torch.randn(1, 16, 17, 23)
    rows, columns = -(-17 // stride), -(-23 // stride)
    offset, mask = torch.randn(1, 18, rows, columns) * 2, torch.rand(1, 9, rows, columns)
    expected = torchvision.ops.deform_conv2d(
        x, offset, conv.weight, stride=stride, padding=1, mask=mask
    )
    with portable_forms():
        found = conv.to(dtype)(x.to(dtype), offset.to(dtype), mask.to(dtype))
    assert found.dtype == dtype
    limit = 1e-4 if dtype == torch.float32 else 0.01 * float(expected.detach().std())
    torch.testing.assert_close(found.float(), expected, atol=limit, rtol=0)


def roi_cases():
    """Boxes of all sizes, up to four times as long as wide, and the maps they lie on."""
    generator = torch.Generator().manual_seed(0)
    strides = (4, 8, 16, 32)
    levels = [torch.randn(1, 6, 800 // s, 1024 // s, generator=generator) for s in strides]
    side = 10 ** (1 + 1.8 * torch.rand(300, generator=generator))
    shape = 2 ** (2 * torch.rand(300, generator=generator) - 1)
    corner = torch.rand(300, 2, generator=generator) * torch.tensor([900.0, 700.0])
    boxes = torch.cat((corner, corner + torch.stack((side * shape, side / shape), 1)), 1)
    return strides, levels, boxes, shape


def adaptive(strides, levels, boxes):
    parts = []
    for i, level in enumerate(roi_levels(boxes, len(strides)).long().tolist()):
        roi = torch.cat((torch.zeros(1), boxes[i]))[None]
        scale = 1 / strides[level]
        parts.append(torchvision.ops.roi_align(levels[level], roi, 7, scale, 0, aligned=True)[0])
    return torch.stack(parts)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_the_portable_roi_align_is_exact_where_its_grid_suffices(dtype):
    strides, levels, boxes, _ = roi_cases()
    align, scale = RoIAlign(7, strides, 0), torch.tensor([1.0 / s for s in strides])
    sides = (boxes[:, 2:] - boxes[:, :2]) * scale[roi_levels(boxes, 4).long()][:, None]
    enough = ((sides / 7).ceil() <= RoIAlign.MOST).all(1)
    assert 0.6 < enough.float().mean() < 0.95  # both kinds are there
    expected = adaptive(strides, levels, boxes)
    with portable_forms():
        index = torch.zeros(len(boxes), dtype=torch.long)
        found = align([x.to(dtype) for x in levels], boxes, index).float()
    limit = 1e-4 if dtype == torch.float32 else 0.01
    torch.testing.assert_close(found[enough], expected[enough], atol=limit, rtol=0)
    # Beyond, the cell's average is taken over fewer points: other numbers of the same thing.
    cosine = torch.cosine_similarity(found[~enough].flatten(1), expected[~enough].flatten(1))
    assert 0.6 < cosine.min() < 0.9999


def test_the_portable_attention_equals_the_fused_one():
    sam = pytest.importorskip('masa_ros.models.sam')
    torch.manual_seed(0)
    attention = sam.FusedAttention(32, 4, use_rel_pos=True, input_size=(8, 8))
    torch.nn.init.normal_(attention.rel_pos_h)
    torch.nn.init.normal_(attention.rel_pos_w)
    x = torch.randn(2, 8, 8, 32)
    fused = attention(x)
    with portable_forms():
        torch.testing.assert_close(attention(x), fused, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('precision', ['fp16', 'mixed'])
def test_half_precision_keeps_its_islands(precision):
    config = SamConfig(
        width=32, depth=2, heads=2, global_blocks=(1,), taps=(0, 0, 1, 1), image_size=64
    )
    model = model_config('masa_sam_vitb')
    network = MasaNetwork(dataclasses.replace(model.network, backbone=config)).eval()
    halved = PRECISIONS[precision](copy.deepcopy(network))
    norms = [m for m in halved.modules() if type(m).__name__ in ('LayerNorm', 'LayerNorm2d')]
    assert len(norms) > 8 and all(m.weight.dtype == torch.float32 for m in norms)
    fourier = halved.masks.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    assert fourier.dtype == torch.float32
    convolution = halved.fusion[0].mid.norm, halved.backbone.patch_embed.proj
    assert [m.weight.dtype for m in convolution] == [torch.float32, torch.float16]
    # A channel norm of values whose squares leave the range of half precision.
    big = torch.randn(1, 256, 4, 4) * 300
    norm = next(m for m in halved.backbone.neck if type(m).__name__ == 'LayerNorm2d')
    assert norm(big.to(storage(precision))).isfinite().all()


@pytest.mark.engines
def test_torch_compile_takes_any_number_of_boxes():
    reference = detector()
    encoded = reference.encode([scene()])[0]
    stage = reference.stages['embeddings']
    run = runtimes.RUNTIMES['compile'].load(stage, b'', torch.float32, 'cpu')
    levels = {name: encoded.tensors[name] for name in stage.inputs[1:]}
    boxes = torch.tensor([[10.0, 20, 100, 90], [0, 0, 250, 180], [60, 60, 64, 63]])
    with torch.inference_mode():
        for count in (3, 1, 2):
            found = run(boxes=boxes[:count], **levels)
            expected = reference.eager['embeddings'](boxes=boxes[:count], **levels)
            for name in stage.outputs:
                torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=1e-4)


class Scale(Stage):
    """A stage of nobody's: its inputs have names of their own, and one counts."""

    name, inputs, outputs = 'scale', ('map', 'points', 'index'), ('points', 'picked')
    rows, exact, most = ('points', 'index'), ('points',), 8

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, map, points, index):
        return points * self.weight, map.flatten()[index] * self.weight


def test_any_stage_exports_with_a_free_number_of_rows():
    stage = Scale()
    values = {'map': torch.randn(1, 4, 4), 'points': torch.randn(3, 2)}
    values['index'] = torch.tensor([1, 5, 7])
    inputs = stage.arrange(values, torch.float16)
    assert [x.dtype for x in inputs] == [torch.float16, torch.float32, torch.int64]
    program = export(stage.double(), stage.arrange(values, torch.float64)).module()
    for count in (1, 3, 8):
        some = (torch.randn(1, 4, 4).double(), torch.randn(count, 2), torch.arange(count))
        for ours, theirs in zip(program(*some), stage(*some)):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize('count, calls', [(0, [1]), (5, [5]), (8, [8]), (19, [8, 8, 3])])
def test_rows_are_run_as_many_at_once_as_a_stage_takes(count, calls):
    stage, asked = Scale(), []

    def run(**tensors):
        asked.append(len(tensors['points']))
        return dict(zip(stage.outputs, stage(**tensors)))

    values = {'map': torch.randn(1, 4, 8), 'points': torch.randn(count, 2), 'other': None}
    values['index'] = torch.arange(count)
    found = run_rows(stage, run, values)
    assert asked == calls
    torch.testing.assert_close(found['points'], values['points'] * 2)
    torch.testing.assert_close(found['picked'], values['map'].flatten()[:count] * 2)
