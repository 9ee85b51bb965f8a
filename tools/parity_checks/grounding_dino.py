# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Grounding DINO: text, encoder, selection of queries, decoder, labels, final boxes."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from masa_ros.detectors.grounding_dino import (
    GroundingDinoConfig,
    GroundingDinoDetector,
    corners,
    label_scores,
)
from masa_ros.detectors.masa import Encoded, MasaDetector
from masa_ros.detectors.on_swin import best, shared_maps
from masa_ros.models.grounding_text import Caption, Tokens, caption_of, released_caption
from masa_ros.models.grounding_text import released_names as names_of
from masa_ros.types import Instances
from parity_checks.detectors import Stored, below, compare_input, compare_unified, loaded
from parity_checks.report import Array, Fixtures, Report

_SCORES = 2e-5


class Tap:
    """Keeps what modules are given and give, and may force the selection of queries."""

    def __init__(self, network: Any) -> None:
        self.seen: dict[str, Any] = {}
        self.forced: Array | None = None
        model = network.model
        bert = model.text_backbone.encoder
        parts = {
            'bert.embeddings': bert.embeddings,
            'bert.layer0': bert.encoder.layer[0],
            'bert.out': bert.encoder,
            'text_feat': model.text_projection,
            'output_memory': model.enc_output_norm,
            'enc_reg': model.encoder_output_bbox_embed,
        }
        for i, neck in enumerate(model.input_proj_vision):
            parts[f'neck.l{i}'] = neck
        for i, layer in enumerate(model.encoder.layers):
            parts |= {
                f'enc{i}.fusion': layer.fusion_layer,
                f'enc{i}.text': layer.text_enhancer_layer,
                f'enc{i}.visual': layer.deformable_layer,
            }
        for i, layer in enumerate(model.decoder.layers):
            parts[f'dec{i}.out'] = layer
        for name, part in parts.items():
            part.register_forward_hook(self._keep(name))
        model.decoder.reference_points_head.register_forward_hook(self._first('query_pos0'))
        model.encoder_output_class_embed.register_forward_hook(self._choose)
        model.encoder.register_forward_pre_hook(self._keep_inputs('encoder'), with_kwargs=True)
        model.decoder.register_forward_pre_hook(self._keep_inputs('decoder'), with_kwargs=True)
        model.decoder.register_forward_hook(self._keep('decoded'))

    def _keep(self, name: str) -> Any:
        def hook(module: nn.Module, given: Any, made: Any) -> None:
            self.seen[name] = made

        return hook

    def _first(self, name: str) -> Any:
        def hook(module: nn.Module, given: Any, made: Any) -> None:
            self.seen.setdefault(name, made)

        return hook

    def _keep_inputs(self, name: str) -> Any:
        def hook(module: nn.Module, given: Any, named: Any) -> None:
            self.seen[name] = named

        return hook

    def _choose(self, module: nn.Module, given: Any, made: Tensor) -> Tensor:
        if 'enc_logits' in self.seen:  # a second call concerns the loss alone
            return made
        self.seen['enc_logits'] = made
        if self.forced is None:
            return made
        chosen = torch.full_like(made, -1e4)
        ranks = torch.arange(len(self.forced), 0, -1.0)
        chosen[0, torch.from_numpy(self.forced.astype(np.int64))] = ranks[:, None]
        return chosen


def _caption(case: dict[str, Any]) -> Caption:
    """Make the caption of a stored case; noun phrases are those that NLTK found."""
    text = case['text']
    if 'tokens_positive' in case:
        spans = [spans[0] for spans in case['tokens_positive']]
        return Caption(text + '. ', [(a, b) for a, b in spans], case['entities'])
    if isinstance(text, list):
        return caption_of(names_of(text))
    if case['custom_entities']:
        return caption_of(names_of([n for n in text.strip('. ').split('. ') if n]))
    return released_caption(text, case['entities'])


def _compare_text(report: Report, detector: GroundingDinoDetector, stored: Any) -> list[Tokens]:
    """Compare captions, tokens and which label has which; returns those of the prompts."""
    made = []
    for case in (*stored['prompts'], *stored['text_cases']):
        if case['label_to_token'] in (None, {}):
            continue  # -1: no labels; nothing found: upstream ends
        caption = _caption(case)
        tokens = detector.tokenizer(caption)
        made.append(tokens)
        good = caption.text == case['caption'] and case['label_to_token'] == {
            str(i + 1): label for i, label in enumerate(tokens.labels)
        }
        if 'input_ids' in case:
            good &= tokens.ids == case['input_ids'] and tokens.text == case['tokens']
            spans = [list(span) for span in caption.spans]
            good &= spans == [spans[0] for spans in case['entity_char_spans']]
        name = str(case['text'])[:28]
        report.line(f'gdino text {name}', '0' if good else 'differs', '', 'equal', good)
    return made[: len(stored['prompts'])]


def _compare_tokens(stored: Stored, seen: dict[str, Any]) -> None:
    given = seen['encoder']
    stored.same('text_self_attention_mask', ~given['text_self_attention_masks'][0])
    stored.same('position_ids', given['text_position_ids'][0])
    stored.same('text_attention_mask', given['text_attention_mask'][0])
    stored.near('bert.embeddings', seen['bert.embeddings'][0])
    first = seen['bert.layer0']
    stored.near('bert.layer0', first[0] if isinstance(first, Tensor) else first[0][0])
    stored.near('bert.out', seen['bert.out'][0][0])
    stored.near('text_feat', seen['text_feat'][0])
    stored.rest()


def _compare_maps(stored: Stored, seen: dict[str, Any]) -> None:
    for i in range(4):
        stored.near(f'neck.l{i}', seen[f'neck.l{i}'][0])
    given = seen['encoder']
    stored.same('spatial_shapes', given['spatial_shapes'])
    stored.same('level_start_index', given['level_start_index'])
    stored.near('valid_ratios', given['valid_ratios'][0], 1e-6, relative=False)
    mask = given['vision_attention_mask'][0]
    stored.same('feat_mask', mask if len(stored.arrays['feat_mask']) else mask[mask])
    stored.near('feat_pos', given['vision_position_embedding'][0])
    stored.rest()


def _compare_layers(stored: Stored, seen: dict[str, Any]) -> None:
    """Compare encoder, selection and decoder, the selection forced."""
    layers = sum(f'dec{i}.out' in stored for i in range(99))
    for i in (i for i in range(layers) if f'enc{i}.visual' in stored):
        (visual, _), (text, _) = seen[f'enc{i}.fusion']
        stored.near(f'enc{i}.fusion_visual', visual[0])
        stored.near(f'enc{i}.fusion_text', text[0])
        stored.near(f'enc{i}.text', seen[f'enc{i}.text'][0][0])
        stored.near(f'enc{i}.visual', seen[f'enc{i}.visual'][0][0])
    given, decoded = seen['decoder'], seen['decoded']
    stored.near('memory', given['vision_encoder_hidden_states'][0])
    stored.near('memory_text', given['text_encoder_hidden_states'][0])
    stored.near('output_memory', seen['output_memory'][0])
    stored.near('enc_reg', seen['enc_reg'][0])
    stored.near('query_pos0', seen['query_pos0'][0])
    stored.near('topk_boxes', given['reference_points'][0])
    for i in range(layers):
        stored.near(f'dec{i}.out', seen[f'dec{i}.out'][0][0])
        stored.near(f'dec{i}.hidden', decoded.intermediate_hidden_states[0, i])
        reference = decoded.intermediate_reference_points[0, i]
        step = 1 if len(stored.arrays[f'dec{i}.reference']) == len(reference) else 2
        stored.near(f'dec{i}.reference', reference[::step])


def _compare_answers(
    stored: Stored, network: Any, seen: dict[str, Any], tokens: Tokens
) -> tuple[Tensor, Tensor]:
    """Compare scores of locations, logits and boxes of queries, scores of labels."""
    count = len(tokens.ids)
    logits = seen['enc_logits'][0]
    stored.near('enc_logits', logits[:, :count], 2e-4, relative=False)
    stored.near('enc_logit_max', logits.max(1)[0], 2e-4, relative=False)
    top = logits.max(1)[0].topk(len(stored.arrays['topk_indices']))[1]
    theirs = torch.from_numpy(stored('topk_indices').astype(np.int64))
    alike = int(torch.isin(top, theirs).sum())
    good = alike >= 0.995 * len(theirs)
    stored.report.line(
        stored.label + 'topk_indices', str(len(theirs) - alike), '', '0.5% differ', good
    )
    shapes = seen['encoder']['spatial_shapes_list']
    memory = seen['decoder']['vision_encoder_hidden_states']
    padding = seen['encoder']['vision_attention_mask']
    proposals = network.model.generate_encoder_output_proposals(memory, padding, shapes)[1]
    stored.near('output_proposals', proposals[0])
    decoded = seen['decoded']
    text = seen['decoder']['text_encoder_hidden_states'][0]
    references = (
        seen['decoder']['reference_points'][0],
        *decoded.intermediate_reference_points[0, :-1],
    )
    found = []
    for i in (0, len(references) - 1):
        hidden = decoded.intermediate_hidden_states[0, i]
        moved = network.bbox_embed[i](hidden) + torch.special.logit(references[i], eps=1e-5)
        found.append((hidden @ text.T, moved.sigmoid()))
    stored.near('layer0_logits', found[0][0], 2e-4, relative=False)
    stored.near('layer0_boxes', found[0][1])
    return found[1]


def _compare_pair(
    report: Report,
    detector: GroundingDinoDetector,
    tap: Tap,
    encoded: Encoded,
    stored: Stored,
    tokens: Tokens,
) -> None:
    """Compare everything that is made of one image and one caption."""
    view = encoded.view
    network: Any = detector.network
    tap.seen, tap.forced = {}, stored.arrays['topk_indices']
    network.network.model.text_backbone._last = None  # read again, so that it is seen
    maps = shared_maps(encoded)
    shape = (view.rows, view.columns)
    answer = network(maps, shape, detector.padded(view), torch.tensor(tokens.ids))
    _compare_layers(stored, tap.seen)
    _, boxes = _compare_answers(stored, network.network, tap.seen, tokens)
    report.close(stored.label + 'same answer', answer.boxes, boxes.numpy(), 1e-6, False)
    stored.near('logits', answer.logits, 2e-4, relative=False)
    stored.near('boxes_cxcywh', answer.boxes)
    scores = label_scores(answer.logits, tokens.labels)
    stored.near('class_scores', scores, _SCORES, relative=False)
    labels = list(range(len(tokens.labels)))
    chosen = detector._chosen(
        [scores], [corners(answer.boxes, view)], [torch.tensor(labels)], view
    )
    stored.rows('det', chosen, _SCORES)
    queries = stored('det.query').astype(np.int64)
    at = torch.from_numpy(stored.arrays['det.labels'].astype(np.int64))
    stored.near('det.scores', scores[torch.from_numpy(queries), at], _SCORES, relative=False)
    theirs = stored.instances('det')
    rows = torch.arange(len(queries))
    boxes, points = torch.from_numpy(theirs.boxes), torch.from_numpy(theirs.scores)
    kept = best(boxes, points, rows, -1.0, 0.5, len(rows))
    stored.same('det_nms.keep', kept[2])
    stored.rest()


@torch.inference_mode()
def compare_grounding_dino(report: Report, fixtures: Fixtures) -> None:
    """Compare all stages of Grounding DINO, and the unified path."""
    print('-- detectors/gdino: grounding_dino')

    def load(path: Path, masa: MasaDetector) -> GroundingDinoDetector:
        config = GroundingDinoConfig(weights=str(path), released=True)
        found = GroundingDinoDetector.beside(config, masa)
        assert found is not None
        return found

    masa, detector = loaded(fixtures, 'gdino_masa.pth', 'masa_gdino', load)
    assert isinstance(detector, GroundingDinoDetector)
    network: Any = detector.network
    prompts = json.loads((fixtures.folder / 'prompts.json').read_text())
    captions = _compare_text(report, detector, prompts)
    arrays, inputs = fixtures.arrays('reference.npz'), fixtures.arrays('input.npz')
    tap = Tap(network.network)
    for i in range(sum(key.endswith('.rgb') for key in inputs)):
        start = time.perf_counter()
        mine = below(arrays, f'img{i}.')
        alone = {k: v for k, v in mine.items() if not re.match(r'p\d+\.', k)}
        image = Stored(report, f'gdino img{i}.', alone)
        encoded = compare_input(image, masa, inputs[f'img{i}.rgb'])
        for j, tokens in enumerate(captions):
            pair = Stored(report, f'gdino img{i}.p{j}.', below(mine, f'p{j}.'))
            _compare_pair(report, detector, tap, encoded, pair, tokens)
            if j == 0:
                _compare_maps(image, tap.seen)
            if i == 0:
                _compare_tokens(Stored(report, f'gdino p{j}.', below(arrays, f'p{j}.')), tap.seen)
        print(f'   img{i}: {time.perf_counter() - start:.1f} s')

    def find(encoded: Encoded, stored: dict[str, Array]) -> Instances:
        tap.seen, tap.forced = {}, stored['topk_indices']
        view, tokens = encoded.view, captions[0]
        maps = shared_maps(encoded)
        answer = network(
            maps, (view.rows, view.columns), detector.padded(view), torch.tensor(tokens.ids)
        )
        scores = label_scores(answer.logits, tokens.labels)
        labels = torch.arange(len(tokens.labels))
        return detector._chosen([scores], [corners(answer.boxes, view)], [labels], view)

    compare_unified(report, fixtures, masa, find, 'gdino ', _SCORES)
