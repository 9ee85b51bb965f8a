# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Options of the association."""

from __future__ import annotations

import dataclasses

from masa_ros import options
from masa_ros.errors import ConfigError
from masa_ros.options import Variant, option


@dataclasses.dataclass(frozen=True)
class TrackerConfig:
    """Options of ``Tracker``; names and meanings follow MASA's where it has them.

    Scores, similarities and overlaps are in 0..1; distances are in units of the object's own side,
    the square root of its box's area. ``masa_ros.options`` reads the texts.
    """

    init_score_thr: float = option(
        0.5, 'a detection above this score may start a track', 0, 1, live=True
    )
    obj_score_thr: float = option(
        0.3, 'a detection must score above this to continue a track', 0, 1, live=True
    )
    match_score_thr: float = option(
        0.5, 'similarity above which two sightings are one object', 0, 1, live=True
    )
    reid_score_thr: float = option(
        0.7, 'the same for an object that comes back somewhere else', 0, 1, live=True
    )
    distractor_score_thr: float = option(
        0.5, 'below this score an overlapping box is a duplicate', 0, 1, live=True
    )
    distractor_nms_thr: float = option(
        0.5, 'overlap (IoU) that makes a box a duplicate', 0, 1, live=True
    )
    memo_momentum: float = option(
        0.8, "weight of a new sighting in a track's appearance", 0, 1, live=True
    )
    gallery_size: int = option(
        4, 'distinct appearances remembered of each track; 1: only the average', 1, 100
    )
    memory_seconds: float = option(
        10.0, 'a track unseen for longer is forgotten, seconds', 0, 3600, live=True
    )
    memory_frames: int = option(0, 'the same in frames; 0: no such limit', 0, 100000, live=True)
    motion_weight: float = option(
        0.5, 'share of place and size against appearance in the similarity', 0, 1, live=True
    )
    predict_motion: bool = option(
        True, 'predict the position of tracks from their velocity', live=True
    )
    camera_motion: bool = option(
        True, 'attribute motion that objects have in common to the camera', live=True
    )
    max_distance: float = option(
        0.8,
        'how far an object may be from where it is expected, in units of its own side',
        0,
        100,
        live=True,
    )
    max_resize: float = option(
        0.5, 'how much its side may change, as a logarithm of the ratio', 0, 10, live=True
    )
    max_speed: float = option(
        1.5, 'how much max_distance grows for every second without a sighting', 0, 100, live=True
    )
    optimal_assignment: bool = option(
        True, 'optimal (Hungarian) instead of greedy assignment', live=True
    )
    two_stage: bool = option(
        True, 'match detections below init_score_thr after the others (ByteTrack)', live=True
    )
    confirm_frames: int = option(
        2, 'sightings after which a track is no longer tentative', 0, 100, live=True
    )
    confirm_score: float = option(0.9, 'score above which one sighting is enough', 0, 1, live=True)
    coast_seconds: float = option(
        0.3,
        'how long an undetected track is looked for where it is expected, seconds; 0: never',
        0,
        60,
        live=True,
    )
    coast_steady_thr: float = option(
        0.6,
        'share of recent frames in which a track must have been detected to coast',
        0,
        1,
        live=True,
    )
    coast_score_thr: float = option(
        0.3, 'score above which a coasting track is found there', 0, 1, live=True
    )
    coast_look_thr: float = option(
        0.8, 'cosine between its embedding and the track that is needed for that', 0, 1, live=True
    )
    vote_labels: bool = option(
        True, 'publish the label with the most votes over the life of a track', live=True
    )
    publish_tentative: bool = option(False, 'publish tentative tracks too', live=True)
    publish_lost: bool = option(False, 'publish lost tracks too, where last seen', live=True)

    def __post_init__(self) -> None:
        """Refuse values that mean nothing; raises ConfigError."""
        options.check(self)


@dataclasses.dataclass(frozen=True)
class ReleasedConfig:
    """Options of the released trackers, under their original names.

    ``rules`` says which tracker: 'tao' or 'bdd'. ``masa_ros.options`` reads the texts.
    """

    rules: str = 'tao'
    init_score_thr: float = option(
        0.8, 'an unmatched detection above this score starts a track', 0, 1, live=True
    )
    obj_score_thr: float = option(
        0.5, 'a detection must score above this to continue a track', 0, 1, live=True
    )
    match_score_thr: float = option(
        0.5, 'similarity above which two sightings are one object', 0, 1, live=True
    )
    memo_tracklet_frames: int = option(
        10, 'a track unseen for so many frames is forgotten', 0, 10_000_000, live=True
    )
    memo_momentum: float = option(
        0.8, "weight of a new sighting in a track's appearance", 0, 1, live=True
    )
    distractor_score_thr: float = option(
        0.5, 'tao: below this score an overlapping box is dropped', 0, 1, live=True
    )
    distractor_nms_thr: float = option(0.3, 'tao: overlap (IoU) for that', 0, 1, live=True)
    max_distance: float = option(
        -1.0, 'tao: gate on the distance, pixels', 0, 10000, special=(-1, 'none'), live=True
    )
    fps: float = option(
        1.0, 'tao: rate of the recording, which the gate depends on', 0.001, 1000, live=True
    )
    memo_backdrop_frames: int = option(
        1, 'bdd: frames that unmatched detections are kept as background', 0, 1000, live=True
    )
    nms_conf_thr: float = option(
        0.5, 'bdd: a weak detection more similar to a track than this is dropped', 0, 1, live=True
    )
    nms_backdrop_iou_thr: float = option(
        0.3, 'bdd: overlap that makes a weak detection a duplicate', 0, 1, live=True
    )
    nms_class_iou_thr: float = option(
        0.7, 'bdd: overlap that makes a good detection a duplicate', 0, 1, live=True
    )
    with_cats: bool = option(False, 'bdd: only sightings of one class match', live=True)
    match_metric: str = option(
        'bisoftmax',
        'bdd: how embeddings are compared',
        choices=('bisoftmax', 'softmax', 'cosine'),
        live=True,
    )

    def __post_init__(self) -> None:
        """Refuse values that mean nothing; raises ConfigError."""
        options.check(self)
        if self.rules not in ('tao', 'bdd'):
            raise ConfigError(f"rules is '{self.rules}'; it must be one of: tao, bdd")


AnyConfig = TrackerConfig | ReleasedConfig
ASSOCIATIONS = {
    'robot': Variant(TrackerConfig),
    'tao': Variant(ReleasedConfig, 'released.', {'rules': 'tao'}),
    'bdd': Variant(ReleasedConfig, 'released.', {'rules': 'bdd'}),
}
"""The options of every association; the first is the default."""
