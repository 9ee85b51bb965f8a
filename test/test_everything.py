# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""SAM's automatic mask generator as a detector, on random weights."""

import numpy as np
import pytest
import torch
from conftest import scene
from test_official import small_sam

from masa_ros.detectors import DETECTORS
from masa_ros.detectors.everything import EverythingConfig, EverythingDetector
from masa_ros.errors import ConfigError, ImageError, WeightsError
from masa_ros.types import Frame


def certain_sam():
    """A small SAM that is sure of all it draws, which is nonsense."""
    from segment_anything.modeling import ImageEncoderViT, Sam

    parts = small_sam()
    encoder = ImageEncoderViT(256, embed_dim=32, depth=1, num_heads=2, out_chans=64)
    decoder = parts.mask_decoder
    with torch.no_grad():
        quality = decoder.iou_prediction_head.layers[-1]
        quality.weight *= 0.01
        quality.bias.copy_(torch.tensor([0.9, 0.95, 1.2, 0.5]))
        for head in decoder.output_hypernetworks_mlps:
            head.layers[-1].weight *= 1e4
            head.layers[-1].bias *= 1e4
    return Sam(encoder, parts.prompt_encoder, decoder)


def test_everything_is_found_with_masks_and_scores():
    config = EverythingConfig(points_per_side=4, box_nms=1.0, min_area=0)
    detector = EverythingDetector(certain_sam(), config)
    image = scene(size=(60, 80))
    first, second = detector.detect([Frame(image, 0), Frame(image[:, :50], 1)])
    for found, width in ((first, 80), (second, 50)):
        assert len(found) > 4
        assert (np.diff(found.scores) <= 0).all()
        assert found.scores[0] == 1 and found.scores[-1] >= 0.88  # the quality 0.5 is left out
        assert len(found.masks) == len(found) == len(found.labels)
        for box, mask in zip(found.boxes, found.masks):
            full = mask.full(60, width)
            rows, columns = np.flatnonzero(full.any(1)), np.flatnonzero(full.any(0))
            assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    few = EverythingDetector(certain_sam(), EverythingConfig(points_per_side=4, box_nms=0.3))
    assert 0 < len(few.detect([Frame(image, 0)])[0]) < len(first)
    assert detector.facts()['device'] == 'cpu' and not detector.takes_words
    with pytest.raises(ImageError, match='uint8'):
        detector.detect([Frame(image[:, :, 0], 0)])


def test_everything_names_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setenv('MASA_ROS_WEIGHTS', str(tmp_path))
    with pytest.raises(ConfigError, match='model is'):
        EverythingConfig(model='masa_r50')
    load = DETECTORS['everything'].load
    with pytest.raises(WeightsError, match='sam_vit_b_01ec64'):
        load(EverythingConfig(), 'cpu')
    with pytest.raises(ConfigError, match='device'):
        load(EverythingConfig(), 'quantum')
    torch.save({'a': torch.ones(1)}, tmp_path / 'sam_vit_b_01ec64.pth')
    with pytest.raises(WeightsError, match='does not hold SAM'):
        load(EverythingConfig(), 'cpu')
