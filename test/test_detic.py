# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Detic inside the published file: its vocabularies, its rules, one backbone for two networks."""

import json
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import scene
from test_models import SHARED
from words_kit import CHANNELS, small, small_masa

from masa_ros.detectors import DETECTORS
from masa_ros.detectors.detic import (
    DeticConfig,
    DeticDetector,
    released_choice,
    released_names,
)
from masa_ros.errors import ConfigError, WeightsError
from masa_ros.methods.masa import Masa, MasaConfig
from masa_ros.models.clip_text import ClipText
from masa_ros.models.detic import Detic, DeticSizes, as_words, paste
from masa_ros.models.lvis import LVIS_CLASSES
from masa_ros.models.masks import View
from masa_ros.models.swin import Swin
from masa_ros.types import Frame

FIXTURES = SHARED / 'parity/detectors/detic'
SIZES = DeticSizes(channels=CHANNELS, width=64, hidden=32, text=16)


def network():
    torch.manual_seed(0)
    made = Detic(SIZES)
    with torch.no_grad():
        made.rpn_head.conv_reg.bias.fill_(2.0)
        made.roi_head['mask_head'].conv_logits.weight.abs_()
        for head in made.stages:
            head.fc_cls.zs_weight[:, :-1] = as_words(torch.randn(1203, 16))
    return made


def encode(texts):
    """Something that depends on each text alone."""
    return torch.stack(
        [torch.randn(16, generator=torch.Generator().manual_seed(len(t) * 7 + 1)) for t in texts]
    )


def detector(backbone=None, asked=None, **options):
    torch.manual_seed(1)
    made = backbone or Swin(small('masa_detic').network.backbone)

    def counting(texts):
        if asked is not None:
            asked.append(list(texts))
        return encode(texts)

    config = DeticConfig(**{'score_threshold': 0.0, 'nms_iou': 0.9, **options})
    return DeticDetector(network(), made, config, model=small('masa_detic'), encode=counting)


def test_the_classes_of_lvis_need_no_text():
    asked = []
    found = detector(asked=asked)
    (seen,) = found.detect([Frame(scene(), 0)])
    assert len(seen) > 3 and (np.diff(seen.scores) <= 0).all() and not asked
    assert found.class_names == dict(enumerate(LVIS_CLASSES)) and len(LVIS_CLASSES) == 1203
    assert len(seen.masks) == len(seen) and any(mask is not None for mask in seen.masks)
    for box, mask in zip(seen.boxes, seen.masks):
        if mask is not None:
            assert mask.x >= np.floor(box[0]) and mask.y + mask.height <= np.ceil(box[3])
    (bare,) = detector(masks=False).detect([Frame(scene(), 0)])
    assert bare.masks is None
    np.testing.assert_array_equal(bare.boxes, seen.boxes)


def test_only_unknown_words_are_read():
    asked, frame = [], Frame(scene(), 0)
    found = detector(asked=asked, max_instances=1000)
    (seen,) = found.detect([frame], ['zebra', 'traffic light', 'my old robot'])
    assert asked == [['a my old robot']] and set(seen.labels) <= {0, 1, 2}
    assert found.class_names == {0: 'zebra', 1: 'traffic light', 2: 'my old robot'}
    found.detect([frame], ['zebra', 'traffic light', 'my old robot'])
    assert len(asked) == 1
    columns = found.ask(['traffic light']).words
    stored = found.network.vocabulary[:, LVIS_CLASSES.index('traffic_light')]
    torch.testing.assert_close(columns[:, 0], stored)
    found.detect([frame], ['car .', 'zebra'])
    assert found.class_names[3] == 'car .' and len(asked) == 2
    with pytest.raises(ConfigError, match='words is empty'):
        found.detect([frame], [' '])
    many = [f'thing {i}' for i in range(1000)]
    assert len(found.detect([frame], many)[0]) > 0  # a thousand words cost one text each, once
    option = detector(words='zebra . dog .')
    option.detect([frame])
    assert option.class_names == {0: 'zebra', 1: 'dog'}


def test_choosing_the_best_class_first_changes_nothing():
    torch.manual_seed(3)
    corner = torch.rand(60, 2) * 80
    boxes = torch.cat((corner, corner + 8 + torch.rand(60, 2) * 40), 1)
    scores = torch.rand(60, 9)
    ours = detector(score_threshold=0.3, nms_iou=0.5, max_instances=40).choose(boxes, scores)
    theirs = released_choice(boxes, scores, 0.3, 0.5, 40)
    for mine, other in zip(ours, theirs):
        torch.testing.assert_close(mine, other)


def test_the_released_code_suppresses_within_classes_when_there_is_much():
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(100, 1)
    scores = torch.rand(100, 1000, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    kept = released_choice(boxes[:99], scores[:99], 0.02, 0.5, 50)
    assert len(kept[0]) == 1  # one box, one class
    kept = released_choice(boxes, scores, 0.02, 0.5, 50)
    assert len(kept[0]) == 50 and len(kept[2].unique()) == 50
    torch.testing.assert_close(kept[1], scores.max(0).values.sort(descending=True).values[:50])


def test_released_words_are_names_as_they_stand():
    assert released_names('person . car .') == ['person', 'car .']
    assert released_names('person.car') == ['person.car']
    assert len(released_names('lvis')) == 1203 and released_names('voc')[-1] == 'tvmonitor'
    asked = []
    found = detector(asked=asked, released=True, words='zebra . car .')
    (seen,) = found.detect([Frame(scene(), 0)])
    assert asked == [['a zebra', 'a car .']] and found.class_names == {0: 'zebra', 1: 'car .'}
    assert (seen.scores > 0.02).all() and len(seen) <= 50
    detector(released=True).detect([Frame(scene(), 0)])  # LVIS


def test_masks_are_pasted_as_by_grid_sampling():
    torch.manual_seed(0)
    logits = F.interpolate(torch.randn(5, 1, 7, 7) * 4, (28, 28), mode='bicubic')[:, 0]
    view = View(60, 80, 60, 80)
    boxes = np.array(
        [
            [3.2, 4.1, 40.7, 33.3],
            [-9, -5, 30, 70],
            [50, 20, 95, 58],
            [7, 7, 8.4, 9],
            [9, 9, 9, 20],
        ],
        np.float32,
    )
    for logit, box, mask in zip(logits, boxes, paste(logits, boxes, view)):
        x1, y1, x2, y2 = box.tolist()
        x = (torch.arange(80) + 0.5 - x1) / (x2 - x1 or 1e-6) * 2 - 1
        y = (torch.arange(60) + 0.5 - y1) / (y2 - y1) * 2 - 1
        grid = torch.stack((x.expand(60, 80), y[:, None].expand(60, 80)), -1)[None]
        whole = F.grid_sample(logit.sigmoid()[None, None], grid, align_corners=False)[0, 0]
        ours = np.zeros((60, 80), bool) if mask is None else mask.full(60, 80) > 0
        certain = (whole - 0.5).abs().numpy() > 1e-4
        np.testing.assert_array_equal(ours[certain], (whole >= 0.5).numpy()[certain])
    assert paste(logits[:0], boxes[:0], view) == ()


def test_proposals_are_cells_with_edges_around_them():
    made = network()
    heat = [torch.full((1, 1, 8 >> i or 1, 8 >> i or 1), -20.0) for i in range(5)]
    reach = [torch.zeros(1, 4, *x.shape[2:]) for x in heat]
    heat[0][0, 0, 2, 5] = 3.0
    reach[0][0, :, 2, 5] = torch.tensor([1.0, 0.5, 2.0, 1.5])
    heat[2][0, 0, 1, 0] = 1.0
    boxes, scores = made.propose(heat, reach)
    centre = torch.tensor([44.0, 20.0])
    expected = torch.cat((centre - torch.tensor([8.0, 4]), centre + torch.tensor([16.0, 12])))
    torch.testing.assert_close(boxes[0], expected)
    torch.testing.assert_close(boxes[1], torch.tensor([16.0, 48, 16.01, 48.01]))
    torch.testing.assert_close(scores, torch.tensor([3.0, 1.0]).sigmoid().sqrt())
    assert len(boxes) == 2


def test_one_pass_of_the_backbone_serves_detection_and_appearance():
    eye, passes = small_masa('masa_detic')
    finder = detector(eye, max_instances=5, masks=False)
    method = Masa(eye, MasaConfig(detector='detic'), finder)
    session = method.session()
    for k in range(2):
        frame = Frame(scene(k), k * 50_000_000)
        (encoded,) = method.encode([frame])
        (result,) = session.update(frame, encoded)
        assert 0 < len(encoded.found) <= 5
        assert result.class_names[0] == 'aerosol_can'
    assert len(passes) == 2
    assert finder.detect([frame])[0] == encoded.found


def clip(folder, vocabulary=True):
    """A small CLIP text encoder, saved."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ends = ('<|startoftext|>', '<|endoftext|>')
    words = [*alphabet, *(letter + '</w>' for letter in alphabet), *ends]
    size = len(words)
    config = CLIPTextConfig(
        vocab_size=size,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=16,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
    )
    torch.manual_seed(0)
    model = CLIPTextModelWithProjection(config)
    model.save_pretrained(folder)
    tokenizer = CLIPTokenizer(
        vocab={word: i for i, word in enumerate(words)}, merges=[], pad_token='<|endoftext|>'
    )
    if vocabulary:
        tokenizer.save_pretrained(folder)
    return model, tokenizer


def test_clip_reads_words_from_a_folder(tmp_path):
    model, tokenizer = clip(tmp_path)
    read = ClipText(str(tmp_path))
    texts = ['a cup', 'a red dog', 'a cup']
    made = read(texts)
    assert made.shape == (3, 16)
    torch.testing.assert_close(made[0], made[2])
    with torch.inference_mode():
        alone = model.eval()(**tokenizer(texts[1], return_tensors='pt')).text_embeds[0]
    torch.testing.assert_close(made[1], alone, atol=1e-5, rtol=1e-4)
    with pytest.raises(ConfigError, match=r"words: 'a b{38} \.\.\.' is longer than 16 tokens"):
        read(['a cup', 'a ' + 'b' * 60])
    found = detector(text_encoder=str(tmp_path))
    found._encode = None
    assert len(found.detect([Frame(scene(), 0)], ['a thing', 'zebra'])[0])


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv('MASA_ROS_WEIGHTS', str(tmp_path))
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    load = DETECTORS['detic'].load
    with pytest.raises(WeightsError, match=r'masa_ros weights fetch detic_masa\.pth'):
        load(DeticConfig(), 'cpu')
    torch.save({'state_dict': {'a': torch.zeros(2)}}, tmp_path / 'detic_masa.pth')
    with pytest.raises(WeightsError, match='does not hold Detic'):
        load(DeticConfig(), 'cpu')
    clip(tmp_path / 'clip', vocabulary=False)
    with pytest.raises(WeightsError, match='no tokenizer in'):
        ClipText(str(tmp_path / 'clip'))
    with pytest.raises(WeightsError, match='there is no folder'):
        ClipText(str(tmp_path / 'nothing'))
    found = detector(text_encoder=str(tmp_path / 'nothing'))
    found._encode = None
    with pytest.raises(
        ConfigError, match=r"words: 'my mug' is no class of LVIS, and text_encoder: "
    ):
        found.detect([Frame(scene(), 0)], ['zebra', 'my mug'])
    monkeypatch.setitem(sys.modules, 'transformers', None)
    with pytest.raises(ConfigError, match='words for Detic needs the package transformers'):
        ClipText(str(tmp_path / 'clip'))
    assert len(detector().detect([Frame(scene(), 0)], ['zebra'])[0])  # LVIS goes without


@pytest.mark.skipif(not FIXTURES.is_dir(), reason=f'needs the list of tensors at {FIXTURES}')
def test_every_published_tensor_has_its_place():
    listed = json.loads((FIXTURES / 'manifest.json').read_text())['tensors']
    with torch.device('meta'):
        made = Detic()
        tensors = {each['name']: torch.empty(each['shape']) for each in listed}
        made.read(tensors, 'no text')  # raises where one is missing or unknown


@pytest.mark.skipif(not FIXTURES.is_dir(), reason=f'needs the numbers at {FIXTURES}')
def test_final_boxes_are_those_of_the_original_code():
    stored = np.load(FIXTURES / 'reference.npz')
    for image in ('img0.', 'img1.'):
        names = (f'{image}s3.boxes', f'{image}custom.scores', f'{image}custom.det.boxes_network')
        boxes, scores, theirs = (torch.from_numpy(stored[name]) for name in names)
        kept = released_choice(boxes, scores[:, :-1], 0.02, 0.5, 50)
        np.testing.assert_allclose(kept[1], stored[f'{image}custom.det.scores'], atol=1e-6)
        assert (torchvision.ops.box_iou(kept[0], theirs).max(1).values > 0.999).all()
