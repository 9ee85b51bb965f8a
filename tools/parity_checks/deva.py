# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""DEVA: every stage of its network, and what its memory holds after every frame."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masa_ros.models.deva.network import DevaNetwork, aggregate, coarse, probabilities
from masa_ros.models.deva.reading import similarity, strongest, weighted_sum
from masa_ros.models.files import DEVA_FILE
from masa_ros.models.preprocess import normalise
from masa_ros.propagators.deva import DevaPropagator, DevaPropagatorConfig, buckets
from masa_ros.propagators.deva.memory import Encoded
from masa_ros.propagators.deva.placement import Placement
from masa_ros.types import Frame
from parity_checks.deva_case import Case
from parity_checks.report import Array, Fixtures, Report

_UNBOUNDED = {'long_term': False, 'max_mid': 1000}  # the original forgets nothing then


@torch.inference_mode()
def compare_deva(report: Report, fixtures: Fixtures) -> None:
    """Compare everything in the folder."""
    print('-- deva')
    propagator = load_propagator(fixtures)
    report.line('deva loaded', '', '', '', True)
    arrays = fixtures.arrays('network.npz')
    encoded = [encode(propagator, image) for image in arrays['frames.rgb'][:4]]
    compare_stages(report, fixtures, propagator, arrays, encoded)
    compare_masks_given(report, propagator, arrays)
    for name in ('D', 'H'):
        compare_detections(report, propagator, arrays, name)
    compare_projection(report, propagator, arrays, encoded)
    compare_weighted(report, propagator, arrays, encoded)
    compare_preprocessing(report, fixtures)
    compare_session_memories(report, fixtures, propagator)
    # Not above: these take from here what reads the weights.
    from parity_checks.deva_consensus import compare_consensus
    from parity_checks.deva_sessions import compare_sessions

    compare_consensus(report, fixtures)
    compare_sessions(report, fixtures)


def load_propagator(fixtures: Fixtures) -> DevaPropagator:
    """Write the seeded weights as they are published, and read them as users do."""
    manifest = json.loads((fixtures.folder / 'manifest.json').read_text())
    weights = fixtures.seeded.seeded_state_dict(manifest, fixtures.salt)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / DEVA_FILE
        torch.save({name: torch.from_numpy(value) for name, value in weights.items()}, path)
        made = DevaPropagator.load(DevaPropagatorConfig(weights=str(path), size=0), 'cpu')
    # A random network draws blobs whose pixels rounding tips. In double precision it is the
    # originals' alone, whatever this machine does to the order of sums.
    return DevaPropagator(made.network.double(), made.config, made.device)


def with_options(propagator: DevaPropagator, **options: Any) -> DevaPropagator:
    """Return the same network with other options."""
    config = dataclasses.replace(propagator.config, **options)
    return DevaPropagator(propagator.network, config, propagator.device)


def encode(propagator: DevaPropagator, image: Array) -> Encoded:
    """Encode one image."""
    (encoded,) = propagator.encode([Frame(image, 0)])
    return encoded


def one_hot(labels: Array, ids: list[int]) -> Tensor:
    """Make masks (1 + N, H, W) of a label map, the background first."""
    masks = torch.stack([torch.from_numpy(labels == each) for each in [0, *ids]]).float()
    masks[0] = 1 - masks[1:].sum(0)
    return masks


def compare_stages(
    report: Report,
    fixtures: Fixtures,
    propagator: DevaPropagator,
    arrays: dict[str, Array],
    encoded: list[Encoded],
) -> None:
    """Compare what every part of the network gives."""
    network = propagator.network
    for i in (0, 1):
        case = Case(report, f'enc{i}', arrays)
        feat: list[Tensor] = []
        hook = network.key_proj.register_forward_pre_hook(lambda _, x, feat=feat: feat.extend(x))
        maps = encode(propagator, arrays['frames.rgb'][i]).maps
        hook.remove()
        for key, value in {**maps._asdict(), 'input': encoded[i].image, 'feat': feat[0]}.items():
            case.near(key, value)
        case.finish()

    first, second = encoded[:2]
    labels = arrays['frames.ids'][0]
    masks = aggregate(one_hot(labels, [2, 3, 4])[1:]).softmax(0)[1:]
    shape = (3, network.sizes.value, *first.maps.key.shape[-2:])
    drawn = fixtures.seeded.seeded_tensor('menc_rand.sensory_in.bias', shape, fixtures.salt)
    encoder = network.mask_encoder
    named = {
        'resnet18': encoder.layer3,
        'fuser_block1': encoder.fuser.block1,
        'fuser_attention': encoder.fuser.attention,
    }
    for name, state in (('zero', torch.zeros(shape)), ('rand', 5 * torch.from_numpy(drawn))):
        case = Case(report, f'menc_{name}', arrays)
        with _Watched(named) as seen:
            value = encoder(first.image, first.maps, masks)
        sensory = encoder.sensory_update(value, state)
        for key, got in {**seen, 'value': value, 'sensory': sensory}.items():
            if f'menc_{name}.{key}' in arrays:
                case.near(key, got)
        case.finish()
        if name == 'zero':
            values, start = value, sensory

    case = Case(report, 'read', arrays)
    scores = similarity(second.keys, second.selections, first.keys, first.shrinkage)
    weights, index = strongest(scores, 30)
    affinity = torch.zeros_like(scores).scatter(1, index, weights)
    table = values.flatten(2).permute(2, 0, 1)
    readout = weighted_sum(weights, index, table.flatten(1)).unflatten(1, table.shape[1:])
    readout = readout.permute(1, 2, 0).unflatten(2, shape[2:])
    case.near('similarity', scores.T)
    case.near('affinity_top30', affinity.T, 1e-3)
    case.near('usage', affinity.sum(0))
    case.near('affinity_full_sub', scores.softmax(1).T[::4, ::4], 1e-3)
    case.near('readout', readout)
    case.finish()

    case, decoder = Case(report, 'dec', arrays), network.mask_decoder
    named = {
        'sensory_compress': decoder.sensory_compress,
        'p16': decoder.fuser,
        'p8': decoder.up_16_8,
        'p4': decoder.up_8_4,
    }
    last = coarse(masks)
    case.near('last_mask16', last)
    with _Watched(named) as seen:
        decoded = decoder(second.maps, readout, start, last)
    for key, got in seen.items():
        case.near(key, got)
    logits = decoded.logits
    together = aggregate(logits.sigmoid())
    whole = F.interpolate(together[None], scale_factor=4.0, mode='bilinear')[0]
    alone = torch.stack([probabilities(each[None]) for each in logits])
    aux = decoder.sensory_linear_pred(second.maps.f16, start)
    case.near('object_logits', logits)
    case.near('aggregated_logits_stride4', together)
    case.near('logits', whole)
    case.near('prob', probabilities(logits))
    case.near('prob_independent', torch.cat((alone[:, 0].amin(0, keepdim=True), alone[:, 1])))
    case.near('sensory', decoder.sensory_update(decoded.update, start))
    case.near('object_aux_logits', aux[:, None])
    # Where all objects are sure, the background is what rounding leaves above the lower limit.
    # Float32, as the original: it is next to 1, where rounding decides what clamping leaves.
    case.near('aux_prob', probabilities(aux.float(), 16), 5e-3)
    case.finish()

    case = Case(report, 'aggregate', arrays)
    case.near('out', aggregate(torch.from_numpy(arrays['aggregate.in'])))
    case.near('hard_out', aggregate(torch.from_numpy(arrays['aggregate.hard_in'])))
    case.finish()


class _Watched:
    """Keeps what modules return while it is entered."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self.modules, self.seen = modules, dict[str, Tensor]()

    def __enter__(self) -> dict[str, Tensor]:
        self.hooks = [
            module.register_forward_hook(lambda _, x, y, name=name: self.seen.update({name: y}))
            for name, module in self.modules.items()
        ]
        return self.seen

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()


def compare_masks_given(
    report: Report,
    propagator: DevaPropagator,
    arrays: dict[str, Array],
    names: Sequence[str] = ('A', 'B', 'C', 'F'),
) -> None:
    """Compare the cases in which somebody gives the masks of new objects: A, B, C and F."""
    ids, images = arrays['frames.ids'], arrays['frames.rgb']
    mid, least, prototypes, most = arrays['C.config'].tolist()
    long = {'max_mid': mid, 'min_mid': least, 'prototypes': prototypes, 'max_long': most}
    given = [arrays[f'B.t{t}.mask_in'] for t in (0, 3)]
    soft = torch.from_numpy(arrays['G.soft_masks_u8'][0]).float() / 255
    height, width = arrays['F.size'].tolist()
    in_b = {0: ((3, 200), _hard(given[0], 3, 200)), 3: ((7,), _hard(given[1], 7))}
    cases = (
        ('A', {'mem_every': 1, **_UNBOUNDED}, {0: ((2, 3, 4), _hard(ids[0], 2, 3, 4))}),
        ('B', {'mem_every': 2, **_UNBOUNDED}, in_b),
        ('B', {'mem_every': 2, 'chunk': 1, **_UNBOUNDED}, in_b),
        (
            'C',
            {'mem_every': 1, **long},
            {0: ((3, 4), _hard(ids[0], 3, 4)), 2: ((2,), _hard(ids[2], 2))},
        ),
        ('F', {'mem_every': 1, **_UNBOUNDED}, {0: ((1, 2), soft[:, :height, :width])}),
    )
    for name, options, masks in cases:
        if name not in names:
            continue
        case = Case(report, name, arrays, loose=name == 'C')
        memory = with_options(propagator, **options).memory()
        start, time_, condensed = time.process_time(), 0, _Condensed()
        while f'{name}.t{time_}.prob' in arrays:
            image = images[time_][:height, :width] if name == 'F' else images[time_]
            encoded = encode(propagator, image)
            known = memory.ids
            prob = memory.read(encoded)
            put = bool(arrays[f'{name}.t{time_}.is_memory_frame'])
            if time_ in masks:
                new, drawn = masks[time_]
                old = prob[1:] * (drawn.amax(0) == 0)  # a new object is nobody else
                prob = aggregate(torch.cat((old, drawn))).softmax(0)
                memory.remember(encoded, (*known, *new), prob, certain=True)
                put = memory.since == 0
            elif f'{name}.t{time_ + 1}.prob' in arrays or put:  # else the end, which is not kept
                with condensed.watching(time_):
                    memory.remember(encoded, known)
                put = memory.since == 0
            case.near(f't{time_}.prob', prob)
            case.labels(f't{time_}.argmax', prob.argmax(0))
            case.memory(f't{time_}', memory, put)
            time_ += 1
        if name == 'C':
            condensed.compare(case, arrays)
        case.finish()
        print(f'   {name}: {(time.process_time() - start) / time_:.2f} s of CPU time a frame')


class _Condensed:
    """Keeps what every consolidation of a memory has chosen: frame, places, usages."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, Tensor, Tensor]] = []

    def watching(self, time_: int) -> Any:
        """Watch, while it is entered, what is condensed in a frame."""
        condensed = buckets._condensed

        def watched(tokens: buckets.Tokens, count: int) -> buckets.Tokens:
            best = tokens.usage.topk(count + 1)
            self.seen.append((time_, best.indices[:count], best.values))
            return condensed(tokens, count)

        return mock.patch.object(buckets, '_condensed', watched)

    def compare(self, case: Case, arrays: dict[str, Array]) -> None:
        """Compare with all that are stored."""
        count = sum(key.endswith('.usage_top') for key in arrays)
        case.same('consolidations', len(self.seen), count)
        for i, (time_, places, usage) in enumerate(self.seen[:count]):
            key = f'consolidation{i}'
            stored = arrays[f'C.{key}.prototype_indices'].tolist()
            case.same(f'{key}.places', sorted(places.tolist()), sorted(stored))
            case.same(f'{key}.ti', time_, int(arrays[f'C.{key}.ti']))
            case.near(f'{key}.usage_top', usage)


def _hard(labels: Array, *ids: int) -> Tensor:
    return one_hot(labels, list(ids))[1:]


def compare_detections(
    report: Report,
    propagator: DevaPropagator,
    arrays: dict[str, Array],
    name: str,
    images: str = 'frames.rgb',
) -> None:
    """Compare the memory where detections come in, given what they were merged to.

    Matching and merging are compared in ``deva_consensus``, both together in ``deva_sessions``.
    """
    letter = 'f' if f'{name}.f0.prob' in arrays else 't'
    count = len({key.split('.')[1] for key in arrays if key.startswith(f'{name}.{letter}')})
    options = {'D': {'mem_every': 5}, 'H': {'mem_every': 3}}.get(name)
    if options is None:
        _, _, _, every, *_, mid, least, prototypes, most, _ = arrays[f'{name}.config'].tolist()
        options = {'mem_every': every, 'max_mid': mid, 'min_mid': least}
        options |= {'prototypes': prototypes, 'max_long': most}
    memory = with_options(propagator, **options).memory()
    case = Case(report, name, arrays, loose=True)
    for time_ in range(count):
        frame, stored = f'{letter}{time_}', f'{name}.{letter}{time_}.'
        encoded = encode(propagator, arrays[images][time_])
        detected = str(arrays.get(f'{stored}kind', '')) == 'detection'
        detected |= f'{stored}det_mask' in arrays
        forward = arrays.get(f'{stored}forward_mask')
        if not (name == 'D' and forward is not None):  # there it stands in for reading
            prob = memory.read(encoded)
            if detected and forward is not None:
                case.labels(f'{frame}.forward_mask', prob.argmax(0))
        ended = name != 'D' and time_ == count - 1
        if detected:
            ids = arrays[f'{stored}obj_ids'].tolist()
            merged = one_hot(arrays[f'{stored}argmax'], list(range(1, len(ids) + 1)))
            memory.remember(encoded, ids, merged, certain=True)
        else:
            if memory.ids:
                case.near(f'{frame}.prob', prob)
            case.labels(f'{frame}.argmax', prob.argmax(0))
            if not ended:
                memory.remember(encoded, memory.ids)
        put = memory.since == 0 and not ended
        case.memory(frame, memory, put or (detected and not memory.ids))
    case.finish()


def compare_projection(
    report: Report, propagator: DevaPropagator, arrays: dict[str, Array], encoded: list[Encoded]
) -> None:
    """Compare the masks of other frames as they are found in the keyframe."""
    case = Case(report, 'E', arrays)
    for i in range(1, 4):
        ids = list(range(1, int(arrays['E.num_segments'][i]) + 1))
        memory = propagator.memory()
        memory.remember(encoded[i], ids, one_hot(arrays['E.masks'][i], ids), certain=True)
        found = memory.read(encoded[0])
        case.near(f'projected{i}', found)
        case.labels(f'projected{i}.argmax', found.argmax(0))
    case.finish()


def compare_weighted(
    report: Report, propagator: DevaPropagator, arrays: dict[str, Array], encoded: list[Encoded]
) -> None:
    """Compare the mean of known objects in the keyframe, projected from all frames."""
    masks = torch.from_numpy(arrays['G.soft_masks_u8']).float() / 255
    for name, scores in (
        ('noscore', torch.ones(3)),
        ('score', torch.from_numpy(arrays['G.scores']).float()),
    ):
        case = Case(report, f'G.{name}', arrays)
        sure = (masks > 0.8).float().mean((1, 2, 3)) if name == 'noscore' else scores
        key, weights = int(sure.argmax()), (2 * scores).softmax(0)
        total = masks[key] * weights[key]
        for i in {0, 1, 2} - {key}:
            memory, ids = propagator.memory(), (1, 2)
            given = torch.cat((torch.zeros_like(masks[i, :1]), masks[i]))
            memory.remember(encoded[i], ids, given, certain=True)
            total = total + memory.read(encoded[key])[1:] * weights[i]
        case.same('keyframe_ti', key, int(arrays[f'G.{name}.keyframe_ti']))
        case.near('total_mask', total)
        case.finish()


def compare_preprocessing(report: Report, fixtures: Fixtures) -> None:
    """Compare resizing and padding."""
    arrays = fixtures.arrays('consensus.npz')
    i = 0
    while f'pre{i}.rgb' in arrays:
        case = Case(report, f'pre{i}', arrays)
        image, size = arrays[f'pre{i}.rgb'], max(int(arrays[f'pre{i}.size']), 0)
        pixels = normalise(torch.from_numpy(image).permute(2, 0, 1)[None])
        for rule in ('demo', 'eval'):
            config = DevaPropagatorConfig(size=size, resize=rule)
            place = config.placement(image.shape[0], image.shape[1])
            inside = place.image_in(pixels)[0]
            left, _, top, _ = place.padding
            case.near(rule, inside[:, top : top + place.rows, left : left + place.columns])
            case.same('pad_lrtb', list(place.padding), arrays[f'pre{i}.pad_lrtb'].tolist())
            case.same('shape', list(inside.shape), arrays[f'pre{i}.padded_shape'].tolist())
        if f'pre{i}.label_eval' in arrays:
            labels = place.masks_in(torch.from_numpy(arrays[f'pre{i}.label'])[None].float())[0]
            labels = labels[top : top + place.rows, left : left + place.columns]
            case.same('label', labels.tolist(), arrays[f'pre{i}.label_eval'].tolist())
        prob = torch.from_numpy(arrays[f'pre{i}.prob'])
        shape = arrays[f'pre{i}.prob_argmax'].shape
        place = Placement(shape[0], shape[1], prob.shape[1], prob.shape[2], antialias=False)
        whole = place.masks_out(F.pad(prob, place.padding))
        case.near('prob_resized', whole[:, ::4, ::4])
        case.labels('prob_argmax', whole.argmax(0))
        case.finish()
        i += 1


def let_propagate(network: DevaNetwork, arrays: dict[str, Array]) -> None:
    """Change seeded weights as the sessions do, so that they really carry masks on."""
    decoder, start = network.mask_decoder, 'override.mask_decoder.'
    gain = float(arrays[f'{start}sensory_compress.last_column_gain'])
    decoder.sensory_compress.weight[:, -1] *= gain
    decoder.pred.weight.copy_(torch.from_numpy(arrays[f'{start}pred.weight']))
    bias = decoder.pred.bias
    assert bias is not None
    bias.copy_(torch.from_numpy(np.atleast_1d(arrays[f'{start}pred.bias'])))


def compare_session_memories(
    report: Report, fixtures: Fixtures, propagator: DevaPropagator
) -> None:
    """Compare the memory over whole sessions, with weights that propagate."""
    arrays = fixtures.arrays('session.npz')
    let_propagate(propagator.network, arrays)
    for name in ('semionline', 'incremental', 'online'):
        compare_detections(report, propagator, arrays, name)
