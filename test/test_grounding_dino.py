# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Grounding DINO inside the published file: its text, its rules, one backbone for two networks."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch
from conftest import scene
from test_models import SHARED
from words_kit import CHANNELS, counted, small, small_masa, vocabulary

from masa_ros.detectors import DETECTORS, load_beside
from masa_ros.detectors.grounding_dino import (
    GroundingDinoConfig,
    GroundingDinoDetector,
    label_scores,
)
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.detectors.words import Labels, wanted
from masa_ros.errors import ConfigError, WeightsError
from masa_ros.methods.masa import Masa, MasaConfig
from masa_ros.models.grounding_dino import GroundingDino, GroundingSizes, library, translate
from masa_ros.models.grounding_text import (
    MOST_TOKENS,
    Tokenizer,
    caption_of,
    plain_names,
    released_caption,
    released_names,
)
from masa_ros.models.swin import Swin
from masa_ros.types import Frame

FIXTURES = SHARED / 'parity/detectors/gdino'
SIZES = GroundingSizes(
    channels=CHANNELS,
    width=32,
    hidden=64,
    layers=2,
    queries=12,
    text_width=16,
    text_hidden=16,
    text_layers=1,
    text_heads=2,
    vocabulary=1100,
)


def network(seed=0):
    torch.manual_seed(seed)
    made = GroundingDino(SIZES)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.dim() > 1:  # what words say must be seen in the scores
                torch.nn.init.xavier_uniform_(parameter)
            elif 'param' in name:
                torch.nn.init.ones_(parameter)
    return made


def detector(folder, backbone=None, **options):
    torch.manual_seed(1)
    made = backbone or Swin(small('masa_gdino').network.backbone)
    config = GroundingDinoConfig(**{'score_threshold': 0.0, 'nms_iou': 1.0, **options})
    tokenizer = Tokenizer.of_file(vocabulary(folder))
    return GroundingDinoDetector(network(), tokenizer, made, config, model=small('masa_gdino'))


def test_words_are_found_and_keep_their_labels(tmp_path):
    found = detector(tmp_path)
    frame = Frame(scene(), 0)
    first, again = found.detect([frame, frame], ['person', 'red car'])
    assert first == again and len(first) == 24  # every query answers to every word
    assert (np.diff(first.scores) <= 0).all() and set(first.labels) == {0, 1}
    assert first.boxes.min() >= 0 and (first.boxes <= [320, 240, 320, 240]).all()
    assert found.class_names == {0: 'person', 1: 'red car'}
    (other,) = found.detect([frame], ['cup', 'person'])
    assert set(other.labels) == {0, 2} and found.class_names[2] == 'cup'
    assert not np.array_equal(np.sort(other.scores), np.sort(first.scores))
    (fresh,) = detector(tmp_path).detect([frame], ['cup', 'person'])
    np.testing.assert_array_equal(other.scores, fresh.scores)  # nothing is left of older words
    facts = found.facts()
    assert facts['device'] == 'cpu' and facts['parameters'] > 10_000


def test_few_of_many_boxes_stay(tmp_path):
    frame = Frame(scene(), 0)
    (every,) = detector(tmp_path).detect([frame], ['person', 'car'])
    limit = float(np.median(every.scores))
    (some,) = detector(tmp_path, score_threshold=limit).detect([frame], ['person', 'car'])
    assert (some.scores > limit).all() and len(some) == (every.scores > limit).sum()
    (apart,) = detector(tmp_path, nms_iou=0.5).detect([frame], ['person', 'car'])
    assert 0 < len(apart) < len(every)
    (few,) = detector(tmp_path, max_instances=3).detect([frame], ['person', 'car'])
    np.testing.assert_array_equal(few.scores, every.scores[:3])


def test_many_words_are_asked_for_in_several_captions(tmp_path):
    found = detector(tmp_path)
    words = [f'{a}{b}{c}' for a in 'abcde' for b in 'abcde' for c in 'abcd']  # 4 tokens each
    frame = Frame(scene(), 0)
    question = found.ask(words)
    assert len(question.parts) == 2 and max(len(t.ids) for t in question.parts) <= MOST_TOKENS
    assert [i for part in question.labels for i in part] == list(range(100))
    (seen,) = found.detect([frame], words)
    assert np.isfinite(seen.scores).all() and len(seen) == 100
    alone = detector(tmp_path).detect([frame], words[:63])[0]
    best = seen.scores[seen.labels == 5]  # its caption is the same with and without the others
    assert np.isin(best, alone.scores[alone.labels == 5]).all()


def test_words_that_cannot_be_asked_for_are_named(tmp_path):
    found, frame = detector(tmp_path), Frame(scene(), 0)
    thousand = [f'{a}{b}{c}' for a in range(10) for b in range(10) for c in range(10)]
    for words, text in (
        ([], "words is empty: say what is to be found, for example 'person . red car'"),
        ([' ', ''], 'words is empty'),
        (thousand, 'words: 1000 words are 16 passes over every image, 4 are allowed'),
        ([' '.join(['red'] * 300)], "words: 'red red .* ...' is 301 tokens long, 254 at most"),
        (['person', '(of a car)'], r"words: '\(of a car\)' names nothing"),
    ):
        with pytest.raises(ConfigError, match=text):
            found.detect([frame], words)
    assert len(found.detect([frame], ['person'])[0])  # and it goes on


def test_the_option_has_the_words_where_nobody_else_has(tmp_path):
    found = detector(tmp_path, words='person . red  car . person .')
    (seen,) = found.detect([Frame(scene(), 0)])
    assert found.class_names == {0: 'person', 1: 'red car'} and len(seen) == 24


def test_names_are_cleaned():
    assert plain_names(['car .', ' T-shirt ', 'bow_(weapon)', 'traffic_light']) == [
        'car',
        'T-shirt',
        'bow',
        'traffic light',
    ]
    assert wanted(['a  dog', 'cup', 'a dog'], '') == ['a dog', 'cup']
    labels = Labels()
    assert labels.of(['a', 'b']) == [0, 1] and labels.of(['c', 'b']) == [2, 1]
    assert labels.names == {0: 'a', 1: 'b', 2: 'c'}


def test_the_released_code_goes_on_with_its_first_words(tmp_path):
    frame = Frame(scene(), 0)
    found = detector(tmp_path, released=True)
    person, car = (
        detector(tmp_path, released=True).detect([frame], [w])[0] for w in ('person', 'car')
    )
    (first,) = found.detect([frame], ['person'])
    (right,) = found.detect([frame], ['car'])
    (wrong,) = found.detect([frame], ['car'])
    np.testing.assert_array_equal(first.scores, person.scores)
    np.testing.assert_array_equal(right.scores, car.scores)
    np.testing.assert_array_equal(wrong.scores, person.scores)
    assert found.class_names == {0: 'car'} and len(wrong) == 12
    words = [f'{a}{b}' for a in 'abcdefghij' for b in 'abcdefghi']  # 90 of 3 tokens each
    (lost,) = detector(tmp_path, released=True).detect([frame], words)
    lacking = np.isnan(lost.scores)
    assert lacking.sum() == 5 * 12 and set(lost.labels[lacking]) == set(range(85, 90))


def test_a_sentence_of_the_released_code_needs_nltk(tmp_path):
    found = detector(tmp_path, released=True, words='a person beside a car')
    if importlib.util.find_spec('nltk') is None:
        with pytest.raises(ConfigError, match='pip install nltk'):
            found.detect([Frame(scene(), 0)])
    with pytest.raises(ConfigError, match='words is empty'):
        detector(tmp_path, released=True).detect([Frame(scene(), 0)])


def test_places_of_noun_phrases_are_labels():
    made = released_caption('red car . car', ['red car', 'car'])
    assert made.text == 'red car . car. ' and made.spans == [(0, 7), (4, 7), (10, 13)]
    with pytest.raises(ConfigError, match='none of the noun phrases'):
        released_caption('person.car.dog', ['personcardog'])


def test_scores_are_means_over_tokens():
    logits = torch.tensor([[0.0, 2.0, -1.0], [1.0, 1.0, 1.0]])
    scores = label_scores(logits, [[1], [0, 1], [], [2, 9]])
    chance = logits.sigmoid()
    torch.testing.assert_close(scores[:, 0], chance[:, 1])
    torch.testing.assert_close(scores[:, 1], chance[:, :2].mean(1))
    assert scores[:, 2].isnan().all()
    torch.testing.assert_close(scores[:, 3], chance[:, 2] / 2)


def test_the_decoder_is_the_library_s_but_for_its_clamp():
    made, seen = network(), {}
    decoder = made.network.model.decoder
    decoder.register_forward_pre_hook(
        lambda module, given, named: seen.update(named), with_kwargs=True
    )
    maps = [torch.randn(1, c, 16 >> i, 24 >> i) for i, c in enumerate(CHANNELS)]
    with torch.inference_mode():
        made(maps, (128, 180), (128, 192), torch.tensor([101, 1, 1012, 102]))
        seen.pop('text_encoder_attention_mask')
        decoder.bbox_embed = decoder.refine[0]
        inside = seen['reference_points'].clamp(0.3, 0.7)
        for heads in decoder.bbox_embed:  # small steps: nothing comes near the edge
            heads.layers[-1].weight.mul_(0.01)
        for references, same in ((inside, True), (inside * 0 + 1e-4, False)):
            given = {**seen, 'reference_points': references}
            ours = decoder(**given)
            theirs = library.GroundingDinoDecoder.forward(decoder, **given)
            apart = ours.intermediate_reference_points - theirs.intermediate_reference_points
            assert (apart.abs().max() < 1e-6) == same
            close = ours.intermediate_hidden_states - theirs.intermediate_hidden_states
            assert (close.abs().max() < 1e-5) == same


def test_one_pass_of_the_backbone_serves_detection_and_appearance(tmp_path):
    eye, passes = small_masa('masa_gdino')
    finder = detector(tmp_path, eye, words='person . car', max_instances=5)
    method = Masa(eye, MasaConfig(detector='grounding_dino'), finder)
    session = method.session()
    for k in range(3):
        frame = Frame(scene(k), k * 50_000_000)
        (encoded,) = method.encode([frame])
        (result,) = session.update(frame, encoded)
        assert len(encoded.found) == 5 and set(encoded.found.labels) <= {0, 1}
        assert result.class_names == {0: 'person', 1: 'car'}
    assert len(passes) == 3
    two = [Frame(scene(), 0), Frame(scene(9), 0)]
    method.encode(two)
    assert len(passes) == 4  # a batch is one
    (alone,) = finder.detect([frame])
    assert alone == encoded.found
    own = Swin(eye.model.network.backbone)
    own.load_state_dict(eye.network.backbone.state_dict())
    apart, separate = detector(tmp_path, own, words='person . car', max_instances=5), counted(own)
    (same,) = apart.detect([frame])
    np.testing.assert_allclose(same.boxes, alone.boxes, atol=1e-3)
    assert len(separate) == 1 and not apart.shares and finder.shares


def test_a_backbone_is_shared_only_within_one_file(monkeypatch):
    eye, _ = small_masa('masa_gdino')
    kind = DETECTORS['grounding_dino']
    made = []
    monkeypatch.setattr(
        GroundingDinoDetector, '_load', classmethod(lambda cls, *a: made.append(a) or a)
    )
    load_beside('grounding_dino', GroundingDinoConfig(), eye)
    assert made[-1][2] is eye
    for config in (GroundingDinoConfig(weights='other.pth'), GroundingDinoConfig(input_size=64)):
        assert kind.beside(config, eye) is None
        load_beside('grounding_dino', config, eye)
        assert made[-1][2] is None
    nano = type('Other', (), {'model': small('masa_detic'), 'config': DetectorConfig()})
    assert kind.beside(GroundingDinoConfig(), nano) is None


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv('MASA_ROS_WEIGHTS', str(tmp_path))
    load = DETECTORS['grounding_dino'].load
    with pytest.raises(WeightsError, match=r'masa_ros weights fetch gdino_masa\.pth'):
        load(GroundingDinoConfig(), 'cpu')
    path = tmp_path / 'gdino_masa.pth'
    torch.save({'state_dict': {'detector.level_embed': torch.zeros(4, 256)}}, path)
    with pytest.raises(WeightsError, match=r'masa_ros weights fetch bert_vocab\.txt'):
        load(GroundingDinoConfig(), 'cpu')
    (tmp_path / 'bert_vocab.txt').write_text('nonsense')
    with pytest.raises(WeightsError, match='no vocabulary of BERT'):
        load(GroundingDinoConfig(), 'cpu')
    with pytest.raises(ConfigError, match='device'):
        load(GroundingDinoConfig(), 'quantum')
    with pytest.raises(WeightsError, match='no detector in it'):
        vocabulary(tmp_path)
        load(GroundingDinoConfig(weights='x.safetensors'), 'cpu')
    for name in [n for n in sys.modules if n.startswith('masa_ros.models.grounding')]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr('masa_ros.models.grounding_dino', raising=False)
    monkeypatch.delattr('masa_ros.models.grounding_text', raising=False)
    monkeypatch.setitem(sys.modules, 'transformers', None)
    with pytest.raises(ConfigError, match='grounding_dino needs the package transformers: pip'):
        load(GroundingDinoConfig(), 'cpu')


@pytest.mark.skipif(not FIXTURES.is_dir(), reason=f'needs the list of tensors at {FIXTURES}')
def test_every_published_tensor_has_its_place():
    listed = json.loads((FIXTURES / 'manifest.json').read_text())['tensors']
    with torch.device('meta'):
        tensors = {each['name']: torch.empty(each['shape']) for each in listed}
        own = GroundingDino().network.state_dict()
    shapes = {name: value.shape for name, value in translate(tensors).items()}
    assert shapes == {name: value.shape for name, value in own.items()}


@pytest.mark.skipif(not FIXTURES.is_dir(), reason=f'needs the captions at {FIXTURES}')
def test_captions_are_those_of_the_original_code():
    tokenizer = Tokenizer.of_file(FIXTURES / 'bert_vocab.txt')
    stored = json.loads((FIXTURES / 'prompts.json').read_text())
    seen = 0
    for case in (*stored['prompts'], *stored['text_cases']):
        text = case['text']
        if not case['label_to_token'] or 'tokens_positive' in case:
            continue
        if isinstance(text, list):
            caption = caption_of(released_names(text))
        elif case['custom_entities']:
            caption = caption_of(released_names([n for n in text.strip('. ').split('. ') if n]))
        else:
            caption = released_caption(text, case['entities'])
        tokens = tokenizer(caption)
        assert (caption.text, tokens.ids) == (case['caption'], case['input_ids'])
        assert {str(i + 1): label for i, label in enumerate(tokens.labels)} == case[
            'label_to_token'
        ]
        seen += 1
    assert seen >= 14
