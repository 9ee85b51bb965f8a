# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Objects that somebody points at, or that are looked for where nothing is tracked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from masa_ros.methods.finding import FindingConfig
from masa_ros.methods.sought import find_option
from masa_ros.options import option
from masa_ros.types import Instances, Mask, TrackState


@dataclasses.dataclass(frozen=True)
class SeekingConfig(FindingConfig):
    """Options of looking for new objects, see ``masa_ros.options``; ConfigError names a wrong one.

    They are the rules of SAM-Track (report, section 3.2).
    """

    find: str = find_option('nothing')
    min_new: float = option(
        0.8,
        'share of a detection that must lie where nothing is tracked, so that it is a new object',
        0,
        1,
        live=True,
    )
    min_area: int = option(
        200, 'pixels that a detection must have to be a new object', 0, 1_000_000, live=True
    )
    max_objects: int = option(
        50,
        'at most so many objects. Each costs time and memory in every frame',
        1,
        255,
        live=True,
    )
    forget_after: int = option(
        100,
        'frames after which an object that was found, not pointed at, is forgotten where it is '
        'not seen',
        1,
        1_000_000,
        special=(0, 'never'),
        live=True,
    )


@dataclasses.dataclass
class Object:
    """What is known of one object.

    Attributes
    ----------
    label, score: of what found it; -1 and the segmenter's where it was pointed at.
    first_seen_ns: stamp of the frame that it began in.
    pointed_at: by somebody, who wants it kept.
    unseen: for so many frames.

    """

    label: int
    score: float
    first_seen_ns: int
    pointed_at: bool
    unseen: int = 0


def lost(objects: dict[int, Object], config: SeekingConfig, names: Mapping[int, str]) -> set[int]:
    """Forget what was found and is not seen for long, or not looked for any more.

    Parameters
    ----------
    objects: from which they are taken.
    config: how long; and the words, where objects are looked for by words.
    names: of their labels.

    Returns
    -------
    Their ids.

    """
    limit, wanted = config.forget_after, {word.name for word in config.sought if word.wanted}
    gone = {
        track_id
        for track_id, each in objects.items()
        if not each.pointed_at
        and (
            (limit and each.unseen >= limit)
            or (wanted and each.label in names and names[each.label] not in wanted)
        )
    }
    for track_id in gone:
        del objects[track_id]
    return gone


def tracks(objects: Mapping[int, Object], seen: Mapping[int, Mask]) -> Instances:
    """Return the objects that are seen, best first."""
    pairs = [(i, objects[i], mask) for i, mask in seen.items() if mask.width]
    pairs.sort(key=lambda pair: -pair[1].score)
    return Instances(
        boxes=np.array([mask.box for *_, mask in pairs], np.float32).reshape(-1, 4),
        scores=np.array([each.score for _, each, _ in pairs], np.float32),
        labels=np.array([each.label for _, each, _ in pairs], np.int32),
        masks=tuple(mask for *_, mask in pairs),
        track_ids=np.array([i for i, *_ in pairs], np.int64),
        states=np.full(len(pairs), TrackState.TRACKED, np.uint8),
        first_seen_ns=np.array([each.first_seen_ns for _, each, _ in pairs], np.int64),
    )
