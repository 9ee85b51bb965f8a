"""tracks.json: the tracks of a recording, frame by frame."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from masa_ros.errors import SourceError
from masa_ros.masks import coco_rle, mask_from_coco_rle
from masa_ros.types import Instances, TrackState

FORMAT = 'masa_ros.tracks/1'


@dataclasses.dataclass(frozen=True)
class TrackedFrame:
    """The tracks of one image.

    ``index`` counts the images of the recording from 0, ``source`` is the image's name there,
    ``height`` and ``width`` its size in pixels.
    """

    index: int
    source: str
    stamp_ns: int
    height: int
    width: int
    instances: Instances


def write_tracks(path: Path, model: str, frames: list[TrackedFrame]) -> None:
    """Write tracks.json; it appears under its name when it is complete."""
    temporary = path.with_suffix('.tmp')
    with temporary.open('w') as file:
        document = {'format': FORMAT, 'model': model, 'frames': [_to_json(f) for f in frames]}
        json.dump(document, file)
    temporary.replace(path)


def _to_json(frame: TrackedFrame) -> dict[str, Any]:
    tracks = frame.instances
    instances = []
    for i in range(len(tracks)):
        mask = tracks.masks[i] if tracks.masks is not None else None
        instances.append(
            {
                'track_id': int(tracks.track_ids[i]),
                'state': TrackState(int(tracks.states[i])).name.lower(),
                'score': round(float(tracks.scores[i]), 4),
                'class_id': int(tracks.labels[i]),
                'class_name': '',
                'box': [round(float(v), 2) for v in tracks.boxes[i]],
                'mask': None if mask is None else coco_rle(mask, frame.height, frame.width),
            }
        )
    return {
        'index': frame.index,
        'source': frame.source,
        'stamp_ns': frame.stamp_ns,
        'height': frame.height,
        'width': frame.width,
        'instances': instances,
    }


def read_tracks(path: Path) -> list[TrackedFrame]:
    """Read tracks.json; raises SourceError saying what is wrong with the file."""
    try:
        document = json.loads(path.read_text())
        if document['format'] != FORMAT:
            raise SourceError(f"{path}: format is '{document['format']}', expected '{FORMAT}'")
        return [_from_json(frame) for frame in document['frames']]
    except OSError as error:
        raise SourceError(f'{path} cannot be read: {error.strerror}') from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise SourceError(f'{path} is not a tracks file: {error!r}') from error


def _from_json(frame: dict[str, Any]) -> TrackedFrame:
    items = frame['instances']
    states = [TrackState[i['state'].upper()] for i in items]
    instances = Instances(
        boxes=np.array([i['box'] for i in items], np.float32).reshape(-1, 4),
        scores=np.array([i['score'] for i in items], np.float32),
        labels=np.array([i['class_id'] for i in items], np.int32),
        masks=tuple(mask_from_coco_rle(i['mask']) if i['mask'] else None for i in items),
        track_ids=np.array([i['track_id'] for i in items], np.int64),
        states=np.array(states, np.uint8),
    )
    return TrackedFrame(
        int(frame['index']),
        str(frame['source']),
        int(frame['stamp_ns']),
        int(frame['height']),
        int(frame['width']),
        instances,
    )
