# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Ground truth in the formats of the field, brought onto the frames of a recording.

What is read: tracks.json of this project, MOTChallenge txt (gt.txt), COCO-style video json (TAO,
YouTube-VIS, BURST-like), scalabel json (BDD100K), and folders of PNG id masks (DAVIS).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from masa_ros.errors import SourceError
from masa_ros.evaluation.fields import (
    Box,
    box_of,
    box_of_size,
    key,
    listed,
    member,
    read_json,
    text,
    whole,
)
from masa_ros.images import natural_order
from masa_ros.masks import crop, pixels_from_coco
from masa_ros.recordings.tracks_file import FORMAT, TrackedFrame, read_tracks
from masa_ros.types import LARGEST_SIDE, Instances, Mask, TrackState

VOID = 255  # in 8-bit PNG id masks: not labelled
_NO_NAMES: Mapping[int, str] = MappingProxyType({})


class Row(NamedTuple):
    """One labelled object in one frame."""

    track_id: int
    box: Box
    label: int = -1
    mask: Mask | None = None


def read_truth(path: Path, found: Sequence[TrackedFrame], video: str = '') -> list[TrackedFrame]:
    """Read ground truth for the frames that were tracked.

    Parameters
    ----------
    path: a file, or a folder of PNG files.
    found: the tracked frames: what the truth is paired with, and whose sizes it takes over.
    video: of a file that holds several videos, the name of the one to take.

    Returns
    -------
    The frames that are labelled, perhaps as empty; frames of which the truth says nothing are
    left out.

    Raises
    ------
    SourceError
        Naming the file, the place in it, and what is wrong there.

    """
    if path.is_dir():
        return _png_folder(path, found)
    if path.suffix.lower() == '.txt':
        return _mot(path, found)
    document = read_json(path)
    if isinstance(document, dict) and document.get('format') == FORMAT:
        truth = read_tracks(path)
        check_tracks(path, truth, areas=True)
        return truth
    labelled = _Labelled(path, found)
    try:
        if isinstance(document, dict) and 'annotations' in document:
            return _coco_video(document, labelled, video)
        frames = document.get('frames') if isinstance(document, dict) else document
        if isinstance(frames, list):
            return _scalabel(frames, labelled, video)
    except ValueError as error:
        raise SourceError(f'{path}, {labelled.at}: {error}') from error
    raise SourceError(
        f'{path} is none of: tracks.json, MOTChallenge txt, COCO-video or TAO json, scalabel json'
    )


def check_tracks(path: Path, frames: Sequence[TrackedFrame], areas: bool = False) -> None:
    """Refuse tracks that cannot be compared with others, though their file can be read.

    Parameters
    ----------
    path: of the file.
    frames: as they stand in it.
    areas: refuse boxes without an area as well.

    Raises
    ------
    SourceError
        Naming the file, the frame and what is wrong there.

    """
    known: set[int] = set()
    for frame in frames:
        at, one = f'{path}, frame {frame.index}', frame.instances
        if frame.index in known:
            raise SourceError(f'{at}: it is there twice')
        known.add(frame.index)
        if not (0 < frame.height <= LARGEST_SIDE and 0 < frame.width <= LARGEST_SIDE):
            raise SourceError(f'{at}: an image of {frame.width} x {frame.height} pixels')
        if not one.finite.all():
            raise SourceError(f'{at}: boxes or scores that are no finite numbers')
        sides = one.boxes[:, 2:] - one.boxes[:, :2]
        if not np.isfinite(sides).all() or (sides < 0).any() or (areas and not sides.all()):
            raise SourceError(f'{at}: boxes without an area')
        for mask in one.masks or ():
            if mask is not None and mask.clipped(frame.height, frame.width) is not mask:
                raise SourceError(f'{at}: a mask that reaches beyond the image')
        double = _double(one.track_ids.tolist())
        if double is not None:
            raise SourceError(f'{at}: the id {double} is there twice')


def from_masks(
    index: int, stamp_ns: int, masks: NDArray[np.bool_], ids: Sequence[int] | NDArray[np.int64]
) -> TrackedFrame:
    """Make the truth about an image of the masks (N, H, W) of its objects, none empty."""
    windows = [crop(mask) for mask in masks]
    instances = Instances(
        boxes=np.array([mask.box for mask in windows], np.float32).reshape(-1, 4),
        masks=tuple(windows),
        track_ids=np.array(ids, np.int64),
        states=np.full(len(ids), TrackState.TRACKED, np.uint8),
    )
    height, width = masks.shape[1:]
    return TrackedFrame(index, f'frame {index}', stamp_ns, height, width, instances)


def _double(ids: Sequence[int]) -> int | None:
    """Return an id that is there twice."""
    return next((i for i in ids if ids.count(i) > 1), None) if len(set(ids)) < len(ids) else None


class _Labelled:
    """The tracked frames and what is labelled in them.

    Attributes
    ----------
    path: of the truth.
    at: the place in it that is read now, for errors.
    by_index: the tracked frames.
    rows: the objects of labelled frames, by their index.

    """

    def __init__(self, path: Path, found: Sequence[TrackedFrame]) -> None:
        self.path, self.at = path, 'the file'
        self.by_name = {Path(frame.source).stem: frame for frame in found}
        self.by_index = {frame.index: frame for frame in found}
        self.rows: dict[int, list[Row]] = {}

    def frame(self, name: str, number: int | None) -> TrackedFrame | None:
        """Return the tracked frame of a file name, or else of a number; None when there is none.

        It counts as labelled.
        """
        frame = self.by_name.get(Path(name).stem) if name else None
        if frame is None and number is not None:
            frame = self.by_index.get(number)
        if frame is not None:
            self.rows.setdefault(frame.index, [])
        return frame

    def frames(self, names: Mapping[int, str] = _NO_NAMES) -> list[TrackedFrame]:
        """Return the labelled frames, with the names of their classes."""
        if not self.rows:
            raise SourceError(f'{self.path} labels none of the frames that were tracked')
        return [
            self._frame(self.by_index[i], rows, names) for i, rows in sorted(self.rows.items())
        ]

    def _frame(self, of: TrackedFrame, rows: list[Row], names: Mapping[int, str]) -> TrackedFrame:
        ids = [row.track_id for row in rows]
        double = _double(ids)
        if double is not None:
            raise SourceError(f'{self.path}: frame {of.index} has the id {double} twice')
        masks: tuple[Mask | None, ...] | None = tuple(row.mask for row in rows)
        if masks and not any(mask is not None for mask in masks):
            masks = None
        instances = Instances(
            boxes=np.array([row.box for row in rows], np.float32).reshape(-1, 4),
            labels=np.array([row.label for row in rows], np.int32),
            masks=masks,
            track_ids=np.array(ids, np.int64),
            states=np.full(len(rows), TrackState.TRACKED, np.uint8),
        )
        size = of.height, of.width
        return TrackedFrame(of.index, of.source, of.stamp_ns, *size, instances, names)


def _mot(path: Path, found: Sequence[TrackedFrame]) -> list[TrackedFrame]:
    """Frame (from 1), id, left, top, width, height, considered (0: ignore), class, visibility.

    Frames without lines are labelled as empty; all classes count.
    """
    labelled = _Labelled(path, found)
    labelled.rows = {frame.index: [] for frame in found}
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f'{path} cannot be read: {error}') from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = [float(v) for v in line.replace(',', ' ').split()]
            if len(values) < 6:
                raise ValueError('fewer than 6 values')
            if len(values) > 6 and values[6] == 0:
                continue
            frame, track_id = whole(values[0], 'the frame'), whole(values[1], 'the id')
            label = whole(values[7], 'the class', 32) if len(values) > 7 else -1
            row = Row(track_id, box_of_size(values[2:6]), label)
        except ValueError as error:
            raise SourceError(f'{path}, line {number}: no MOTChallenge label: {error}') from error
        if frame - 1 in labelled.rows:
            labelled.rows[frame - 1].append(row)
    if not any(labelled.rows.values()):
        raise SourceError(f'{path} labels nothing in the frames that were tracked')
    return labelled.frames()


def _choose(path: Path, names: Iterable[str], video: str) -> str:
    """Return the name of the video to take."""
    known = sorted(set(names))
    if video:
        matches = [name for name in known if video in (name, Path(name).name)]
        if len(matches) == 1:
            return matches[0]
    elif len(known) == 1:
        return known[0]
    listed_names = ', '.join(known[:8]) + (', ...' if len(known) > 8 else '')
    asked = f"has no video '{video}'" if video else 'holds several videos: choose one with --video'
    raise SourceError(f'{path} {asked}; there are: {listed_names}')


def _coco_video(document: dict[str, Any], labelled: _Labelled, video: str) -> list[TrackedFrame]:
    """TAO and BURST have an annotation for every image, YouTube-VIS one for every track.

    Crowds (``iscrowd``) are no objects.
    """
    videos: dict[int | str, str] = {}
    for number, item in enumerate(listed(document, 'videos')):
        labelled.at = f'video {number}'
        own = key(item, 'id')
        videos[own] = text(item, 'name', '') or text(item, 'file_name', '') or str(own)
    chosen = None
    if videos:
        name = _choose(labelled.path, videos.values(), video)
        chosen = next(own for own, value in videos.items() if value == name)
    names: dict[int, str] = {}
    for number, item in enumerate(listed(document, 'categories')):
        labelled.at = f'category {number}'
        names[whole(member(item, 'id'), 'id', 32)] = text(item, 'name', '')
    labelled.at = 'the file'
    if 'images' not in document:
        _youtube_vis(document, chosen, labelled)
        return labelled.frames(names)
    frames: dict[int | str, TrackedFrame] = {}
    for order, image in enumerate(listed(document, 'images')):
        labelled.at = f'image {order}'
        if chosen is not None and member(image, 'video_id') != chosen:
            continue
        place: Any = order if not videos else None
        for name in ('frame_id', 'frame_index'):
            place = place if member(image, name) is None else member(image, name)
        place = None if place is None else whole(place, 'the number of the frame')
        frame = labelled.frame(text(image, 'file_name', ''), place)
        if frame is not None:
            frames[key(image, 'id')] = frame
    for number, item in enumerate(listed(document, 'annotations')):
        labelled.at = f'annotation {number}'
        frame = frames.get(key(item, 'image_id'))
        if frame is None or member(item, 'iscrowd') or member(item, 'ignore'):
            continue
        own = member(item, 'track_id')
        own = member(item, 'instance_id') if own is None else own
        shape, box = member(item, 'segmentation'), member(item, 'bbox')
        row = _row(whole(own, 'track_id'), _category(item), shape, box, frame)
        if row is None:
            raise ValueError('neither a box nor a segmentation with an area')
        labelled.rows[frame.index].append(row)
    return labelled.frames(names)


def _youtube_vis(document: dict[str, Any], video: Any, labelled: _Labelled) -> None:
    for number in labelled.by_index:  # every frame is labelled
        labelled.rows[number] = []
    for order, item in enumerate(listed(document, 'annotations')):
        labelled.at = f'annotation {order}'
        if member(item, 'iscrowd') or (video is not None and member(item, 'video_id') != video):
            continue
        own, category = whole(member(item, 'id'), 'id'), _category(item)
        shapes, boxes = listed(item, 'segmentations'), listed(item, 'bboxes')
        length = max(len(shapes), len(boxes))
        if shapes and boxes and len(shapes) != len(boxes):
            raise ValueError(f'{len(shapes)} segmentations and {len(boxes)} boxes')
        for number in range(length):
            frame = labelled.by_index.get(number)
            if frame is None:
                continue
            labelled.at = f'annotation {order}, frame {number}'
            shape, box = (side[number] if side else None for side in (shapes, boxes))
            row = _row(own, category, shape, box, frame)
            if row is not None:
                labelled.rows[number].append(row)


def _category(item: dict[str, Any]) -> int:
    value = member(item, 'category_id')
    return -1 if value is None else whole(value, 'category_id', 32)


def _row(track_id: int, label: int, shape: Any, box: Any, frame: TrackedFrame) -> Row | None:
    """Label an object by COCO's box, segmentation or both; None when it has neither.

    A segmentation without pixels, as some files have where an object is hidden, counts as none.
    """
    mask = None
    if shape not in (None, []):
        mask = crop(pixels_from_coco(shape, frame.height, frame.width).astype(np.bool_))
        mask = mask if mask.pixels.size else None
    if box not in (None, []):
        return Row(track_id, box_of_size(box), label, mask)
    return None if mask is None else Row(track_id, mask.box, label, mask)


def _scalabel(frames: list[Any], labelled: _Labelled, video: str) -> list[TrackedFrame]:
    """Frames with ``labels`` of ``id``, ``category``, ``box2d`` and perhaps ``rle``."""
    names, categories = [], set()
    for order, item in enumerate(frames):
        labelled.at = f'frame {order}'
        names.append(text(item, 'videoName', '') or text(item, 'video_name', ''))
        for number, label in enumerate(listed(item, 'labels')):
            labelled.at = f'frame {order}, label {number}'
            categories.add(text(label, 'category'))
    chosen = _choose(labelled.path, names, video) if frames else ''
    numbers = {name: number for number, name in enumerate(sorted(categories))}
    ids: dict[str, int] = {}
    for order, (item, name) in enumerate(zip(frames, names)):
        if name != chosen:
            continue
        labelled.at = f'frame {order}'
        place = next((v for k in ('frameIndex', 'index') if (v := item.get(k)) is not None), order)
        frame = labelled.frame(text(item, 'name', ''), whole(place, 'frameIndex'))
        if frame is None:
            continue
        for number, label in enumerate(listed(item, 'labels')):
            labelled.at = f'frame {order}, label {number}'
            attributes = member(label, 'attributes') or {}
            if member(attributes, 'crowd') or member(attributes, 'ignored'):
                continue
            # Ids are any strings there.
            track_id = ids.setdefault(str(key(label, 'id')), len(ids) + 1)
            row = _row(track_id, numbers[label['category']], label.get('rle'), None, frame)
            box = label.get('box2d')
            if box:
                edges = box_of(*(member(box, k) for k in ('x1', 'y1', 'x2', 'y2')))
                row = Row(track_id, edges, numbers[label['category']], row.mask if row else None)
            if row is not None:
                labelled.rows[frame.index].append(row)
    return labelled.frames({number: name for name, number in numbers.items()})


def _png_folder(path: Path, found: Sequence[TrackedFrame]) -> list[TrackedFrame]:
    """Read images of ids, 8 or 16 bits: 0 is background; their names or their order pair them."""
    files = natural_order(path.glob('*.png'))
    if not files:
        raise SourceError(f'{path} is a folder without PNG files')
    labelled = _Labelled(path, found)
    named = any(file.stem in labelled.by_name for file in files)
    for order, file in enumerate(files):
        frame = labelled.frame(file.name, None if named else order)
        if frame is None:
            continue
        ids = _id_image(file)
        if ids.shape != (frame.height, frame.width):
            raise SourceError(
                f'{file} has {ids.shape[1]} x {ids.shape[0]} pixels, frame {frame.index} has '
                f'{frame.width} x {frame.height}'
            )
        for track_id in np.unique(ids).tolist():
            if track_id and not (ids.dtype == np.uint8 and track_id == VOID):
                mask = crop(ids == track_id)
                labelled.rows[frame.index].append(Row(track_id, mask.box, -1, mask))
    return labelled.frames()


def _id_image(file: Path) -> NDArray[np.integer]:
    try:
        with Image.open(file) as image:
            ids = np.asarray(image)
    except Exception as error:  # damaged bytes make Pillow raise anything
        raise SourceError(f'{file} is no readable PNG: {error}') from error
    if ids.dtype == np.bool_:  # of one bit
        ids = ids.astype(np.uint8)
    if ids.ndim != 2 or ids.dtype.kind not in 'ui':
        raise SourceError(f'{file} has colours; expected one channel (or a palette) of ids')
    return ids
