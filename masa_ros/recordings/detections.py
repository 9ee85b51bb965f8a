# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Detections of somebody else, to be tracked: COCO json and MOTChallenge txt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from masa_ros.errors import SourceError
from masa_ros.masks import mask_from_coco_rle
from masa_ros.types import Instances, Mask


class GivenDetections:
    """Detections by frame.

    Attributes
    ----------
    class_names: of the labels, where the file tells.
    unused: keys of the file that no frame has asked for.

    """

    def __init__(
        self, frames: dict[str | int, Instances], class_names: dict[int, str] | None = None
    ) -> None:
        self._frames = frames
        self.class_names = class_names or {}
        self.unused = set(frames)

    def at(self, index: int, name: str) -> Instances:
        """Return what there is for the frame of this number, from 0, or this file name."""
        for key in (index, name, Path(name).name):
            if key in self._frames:
                self.unused.discard(key)
                return self._frames[key]
        return Instances.empty()


def read_detections(path: Path) -> GivenDetections:
    """Read detections from a file.

    COCO json: a list of results (``image_id`` is the number of the frame from 0, or a file name),
    or a data set with ``images``, ``annotations`` and perhaps ``categories``; ``segmentation`` may
    hold run lengths.
    MOTChallenge txt: lines of frame (from 1), id (ignored), left, top, width, height, score and
    perhaps class; a score of -1 stands for an unknown one and counts as 1.

    Raises
    ------
    SourceError
        Naming the file, the place in it, and what is wrong there.

    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f'{path} cannot be read: {error}') from error
    names: dict[int, str] = {}
    if path.suffix.lower() == '.json':
        rows, names = _coco(path, text)
    else:
        rows = _mot(path, text)
    frames: dict[str | int, list[dict[str, Any]]] = {}
    for row in rows:
        frames.setdefault(row['frame'], []).append(row)
    return GivenDetections({key: _instances(items) for key, items in frames.items()}, names)


def _instances(rows: list[dict[str, Any]]) -> Instances:
    rows = sorted(rows, key=lambda row: -row['score'])
    masks: tuple[Mask | None, ...] | None = tuple(row['mask'] for row in rows)
    if masks is not None and not any(mask is not None for mask in masks):
        masks = None
    box = np.array([row['box'] for row in rows], np.float32)
    return Instances(
        boxes=np.hstack((box[:, :2], box[:, :2] + box[:, 2:])),
        scores=np.array([row['score'] for row in rows], np.float32),
        labels=np.array([row['label'] for row in rows], np.int32),
        masks=masks,
    )


def _row(frame: str | int, box: Any, score: Any, label: Any, mask: Mask | None) -> dict[str, Any]:
    values = [float(v) for v in box]
    largest = np.finfo(np.float32).max
    if len(values) != 4 or not np.less(np.abs(values), largest).all() or min(values[2:]) <= 0:
        raise ValueError(f'{values} is no box of left, top, width, height')
    if not isinstance(frame, (str, int)):
        raise ValueError(f'{frame!r} is neither the number nor the name of a frame')
    if not -1 <= int(label) < 1 << 31:
        raise ValueError(f'{label} is no number of a class')
    score = float(score)
    if not 0 <= score <= 1:
        raise ValueError(f'the score {score} is not in 0..1')
    return {'frame': frame, 'box': values, 'score': score, 'label': int(label), 'mask': mask}


def _coco(path: Path, text: str) -> tuple[list[dict[str, Any]], dict[int, str]]:
    place, categories = 'the file', dict[int, str]()
    try:
        document = json.loads(text)
        names: dict[Any, str] | None = None
        annotations = document
        if isinstance(document, dict):
            names = {image['id']: image['file_name'] for image in document['images']}
            known = document.get('categories') or ()
            categories = {int(each['id']): str(each['name']) for each in known}
            annotations = document['annotations']
        rows = []
        for i, item in enumerate(annotations):
            place = f'annotation {i}'
            key = item['image_id'] if names is None else names[item['image_id']]
            shape = item.get('segmentation')
            mask = mask_from_coco_rle(shape) if isinstance(shape, dict) else None
            rows.append(
                _row(key, item['bbox'], item.get('score', 1), item.get('category_id', -1), mask)
            )
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise SourceError(f'{path}, {place}: no COCO detections: {error!r}') from error
    except RecursionError as error:
        raise SourceError(f'{path} is nested too deeply') from error
    return rows, categories


def _mot(path: Path, text: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = [float(v) for v in line.replace(',', ' ').split()]
            if len(values) < 6:
                raise ValueError('fewer than 6 values')
            score = values[6] if len(values) > 6 and values[6] != -1 else 1.0
            label = int(values[7]) if len(values) > 7 else -1
            rows.append(_row(int(values[0]) - 1, values[2:6], score, label, None))
        except (ValueError, OverflowError) as error:
            raise SourceError(
                f'{path}, line {number}: no MOTChallenge detection: {error}'
            ) from error
    return rows
