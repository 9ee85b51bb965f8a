# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Small networks with a Swin backbone, and a vocabulary, for the tests of detectors with words."""

import dataclasses

import torch

from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.models.configs import NetworkConfig, SwinConfig
from masa_ros.models.network import MasaNetwork
from masa_ros.models.zoo import model_config

SWIN = SwinConfig(window=4, width=16, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1))
CHANNELS = SWIN.pyramid_channels
_SPECIAL = {0: '[PAD]', 100: '[UNK]', 101: '[CLS]', 102: '[SEP]', 1012: '.', 1029: '?'}
_WORDS = ('person', 'car', 'dog', 'red', 'blue', 'cup', 'light', 'traffic')


def small(name):
    """The model of a published file, of a few channels and inputs of 64 pixels."""
    network = NetworkConfig(
        backbone=SWIN,
        channels=32,
        fusion_blocks=1,
        roi_levels=3,
        box_widths=(32,),
        embed_convs=1,
        embed_width=32,
        embedding=16,
    )
    return dataclasses.replace(model_config(name), network=network, input_size=96, short_side=64)


def small_masa(name):
    """A network that embeds, with random weights, and counts the passes of its backbone."""
    torch.manual_seed(0)
    model = small(name)
    detector = MasaDetector(model, MasaNetwork(model.network), DetectorConfig(), 'cpu')
    return detector, counted(detector.network.backbone)


def counted(backbone):
    """A list that grows with every pass of a backbone."""
    passes = []
    backbone.register_forward_hook(lambda *arguments: passes.append(1))
    return passes


def vocabulary(folder):
    """A file of tokens, the special ones where BERT has them."""
    alphabet = 'abcdefghijklmnopqrstuvwxyz0123456789-_'
    others = iter([*_WORDS, *alphabet, *(f'##{letter}' for letter in alphabet)])
    lines = [_SPECIAL.get(i) or next(others, f'[unused{i}]') for i in range(1100)]
    path = folder / 'bert_vocab.txt'
    path.write_text('\n'.join(lines))
    return path
