# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""tracks.json: the tracks of a recording, frame by frame."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masa_ros.errors import SourceError
from masa_ros.masks import coco_rle, mask_from_coco_rle
from masa_ros.space.estimate import Estimate
from masa_ros.space.locate import Place
from masa_ros.types import Instances, Mask, TrackedPoints, TrackState, class_name

FORMAT = 'masa_ros.tracks/1'


Position = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclasses.dataclass(frozen=True)
class TrackedFrame:
    """The tracks of one image.

    ``index`` counts the images of the recording from 0, ``source`` is the image's name there,
    ``height`` and ``width`` its size in pixels, ``class_names`` the names of labels that have any,
    ``positions`` where in space tracks are by their ids, with the covariance, as far as the file
    tells: (3,) metres in the optical frame of the camera and (3, 3).
    """

    index: int
    source: str
    stamp_ns: int
    height: int
    width: int
    instances: Instances
    class_names: Mapping[int, str] = dataclasses.field(default_factory=dict)
    positions: Mapping[int, Position] = dataclasses.field(default_factory=dict)


class TracksWriter:
    """Write tracks.json frame by frame; it appears under its name when it is closed."""

    def __init__(self, path: Path, model: str) -> None:
        self._path, self._temporary = path, path.with_suffix('.tmp')
        self._file = self._temporary.open('w')
        self._file.write(f'{{"format": "{FORMAT}", "model": {json.dumps(model)}, "frames": [')
        self._separator = '\n'

    def write(self, frame: TrackedFrame, places: Sequence[Place] | None = None) -> None:
        """Add a frame, with where in space each of its tracks is."""
        self._file.write(self._separator + json.dumps(frame_to_json(frame, places)))
        self._separator = ',\n'

    def close(self) -> None:
        """Complete the file."""
        self._file.write('\n]}\n')
        self._file.close()
        self._temporary.replace(self._path)


def write_tracks(path: Path, model: str, frames: Iterable[TrackedFrame]) -> None:
    """Write tracks.json; it appears under its name when it is complete."""
    writer = TracksWriter(path, model)
    for frame in frames:
        writer.write(frame)
    writer.close()


def frame_to_json(frame: TrackedFrame, places: Sequence[Place] | None = None) -> dict[str, Any]:
    """Return a frame as it stands in tracks.json, with where in space each track is."""
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
                'class_name': class_name(int(tracks.labels[i]), frame.class_names),
                'box': [round(float(v), 2) for v in tracks.boxes[i]],
                'mask': None if mask is None else coco_rle(mask, frame.height, frame.width),
                **({'name': tracks.names[i]} if tracks.names[i] else {}),
                **_points_to_json(tracks.points[i] if tracks.points is not None else None),
                **({'space': _place_to_json(places[i])} if places is not None else {}),
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


def _points_to_json(points: TrackedPoints | None) -> dict[str, Any]:
    if points is None:
        return {}
    return {
        'points': {
            'xy': [[round(float(v), 2) for v in point] for point in points.points],
            'visible': points.visible.tolist(),
            'positive': points.positive.tolist(),
        }
    }


def _place_to_json(place: Place) -> dict[str, Any]:
    made: dict[str, Any] = {'reason': place.reason.name.lower()}
    if place.position is not None:
        made |= {
            'position': _rounded(place.position),
            'covariance': [float(f'{v:.3g}') for v in place.covariance.ravel()],
        }
    if isinstance(place.measured, Estimate):
        box = place.measured.box
        made |= {
            'box_center': _rounded(box.mean(axis=0)),
            'box_size': _rounded(place.measured.size),
            'points': place.measured.points,
        }
    if place.motion is not None:
        made |= {
            'target_position': _rounded(place.motion.position),
            'velocity': _rounded(place.motion.velocity),
            'seconds_since_measured': round(place.motion.age, 3),
        }
    return made


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [round(float(value), 4) for value in values]


def read_tracks(path: Path) -> list[TrackedFrame]:
    """Read tracks.json; raises SourceError saying what is wrong with the file."""
    try:
        document = json.loads(path.read_text())
        if document['format'] != FORMAT:
            raise SourceError(f"{path}: format is '{document['format']}', expected '{FORMAT}'")
        return [frame_from_json(frame) for frame in document['frames']]
    except OSError as error:
        raise SourceError(f'{path} cannot be read: {error.strerror}') from error
    except RecursionError as error:
        raise SourceError(f'{path} is not a tracks file: it is nested too deeply') from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise SourceError(f'{path} is not a tracks file: {error!r}') from error


def frame_from_json(frame: dict[str, Any]) -> TrackedFrame:
    """Return a frame of tracks.json; raises ValueError and others where it is none."""
    items = frame['instances']
    index, stamp_ns, height, width = (
        _whole(frame[key]) for key in ('index', 'stamp_ns', 'height', 'width')
    )
    followed = any(i.get('points') for i in items)
    instances = Instances(
        boxes=np.array([i['box'] for i in items], np.float32).reshape(-1, 4),
        scores=np.array([i['score'] for i in items], np.float32),
        labels=np.array([_whole(i['class_id']) for i in items], np.int32),
        masks=tuple(_mask(i['mask'], height, width) for i in items),
        track_ids=np.array([_whole(i['track_id']) for i in items], np.int64),
        states=np.array([TrackState[i['state'].upper()] for i in items], np.uint8),
        names=tuple(str(i.get('name', '')) for i in items),
        points=tuple(_points(i.get('points')) for i in items) if followed else None,
    )
    names = {_whole(i['class_id']): str(i['class_name']) for i in items if i.get('class_name')}
    positions = {
        _whole(i['track_id']): _position(i['space'])
        for i in items
        if i.get('space') and 'position' in i['space']
    }
    return TrackedFrame(
        *(index, str(frame['source']), stamp_ns, height, width, instances, names, positions)
    )


def _position(given: dict[str, Any]) -> Position:
    position = np.array(given['position'], np.float64).reshape(3)
    covariance = np.array(given['covariance'], np.float64).reshape(3, 3)
    if not (np.isfinite(position).all() and np.isfinite(covariance).all()):
        raise ValueError('a position that is not finite')
    return position, covariance


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f'{value!r} is no whole number')
    return value


def _points(given: Any) -> TrackedPoints | None:
    if not given:
        return None
    xy = np.array(given['xy'], np.float32).reshape(-1, 2)
    signs = [np.array(given[name], np.bool_) for name in ('visible', 'positive')]
    if any(each.shape != (len(xy),) for each in signs):
        raise ValueError('points need one flag each')
    return TrackedPoints(xy, *signs)


def _mask(rle: Any, height: int, width: int) -> Mask | None:
    if not rle:
        return None
    mask = mask_from_coco_rle(rle)
    rows, columns = rle['size']
    if (rows, columns) != (height, width):
        raise ValueError(f'a mask of {columns} x {rows} in a frame of {width} x {height} pixels')
    return mask
