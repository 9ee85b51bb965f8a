# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The released trackers, decision by decision."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from masa_ros.tracking import ReleasedConfig, ReleasedTracker
from parity_checks.report import Fixtures, Report


def compare_trackers(report: Report, fixtures: Fixtures) -> None:
    """Compare the released trackers on all sequences of detections, decision by decision."""
    print('-- trackers')
    listed = json.loads((fixtures.folder / 'sequences.json').read_text())
    for sequence in listed['sequences']:
        name = sequence['name']
        rules = {'MasaTaoTracker': 'tao', 'MasaBDDTracker': 'bdd'}[sequence['tracker']]
        arrays = fixtures.arrays(f'{name}.npz')
        tracker = ReleasedTracker(ReleasedConfig(rules=rules, **sequence['params']))
        ours: dict[str, list[Any]] = {
            key: [] for key in ('ids', 'out_index', 'out_ids', 'live_tracks', 'created_tracks')
        }
        ends = np.cumsum(arrays['counts'])
        for frame, (end, count) in enumerate(zip(ends, arrays['counts'])):
            if arrays['reset'][frame]:
                tracker.reset()
            here = slice(end - count, end)
            found = [arrays[key][here] for key in ('boxes', 'scores', 'labels', 'embeddings')]
            boxes, scores, labels, embeddings = found
            number = int(arrays['frame_ids'][frame])
            rows, ids = tracker.track(boxes, scores, labels, embeddings, number)
            rows, ids = rows[ids > -1], ids[ids > -1]
            every = np.full(count, -1)
            every[rows] = ids
            ours['ids'].extend(every)
            ours['out_index'].extend(rows)
            ours['out_ids'].extend(ids)
            ours['live_tracks'].append(len(tracker.memory.ids))
            ours['created_tracks'].append(tracker.created)
        for key, values in ours.items():
            report.same(f'{name} {key}', np.array(values, np.int64), arrays[key])
        memory = tracker.memory
        report.same(f'{name} final_ids', memory.ids, arrays['final_ids'])
        report.close(
            f'{name} final_embeddings', memory.embeddings, arrays['final_embeddings'], 1e-5, False
        )
