# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""PIPs: the network stage by stage, and points followed through a video, both ways.

With random weights every iteration enlarges the rounding of the one before five- to eightfold, so
that another order of additions moves points by 0.1 pixels in the last one. What comes of several
iterations is therefore run in double precision too. Both single precisions may be as far from that
as ours is, on either side.
"""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from masa_ros.models.pips import Maps, Path8, seen_by, stacked
from masa_ros.point_trackers.pips import Encoded, PipsConfig, PipsTracker
from masa_ros.types import Frame
from parity_checks.report import Array, Fixtures, Report
from parity_checks.sam_track import Group

_PIXELS = 0.01
_STRICT = 4  # iterations after which rounding is still below that
_SURE = 1e-3  # logits of visibility that are nearer to 0 may have either sign


@torch.inference_mode()
def compare_pips(report: Report, fixtures: Fixtures) -> None:
    """Compare everything in ``pips.npz``."""
    print('-- pips')
    arrays = fixtures.arrays('pips.npz')
    tracker = load_tracker(fixtures, arrays)
    report.line('pips loaded', '', '', '', True)
    frames = [Frame(image, t) for t, image in enumerate(arrays['frames_rgb'])]
    compare_network(report, tracker, frames, arrays)
    for name in ('weight', 'bias'):
        stored = arrays[f'override.tracker.vis_predictor.0.{name}']
        tracker.network.get_parameter(f'vis_predictor.0.{name}').copy_(torch.from_numpy(stored))
    compare_tracks(report, tracker, frames, arrays)


def load_tracker(fixtures: Fixtures, arrays: dict[str, Array]) -> PipsTracker:
    """Write the seeded weights as they are published, and read them as users do."""
    manifest = json.loads((fixtures.folder / 'pips_manifest.json').read_text())
    weights = fixtures.seeded.seeded_state_dict(manifest, fixtures.salt)
    last = str(arrays['override.delta_block.to_delta.last_linear_name'])
    name = next(name for name in weights if name.endswith(f'{last}.weight')).rpartition('.')[0]
    scale = np.float32(arrays['override.delta_block.to_delta.last_linear_scale'])
    for part in ('weight', 'bias'):
        weights[f'{name}.{part}'] *= scale
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'model-000200000.pth'
        state = {name: torch.from_numpy(value) for name, value in weights.items()}
        torch.save({'model_state_dict': state}, path)
        return PipsTracker.load(PipsConfig(weights=str(path)), 'cpu')


class _Watched(nn.Module):
    """Keeps what the mixer is given, and what it answers."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer
        self.calls: list[dict[str, Tensor]] = []

    def forward(self, known: Tensor, compared: Tensor, motion: Tensor) -> Tensor:
        """See ``DeltaBlock``."""
        delta = self.mixer(known, compared, motion)
        self.calls.append({'fhid': known, 'fcorr': compared, 'flow': motion, 'delta': delta})
        return delta


def compare_network(
    report: Report, tracker: PipsTracker, frames: list[Frame], arrays: dict[str, Array]
) -> None:
    """Compare maps, what the mixer sees and says, and where points are after each iteration."""
    network, group = tracker.network, Group(report, arrays, 'pips')
    maps = [encoded.maps for encoded in tracker.encode(frames)]
    for frame in (0, 7):
        group.near('model', '', f'fmaps_frame{frame}', maps[frame].levels[0].permute(2, 0, 1))
    start = torch.from_numpy(arrays['model.xy'])
    known = network.features(maps[0], start)
    group.plain('model', '', 'feat_init', known.numpy(), arrays['model.feat_init'])
    mixer = network.delta_block
    watched = _Watched(mixer)
    network.delta_block = watched  # type: ignore[assignment]
    path = network.follow(stacked(maps[:8]), start, known)
    network.delta_block = mixer
    for key, value in watched.calls[0].items():
        name = f'iter0.delta_block.{key}'
        if f'model.{name}.shape' in arrays:
            group.near('model', '', name, value)
        else:
            group.plain('model', '', name, value.numpy(), arrays[f'model.{name}'])
    group.finish()
    near = path.points[:_STRICT]
    report.close(
        'pips first places', near, arrays['model.coords_per_iteration'][:_STRICT], _PIXELS, False
    )
    given = torch.from_numpy(arrays['model.feat_init'])
    later = network.follow(stacked(maps[2:10]), start, given)
    exact = copy.deepcopy(network).double()
    images = np.stack([frame.image for frame in frames])
    levels = seen_by(exact.fnet, torch.from_numpy(images).permute(0, 3, 1, 2))
    known = exact.features(Maps(tuple(x[0] for x in levels)), start.double())
    sure = (
        exact.follow([x[:8] for x in levels], start, known),
        exact.follow([x[2:10] for x in levels], start, given.double()),
    )
    stored = (
        Path8(*(torch.from_numpy(arrays[f'model.{key}']) for key in _NETWORK)),
        Path8(*(torch.from_numpy(arrays[f'model_given_feat.{key}']) for key in _GIVEN)),
    )
    for name, ours, double, theirs in zip(('', ' given features'), (path, later), sure, stored):
        last = theirs.points if theirs.points.dim() == 3 else theirs.points[-1]
        _near(report, f'pips{name} places', ours.points[-1], double.points[-1], last, _PIXELS)
        _near(report, f'pips{name} logits', ours.visible, double.visible, theirs.visible, _SURE)


_NETWORK = 'coords_per_iteration', 'vis_logits'
_GIVEN = 'coords_last', 'vis_logits'


def _near(
    report: Report, name: str, ours: Tensor, exact: Tensor, theirs: Tensor, least: float
) -> None:
    """Compare what may be off by what rounding does to ours and theirs, or a least tolerance."""
    worst = float((ours - theirs).abs().max())
    noise = float((ours - exact).abs().max())
    limit = max(least, 2 * noise)
    report.line(name, f'{worst:.1e}', f'{noise:.1e}', f'{limit:.0e}', worst <= limit)


def follow(tracker: PipsTracker, maps: list[Encoded], queries: Array) -> tuple[Array, Array]:
    """Follow points (N, 3), t x y, to the last frame; nothing is known of the frames before."""
    points = np.zeros((len(maps), len(queries), 2), np.float32)
    visible = np.zeros(points.shape[:2], np.bool_)
    for start in np.unique(queries[:, 0]).astype(int).tolist():
        own = np.flatnonzero(queries[:, 0] == start)
        chain = tracker.begin(maps[start], queries[own, 1:])
        points[start, own], visible[start, own] = queries[own, 1:], True
        seen = [each for encoded in maps[start + 1 :] for each in chain.step(encoded)]
        for t, each in enumerate([*seen, *chain.rest()], start + 1):
            points[t, own], visible[t, own] = each
    return points, visible


def both_ways(
    tracker: PipsTracker, frames: list[Frame], queries: Array
) -> dict[str, tuple[Array, Array]]:
    """Follow points forward, and in both directions from the frames they are given in."""
    maps = tracker.encode(frames)
    forward = follow(tracker, maps, queries)
    back = queries.copy()
    back[:, 0] = len(frames) - 1 - queries[:, 0]
    points, visible = (each.copy() for each in forward)
    before, seen = follow(tracker, maps[::-1], back)
    for i, start in enumerate(queries[:, 0].astype(int)):
        points[:start, i] = before[::-1][:start, i]
        visible[:start, i] = seen[::-1][:start, i]
    return {'tracker.one_direction': forward, 'tracker': (points, visible)}


def compare_tracks(
    report: Report, tracker: PipsTracker, frames: list[Frame], arrays: dict[str, Array]
) -> None:
    """Compare points followed through the video, frame by frame."""
    queries = arrays['tracker.query_points_txy']
    ours = both_ways(tracker, frames, queries)
    exact = both_ways(PipsTracker(tracker.network.double(), tracker.config), frames, queries)
    for name, (points, visible) in ours.items():
        stored = torch.from_numpy(arrays[f'{name}.trajectories'])
        made = torch.from_numpy(points), torch.from_numpy(exact[name][0])
        _near(report, f'pips {name}', *made, stored, _PIXELS)
        theirs = arrays[f'{name}.visibilities']
        # What is not the same in double precision may have either sign.
        sure = visible == exact[name][1]
        report.same(f'pips {name} visible', visible[sure], theirs[sure])
