# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""SAM-Track: every stage of DeAOT's network, whole sessions, the rules for new objects."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from masa_ros.methods.sam_track.rules import Ids, Labels, Rules, added, merge, new_objects
from masa_ros.models.files import DEAOT_FILE
from masa_ros.models.preprocess import normalise
from masa_ros.propagators.deaot import DeaotMemory, DeaotPropagator, DeaotPropagatorConfig
from masa_ros.propagators.deaot.engine import merged
from masa_ros.propagators.deaot.memory import Encoded
from masa_ros.types import Frame
from parity_checks.report import Array, Fixtures, Report, cases_of

_EXACT = 1e-4  # standard deviations
_PIXELS = 1e-3  # share of the pixels that may be of another object


@torch.inference_mode()
def compare_sam_track(report: Report, fixtures: Fixtures) -> None:
    """Compare everything in the folder."""
    print('-- sam_track')
    arrays = fixtures.arrays('network.npz')
    propagator = load_propagator(fixtures, arrays)
    report.line('sam_track loaded', '', '', '', True)
    compare_clip(report, propagator, arrays)
    compare_preprocessing(report, arrays)
    compare_rules(report, fixtures.arrays('new_objects.npz'))
    sessions = fixtures.arrays('session.npz')
    set_bias(propagator, sessions)
    for name in cases_of(sessions):
        if f'{name}.info' in sessions:
            compare_session(report, propagator, sessions, name)


def load_propagator(fixtures: Fixtures, arrays: dict[str, Array]) -> DeaotPropagator:
    """Write the seeded weights as they are published, and read them as users do."""
    manifest = json.loads((fixtures.folder / 'manifest.json').read_text())
    weights = fixtures.seeded.seeded_state_dict(manifest, fixtures.salt)
    named = {f'module.{name}': torch.from_numpy(value) for name, value in weights.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / DEAOT_FILE
        torch.save({'state_dict': named}, path)
        config = DeaotPropagatorConfig(
            weights=str(path), mem_every=int(arrays['clip.long_term_mem_gap'])
        )
        propagator = DeaotPropagator.load(config, 'cpu')
    set_bias(propagator, arrays)
    return propagator


def set_bias(propagator: DeaotPropagator, arrays: dict[str, Array]) -> None:
    """Change seeded weights as the fixtures do, so that more than one identity wins."""
    name = 'decoder.conv_out.bias'
    bias = torch.from_numpy(arrays[f'override.{name}'])
    propagator.network.get_parameter(name).copy_(bias)


def one_hot(labels: Array, count: int) -> Tensor:
    """Make masks (1 + N, H, W) of a label map."""
    planes = torch.arange(1 + count)[:, None, None]
    return (torch.from_numpy(labels.astype(np.int64)) == planes).float()


class Worst(NamedTuple):
    """How far one array was off, and which it was."""

    absolute: float
    relative: float
    where: str


class Group:
    """Compares arrays of one kind; the worst of them is printed.

    Parameters
    ----------
    report: where the line goes.
    arrays: of the fixtures.
    title: that all lines begin with.

    """

    def __init__(self, report: Report, arrays: dict[str, Array], title: str = 'sam_track') -> None:
        self.report, self.arrays, self.title = report, arrays, title
        self.worst: dict[str, Worst] = {}

    def near(self, start: str, frame: str, key: str, ours: Tensor) -> None:
        """Compare an array ``start``.``frame``.``key``: the stored part, and its statistics."""
        name = '.'.join(filter(None, (start, frame, key)))
        theirs, mine = self.arrays[name], ours.detach().double().numpy()
        _, std, *_ = stats = self.arrays[f'{name}.stats'].astype(np.float64)
        if mine.shape != tuple(self.arrays[f'{name}.shape'].tolist()):
            self._add(f'{start} {key}', Worst(np.inf, np.inf, f'{frame} {mine.shape}'))
            return
        length = float(np.sqrt((mine**2).sum()))
        ends = mine.mean(), mine.std(), np.abs(mine).max(), mine.min(), mine.max()
        off = float(np.abs(np.array(ends) - stats[:5]).max() / std)
        off = max(off, abs(length - stats[5]) / stats[5])
        part = mine[tuple(slice(None, None, s) for s in self.arrays[f'{name}.stride'].tolist())]
        worst = float(np.abs(part - theirs).max())
        self._add(f'{start} {key}', Worst(worst, max(worst / std, off), frame))

    def plain(self, start: str, frame: str, key: str, ours: Array, theirs: Array) -> None:
        """Compare two arrays of one shape."""
        worst = float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else np.inf
        self._add(f'{start} {key}', Worst(worst, worst / float(theirs.std()), frame))

    def _add(self, name: str, made: Worst) -> None:
        # A figure that is no number is the worst there is.
        if name not in self.worst or not made.relative <= self.worst[name].relative:
            self.worst[name] = made

    def finish(self) -> None:
        """Print what was compared."""
        for name, (absolute, relative, where) in self.worst.items():
            figures = f'{absolute:.1e}', f'{relative:.1e}', f'{_EXACT:.0e} std'
            full = f'{self.title} {name} ({where})' if where else f'{self.title} {name}'
            self.report.line(full, *figures, relative <= _EXACT)


class Watched:
    """Keeps what modules return while it is entered, every time they are called."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self.modules, self.seen = modules, dict[str, list[Any]]()

    def __enter__(self) -> dict[str, list[Any]]:
        self.hooks = [
            module.register_forward_hook(
                lambda _, x, y, name=name: self.seen.setdefault(name, []).append(y)
            )
            for name, module in self.modules.items()
        ]
        return self.seen

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()


def _stages(propagator: DeaotPropagator) -> dict[str, nn.Module]:
    network = propagator.network
    named: dict[str, nn.Module] = {'lstt': network.LSTT, 'decoder': network.decoder}
    for key in ('conv_in', 'conv_16x', 'conv_8x', 'conv_4x'):
        named[f'decoder.{key}'] = network.decoder.get_submodule(key)
    for i, layer in enumerate(network.LSTT.layers):
        named[f'layer{i}'] = layer
        for key in ('long_term_attn', 'short_term_attn', 'self_attn'):
            named[f'layer{i}.{key}'] = layer.get_submodule(key)
    return named


def compare_clip(
    report: Report, propagator: DeaotPropagator, arrays: dict[str, Array], frames: int = 99
) -> None:
    """Compare every stage on the frames of one clip, and what is remembered of them."""
    group, memory = Group(report, arrays), propagator.memory()
    count = int(arrays['clip.num_objects'])
    tokens, other = [], []
    for t, image in enumerate(arrays['clip.frames_rgb'][:frames]):
        (encoded,) = propagator.encode([Frame(image, t)])
        with Watched(_stages(propagator)) as seen:
            if t == 0:
                given = one_hot(arrays['clip.ref_mask'], count)
                memory.remember(encoded, range(1, 1 + count), given, certain=True)
            else:
                found = memory.read(encoded)
                other.append(
                    float((found.argmax(0).numpy() != arrays['clip.masks'][t - 1]).mean())
                )
        _compare_frame(group, encoded, seen, f'f{t}')
        if t:
            memory.remember(encoded, memory.ids)
        else:
            _compare_memory(group, propagator, memory, arrays)
        tokens.append(tokens_of(memory))
    group.finish()
    theirs = arrays['clip.long_term_tokens'][:frames]
    report.same('sam_track clip long_term_tokens', np.array(tokens)[:, 0], theirs)
    worst = max(other, default=0)
    report.line('sam_track clip masks', f'{worst:.1e}', '', f'{_PIXELS:.0e}', worst <= _PIXELS)


def tokens_of(memory: DeaotMemory) -> list[int]:
    """Return the places of the long-term memory of every engine."""
    return [sum(len(p.written[0].key) for p in engine.long) for engine in memory.engines]


def _compare_frame(group: Group, encoded: Encoded, seen: dict[str, list[Any]], frame: str) -> None:
    size = encoded.maps.embedding.shape[-2:]
    made = {f'enc.l{i}': maps[0] for i, maps in enumerate(encoded.maps)}
    for name, (value, *_) in seen.items():
        if name == 'lstt':
            made['lstt_final'] = value.final[0]
            for i, layer in enumerate(value.seen):
                made |= {f'layer{i}.curr_k': layer.key.T, f'layer{i}.curr_v': layer.value.T}
        elif name == 'decoder':
            made['logits_4x'] = value[:4]
            made['logits_full'] = encoded.place.logits_out(value[:4])
        elif name.startswith('decoder.'):
            made[name] = value[0]
        elif name.count('.'):
            made[name] = value.T
        else:
            made |= {f'{name}.out': value[0].T, f'{name}.out_id': value[1].T}
    for key, value in made.items():
        if f'clip.{frame}.{key}' in group.arrays:
            positions = value.dim() == 2
            group.near('clip', frame, key, value.unflatten(1, size) if positions else value)


def _compare_memory(
    group: Group, propagator: DeaotPropagator, memory: DeaotMemory, arrays: dict[str, Array]
) -> None:
    """Compare what was written down of the first frame."""
    size = tuple(arrays['clip.enc_size'].tolist())
    page = memory.engines[0].short
    identities = propagator.network.identities(page.labels)
    group.near('clip', 'f0', 'id_emb', identities.T.unflatten(1, size))
    for i, written in enumerate(page.written):
        for key, value in zip(('mem_k', 'mem_v', 'mem_id_v'), written):
            group.near('clip', 'f0', f'layer{i}.{key}', value.T.unflatten(1, size))


def compare_preprocessing(report: Report, arrays: dict[str, Array]) -> None:
    """Compare sizes, a resized image and a resized mask."""
    config = DeaotPropagatorConfig()
    sizes = arrays['size_rule.h_w_newh_neww']
    ours = np.array([config.placement(*row[:2].tolist()) for row in sizes])
    report.same('sam_track size_rule', ours, sizes)
    image, mask = arrays['prep.frame_rgb'], arrays['prep.mask']
    place = config.placement(*mask.shape)
    pixels = normalise(torch.from_numpy(place.image_in(image)).permute(2, 0, 1)[None])
    group = Group(report, arrays)
    group.near('prep', '', 'input', pixels[0])
    group.finish()
    inside = place.labels_in(torch.from_numpy(mask))
    report.same('sam_track prep.mask_network', inside, arrays['prep.mask_network'])


def compare_rules(report: Report, arrays: dict[str, Array]) -> None:
    """Compare the rules for new objects, which need no network."""
    for case in arrays['case_names'].tolist():
        _compare_case(report, arrays, str(case))
    i = 0
    while f'merge.{i}.masks' in arrays:
        area, most = arrays[f'merge.{i}.params'].tolist()
        masks = unpacked(arrays, f'merge.{i}.masks', f'merge.{i}.shape')
        painted = merge(list(masks), masks.shape[1:], Rules(area, most, released=True))
        report.same(f'sam_track merge.{i}', painted, arrays[f'merge.{i}.out'])
        i += 1
    tracked, mask = arrays['add_mask.in'].astype(np.int32), arrays['add_mask.interactive'] > 0
    ours = added(tracked, mask, int(arrays['add_mask.curr_idx']))
    report.same('sam_track add_mask', ours, arrays['add_mask.out'])


def _compare_case(report: Report, arrays: dict[str, Array], case: str) -> None:
    stored = {
        key: arrays.get(f'case.{case}.{key}')
        for key in ('track_mask', 'seg_mask', 'params', 'reference_masks')
    }
    area, most, least, first = stored['params'].tolist()
    rules = Rules(int(area), int(most), least, released=True)
    ids = Ids(rules)
    wrong = []
    if stored['reference_masks'] is not None:
        for mask in stored['reference_masks']:
            ids.given(mask.astype(np.int32))
        wrong += ['curr_idx'] if ids.next != first else []
    tracked, found = (stored[key].astype(np.int32) for key in ('track_mask', 'seg_mask'))
    new = new_objects(tracked, found, int(first), 0, rules)
    ids.given(tracked + new)
    made = {
        'new_obj_mask': new,
        'pred_mask': tracked + new,
        'curr_idx_after_add_reference': np.array(ids.largest),
        'obj_nums_given_to_network': np.array(ids.largest),
    }
    wrong += [key for key, ours in made.items() if (ours != arrays[f'case.{case}.{key}']).any()]
    report.line(f'sam_track case.{case}', ', '.join(wrong) or '0', '', 'equal', not wrong)


def unpacked(arrays: dict[str, Array], name: str, shape: str) -> Array:
    """Return packed masks (N, H, W) as bool."""
    width = int(arrays[shape][-1])
    return np.unpackbits(arrays[name], axis=-1)[..., :width].astype(np.bool_)


def compare_session(
    report: Report, propagator: DeaotPropagator, arrays: dict[str, Array], name: str
) -> None:
    """Compare a whole session: new objects every few frames, more engines in time."""
    params = arrays['session.params.sam_gap_minarea_maxobj_iou_gap'].tolist()
    gap, area, most, least, every = params
    rules = Rules(int(area), int(most), least, released=True)
    config = DeaotPropagatorConfig(mem_every=int(every))
    session = _Session(DeaotPropagator(propagator.network, config, 'cpu').memory(), rules)
    session.free_ids = 'next_free_id' in name
    group = Group(report, arrays)
    other = {'masks': 0.0, 'new_obj_masks': 0.0, 'track_masks_at_key_frames': 0.0}
    info = []
    for t, image in enumerate(arrays['session.frames_rgb']):
        (encoded,) = propagator.encode([Frame(image, t)])
        with Watched({'decoder': propagator.network.decoder}) as seen:
            tracked = session.track(encoded)
        if f'{name}.f{t}.logits_merged' in arrays:
            _compare_logits(group, session.memory, encoded, seen['decoder'], f'{name}.f{t}')
        made = {'masks': tracked}
        key, rest = divmod(t, int(gap))
        if rest == 0:
            masks = unpacked(arrays, f'{name}.anns.{key}', f'{name}.anns.{key}.shape')
            new = session.find(encoded, tracked, masks)
            made = {'masks': tracked + new}
            if t:
                made |= {'new_obj_masks': new, 'track_masks_at_key_frames': tracked}
        else:
            session.memory.remember(encoded, session.memory.ids)
        for kind, ours in made.items():
            theirs = arrays[f'{name}.{kind}'][t if kind == 'masks' else key]
            other[kind] = max(other[kind], float((ours != theirs).mean()))
        info.append(session.info())
    group.finish()
    for kind, worst in other.items():
        line = f'sam_track {name} {kind}'
        report.line(line, f'{worst:.1e}', '', f'{_PIXELS:.0e}', worst <= _PIXELS)
    report.same(f'sam_track {name} info', np.array(info), arrays[f'{name}.info'])


class _Session:
    """The loop of SAM-Track's automatic mode."""

    def __init__(self, memory: DeaotMemory, rules: Rules) -> None:
        self.memory, self.rules = memory, rules
        self.ids, self.free_ids = Ids(rules), False

    def track(self, encoded: Encoded) -> Labels:
        """Return what is tracked, by id."""
        return self.memory.read(encoded).argmax(0).numpy().astype(np.int32)

    def find(self, encoded: Encoded, tracked: Labels, masks: Array) -> Labels:
        """Look for new objects among the masks of everything; all are new in the first frame."""
        found = merge(list(masks), tracked.shape, self.rules)
        new = found
        if self.memory.ids:
            first = self.ids.largest + 1 if self.free_ids else self.ids.next
            new = new_objects(tracked, found, first, 0, self.rules)
        self.ids.given(tracked + new)
        every = range(1, 1 + self.ids.largest)
        self.memory.remember(encoded, every, one_hot(tracked + new, len(every)))
        return new

    def info(self) -> list[int]:
        """Return the columns ``session.info_columns``."""
        engines = [len(engine.ids) for engine in self.memory.engines]
        tokens = tokens_of(self.memory)
        start = [self.ids.largest, sum(engines), len(engines)]
        return [*start, *(engines + [0] * 3)[:3], *(tokens + [0] * 3)[:3]]


def _compare_logits(
    group: Group, memory: DeaotMemory, encoded: Encoded, decoded: list[Tensor], name: str
) -> None:
    start, _, frame = name.rpartition('.')
    own = [each[: 1 + len(engine.ids)] for each, engine in zip(decoded, memory.engines)]
    for i, logits in enumerate(own):
        group.near(start, frame, f'engine{i}.logits_4x', logits)
    whole = [encoded.place.logits_out(logits) for logits in own]
    stride = group.arrays[f'{name}.logits_merged.stride'].tolist()
    theirs = group.arrays[f'{name}.logits_merged']
    if len(whole) > 1:
        together = merged(whole).logit()
        # Identities that nobody has are at the lower limit in theirs.
        empty = torch.full((len(theirs) - len(together), *together.shape[1:]), 1e-5).logit()
        together = torch.cat((together, empty))
    else:  # they are at some number far below
        together, theirs = whole[0], theirs[: len(whole[0])]
    ours = together.numpy()[tuple(slice(None, None, s) for s in stride)]
    group.plain(start, frame, 'logits_merged', ours, theirs)
