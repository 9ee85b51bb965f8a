# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""DEVA: whole sessions, and consensus and merging, with the network."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from masa_ros.masks import crop
from masa_ros.methods.deva.consensus import choose, support
from masa_ros.methods.deva.merging import Rules, Table
from masa_ros.methods.deva.method import Deva, DevaSession
from masa_ros.methods.deva.options import DevaConfig
from masa_ros.methods.deva.segments import Segment, paint, split
from masa_ros.models.deva.network import DevaNetwork
from masa_ros.propagators.deva import DevaMemory, DevaPropagator, DevaPropagatorConfig
from masa_ros.propagators.protocol import Memory
from masa_ros.types import Frame, Instances, Mask, Result
from parity_checks.deva import encode, let_propagate, load_propagator, one_hot
from parity_checks.deva_consensus import Checks, ReleasedIds, segments_of
from parity_checks.report import Array, Fixtures, Report

_EXACT = ('kind', 'obj_ids', 'poke', 'pairwise_iou', 'selected', 'consensus_ids')
_KEPT = ('work_size', 'long_size', 'is_memory_frame')
_MAPS = ('argmax', 'forward_mask', 'consensus_mask')
_LABELS = 1e-3  # share of the pixels of a frame that may be another object's
_PROB = 1e-2  # root mean square, standard deviations: one flipped pixel moves what comes later


@torch.inference_mode()
def compare_sessions(report: Report, fixtures: Fixtures) -> None:
    """Compare whole sessions with the network: given detections in, tracks out."""
    print('-- deva: sessions')
    network = load_propagator(fixtures).network
    compare_network_cases(report, network, fixtures.arrays('network.npz'))
    told = json.loads((fixtures.folder / 'session.json').read_text())
    arrays = fixtures.arrays('session.npz')
    let_propagate(network, arrays)
    for name in ('semionline', 'incremental', 'online'):
        parameters, listed = told[name]['params'], told['detections']
        memory = DevaPropagatorConfig(
            size=0,
            mem_every=parameters['mem_every'],
            max_mid=parameters['max_mid_term_frames'],
            min_mid=parameters['min_mid_term_frames'],
            prototypes=parameters['num_prototypes'],
            max_long=parameters['max_long_term_elements'],
        )
        config = DevaConfig(
            detection_every=parameters['detection_every'],
            clip_frames=parameters['num_voting_frames'],
            max_missed=parameters['max_missed_detection_count'],
            incremental=parameters['incremental'],
        )
        numbers = ReleasedIds(parameters['use_long_id'], parameters['np_random_seed'])
        session = _Watched(_method(network, memory, config), numbers, listed)
        results = _run(session, arrays['frames.rgb'], arrays['det_masks'])
        _compare(report, name, session, results, arrays, told[name]['frames'])


def compare_network_cases(report: Report, network: DevaNetwork, arrays: dict[str, Array]) -> None:
    """Compare the cases of detections in which the network knows nothing: D, E and H."""
    images = arrays['frames.rgb']
    listed = [_listed(range(1, 1 + count)) for count in arrays['E.num_segments'].tolist()]
    config = DevaConfig(clip_frames=4)
    method = _method(network, DevaPropagatorConfig(size=0), config)
    session = _Watched(method, ReleasedIds(False, 42), listed)
    _run(session, images[:4], arrays['E.masks'])
    told, checks = session.told[0], Checks(report, 'deva E consensus')
    # A pixel or two of the blobs that a random network draws may flip.
    near = np.abs(told['pairwise_iou'] - arrays['E.pairwise_iou']).max() < 1e-3
    checks.same('iou', near, True)
    checks.same('selected', told['selected'], arrays['E.selected'])
    checks.same('ids', told['consensus_ids'], arrays['E.output_ids'])
    share = float((told['consensus_mask'] != arrays['E.output_mask']).mean())
    checks.same('mask', share <= _LABELS, True)
    labels = [sorted(votes.labels.elements()) for votes in told['consensus']]
    stored = json.loads(str(arrays['E.info']))
    checks.same('votes', labels, [sorted(each['category_ids']) for each in stored])
    checks.finish()

    listed = [_listed(range(1, 1 + count)) for count in arrays['H.det_counts'].tolist()]
    config = DevaConfig(detection_every=4, clip_frames=3, max_missed=1)
    method = _method(network, DevaPropagatorConfig(size=0, mem_every=3), config)
    session = _Watched(method, ReleasedIds(True, 42), listed)
    results = _run(session, images[:13], arrays['H.det_masks'])
    _compare(report, 'H', session, results, arrays)
    compare_incorporated(report, network, arrays)


def compare_incorporated(report: Report, network: DevaNetwork, arrays: dict[str, Array]) -> None:
    """Compare detections that are merged with what the memory, or somebody else, says: D."""
    checks, worst = Checks(report, 'deva D merging'), 0.0
    propagator = DevaPropagator(network, DevaPropagatorConfig(size=0), 'cpu')
    memory = propagator.memory()
    table, numbers = Table(), ReleasedIds(False, 42)
    t = 0
    while (stored := f'D.t{t}') + '.prob' in arrays:
        encoded = encode(propagator, arrays['frames.rgb'][int(arrays[f'{stored}.frame'])])
        given = arrays.get(f'{stored}.forward_mask')
        if given is None:
            given = memory.read(encoded).argmax(0).numpy()
        if f'{stored}.det_mask' in arrays:
            rules = Rules(max_missed=1, incremental=bool(arrays[f'{stored}.incremental']))
            told = _listed(arrays[f'{stored}.det_ids'].tolist())
            found = segments_of(arrays[f'{stored}.det_mask'], told)
            propagated = split(given.astype(np.int32), len(table))
            masks = table.merge(propagated, found, given.shape, rules)
            ids = [each['id'] for each in told]
            numbers.of(table, found, ids)
            gone = table.missed(rules)
            kept = [i for i, each in enumerate(table.objects) if each.track_id not in gone]
            table.remove(gone)
            given = paint([masks[i] for i in kept], given.shape)
            ids = [each.track_id for each in table.objects]
            memory.remember(
                encoded, ids, one_hot(given, list(range(1, 1 + len(kept)))), certain=True
            )
        else:
            memory.remember(encoded, memory.ids)
        worst = max(worst, float((given != arrays[f'{stored}.argmax']).mean()))
        checks.same(f't{t} ids', numbers.of(table, [], []), arrays[f'{stored}.obj_ids'])
        checks.same(f't{t} missed', [o.missed for o in table.objects], arrays[f'{stored}.poke'])
        told = json.loads(str(arrays[f'{stored}.info']))
        labels = [each.votes.label for each in table.objects]
        checks.same(f't{t} labels', labels, [each['category_id'] for each in told])
        scores = [each.votes.score for each in table.objects]
        near = np.allclose(scores, [each['score'] for each in told], atol=1e-6)
        checks.same(f't{t} scores', near, True)
        t += 1
    checks.finish()
    report.line('deva D labels', f'{worst:.1e}', '', f'{_LABELS:.0e}', worst <= _LABELS)


def _listed(ids: Iterable[int]) -> list[dict[str, Any]]:
    """Return what the fixtures say of detections without a list of their own."""
    return [
        {'id': each, 'category_id': 10 + k, 'score': 0.5 + 0.1 * k, 'isthing': None}
        for k, each in enumerate(ids)
    ]


class _Nothing:
    """A detector that is never asked: all detections are given."""

    takes_words = False

    def detect(self, frames: Sequence[Frame], words: Sequence[str] = ()) -> list[Instances]:
        """Refuse."""
        raise AssertionError('detections are given')

    def check_words(self, words: Sequence[str]) -> None:
        """See ``Detector``."""

    def facts(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


class _Memory(DevaMemory):
    """Keeps what was read last."""

    found = torch.zeros(0)

    def read(self, encoded: Any) -> Tensor:
        self.found = super().read(encoded)
        return self.found


class _Propagator(DevaPropagator):
    """Makes such memories."""

    def memory(self) -> DevaMemory:
        return _Memory(self)


def _seen(memory: Memory[Any]) -> _Memory:
    """Tell the type of a session's memories."""
    assert isinstance(memory, _Memory)
    return memory


class _Watched(DevaSession):
    """Tells what it did in each frame; the stamp of a frame is its number."""

    def __init__(self, method: Deva, numbers: ReleasedIds, listed: Sequence[Any]) -> None:
        super().__init__(method)
        self.numbers, self.listed = numbers, listed
        self._clip: list[list[Segment]] = []
        self.told: dict[int, dict[str, Any]] = collections.defaultdict(dict)

    def _aligned(self, source: Any, target: Any) -> list[Segment]:
        moved = super()._aligned(source, target)
        self._clip.append(moved)
        masks = [segment.mask for segment in moved]
        key = f'projected.f{source.frame.stamp_ns}'
        self.told[target.frame.stamp_ns][key] = paint(masks, target.frame.shape)
        return moved

    def _merge(self, clip: Any, found: Sequence[Segment]) -> Result:
        frame = clip.frame
        told = self.told[frame.stamp_ns]
        proposed = [each['id'] for each in self.listed[frame.stamp_ns]]
        if self._clip:
            told['pairwise_iou'] = support(self._clip)
            told['selected'] = choose(told['pairwise_iou'])
            proposed = (1 + np.flatnonzero(told['selected'])).tolist()
            painted = paint([segment.mask for segment in found], frame.shape)
            told['consensus_ids'] = np.array(proposed)
            told['consensus_mask'] = np.array([0, *proposed])[painted]
            told['consensus'] = [segment.votes for segment in found]
            self._clip = []
        self._pending, known = (found, proposed), len(self.table)
        result = super()._merge(clip, found)
        told['kind'] = 'detection'
        nothing = np.zeros(frame.shape, np.int64)
        told['forward_mask'] = _seen(self._memories[0]).found.argmax(0) if known else nothing
        return result

    def _remembered(self, frame: Frame, encoded: Any, seen: dict[int, Mask]) -> Result:
        self.numbers.of(self.table, *self._pending)
        return super()._remembered(frame, encoded, seen)

    def _answer(self, frame: Frame, encoded: Any, seen: dict[int, Mask]) -> Result:
        told, objects = self.told[frame.stamp_ns], self.table.objects
        told.setdefault('kind', 'propagation')
        told['obj_ids'] = self.numbers.of(self.table, [], [])
        told['votes'] = [each.votes for each in objects]
        told['poke'] = [each.missed for each in objects]
        told['history'] = sorted(self.numbers.history)
        released = {each.track_id: i for each, i in zip(objects, told['obj_ids'])}
        for memory in map(_seen, self._memories):
            told['prob'] = memory.found
            told['is_memory_frame'] = memory.since == 0
            told['work_size'] = [b.tokens.size - b.long for b in memory.buckets]
            told['long_size'] = [b.long for b in memory.buckets]
            told['buckets'] = [[released[i] for i in bucket.ids] for bucket in memory.buckets]
        return super()._answer(frame, encoded, seen)


def _method(network: DevaNetwork, memory: DevaPropagatorConfig, config: DevaConfig) -> Deva:
    """Return the method with a network."""
    return Deva(_Nothing(), _Propagator(network, memory, 'cpu'), config)


def _run(session: _Watched, images: Array, maps: Array) -> list[Result]:
    """Show a session all frames with their detections."""
    results: list[Result] = []
    for t, (image, labels) in enumerate(zip(images, maps)):
        frame, listed = Frame(image, t), session.listed[t]
        height, width = labels.shape
        given = Instances(
            np.tile(np.array([0, 0, width, height], np.float32), (len(listed), 1)),
            np.array([each['score'] for each in listed], np.float32),
            np.array([each['category_id'] for each in listed], np.int32),
            masks=tuple(crop(labels == each['id']) for each in listed),
        )
        (encoded,) = session.method.encode([frame])
        results += session.update(frame, encoded, given)
    return [*results, *session.finish()]


def _compare(
    report: Report,
    name: str,
    session: _Watched,
    results: Sequence[Result],
    arrays: dict[str, Array],
    frames: Sequence[dict[str, Any]] = (),
) -> None:
    """Compare every frame of a session: a line for bookkeeping, for labels, for probabilities."""
    count = sum(1 for key in arrays if key.startswith(f'{name}.f') and key.endswith('.prob'))
    checks = Checks(report, f'deva {name} session')
    checks.same('frames', [result.frame.stamp_ns for result in results], range(count))
    labels, prob = [0.0], [0.0]
    for t, result in enumerate(results):
        told, stored = session.told[t], f'{name}.f{t}.'
        there = {
            key.removeprefix(stored): value
            for key, value in arrays.items()
            if key.startswith(stored)
        }
        for key in {*_EXACT, *(_KEPT if t < count - 1 else ())} & there.keys():  # not of the end
            checks.same(f'f{t} {key}', told[key], there[key])
        buckets: dict[int, list[int]] = collections.defaultdict(list)
        for bucket, each in there['buckets'].tolist():
            buckets[bucket].append(each)
        checks.same(f'f{t} buckets', told['buckets'] == list(buckets.values()), True)
        if frames:
            _compare_votes(checks, f'f{t}', told, frames[t])
        for key in [key for key in there if key in _MAPS or key.startswith('projected')]:
            ours = _drawn(session, result) if key == 'argmax' else np.asarray(told[key])
            labels.append(float((ours != there[key]).mean()))
        if told['kind'] == 'propagation':
            steps = (slice(None, None, int(step)) for step in there['prob.stride'])
            apart = told['prob'][tuple(steps)].numpy() - there['prob']
            prob.append(float(np.sqrt((apart**2).mean()) / there['prob'].std()))
    checks.finish()
    for what, worst, limit in (('labels', max(labels), _LABELS), ('prob', max(prob), _PROB)):
        report.line(f'deva {name} {what}', f'{worst:.1e}', '', f'{limit:.0e}', worst <= limit)


def _compare_votes(
    checks: Checks, where: str, told: dict[str, Any], frame: dict[str, Any]
) -> None:
    """Compare ids ever given, and what was said of every object and in the consensus."""
    checks.same(f'{where} history', told['history'], frame['history'])
    voted = [
        {'category_ids': ids, 'voted_category': s['category_id'], 'voted_score': s['score']}
        for ids, s in zip(frame['category_ids'], frame['segments'])
    ]
    checks.votes(f'{where} votes', told['votes'], voted)
    if 'consensus' in frame:
        ours = [sorted(votes.labels.elements()) for votes in told['consensus']]
        theirs = [sorted(each['category_ids']) for each in frame['consensus']]
        checks.same(f'{where} consensus', ours, theirs)


def _drawn(session: _Watched, result: Result) -> Array:
    """Draw the tracks of a frame with the places of their objects, from 1 on."""
    drawn = np.zeros(result.frame.shape, np.int64)
    ids = session.told[result.frame.stamp_ns]['obj_ids']
    places = {session.numbers.own(each): place for place, each in enumerate(ids, 1)}
    for track_id, mask in zip(result.tracks.track_ids.tolist(), result.tracks.masks or ()):
        drawn[mask.full(*drawn.shape)] = places[track_id]
    return drawn
