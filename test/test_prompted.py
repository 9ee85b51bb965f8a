# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Clicks, boxes and masks answered by what the shipped network sees."""

import numpy as np
import pytest
from conftest import scene

from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.detectors.prompted import MasaSegmenter, agreement
from masa_ros.errors import PromptError
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
