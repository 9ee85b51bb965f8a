# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import itertools
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from masa_ros.demo import scene
from masa_ros.detectors import DETECTORS
from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.errors import ConfigError, ImageError, WeightsError
from masa_ros.models import checkpoints, official, packed
from masa_ros.models.configs import NetworkConfig, SamConfig, SwinConfig
from masa_ros.models.heads import decode_boxes, encode_boxes
from masa_ros.models.masks import (
    BoxMasks,
    View,
    covers_of,
    mask_nms,
    mask_overlaps,
    paste_boxes,
    paste_boxes_packed,
    paste_frames,
    paste_frames_packed,
)
from masa_ros.models.network import MasaNetwork
from masa_ros.models.sampling import ModulatedDeformConv, RoIAlign, roi_levels
from masa_ros.models.upload import to_device
from masa_ros.models.zoo import model_config
from masa_ros.types import Frame, Mask

SHARED = Path(os.environ.get('MASA_ROS_SHARED', Path(__file__).parents[2] / 'shared'))
NANO = model_config('masa_nano')
ONE = 'proposals.object.bias'


def random_boxes(count, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * size
    extent = torch.rand(count, 2, generator=generator) ** 2 * size + 1
    return torch.cat((corner, corner + extent), 1)


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('spread', [0.5, 20.0])  # the second throws most taps off the map
def test_deformable_convolution_equals_torchvision(stride, spread):
    torch.manual_seed(0)
    conv = ModulatedDeformConv(16, 8, stride)
    x = torch.randn(2, 16, 17, 23)
    rows, columns = -(-17 // stride), -(-23 // stride)
    offset = torch.randn(2, 18, rows, columns) * spread
    mask = torch.rand(2, 9, rows, columns)
    expected = torchvision.ops.deform_conv2d(
        x, offset, conv.weight, stride=stride, padding=1, mask=mask
    )
    torch.testing.assert_close(conv(x, offset, mask), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize('samples', [1, 2, 0])
def test_roi_align_equals_torchvision(samples):
    torch.manual_seed(0)
    strides = (8, 16, 32)
    levels = [torch.randn(2, 6, 320 // s, 256 // s) for s in strides]
    boxes, image = random_boxes(60, 250), torch.arange(60) % 2
    pooled = RoIAlign(7, strides, samples)(levels, boxes, image)
    for i, level in enumerate(roi_levels(boxes, 3).long().tolist()):
        roi = torch.cat((image[i : i + 1].float(), boxes[i]))[None]
        expected = torchvision.ops.roi_align(
            levels[level], roi, 7, 1 / strides[level], samples, aligned=True
        )[0]
        torch.testing.assert_close(pooled[i], expected, atol=1e-4, rtol=1e-4)


def test_embeddings_have_maps_of_their_own_of_means():
    """What learns can be applied before boxes are pooled, or after."""
    torch.manual_seed(0)
    network = MasaNetwork(NANO.network).eval()
    images = torch.randn(2, 3, 96, 160)
    boxes, image = random_boxes(40, 90), torch.arange(40) % 2
    with torch.no_grad():
        maps, found = network.backbone(images), network(images)
        pooled = network.appearance_pool(found.appearance, boxes, image)
        later = network.appearance_pool(network.appearance.unmixed(maps), boxes, image)
        torch.testing.assert_close(network.appearance.mix(later), pooled, atol=1e-5, rtol=1e-4)
        assert [x.shape[1:] for x in found.appearance] == [
            (48, 24, 40), (48, 12, 20), (48, 6, 10), (48, 3, 5)
        ]  # fmt: skip
        for fine, coarse in itertools.pairwise(found.appearance):
            torch.testing.assert_close(torch.nn.functional.avg_pool2d(fine, 2), coarse)


def test_the_shipped_embeddings_tell_the_objects_of_the_demo_apart():
    detector = MasaDetector.load(DetectorConfig('masa_nano', device='cpu'))
    found, ids = [], []
    for frame, truth in list(scene.render())[::15]:
        (encoded,) = detector.encode([frame.image])
        found.append(detector.describe(encoded, truth.instances).embeddings)
        ids.append(truth.instances.track_ids)
    looks, ids = np.concatenate(found), np.concatenate(ids)
    looks /= np.linalg.norm(looks, axis=1, keepdims=True)
    alike, same = looks @ looks.T, ids[:, None] == ids
    assert alike[~same].mean() < 0.4 < 0.75 < alike[same].mean()
    np.fill_diagonal(alike, -1)
    assert (ids[alike.argmax(1)] == ids).mean() > 0.93


def test_box_coding_round_trip():
    anchors, boxes = random_boxes(40, 200), random_boxes(40, 200, seed=1)
    stds = (0.1, 0.1, 0.2, 0.2)
    deltas = encode_boxes(anchors, boxes, stds)
    sane = (deltas[:, 2:].abs() < 20).all(1)  # decoding limits growth to 1000 / 16
    assert sane.sum() > 20
    torch.testing.assert_close(
        decode_boxes(anchors, deltas, stds)[sane], boxes[sane], atol=1e-2, rtol=1e-3
    )


def test_r50_computes_what_the_released_code_computes():
    folder = SHARED / 'parity'
    if not folder.is_dir():
        pytest.skip(f'reference numbers of the released code are not at {folder}')
    sys.path.insert(0, str(folder))
    from seeded_weights import seeded_state_dict

    salt = json.loads((folder / 'masa_r50/salt.json').read_text())
    seeded = seeded_state_dict(
        folder / 'masa_r50/manifest.json', salt['salt'] if isinstance(salt, dict) else salt
    )
    network = MasaNetwork(model_config('masa_r50').network).eval()
    tensors = {k: torch.from_numpy(v) for k, v in seeded.items()}
    missing, unknown = network.load_state_dict(
        official.translate(model_config('masa_r50'), tensors), strict=False
    )
    assert not unknown and all(name.endswith('num_batches_tracked') for name in missing)
    reference = np.load(folder / 'masa_r50/small.npz')
    boxes = torch.from_numpy(reference['boxes'])
    with torch.inference_mode():
        features = network(torch.from_numpy(reference['input']))
        image = torch.zeros(len(boxes), dtype=torch.long)
        embeddings = network.embed(network.pool(features.levels, boxes, image))
    found = {f'adapter1.l{i}_sub': x[:, ::16].numpy() for i, x in enumerate(features.levels)}
    found['embeddings'] = embeddings.numpy()
    for name, value in found.items():
        expected = reference[name]
        assert np.abs(value - expected).max() <= 1e-4 * expected.std(), name


@pytest.mark.parametrize('shape', [(480, 640), (720, 1280), (33, 1000), (7, 5), (1, 1)])
def test_instances_lie_in_the_image(seeded_weights, shape):
    detector = MasaDetector.load(
        DetectorConfig(weights=str(seeded_weights), device='cpu', score_threshold=0.0)
    )
    rng = np.random.default_rng(0)
    found = detector(rng.integers(0, 255, (*shape, 3), dtype=np.uint8))
    height, width = shape
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [width, height, width, height]).all()
    assert (np.diff(found.scores) <= 0).all()
    for mask in found.masks:
        if mask is not None:
            rows, columns = mask.pixels.shape
            assert mask.x + columns <= width
            assert mask.y + rows <= height
    if min(shape) > 100:
        assert len(found) > 0


def test_views_of_foreign_memory_give_the_same_instances(seeded_weights):
    detector = MasaDetector.load(DetectorConfig(weights=str(seeded_weights), score_threshold=0.0))
    bgr = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    view = bgr[:, :, ::-1]
    expected = detector(np.ascontiguousarray(view))
    assert len(expected) > 0
    np.testing.assert_array_equal(detector(view).boxes, expected.boxes)
    frozen = np.ascontiguousarray(view)
    frozen.setflags(write=False)
    np.testing.assert_array_equal(detector(frozen).boxes, expected.boxes)


def test_an_image_of_another_kind_is_refused(seeded_weights):
    detector = MasaDetector.load(DetectorConfig(weights=str(seeded_weights)))
    for image in (np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3))):
        with pytest.raises(ImageError, match='uint8'):
            detector(image)


def test_masks_follow_their_logits():
    logits = np.full((1, 28, 28), -5, np.float32)
    logits[0, :, 14:] = 5  # the right half of the box
    masks, view = BoxMasks(NANO.network.masks, 32, 48), View(100, 100, 100, 100)
    logits = torch.from_numpy(logits)
    (mask,) = masks.paste(logits, np.array([[10.0, 20.0, 66.0, 76.0]], np.float32), view).masks
    full = mask.full(100, 100)
    assert full[20:76, 38:66].all()
    assert full.sum() == 56 * 28
    (nothing,) = masks.paste(-torch.ones(1, 28, 28), np.array([[0, 0, 9, 9.0]]), view).masks
    assert nothing is None


@pytest.mark.parametrize(
    'damage, words',
    [
        (lambda p: p.write_bytes(b'not weights'), 'not a readable safetensors'),
        (lambda p: p.write_bytes(b''), 'not a readable safetensors'),
        (lambda p: p.write_bytes(p.read_bytes()[:5000]), 'not a readable safetensors'),
        (lambda p: p.unlink(), 'no file'),
        (
            lambda p: rewrite(p, lambda t: t.pop('proposals.object.bias')),
            'proposals.object.bias is missing',
        ),
        (lambda p: rewrite(p, lambda t: t.update(foo=torch.ones(1))), 'foo is unknown'),
        (
            lambda p: rewrite(p, lambda t: t.update({ONE: torch.ones(3)})),
            r'shape \(3,\), expected \(1,\)',
        ),
        (lambda p: rewrite(p, lambda t: None, 'masa_r50'), 'holds weights of masa_r50'),
    ],
)
def test_damaged_weights_give_one_clear_error(seeded_weights, tmp_path, damage, words):
    path = tmp_path / 'weights.safetensors'
    path.write_bytes(seeded_weights.read_bytes())
    damage(path)
    with pytest.raises(WeightsError, match=words) as error:
        MasaDetector.load(DetectorConfig(weights=str(path)))
    assert str(path) in str(error.value)


def rewrite(path, change, model='masa_nano'):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={'model': model})


@pytest.mark.parametrize('other', ['masa_nano2', 'masa_nano3'])
def test_files_from_before_a_model_got_another_name_are_read(tmp_path, seeded_weights, other):
    earlier, path = model_config(other), tmp_path / 'weights.safetensors'
    network = MasaNetwork(earlier.network)

    def load(model, file):
        return MasaDetector.load(DetectorConfig(model, weights=str(file), device='cpu'))

    for name in ('masa_nano', other):
        checkpoints.save(network, path, {'model': name})
        assert load(other, path).name == other
    with pytest.raises(WeightsError, match=f'holds weights of {other}'):
        load('masa_nano', path)
    with pytest.raises(WeightsError, match='does not fit'):
        load(other, seeded_weights)
    with pytest.raises(ConfigError, match=f'there is no file of {other}'):
        load(other, '')


@pytest.mark.parametrize(
    'options, words',
    [
        ({'model': 'yolo'}, 'masa_nano'),
        ({'device': 'quantum'}, 'device'),
        ({'device': 'cuda:99'}, 'CUDA devices'),
        ({'precision': 'int8'}, 'precision'),
        ({'device': 'cpu', 'precision': 'fp16'}, 'fp16 needs a CUDA device'),
    ],
)
def test_wrong_options_name_themselves(options, words):
    with pytest.raises(ConfigError, match=words):
        MasaDetector.load(DetectorConfig(**options))


@pytest.mark.parametrize(
    'options, words',
    [
        ({'input_size': 5000}, 'input_size is 5000'),
        ({'score_threshold': 1.5}, 'score_threshold is 1.5.*0 .. 1, or -1'),
        ({'nms_iou': -0.5}, 'nms_iou is -0.5'),
        ({'mask_share': float('nan')}, 'mask_share is nan'),
        ({'mask_iou': 1.5}, 'mask_iou is 1.5'),
        ({'class_threshold': 1.5}, 'class_threshold is 1.5'),
        ({'max_instances': -1}, 'max_instances is -1'),
    ],
)
def test_values_without_a_meaning_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        DetectorConfig(**options)


def test_a_live_change_that_the_model_does_not_take_changes_nothing():
    model = dataclasses.replace(NANO, fixed_size=True)
    detector = MasaDetector(model, MasaNetwork(model.network), DetectorConfig(), 'cpu')
    before = detector.config
    with pytest.raises(ConfigError, match='input_size is 640; masa_nano takes only 512'):
        detector.configure(DetectorConfig(input_size=640, score_threshold=0.3))
    assert detector.config is before
    detector.configure(DetectorConfig(input_size=512, score_threshold=0.3))
    assert detector.config.score_threshold == 0.3


def test_what_is_read_at_loading_stays_as_it_was_loaded(seeded_weights):
    detector = MasaDetector.load(DetectorConfig(weights=str(seeded_weights), device='cpu'))
    detector.configure(DetectorConfig(model='masa_r50', precision='mixed', max_instances=3))
    loaded = detector.config
    assert (loaded.model, loaded.weights) == ('masa_nano', str(seeded_weights))
    assert (loaded.device, loaded.precision, loaded.max_instances) == ('cpu', 'auto', 3)


@pytest.mark.parametrize(
    'model', ['masa_nano', 'masa_r50', 'masa_sam_vitb', 'masa_sam_mobile', 'masa_gdino']
)
@pytest.mark.parametrize('size', [(480, 640), (720, 1280), (1280, 720), (33, 1000), (1, 1)])
def test_the_input_shape_is_known_without_an_image(model, size):
    config = model_config(model)
    detector = MasaDetector(config, MasaNetwork(NANO.network), DetectorConfig(), 'cpu')
    for input_size in (0,) if config.fixed_size else (0, 320):
        detector.configure(DetectorConfig(input_size=input_size))
        tensor, view = detector.preprocess(np.zeros((*size, 3), np.uint8))
        assert detector.input_shape(*size) == tensor.shape[2:]
        assert view[:2] == size


def test_frames_of_any_sizes_are_detected_in_their_order(seeded_weights):
    config = DetectorConfig(weights=str(seeded_weights), score_threshold=0.0)
    detector = DETECTORS['masa'].load(config, 'cpu')
    rng = np.random.default_rng(0)
    sizes = [(96, 128), (96, 128), (64, 64), (96, 128)]
    images = [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for size in sizes]
    found = detector.detect([Frame(image, i) for i, image in enumerate(images)])
    for instances, image in zip(found, images, strict=True):
        alone = detector(image)
        assert len(alone) > 0
        np.testing.assert_allclose(instances.boxes, alone.boxes, atol=1e-2)
    assert detector.detect([]) == []
    assert detector.facts()['model'] == 'masa_nano'


def test_a_model_without_shipped_weights_says_so():
    with pytest.raises(WeightsError, match='masa_r50'):
        MasaDetector.load(DetectorConfig(model='masa_r50'))


def test_of_masks_that_claim_the_same_pixels_the_best_stays():
    whole = Mask(10, 20, np.ones((40, 40), np.bool_))
    part = Mask(15, 25, np.ones((12, 12), np.bool_))
    apart = Mask(60, 20, np.ones((40, 30), np.bool_))
    group = Mask(10, 20, np.ones((40, 80), np.bool_))

    def covers(*masks):
        return covers_of(masks, 100, 100)

    chosen = mask_nms(covers(whole, part, apart, None, group), 0.6, 1.0)
    assert chosen.tolist() == [0, 2, 3]
    hidden = Mask(40, 20, np.ones((40, 30), np.bool_))  # a third of it behind the first
    assert mask_nms(covers(whole, hidden), 0.6, 1.0).tolist() == [0, 1]
    assert mask_nms(covers(), 0.6, 0.6).tolist() == []
    share, iou = mask_overlaps(covers(whole, part))
    np.testing.assert_allclose(share, [[1, 1], [1, 1]])
    np.testing.assert_allclose(iou, [[1, 0.09], [0.09, 1]], atol=0.01)
    # What lies in another stays where only the same object is left out; a second sight of one
    # does not.
    again = Mask(12, 22, np.ones((40, 40), np.bool_))
    assert mask_nms(covers(whole, part, again, group), 1.0, 0.7).tolist() == [0, 1, 3]


SMALL_SAM = SamConfig(
    width=64,
    depth=4,
    heads=4,
    global_blocks=(1, 3),
    taps=(0, 1, 2, 3),
    image_size=256,
    window=7,
    embedding=64,
    decoder_heads=4,
    decoder_width=128,
)
EXPORTED = {
    'nano': (NANO.network, (64, 96)),
    'nano3': (model_config('masa_nano3').network, (64, 96)),
    'nano2': (model_config('masa_nano2').network, (64, 96)),
    'r50': (model_config('masa_r50').network, (64, 96)),
    'sam': (NetworkConfig(SMALL_SAM, fusion_attention=True), (256, 256)),
    'swin': (
        NetworkConfig(SwinConfig(7, 32, (2, 2, 2, 2), (1, 2, 4, 8)), roi_levels=3),
        (96, 160),
    ),
}


@pytest.mark.parametrize('name', EXPORTED)
def test_the_image_part_exports_with_static_shapes(name):
    """The graph that is compiled later has no data-dependent Python, no torchvision operator."""
    config, size = EXPORTED[name]
    network = MasaNetwork(config).eval()
    program = torch.export.export(network, (torch.zeros(1, 3, *size),), strict=False)
    assert 'torchvision' not in str(program.graph)
    assert 'embedding_bag' not in str(program.graph)


def blobs(count, side, seed):
    """Smooth random logits (count, side, side); the last are all background and all object."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, 6, 6, generator=generator)
    logits = torch.nn.functional.interpolate(coarse, (side, side), mode='bicubic')[:, 0]
    logits[-2], logits[-1] = -1.0, 1.0
    return logits


def assert_same_masks(found, expected, height, width):
    assert [m is None for m in found.masks] == [m is None for m in expected.masks]
    differ = total = 0
    for ours, theirs in zip(found.masks, expected.masks):
        if ours is not None:
            a, b = ours.full(height, width), theirs.full(height, width)
            differ, total = differ + (a != b).sum(), total + b.sum()
    assert total > 5000
    assert differ <= 1e-4 * total  # a logit that is zero within rounding
    covers = covers_of(found.masks, height, width)
    torch.testing.assert_close(found.covers, covers)


def test_box_masks_pasted_at_once_equal_those_pasted_one_by_one(monkeypatch):
    view = View(240, 320, 480, 640)
    logits = blobs(30, 28, 0)
    boxes = random_boxes(30, 200).numpy() - 30  # some begin or end outside
    boxes[3], boxes[4] = (-50, -50, -10, -10), (5, 5, 5.2, 5.1)
    expected = paste_boxes(logits, boxes, view)
    assert_same_masks(paste_boxes_packed(logits, boxes, view), expected, 240, 320)
    monkeypatch.setattr(packed, '_PIXELS_AT_ONCE', 3000)
    assert_same_masks(paste_boxes_packed(logits, boxes, view), expected, 240, 320)
    assert paste_boxes_packed(logits[:0], boxes[:0], view).masks == []


@pytest.mark.parametrize('size', [(480, 640), (1080, 1920), (100, 60)])
def test_frame_masks_pasted_at_once_equal_those_pasted_one_by_one(size):
    height, width = size
    scale = 256 / max(size)
    view = View(height, width, round(height * scale), round(width * scale))
    logits = blobs(12, 64, 1)
    expected = paste_frames(logits, 256, view)
    whole = np.tile(np.array([0, 0, width, height]), (12, 1))
    assert_same_masks(paste_frames_packed(logits, whole, 256, view), expected, height, width)
    tight = [
        (m.x, m.y, m.x + m.width, m.y + m.height) if m is not None else (0, 0, 0, 0)
        for m in expected.masks
    ]
    found = paste_frames_packed(logits, np.array(tight), 256, view)
    assert_same_masks(found, expected, height, width)


@pytest.mark.parametrize(
    'view',
    [
        lambda image: image,
        lambda image: image[:, :, ::-1],
        lambda image: image[::-1, 3:20, ::-1],
        lambda image: image[:, :-5, :2],
        lambda image: np.broadcast_to(image[:, :, :1], image.shape),
    ],
)
def test_views_arrive_on_the_device_as_they_are(view):
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    image.flags.writeable = False
    seen = view(image)
    np.testing.assert_array_equal(to_device(seen, 'cpu').numpy(), seen)
