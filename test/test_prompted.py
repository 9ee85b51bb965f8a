# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Clicks, boxes and masks answered by what the shipped network sees."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import scene

from masa_ros.demo import scene as demo_scene
from masa_ros.demo.pointing import click
from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.detectors.prompted import MasaSegmenter, agreement, depth
from masa_ros.errors import PromptError
from masa_ros.models.configs import NetworkConfig
from masa_ros.models.masks import View, frame_logits, paste_frames
from masa_ros.models.network import MasaNetwork
from masa_ros.models.zoo import model_config
from masa_ros.types import Frame, Mask, Prompt

BLUE = (180, 110, 251, 191)  # the rectangle of the scene


@pytest.fixture(scope='module')
def segmenter():
    return MasaSegmenter(MasaDetector.load(DetectorConfig(device='cpu')))


FRAME = Frame(scene(), 0)


def points(*places):
    return np.array(places, np.float32)


def of_blue(mask):
    """Overlap of a mask with the rectangle."""
    truth = np.zeros(FRAME.shape, bool)
    truth[BLUE[1] : BLUE[3], BLUE[0] : BLUE[2]] = True
    found = mask.full(*FRAME.shape)
    return (found & truth).sum() / (found | truth).sum()


@pytest.mark.parametrize(
    'prompt',
    [
        Prompt(0, points=points((215, 150))),
        Prompt(0, points=points((190, 120), (215, 150), (240, 180))),  # a stroke
        Prompt(0, points=points((215, 150), (70, 80)), positive=np.array([True, False])),
        Prompt(0, box=np.array(BLUE, np.float32)),
        Prompt(0, box=np.array(BLUE, np.float32), points=points((215, 150))),
    ],
)
def test_what_is_pointed_at_is_segmented(segmenter, prompt):
    found = segmenter.segment(FRAME, prompt)
    assert of_blue(found[0].mask) > 0.8
    for mask, score in found:
        assert 0 < score <= 1
        assert agreement(mask, prompt) >= 0.5


def test_a_mask_is_what_was_meant(segmenter):
    mask = Mask(10, 20, np.ones((5, 7), bool))
    assert segmenter.segment(FRAME, Prompt(0, mask=mask)) == [(mask, 1)]


def test_clicks_that_agree_with_nothing(segmenter):
    """Half on the rectangle and half beside it, with signs the other way round."""
    prompt = Prompt(
        0,
        points=points((215, 150), (20, 20), (300, 20)),
        positive=np.array([False, True, True]),
    )
    with pytest.raises(PromptError, match='nothing is seen there'):
        segmenter.segment(FRAME, prompt)


@pytest.mark.parametrize(
    ('prompt', 'message'),
    [
        (Prompt(0), 'needs a mask, a box or a click'),
        (Prompt(0, points=points((5, 5)), positive=np.array([False])), 'needs a mask'),
        (Prompt(0, points=points((320, 5))), 'outside of the 320x240 image'),
        (Prompt(0, points=points((np.nan, 5))), 'outside of the 320x240 image'),
        (Prompt(0, box=np.array((9, 9, 9, 20), np.float32)), 'is empty'),
        (Prompt(0, box=np.array((400, 9, 500, 20), np.float32)), 'outside of the 320x240'),
        (Prompt(0, box=np.array((np.nan, 9, 50, 20), np.float32)), 'is empty'),
        (Prompt(0, mask=Mask(0, 0, np.zeros((0, 0), bool))), 'mask is empty'),
    ],
)
def test_prompts_that_say_nothing_are_refused(segmenter, prompt, message):
    with pytest.raises(PromptError, match=message):
        segmenter.segment(FRAME, prompt)


def test_agreement_counts_clicks_on_and_beside():
    mask = Mask(10, 10, np.ones((4, 4), bool))
    clicks = Prompt(
        0,
        points=points((10, 10), (13.9, 13.9), (14, 12), (-5, 3)),
        positive=np.array([True, True, True, False]),
    )
    assert agreement(mask, clicks) == 0.75
    assert agreement(mask, Prompt(0)) == 1


def test_depth_is_how_far_the_deepest_click_is_from_the_rim():
    mask = Mask(10, 10, np.ones((9, 21), bool))
    assert depth(mask, Prompt(0, points=points((15, 14.5), (10.5, 10.5)))) == 1
    assert depth(mask, Prompt(0, points=points((20, 10.5)))) == pytest.approx(1 / 5)
    assert depth(mask, Prompt(0, points=points((5, 14.5)))) == 0
    assert depth(mask, Prompt(0)) == 1


def test_a_click_into_the_middle_of_a_small_object_does_not_mean_its_neighbour_too(segmenter):
    cup, coin = demo_scene.ACTORS[0], demo_scene.ACTORS[5]
    frame, true = next(demo_scene.render((cup, coin)))
    _, meant = true.instances.masks
    (best, *_) = segmenter.segment(frame, click(meant))
    ours, theirs = (mask.full(*frame.shape) for mask in (best.mask, meant))
    assert (ours & theirs).sum() > 0.8 * (ours | theirs).sum()


def test_nested_objects_are_several_answers_of_different_sizes(segmenter):
    image = np.full((240, 320, 3), 200, np.uint8)
    image[40:200, 60:260] = (60, 90, 200)  # a box with a plate on it
    image[90:150, 120:200] = (250, 230, 40)
    found = segmenter.segment(Frame(image, 0), Prompt(0, points=points((160, 120))))
    assert 2 <= len(found) <= 3
    full = [mask.full(240, 320) for mask, _ in found]
    for i, mask in enumerate(full):
        assert mask[120, 160]
        for other in full[:i]:
            assert (mask & other).sum() <= 0.8 * (mask | other).sum()
    areas = [mask.sum() for mask in full]
    assert max(areas) > 2 * min(areas)


# SAM's own decoder


@pytest.fixture(scope='module')
def sam():
    """A small SAM with random weights: as a network of MASA, and as segment_anything has it."""
    pytest.importorskip('segment_anything')
    import functools

    from segment_anything import SamPredictor
    from segment_anything.modeling import ImageEncoderViT, Sam
    from test_models import SMALL_SAM as SIZES

    torch.manual_seed(0)
    model = dataclasses.replace(
        model_config('masa_sam_vitb'),
        network=NetworkConfig(SIZES, fusion_attention=True),
        input_size=SIZES.image_size,
        pad_multiple=SIZES.image_size,
    )
    network = MasaNetwork(model.network)
    for parameter in network.masks.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    detector = MasaDetector(model, network, DetectorConfig(device='cpu'), 'cpu')
    encoder = ImageEncoderViT(
        img_size=SIZES.image_size,
        embed_dim=SIZES.width,
        depth=SIZES.depth,
        num_heads=SIZES.heads,
        out_chans=SIZES.embedding,
        use_rel_pos=True,
        window_size=SIZES.window,
        global_attn_indexes=SIZES.global_blocks,
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
    )
    encoder.load_state_dict(network.backbone.state_dict())
    parts = network.masks
    original = Sam(encoder.eval(), parts.prompt_encoder, parts.mask_decoder).eval()
    return MasaSegmenter(detector), SamPredictor(original)


SAM_FRAME = Frame(scene(size=(192, 256)), 0)  # as large as the network takes it
CLICK = Prompt(0, points=points((100, 80)))
STROKE = Prompt(
    0, points=points((100, 80), (31.5, 7), (200, 150)), positive=np.array([1, 1, 0], bool)
)
BOXED = Prompt(0, box=np.array((20, 30, 180, 140), np.float32))
BOTH = dataclasses.replace(STROKE, box=BOXED.box)


@pytest.mark.parametrize('prompt', [CLICK, STROKE, BOXED, BOTH], ids=['1', '3', 'box', 'both'])
@pytest.mark.parametrize('begun', [False, True])
def test_sam_answers_as_its_own_predictor(sam, prompt, begun, monkeypatch):
    segmenter, predictor = sam
    decoder, answers = segmenter.detector.network.masks, []
    monkeypatch.setattr(
        decoder,
        'answer',
        lambda *a, f=decoder.answer, **k: answers.append(f(*a, **k)) or answers[-1],
    )
    predictor.set_image(SAM_FRAME.image)
    mask_input = None
    if begun:
        mask = Mask(60, 40, np.ones((90, 70), bool))
        prompt = dataclasses.replace(prompt, mask=mask)
        mask_input = frame_logits(mask, 256, View(192, 256, 192, 256))[None].numpy()
    several = prompt is CLICK
    masks, quality, logits = predictor.predict(
        prompt.points if len(prompt.points) else None,
        prompt.positive if len(prompt.points) else None,
        prompt.box,
        mask_input,
        multimask_output=several,
        return_logits=True,
    )
    found = segmenter.segment(SAM_FRAME, prompt)
    ((ours, iou),) = answers
    assert len(ours) == (3 if several else 1)
    torch.testing.assert_close(ours, torch.from_numpy(logits), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(iou, torch.from_numpy(quality), atol=1e-4, rtol=1e-4)
    order = [i for i in np.argsort(-quality, kind='stable') if (masks[i] > 0).any()]
    assert len(found) == len(order) > 0
    for candidate, i in zip(found, order):
        certain = np.abs(masks[i]) > 1e-3
        assert (candidate.mask.full(192, 256) == (masks[i] > 0))[certain].all()
        assert candidate.score == pytest.approx(np.clip(quality[i], 0, 1), abs=1e-4)


def test_sam_answers_on_an_encoder_pass_that_is_there_already(sam, monkeypatch):
    segmenter, _ = sam
    (encoded,) = segmenter.detector.encode([SAM_FRAME.image])
    expected = segmenter.segment(SAM_FRAME, CLICK)
    monkeypatch.delattr(MasaDetector, 'encode')
    assert segmenter.segment(SAM_FRAME, CLICK, encoded) == expected
    alone = Mask(60, 40, np.ones((90, 70), bool))
    assert segmenter.segment(SAM_FRAME, Prompt(0, mask=alone)) == [(alone, 1)]


@pytest.mark.parametrize('view', [View(240, 320, 192, 256), View(100, 50, 256, 128)])
def test_a_mask_as_logits_is_the_mask_again(view):
    y, x = np.ogrid[-1:1:40j, -1:1:30j]
    mask = Mask(12, 30, np.hypot(x, y) < 1)
    logits = frame_logits(mask, 256, view)
    assert logits.shape == (64, 64) and logits.abs().max() < 7
    (again,) = paste_frames(logits[None], 256, view).masks
    ours, theirs = (each.full(view.height, view.width) for each in (again, mask))
    assert (ours & theirs).sum() > 0.93 * (ours | theirs).sum()
