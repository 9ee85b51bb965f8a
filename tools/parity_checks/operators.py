# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Single operators: the folder ``ops``."""

from __future__ import annotations

import json

import numpy as np
import torch
import torchvision
from torch import Tensor

from masa_ros.models import official
from masa_ros.models.configs import NetworkConfig, SamConfig, SwinConfig
from masa_ros.models.fusion import DynamicFusion
from masa_ros.models.heads import clip_boxes, decode_boxes, encode_boxes
from masa_ros.models.network import MasaNetwork
from masa_ros.models.preprocess import fitted_size, normalise, resize
from masa_ros.models.sampling import ModulatedDeformConv, RoIAlign, roi_levels
from masa_ros.models.swin import Swin
from masa_ros.models.zoo import model_config
from parity_checks.report import Array, Fixtures, Report, cases_of, fill, tensors_of


@torch.inference_mode()
def compare_operators(report: Report, fixtures: Fixtures) -> None:
    """Compare the single operators of the folder ``ops``."""
    print('-- operators')
    _deformable(report, fixtures.arrays('modulated_deform_conv.npz'))
    _fusion(report, fixtures)
    _roi_align(report, fixtures.arrays('roi_align.npz'))
    _anchors(report, fixtures.arrays('anchors.npz'))
    _coder(report, fixtures.arrays('bbox_coder.npz'))
    _nms(report, fixtures.arrays('nms.npz'))
    _preprocess(report, fixtures.arrays('preprocess.npz'))
    _sam_small(report, fixtures)
    _swin_small(report, fixtures)


def _deformable(report: Report, arrays: dict[str, Array]) -> None:
    values = tensors_of(arrays)
    for case in cases_of(arrays):
        x, weight = values[f'{case}.x'], values[f'{case}.weight']
        offset, mask = values[f'{case}.offset'], values[f'{case}.mask']
        out = arrays[f'{case}.out']
        conv = ModulatedDeformConv(weight.shape[1], len(weight), round(x.shape[2] / out.shape[2]))
        conv.weight.data = weight
        if offset.shape[2:] != out.shape[2:]:  # quirk 1: the larger buffer is read as a smaller
            fusion = DynamicFusion(16, released_layout=True)
            offset, mask = fusion.to_coarser(offset, x), fusion.to_coarser(mask, x)
        report.close(
            f'deform_conv {case}', conv(x, offset, mask), arrays[f'{case}.out'], 1e-5, False
        )


def _fusion(report: Report, fixtures: Fixtures) -> None:
    arrays = fixtures.arrays('fusion_blocks.npz')
    values = tensors_of(arrays)
    for kind in cases_of(arrays):
        tensors = fixtures.tensors(arrays[f'{kind}.names'], f'ops.{kind}.')
        named = official.translate(
            model_config('masa_r50'), {f'masa_adapter.1.{k}': v for k, v in tensors.items()}
        )
        blocks = torch.nn.Sequential(
            *(
                DynamicFusion(32, released_layout=True, attention=kind == 'DyHead')
                for _ in range(2)
            )
        )
        fill(blocks, named, 'fusion.')
        for case in dict.fromkeys(k.split('.')[1] for k in values if k.startswith(f'{kind}.')):
            count = sum(k.startswith(f'{kind}.{case}.in') for k in values)
            levels = [values[f'{kind}.{case}.in{i}'] for i in range(count)]
            first = blocks[0](levels)
            for i, (half, whole) in enumerate(zip(first, blocks[1](first))):
                key = f'{kind}.{case}.'
                report.close(
                    f'{key}block0_out{i}', half, arrays[f'{key}block0_out{i}'], 1e-5, False
                )
                report.close(f'{key}out{i}', whole, arrays[f'{key}out{i}'], 1e-5, False)


def _roi_align(report: Report, arrays: dict[str, Array]) -> None:
    values = tensors_of(arrays)
    for case in cases_of(arrays):
        strides = arrays[f'{case}.strides'].tolist()
        levels = [values[f'{case}.feat{i}'] for i in range(len(strides))]
        rois = values[f'{case}.rois']
        report.same(
            f'roi_align {case} levels',
            roi_levels(rois[:, 1:], len(strides)).long(),
            arrays[f'{case}.levels'],
        )
        pooled = RoIAlign(7, strides, samples=0)(levels, rois[:, 1:], rois[:, 0].long())
        report.close(f'roi_align {case}', pooled, arrays[f'{case}.out'], 1e-5, False)


def _anchors(report: Report, arrays: dict[str, Array]) -> None:
    for case in cases_of(arrays):
        config = NetworkConfig(
            SwinConfig(7) if case == 's8' else model_config('masa_r50').network.backbone
        )
        with torch.device('meta'):
            head = MasaNetwork(config).proposals
        sizes = [(int(h), int(w)) for h, w in arrays[f'{case}.featmap_sizes']]
        report.same(
            f'anchors {case} strides',
            np.array(head.strides),
            arrays[f'{case}.strides'].reshape(len(sizes), -1)[:, 0],
        )
        for i, grid in enumerate(head.anchors(sizes, torch.device('cpu'))):
            report.close(f'anchors {case} {i}', grid, arrays[f'{case}.grid{i}'], 1e-3, False)


def _coder(report: Report, arrays: dict[str, Array]) -> None:
    values = tensors_of(arrays)
    for case in cases_of(arrays):
        stds = arrays[f'{case}.stds'].tolist()
        boxes = values[f'{case}.boxes']
        decoded = decode_boxes(boxes, values[f'{case}.deltas'], stds)
        clipped = clip_boxes(decoded, *arrays[f'{case}.max_shape_hw'].tolist())
        encoded = encode_boxes(boxes, values[f'{case}.encode_gt'], stds)
        for key, ours in (
            ('decoded', decoded),
            ('decoded_clipped', clipped),
            ('encoded', encoded),
        ):
            report.close(f'coder {case} {key}', ours, arrays[f'{case}.{key}'], 1e-5, True)


def _nms(report: Report, arrays: dict[str, Array]) -> None:
    values = tensors_of(arrays)
    for key in arrays:
        case, _, run = key.partition('.')
        if not run.endswith('.keep'):
            continue
        boxes, scores = values[f'{case}.boxes'], values[f'{case}.scores']
        threshold = int(run.split('_')[-1].split('.')[0]) / 10
        groups = torch.zeros(len(boxes)) if 'agnostic' in run else values[f'{case}.idxs']
        kept = torchvision.ops.batched_nms(boxes, scores, groups, threshold)
        report.same(f'nms {key}', kept, arrays[key])


def _preprocess(report: Report, arrays: dict[str, Array]) -> None:
    for long, short, h, w, new_h, new_w, *_ in arrays['resize_rule'].tolist():
        size = fitted_size(int(h), int(w), int(long), int(short))
        report.same(
            f'resize_rule {h:.0f}x{w:.0f}', np.array(size), np.array([new_h, new_w], dtype=int)
        )
    for case in ('resize_up', 'resize_down'):
        expected = arrays[f'{case}.float32']
        ours = resize(arrays[f'{case}.in'], expected.shape[:2], False, 'cpu')[0].permute(1, 2, 0)
        report.close(case, ours, expected, 1e-4, True)
    rgb = torch.from_numpy(arrays['normalise.bgr_in'][:, :, ::-1].copy()).permute(2, 0, 1)[None]
    out = normalise(rgb)[0]
    theirs = arrays['normalise.out']
    out = torch.nn.functional.pad(
        out, (0, theirs.shape[2] - out.shape[2], 0, theirs.shape[1] - out.shape[1])
    )
    report.close('normalise', out, theirs, 1e-5, False)


def _sam_small(report: Report, fixtures: Fixtures) -> None:
    from masa_ros.models.sam import SamEncoder, SamMasks, SimplePyramid

    arrays = fixtures.arrays('sam_small.npz')
    values = tensors_of(arrays)
    sizes = json.loads(str(arrays['vit.config']))
    config = SamConfig(
        width=sizes['embed_dim'],
        depth=sizes['depth'],
        heads=sizes['num_heads'],
        global_blocks=tuple(sizes['global_attn_indexes']),
        taps=tuple(sizes['out_indices']),
        image_size=sizes['img_size'],
        window=sizes['window_size'],
        embedding=sizes['out_chans'],
        decoder_heads=4,
        decoder_width=128,
    )
    family = model_config('masa_sam_vitb')
    prefixes = {
        'vit': 'image_encoder.',
        'simplefpn': 'masa_adapter.0.',
        'prompt_encoder': 'prompt_encoder.',
        'mask_decoder': 'mask_decoder.',
    }
    named: dict[str, Tensor] = {}
    for part, prefix in prefixes.items():
        tensors = fixtures.tensors(arrays[f'{part}.names'], f'ops.{part}.')
        named |= official.translate(family, {prefix + k: v for k, v in tensors.items()})
    encoder, pyramid = SamEncoder(config), SimplePyramid(config.width, 32, 5)
    parts = SamMasks(config)
    fill(encoder, named, 'backbone.')
    fill(pyramid, named, 'pyramid.')
    fill(parts, named, 'masks.')
    stages = encoder(values['vit.in'])
    for i, level in enumerate(stages.maps):
        report.close(f'vit block{i}', level, arrays[f'vit.block{i}'], 1e-4, True)
    assert stages.detail is not None
    report.close('vit out', stages.detail, arrays['vit.out'], 1e-4, True)
    for i, level in enumerate(pyramid(stages.maps)):
        report.close(f'simplefpn out{i}', level, arrays[f'simplefpn.out{i}'], 1e-4, True)
    embedding = values['vit.out'][:1]
    encode = parts.prompt_encoder
    report.close('dense_pe', encode.get_dense_pe(), arrays['dense_pe'], 1e-5, False)
    boxes, points = values['boxes'], (values['point_coords'], values['point_labels'])
    prompts = {
        'box': (None, boxes, None),
        'point': (points, None, None),
        'box_mask': (None, boxes, values['mask_input']),
        'box_point': (points, boxes[: len(points[0])], None),
    }
    for kind, prompt in prompts.items():
        sparse, dense = encode(*prompt)
        report.close(f'{kind} sparse', sparse, arrays[f'{kind}.sparse'], 1e-5, False)
        report.close(f'{kind} dense', dense[:1], arrays[f'{kind}.dense_first'], 1e-5, False)
        for multiple in (False, True):
            key = f'{kind}.{"multi" if multiple else "single"}'
            logits, iou = parts.decode(embedding, sparse, dense, multiple)
            step = logits.shape[-1] // arrays[f'{key}.low_res'].shape[-1]
            sub = logits[:, :, ::step, ::step]
            report.close(f'{key} low_res', sub, arrays[f'{key}.low_res'], 1e-4, True)
            report.close(f'{key} iou', iou, arrays[f'{key}.iou'], 1e-4, False)


def _swin_small(report: Report, fixtures: Fixtures) -> None:
    arrays = fixtures.arrays('swin_small.npz')
    for case in cases_of(arrays):
        config = SwinConfig(int(case[1:]), width=32, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8))
        tensors = fixtures.tensors(arrays[f'{case}.names'], f'ops.swin_{case}.')
        named = official.translate(
            model_config('masa_gdino'), {f'detector.backbone.{k}': v for k, v in tensors.items()}
        )
        swin = Swin(config)
        fill(swin, named, 'backbone.')
        maps = swin(torch.from_numpy(arrays[f'{case}.in'])).maps
        for i, level in enumerate(maps):
            report.close(f'swin {case} out{i}', level, arrays[f'{case}.out{i}'], 1e-4, True)
