# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How well each way of association tracks the same detections, and what each addition is worth.

Generated clips of four kinds, the demo's recording, and labelled real sequences where
``../shared/data`` is there. The network runs once an image; every tracker gets the same
detections, and the robot's may ask the network about places.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import clips
import numpy as np
import supervision
import trackers
from numpy.typing import NDArray
from sequences import DATA, boxes_of, rate, recalled

from masa_ros.demo import scene as demo_scene
from masa_ros.detectors.masa import Encoded, MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.evaluation.metrics import Scores, evaluate
from masa_ros.recordings.sources import open_source
from masa_ros.recordings.tracks_file import TrackedFrame
from masa_ros.tracking import Probe, ReleasedConfig, TrackerConfig, make_tracker
from masa_ros.types import Frame, Instances, TrackState

LABELLED, SEQUENCES = DATA / 'labelled', DATA / 'sequences'
SEEDS = range(8)


class AnyTracker(Protocol):
    """What all trackers here can do."""

    def update(self, detections: Instances, stamp_ns: int, probe: Probe) -> Instances:
        """Return the tracks of a frame."""
        ...


class OfTrackers:
    """One of the package ``trackers``, none of which knows an appearance.

    Parameters
    ----------
    kind: class of it; gets as much memory as the others have, and the same thresholds.

    """

    def __init__(self, kind: Callable[..., Any]) -> None:
        thresholds = {'track_activation_threshold': 0.5, 'high_conf_det_threshold': 0.5}
        known = inspect.signature(kind).parameters
        chosen = {name: value for name, value in thresholds.items() if name in known}
        self.tracker = kind(lost_track_buffer=300, frame_rate=30.0, **chosen)
        self.image: NDArray[np.uint8] | None = None  # set before each update: cameras move

    def update(self, detections: Instances, stamp_ns: int, probe: Probe) -> Instances:
        """Return the tracks of a frame."""
        tracked = self.tracker.update(
            supervision.Detections(
                xyxy=detections.boxes,
                confidence=detections.scores,
                data={'index': np.arange(len(detections))},
            ),
            frame=self.image,
        )
        if not len(tracked):
            return detections[:0]
        ids = tracked.tracker_id
        seen = ids >= 0
        found = detections[tracked.data['index'][seen].astype(int)]
        return dataclasses.replace(
            found,
            track_ids=ids[seen].astype(np.int64) + 1,
            states=np.full(len(found), TrackState.TRACKED, np.uint8),
        )


ROBOT = TrackerConfig()
SCORES: dict[str, Any] = {'init_score_thr': 0.5, 'obj_score_thr': 0.3}
WAYS: dict[str, Callable[[], AnyTracker]] = {
    'robot': lambda: make_tracker(ROBOT),
    'tao': lambda: make_tracker(ReleasedConfig('tao', **SCORES)),
    'tao, 10 s': lambda: make_tracker(ReleasedConfig('tao', memo_tracklet_frames=100, **SCORES)),
    'bdd': lambda: make_tracker(ReleasedConfig('bdd', match_score_thr=0.6, **SCORES)),
    'ByteTrack': lambda: OfTrackers(trackers.ByteTrackTracker),
    'BoT-SORT': lambda: OfTrackers(trackers.BoTSORTTracker),
    'OC-SORT': lambda: OfTrackers(trackers.OCSORTTracker),
    'C-BIoU': lambda: OfTrackers(trackers.CBIoUTracker),
}
WITHOUT: dict[str, dict[str, Any]] = {
    'appearance': {'motion_weight': 1.0},
    'place': {'motion_weight': 0.0},
    'predicted motion': {'predict_motion': False},
    'camera motion': {'camera_motion': False},
    'optimal assignment': {'optimal_assignment': False},
    'two stages': {'two_stage': False},
    'confirmation': {'confirm_frames': 1},
    'gallery': {'gallery_size': 1},
    'coasting': {'coast_seconds': 0.0},
    'memory (1 s)': {'memory_seconds': 1.0},
}
for _name, _change in WITHOUT.items():
    WAYS[f'without {_name}'] = functools.partial(
        make_tracker, dataclasses.replace(ROBOT, **_change)
    )


class Prepared(NamedTuple):
    """A frame after the network."""

    frame: Frame
    encoded: Encoded
    found: Instances


def prepare(detector: MasaDetector, frames: list[Frame]) -> list[Prepared]:
    """Run the network on a recording."""
    encoded = [detector.encode([frame.image])[0] for frame in frames]
    return [Prepared(f, e, detector.find(e)) for f, e in zip(frames, encoded)]


def run(detector: MasaDetector, tracker: AnyTracker, frames: list[Prepared]) -> list[TrackedFrame]:
    """Track prepared frames."""
    tracked = []
    for index, (frame, encoded, found) in enumerate(frames):
        probe = functools.partial(detector.probe, encoded)
        if isinstance(tracker, OfTrackers):
            tracker.image = frame.image
        tracks = tracker.update(found, frame.stamp_ns, probe)
        height, width = frame.image.shape[:2]
        tracked.append(TrackedFrame(index, '', frame.stamp_ns, height, width, tracks))
    return tracked


def recordings(
    kinds: list[str] | None, quick: bool = False
) -> Iterator[tuple[str, list[Frame], list[TrackedFrame]]]:
    """Give the kind, the frames and the truth of every recording of the kinds, or of all."""
    if not kinds or 'demo' in kinds:
        scene = list(demo_scene.render(frames=4 if quick else demo_scene.FRAMES))
        yield 'demo', [frame for frame, _ in scene], [truth for _, truth in scene]
    for kind in clips.KINDS if not kinds else [k for k in clips.KINDS if k in kinds]:
        for seed in SEEDS:
            pairs = clips.clip(kind, seed)
            # Frames are counted as they come, whatever was dropped between them.
            truth = [dataclasses.replace(t, index=i) for i, (_, t) in enumerate(pairs)]
            yield kind, [frame for frame, _ in pairs], truth
    real = [*LABELLED.glob('*/meta.json'), *SEQUENCES.glob('*/meta.json')]
    for folder in sorted(path.parent for path in real):
        labels = next(iter([*folder.glob('*boxes.csv')]), None)
        if labels is not None and (not kinds or folder.name in kinds):
            images = folder / 'images'
            source = open_source(images if images.is_dir() else folder, fps=rate(folder))
            frames = [item.frame for item in source if isinstance(item.frame, Frame)]
            yield folder.name, frames, boxes_of(labels, frames[0].image.shape[:2], len(frames))


def main(
    ways: list[str] | None = None, kinds: list[str] | None = None, quick: bool = False
) -> dict[str, Any]:
    """Print the tables and return their figures."""
    if quick:
        kinds = ['demo']
    detector = MasaDetector.load(DetectorConfig(device='cpu'))
    figures: dict[str, Any] = {}
    for kind, group in itertools.groupby(
        recordings(kinds, quick), key=lambda recording: recording[0]
    ):
        scores: dict[str, list[Scores]] = {}
        for _, frames, truth in group:
            prepared = prepare(detector, frames)
            for way in ways or WAYS:
                found = run(detector, WAYS[way](), prepared)
                if not truth[0].instances.masks:
                    found = recalled(found, truth)
                scores.setdefault(way, []).append(evaluate(found, truth, detailed=False))
        names = ('HOTA', 'AssA', 'DetA', 'IDF1', 'switches', 'tracks')
        print(f'\n{kind:28}' + ''.join(f'{name:>9}' for name in names))
        for way, results in scores.items():
            row = {
                key: float(np.mean([getattr(r, key) for r in results]))
                for key in ('hota', 'assa', 'deta', 'idf1')
            }
            counts = {k: sum(getattr(r, k) for r in results) for k in ('id_switches', 'tracks')}
            figures.setdefault(kind, {})[way] = row | counts
            shares = ''.join(f'{value:>9.3f}' for value in row.values())
            print(f'  {way:26}{shares}' + ''.join(f'{v:>9}' for v in counts.values()), flush=True)
    return figures


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--ways', nargs='*')
    parser.add_argument('--kinds', nargs='*')
    main(**vars(parser.parse_args()))
