# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Detectors of the library transformers: small ones with random weights, from folders."""

import shutil
import sys

import cv2
import numpy as np
import pytest
import torch
from conftest import scene
from words_kit import vocabulary

from masa_ros import cli
from masa_ros.detectors import DETECTORS
from masa_ros.detectors.transformers import TransformersConfig, TransformersDetector
from masa_ros.errors import ConfigError, ImageError, WeightsError
from masa_ros.recordings.tracks_file import read_tracks
from masa_ros.types import Frame

transformers = pytest.importorskip('transformers')

CLASSES = {0: 'cat', 1: 'cup'}
_NAMED = {'id2label': CLASSES, 'label2id': {'cat': 0, 'cup': 1}}


def sure(model, names):
    """Let a network with random weights be rather sure of what it sees."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in names) and name.endswith('bias'):
                parameter.fill_(1.0)
    return model


def owlv2(folder):
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ends = ('<|startoftext|>', '<|endoftext|>')
    words = [*alphabet, *(letter + '</w>' for letter in alphabet), *ends]
    size = len(words)
    common = {
        'hidden_size': 16,
        'intermediate_size': 16,
        'num_hidden_layers': 1,
        'num_attention_heads': 2,
    }
    text = {
        'vocab_size': size,
        'max_position_embeddings': 16,
        'bos_token_id': size - 2,
        'eos_token_id': size - 1,
        'pad_token_id': size - 1,
    }
    config = transformers.Owlv2Config(
        text_config=common | text,
        vision_config=common | {'image_size': 64, 'patch_size': 16},
        projection_dim=16,
    )
    tokenizer = transformers.CLIPTokenizer(
        vocab={word: i for i, word in enumerate(words)},
        merges=[],
        model_max_length=16,
        pad_token='<|endoftext|>',
    )
    images = transformers.Owlv2ImageProcessor(size={'height': 64, 'width': 64})
    transformers.Owlv2ForObjectDetection(config).save_pretrained(folder)
    transformers.Owlv2Processor(image_processor=images, tokenizer=tokenizer).save_pretrained(
        folder
    )


def grounding(folder, kind):
    config = getattr(transformers, f'{kind}Config')(
        backbone_config=transformers.SwinConfig(
            embed_dim=8,
            depths=[1] * 4,
            num_heads=[1] * 4,
            window_size=4,
            out_features=['stage2', 'stage3', 'stage4'],
        ),
        text_config=transformers.BertConfig(
            vocab_size=1100,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
        ),
        d_model=32,
        num_queries=12,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
    )
    getattr(transformers, f'{kind}ForObjectDetection')(config).save_pretrained(folder)
    processor = transformers.GroundingDinoProcessor(
        image_processor=transformers.GroundingDinoImageProcessor(
            size={'shortest_edge': 64, 'longest_edge': 96}
        ),
        tokenizer=transformers.BertTokenizer(vocab=str(vocabulary(folder))),
    )
    processor.save_pretrained(folder)


def closed(folder, kind, backbone, points):
    config = getattr(transformers, f'{kind}Config')(
        backbone_config=backbone,
        encoder_hidden_dim=16,
        encoder_in_channels=[16, 16, 16],
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        num_queries=10,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_n_points=points,
        num_denoising=0,
        **_NAMED,
    )
    model = getattr(transformers, f'{kind}ForObjectDetection')(config)
    sure(model, ('class_embed', 'score_head')).save_pretrained(folder)
    images = transformers.RTDetrImageProcessor(size={'height': 64, 'width': 64})
    images.save_pretrained(folder)


def rt_detr(folder):
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 16, 16],
        depths=[1] * 4,
        layer_type='basic',
        out_features=['stage2', 'stage3', 'stage4'],
    )
    closed(folder, 'RTDetr', backbone, 2)


def d_fine(folder):
    backbone = transformers.HGNetV2Config(
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 8, 16, 16],
        stage_mid_channels=[8] * 4,
        stage_out_channels=[8, 16, 16, 16],
        stage_num_blocks=[1] * 4,
        stage_numb_of_layers=[1] * 4,
        embedding_size=8,
        hidden_sizes=[8, 16, 16, 16],
        depths=[1] * 4,
        out_features=['stage2', 'stage3', 'stage4'],
    )
    closed(folder, 'DFine', backbone, [2, 2, 2])


def rf_detr(folder, kind='RfDetrForInstanceSegmentation'):
    config = transformers.RfDetrConfig(
        backbone_config=transformers.RfDetrDinov2Config(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=64,
            patch_size=16,
            num_windows=1,
            out_features=['stage1', 'stage2'],
        ),
        d_model=32,
        decoder_ffn_dim=32,
        decoder_layers=2,
        decoder_self_attention_heads=2,
        decoder_cross_attention_heads=2,
        num_queries=10,
        group_detr=1,
        **_NAMED,
    )
    model = getattr(transformers, kind)(config)
    sure(model, ('class_embed',)).save_pretrained(folder)
    images = transformers.RfDetrImageProcessor(size={'height': 64, 'width': 64})
    images.save_pretrained(folder)


WORDED = {
    'owlv2': owlv2,
    'grounding_dino': lambda folder: grounding(folder, 'GroundingDino'),
    'mm_grounding_dino': lambda folder: grounding(folder, 'MMGroundingDino'),
}
FIXED = {
    'rt_detr': rt_detr,
    'd_fine': d_fine,
    'rf_detr': lambda folder: rf_detr(folder, 'RfDetrForObjectDetection'),
    'rf_detr_seg': rf_detr,
}


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """Folders of small networks by name, each made when it is first asked for."""
    made = {}

    def folder(name):
        if name not in made:
            torch.manual_seed(0)
            made[name] = tmp_path_factory.mktemp(name)
            (WORDED | FIXED)[name](made[name])
        return made[name]

    return folder


def load(folder, **options):
    options = {'score_threshold': 0.0, 'nms_iou': 1.0, **options}
    return TransformersDetector.load(TransformersConfig(model=str(folder), **options), 'cpu')


@pytest.mark.parametrize('name', WORDED)
def test_words_are_found(saved, name):
    detector = load(saved(name))
    assert detector.takes_words
    frame = Frame(scene(), 0)
    first, again = detector.detect([frame, frame], ['person', 'red car'])
    assert first == again and len(first) and (np.diff(first.scores) <= 0).all()
    assert set(first.labels) <= {0, 1} and np.isfinite(first.boxes).all()
    assert detector.class_names == {0: 'person', 1: 'red car'}
    detector.detect([frame], ['cup', 'person'])
    assert detector.class_names == {0: 'person', 1: 'red car', 2: 'cup'}
    (half,) = load(saved(name), score_threshold=float(np.median(first.scores))).detect(
        [frame], ['person', 'red car']
    )
    assert len(half) < len(first)
    (few,) = load(saved(name), max_instances=2, words='person').detect([frame])
    assert len(few) == 2 and set(few.labels) == {0}


@pytest.mark.parametrize('name', FIXED)
def test_fixed_classes_are_found(saved, name):
    detector = load(saved(name))
    frame = Frame(scene(), 0)
    (seen,) = detector.detect([frame])
    assert len(seen) and detector.class_names == CLASSES and set(seen.labels) <= {0, 1}
    (some,) = detector.detect([frame], ['cup'])
    assert len(some) == (seen.labels == 1).sum()
    with pytest.raises(ConfigError, match="has no class 'dog'; it has: cat, cup"):
        detector.detect([frame], ['dog'])
    if name == 'rf_detr_seg':
        assert len(seen.masks) == len(seen)
        for box, mask in zip(seen.boxes, seen.masks):
            assert tuple(box) == mask.box and mask.full(240, 320).any()
    else:
        assert seen.masks is None
    assert detector.facts()['network'].startswith(('RTDetr', 'DFine', 'RfDetr'))
    with pytest.raises(ImageError):
        detector.detect([Frame(frame.image[:, :, 0], 0)])


@pytest.mark.parametrize(
    'name, words',
    [('owlv2', 'a red cup . forklift'), ('rt_detr', ''), ('rf_detr_seg', '')],
)
def test_they_run_through_replay(saved, seeded_weights, tmp_path, name, words):
    frames = tmp_path / 'frames'
    frames.mkdir()
    for k in range(3):
        cv2.imwrite(str(frames / f'{k}.png'), scene(4 * k)[:, :, ::-1])
    options = {
        'detector': 'transformers',
        'transformers-model': str(saved(name)),
        'transformers-words': words,
        'transformers-score-threshold': '0',
        'transformers-max-instances': '4',
        'weights': str(seeded_weights),
        'init-score-thr': '0',
        'device': 'cpu',
        'output': str(tmp_path / 'out'),
    }
    arguments = [part for key, value in options.items() for part in (f'--{key}', value)]
    assert cli.main(['replay', str(frames), *arguments]) == 0
    tracked = read_tracks(tmp_path / 'out' / 'tracks.json')
    known = words.split(' . ') if words else list(CLASSES.values())
    seen = [frame for frame in tracked if len(frame.instances)]
    assert seen
    for frame in seen:
        named = {frame.class_names[i] for i in frame.instances.labels.tolist()}
        assert named <= set(known)
        assert frame.instances.masks is not None


def test_what_cannot_be_asked_for_is_named(saved):
    frame = Frame(scene(), 0)
    owl, dino = load(saved('owlv2')), load(saved('grounding_dino'))
    thousand = [f'{a}{b}{c}' for a in range(10) for b in range(10) for c in range(10)]
    for detector, words, text in (
        (owl, [], 'words is empty'),
        (dino, [' '], 'words is empty'),
        (owl, thousand, 'words: 1000 are too many, 256 are allowed'),
        (dino, thousand, 'words: 1000 words are 16 passes'),
        (owl, ['x' * 60], f"words: '{'x' * 40} ...' is longer than 16 tokens"),
    ):
        with pytest.raises(ConfigError, match=text) as error:
            detector.detect([frame], words)
        assert '\n' not in str(error.value)


def test_what_is_missing_is_named(saved, tmp_path, monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    silent = tmp_path / 'silent'
    shutil.copytree(saved('owlv2'), silent)
    for path in (*silent.glob('tokenizer*'), *silent.glob('vocab*'), *silent.glob('merges*')):
        path.unlink()
    text = tmp_path / 'text'
    transformers.CLIPTextConfig(architectures=['CLIPTextModel']).save_pretrained(text)
    empty = tmp_path / 'empty'
    empty.mkdir()
    hollow = tmp_path / 'hollow'
    shutil.copytree(saved('rt_detr'), hollow)
    (hollow / 'model.safetensors').write_bytes(b'nothing')
    for name, kind, words in (
        (tmp_path / 'nothing', WeightsError, 'there is no folder'),
        ('masa-ros-test/nothing', WeightsError, "no model 'masa-ros-test/nothing' from the hub"),
        (empty, WeightsError, f'no model in {empty}'),
        (hollow, WeightsError, f'no model in {hollow}'),
        (silent, WeightsError, f'no tokenizer in {silent}'),
        (text, ConfigError, 'is no detector: it holds CLIPTextModel'),
    ):
        with pytest.raises(kind, match=words) as error:
            load(name)
        assert '\n' not in str(error.value), name
    with pytest.raises(ConfigError, match='device'):
        DETECTORS['transformers'].load(TransformersConfig(), 'quantum')
    monkeypatch.setitem(sys.modules, 'transformers', None)
    with pytest.raises(ConfigError, match='needs the package transformers: pip install'):
        load(silent)


def test_the_core_does_not_need_the_library():
    import subprocess

    code = (
        'import sys; sys.modules["transformers"] = sys.modules["tokenizers"] = None\n'
        'import masa_ros.cli, masa_ros.methods, masa_ros.detectors, masa_ros.replay.run'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
