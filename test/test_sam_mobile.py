# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""SAM alone on a small encoder: published names, numbers of an independent TinyViT, its use."""

import dataclasses
import importlib.util
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from bodies import BLUE, RED, click, frame
from conftest import openvino_missing, scene

from masa_ros import options
from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.engines import trust
from masa_ros.engines.openvino import OpenVINO
from masa_ros.engines.runtimes import RUNTIMES
from masa_ros.errors import ConfigError, WeightsError
from masa_ros.methods import METHODS
from masa_ros.models import zoo
from masa_ros.models.configs import TinyVitConfig
from masa_ros.models.network import MasaNetwork
from masa_ros.models.precision import storage
from masa_ros.streams.stream import Stream
from masa_ros.training.train import TrainConfig, _State
from masa_ros.types import Frame, Instances, Prompt

pytest.importorskip('segment_anything')

NAME = 'masa_sam_mobile'
MANIFEST = Path(__file__).parent / 'mobile_sam_encoder.txt'
"""Names and shapes of the encoder's tensors in the published file, counters left out."""
SIDE = 128
SMALL = TinyVitConfig(
    widths=(16, 32, 32, 48),
    depths=(1, 1, 1, 1),
    heads=(1, 2, 2, 3),
    image_size=SIDE,
    embedding=32,
    decoder_heads=2,
    decoder_width=32,
)


def randomise(network, seed=0):
    """Give all tensors values by which each of them is seen in the output."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith('running_var') or (value.ndim == 1 and name.endswith('weight')):
                value.uniform_(0.6, 1.4, generator=random)
            elif name.endswith('attention_biases'):
                value.normal_(std=1.0, generator=random)
            elif value.is_floating_point():
                share = math.prod(value.shape[1:]) if value.ndim > 1 else 25
                value.normal_(std=share**-0.5, generator=random)
    return network.eval()


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A file with the names, the shapes and the extras of the published one, where it belongs."""
    from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

    tensors = {}
    random = torch.Generator().manual_seed(0)
    for line in MANIFEST.read_text().splitlines():
        name, shape = line.split()
        tensors[name] = torch.randn([int(n) for n in shape.split('x')], generator=random)
        if name.endswith('running_var'):
            tensors[name.replace('running_var', 'num_batches_tracked')] = torch.tensor(0)
    prompts = PromptEncoder(256, (64, 64), (1024, 1024), 16)
    decoder = MaskDecoder(transformer_dim=256, transformer=TwoWayTransformer(2, 256, 8, 2048))
    for prefix, module in (('prompt_encoder.', prompts), ('mask_decoder.', decoder)):
        tensors |= {prefix + name: value for name, value in module.state_dict().items()}
    monkeypatch.setenv('MASA_ROS_WEIGHTS', str(tmp_path))
    path = tmp_path / 'mobile_sam.pt'
    torch.save(tensors, path)
    return path, tensors


def test_the_published_names_fill_every_parameter(published):
    _, tensors = published
    detector = MasaDetector.load(DetectorConfig(model=NAME, device='cpu'))
    loaded = detector.network.state_dict()
    asked = {name for name in loaded if not name.endswith('num_batches_tracked')}
    for name in asked:
        theirs = re.sub('^masks.', '', name.replace('backbone.', 'image_encoder.'))
        assert torch.equal(loaded[name], tensors[theirs]), name
    left = {name for name in tensors if 'head.' in name and name.startswith('image_encoder')}
    assert len(left) == 4
    counters = sum(name.endswith('num_batches_tracked') for name in tensors)
    assert len(asked) == len(tensors) - len(left) - counters


@pytest.mark.parametrize(
    'change, text',
    [
        (lambda t: t.pop('image_encoder.layers.2.blocks.5.attn.qkv.weight'), 'qkv.weight is miss'),
        (lambda t: t.update({'image_encoder.layers.4.w': torch.zeros(1)}), 'w is unknown'),
        (lambda t: t.update({'image_encoder.neck.0.weight': torch.zeros(2)}), r'shape \(2,\)'),
    ],
)
def test_a_file_that_does_not_fit_is_refused(published, change, text):
    path, tensors = published
    change(tensors)
    torch.save(tensors, path)
    with pytest.raises(WeightsError, match=text):
        MasaDetector.load(DetectorConfig(model=NAME, device='cpu'))


def test_a_file_of_it_is_recognised_under_another_name(published):
    path, _ = published
    with pytest.raises(WeightsError, match=f'looks like a file of {NAME}'):
        MasaDetector.load(DetectorConfig(model='masa_r50', weights=str(path), device='cpu'))


def timm_name(name):
    """Return the name that the library has for a tensor of the encoder.

    There a level begins with what led to it, here it ends with what leads on.
    """
    name = re.sub(
        r'^layers\.(\d)\.downsample', lambda m: f'stages.{int(m[1]) + 1}.downsample', name
    )
    name = name.replace('layers.', 'stages.').replace('.c.', '.conv.')
    return name.replace('patch_embed.seq.0', 'patch_embed.conv1').replace(
        'patch_embed.seq.2', 'patch_embed.conv2'
    )


@pytest.mark.parametrize('size', [(512, 512), (96, 160)])
def test_the_encoder_equals_the_library_s(size):
    timm = pytest.importorskip('timm')
    encoder = randomise(MasaNetwork(zoo.model_config(NAME).network).backbone)
    theirs = timm.create_model('tiny_vit_5m_224', num_classes=0)
    body = {k: v for k, v in encoder.state_dict().items() if not k.startswith('neck.')}
    left = theirs.load_state_dict({timm_name(k): v for k, v in body.items()}, strict=False)
    assert not left.unexpected_keys
    assert all(name.startswith('head.') for name in left.missing_keys), left.missing_keys
    # MobileSAM does not halve the map before the last level.
    theirs.stages[3].downsample.conv2.conv.stride = (1, 1)
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        made = encoder(image)
        expected = encoder.neck(theirs.eval().forward_features(image))
    assert made.maps == [] and made.detail.shape == (2, 256, size[0] // 16, size[1] // 16)
    assert expected.std() > 0.1
    torch.testing.assert_close(made.detail, expected, atol=1e-4, rtol=1e-4)


# Its use


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A small network in the place of the real one, and a file of its weights."""
    model = dataclasses.replace(
        zoo.ZOO[NAME],
        network=dataclasses.replace(zoo.ZOO[NAME].network, backbone=SMALL),
        input_size=SIDE,
        pad_multiple=SIDE,
    )
    monkeypatch.setitem(zoo.ZOO, NAME, model)
    monkeypatch.setenv('MASA_ROS_WEIGHTS', str(tmp_path))
    tensors = randomise(MasaNetwork(model.network)).state_dict()
    path = tmp_path / 'mobile_sam.pt'
    torch.save(
        {
            name.replace('backbone.', 'image_encoder.', 1).removeprefix('masks.'): value
            for name, value in tensors.items()
        },
        path,
    )
    return path


GIVEN = Instances(np.array([RED, BLUE], np.float32), np.array([0.9, 0.8], np.float32))


def load(small):
    return MasaDetector.load(DetectorConfig(model=NAME, weights=str(small), device='cpu'))


def test_it_draws_what_it_is_shown_and_finds_nothing(small):
    detector = load(small)
    assert list(detector.stages) == ['image', 'masks']
    assert len(detector(scene())) == 0
    found = detector(scene(), GIVEN)
    assert found.embeddings.shape == (2, 0) and len(found.masks) == 2
    np.testing.assert_array_equal(found.boxes, GIVEN.boxes)
    assert any(mask is not None and mask.width for mask in found.masks)
    assert len(detector(scene(), Instances.empty())) == 0


def loaded(method, **values):
    kind = METHODS[method]
    chosen = options.build(kind.options, {'device': 'cpu', 'model': NAME, **values})
    return kind.load(chosen, lambda text: None)


def test_the_method_that_needs_embeddings_refuses_it(small):
    with pytest.raises(ConfigError, match=f'{NAME} makes none'):
        loaded('masa', find='nothing')


@pytest.mark.parametrize('method', ['deva', 'sam_track', 'sam_pt'])
def test_methods_that_look_for_objects_refuse_it(small, method):
    with pytest.raises(ConfigError, match='finds nothing by itself'):
        loaded(method, find='everything')
    with pytest.raises(ConfigError, match='find is words'):
        loaded(method, find='words', words='person.')
    made = loaded(method, find='nothing')
    with pytest.raises(ConfigError, match='finds nothing by itself'):
        made.configure(dataclasses.replace(made.config, find='everything'))


@pytest.mark.parametrize('method', ['deva', 'sam_track', 'sam_pt'])
def test_methods_ask_it_what_is_pointed_at(small, method):
    stream = Stream(loaded(method, find='nothing', **_trusting(method)))
    assert stream.method.accepts == {'point', 'box', 'mask'}
    stream.track(frame(0))
    detector = stream.method.segmenter.detector
    for prompt in (click((70, 80)), Prompt(0, box=np.array(BLUE, np.float32))):
        ((mask, _), *_) = stream.method.segmenter.segment(frame(0), prompt)
        (asked,) = stream.ask(prompt).tracks.masks
        assert detector.draws_only and asked.width
        np.testing.assert_array_equal(asked.full(240, 320), mask.full(240, 320))


@pytest.mark.parametrize('method', ['deva', 'sam_track', 'sam_pt'])
def test_given_boxes_become_objects_with_its_masks(small, method):
    stream = Stream(loaded(method, find='nothing', **_trusting(method)))
    given = GIVEN[:1]
    (result,) = stream.track(frame(0), given)
    (expected,) = load(small)(frame(0).image, given).masks
    assert len(result.tracks) == 1 and expected.width
    np.testing.assert_array_equal(
        result.tracks.masks[0].full(240, 320), expected.clipped(240, 320).full(240, 320)
    )


def _trusting(method):
    """Options by which masks of random weights are not dropped."""
    return {
        'sam_pt': {'least_score': 0.0, 'min_area': 0},
        'sam_track': {'min_area': 0},
        'deva': {},
    }[method]


def test_it_is_not_trained_here(tmp_path):
    config = TrainConfig(model=NAME, output=tmp_path)
    with pytest.raises(ConfigError, match=f'{NAME} has nothing that is trained here'):
        _State(config, torch.device('cpu'))


# Engines


def test_engines_are_compared_on_boxes_all_over_the_image(small):
    detector = load(small)
    (case,) = detector.cases([scene(size=(SIDE, SIDE))])
    assert set(case.inputs) == {'image', 'masks'}
    boxes = case.inputs['masks']['boxes']
    assert len(boxes) == 20 and len(boxes.unique(dim=0)) == 20
    assert (boxes.amin(0) == torch.tensor([0, 0, SIDE // 4, SIDE // 4])).all()
    assert (boxes.amax(0)[2:] == SIDE).all()
    for name, run in detector.eager.items():
        stage = detector.stages[name]
        assert all(measure.good for measure in trust.compare(stage, run, [case]))
        wrong = {key: value.flip(-1) for key, value in case.outputs[name].items()}
        measures = trust.compare(stage, lambda wrong=wrong, **inputs: wrong, [case])
        assert not all(measure.good for measure in measures), name


@pytest.mark.engines
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    importlib.util.find_spec('openvino') is None,
    reason='openvino is not installed: make setup-engines',
)
@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_openvino_runs_it(small, monkeypatch, precision):
    monkeypatch.setattr(OpenVINO, 'missing', openvino_missing)
    detector = load(small)
    runtime, dtype = RUNTIMES['openvino'], storage(precision)
    (case,) = detector.cases([scene(size=(SIDE, SIDE))])
    stage = detector.stages_in(precision)['image']
    data = runtime.build(stage, stage.arrange(case.inputs['image'], dtype))
    run = runtime.load(stage, data, dtype, 'cpu')
    assert all(measure.good for measure in trust.compare(stage, run, [case]))


def test_frames_of_any_size_are_drawn_in(small):
    detector = load(small)
    for size in ((33, 400), (300, 20), (1, 1)):
        image = Frame(np.zeros((*size, 3), np.uint8), 0).image
        found = detector(image, Instances(np.array([[0, 0, size[1], size[0]]], np.float32)))
        assert len(found.masks) == 1
