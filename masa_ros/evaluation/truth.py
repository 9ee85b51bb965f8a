"""Ground truth in the formats of the field, brought onto the frames of a recording.

What is read: tracks.json of this project, MOTChallenge txt (gt.txt), COCO-style video json (TAO,
YouTube-VIS, BURST-like), scalabel json (BDD100K), and folders of PNG id masks (DAVIS).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as coco

from masa_ros.errors import SourceError
from masa_ros.images import natural_order
from masa_ros.masks import crop, mask_from_coco_rle
from masa_ros.tracks_file import FORMAT, TrackedFrame, read_tracks
from masa_ros.types import Instances, Mask, TrackState

VOID = 255  # in 8-bit PNG id masks: not labelled


class Row(NamedTuple):
    """One labelled object in one frame: box as left, top, right, bottom in pixels."""

    track_id: int
    box: Sequence[float]
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
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise SourceError(f'{path} cannot be read: {error.strerror}') from error
    except ValueError as error:
        raise SourceError(f'{path} is no json: {error}') from error
    if isinstance(document, dict) and str(document.get('format', '')) == FORMAT:
        return read_tracks(path)
    try:
        if isinstance(document, dict) and 'annotations' in document:
            return _coco_video(path, document, found, video)
        frames = document.get('frames') if isinstance(document, dict) else document
        if isinstance(frames, list):
            return _scalabel(path, frames, found, video)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise SourceError(f'{path} is damaged: {error!r}') from error
    raise SourceError(
        f'{path} is none of: tracks.json, MOTChallenge txt, COCO-video or TAO json, scalabel json'
    )


def from_masks(
    index: int, stamp_ns: int, masks: NDArray[np.bool_], ids: Sequence[int] | NDArray[np.int64]
) -> TrackedFrame:
    """Make the truth about an image of the masks (N, H, W) of its objects, none empty."""
    windows = [crop(mask) for mask in masks]
    boxes = [(m.x, m.y, m.x + m.width, m.y + m.height) for m in windows]
    instances = Instances(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        masks=tuple(windows),
        track_ids=np.array(ids, np.int64),
        states=np.full(len(ids), TrackState.TRACKED, np.uint8),
    )
    height, width = masks.shape[1:]
    return TrackedFrame(index, f'frame {index}', stamp_ns, height, width, instances)


def _frame(of: TrackedFrame, rows: Iterable[Row]) -> TrackedFrame:
    """Labelled objects as the truth about a tracked frame."""
    rows = list(rows)
    ids = [row.track_id for row in rows]
    if len(set(ids)) < len(ids):
        double = next(i for i in ids if ids.count(i) > 1)
        raise SourceError(f'frame {of.index} of the truth has the id {double} twice')
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
    return TrackedFrame(of.index, of.source, of.stamp_ns, of.height, of.width, instances)


class _Places:
    """Finds the tracked frame that a labelled one is, by its file name or by its number."""

    def __init__(self, path: Path, found: Sequence[TrackedFrame]) -> None:
        self.path = path
        self.by_name = {Path(frame.source).stem: frame for frame in found}
        self.by_index = {frame.index: frame for frame in found}
        self.rows: dict[int, list[Row]] = {}

    def frame(self, name: str, number: int | None) -> TrackedFrame | None:
        """Return it; None when it was not tracked. The labelled frame counts as labelled."""
        frame = self.by_name.get(Path(name).stem) if name else None
        if frame is None and number is not None:
            frame = self.by_index.get(number)
        if frame is not None:
            self.rows.setdefault(frame.index, [])
        return frame

    def frames(self) -> list[TrackedFrame]:
        """Return the labelled frames."""
        if not self.rows:
            raise SourceError(f'{self.path} labels none of the frames that were tracked')
        return [_frame(self.by_index[i], rows) for i, rows in sorted(self.rows.items())]


def _mot(path: Path, found: Sequence[TrackedFrame]) -> list[TrackedFrame]:
    """Frame (from 1), id, left, top, width, height, considered (0: ignore), class, visibility.

    Frames without lines are labelled as empty; all classes count.
    """
    rows: dict[int, list[Row]] = {frame.index: [] for frame in found}
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f'{path} cannot be read: {error}') from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = [float(v) for v in line.replace(',', ' ').split()]
            frame, track_id, left, top, width, height = values[:6]
        except ValueError as error:
            raise SourceError(f'{path}, line {number}: no MOTChallenge label: {error}') from error
        if len(values) > 6 and values[6] == 0:
            continue
        label = int(values[7]) if len(values) > 7 else -1
        if int(frame) - 1 in rows:
            box = (left, top, left + width, top + height)
            rows[int(frame) - 1].append(Row(int(track_id), box, label))
    if not any(rows.values()):
        raise SourceError(f'{path} labels nothing in the frames that were tracked')
    return [_frame(frame, rows[frame.index]) for frame in found]


def _choose(path: Path, names: Iterable[str], video: str) -> str:
    """Return the name of the video to take."""
    known = sorted(set(names))
    if video:
        matches = [name for name in known if video in (name, Path(name).name)]
        if len(matches) == 1:
            return matches[0]
    elif len(known) == 1:
        return known[0]
    listed = ', '.join(known[:8]) + (', ...' if len(known) > 8 else '')
    asked = f"has no video '{video}'" if video else 'holds several videos: choose one with --video'
    raise SourceError(f'{path} {asked}; there are: {listed}')


def _coco_video(
    path: Path, document: dict[str, Any], found: Sequence[TrackedFrame], video: str
) -> list[TrackedFrame]:
    """TAO and BURST have an annotation for every image, YouTube-VIS one for every track.

    Crowds (``iscrowd``) are no objects.
    """
    videos = {v['id']: str(v.get('name') or v.get('file_name') or v['id'])
              for v in document.get('videos', [])}  # fmt: skip
    chosen = None
    if videos:
        name = _choose(path, videos.values(), video)
        chosen = next(key for key, value in videos.items() if value == name)
    places = _Places(path, found)
    if 'images' not in document:
        return _youtube_vis(document, chosen, places)
    frames: dict[Any, TrackedFrame] = {}
    for order, image in enumerate(document['images']):
        if chosen is not None and image.get('video_id') != chosen:
            continue
        number = image.get('frame_index', image.get('frame_id', order if not videos else None))
        frame = places.frame(str(image.get('file_name', '')), number)
        if frame is not None:
            frames[image['id']] = frame
    for item in document['annotations']:
        frame = frames.get(item['image_id'])
        if frame is None or item.get('iscrowd') or item.get('ignore'):
            continue
        track_id = item.get('track_id', item.get('instance_id'))
        if track_id is None:
            raise ValueError(f'annotation {item.get("id")} has neither track_id nor instance_id')
        row = _coco_row(int(track_id), item, item.get('segmentation'), item.get('bbox'), frame)
        places.rows[frame.index].append(row)
    return places.frames()


def _youtube_vis(document: dict[str, Any], video: Any, places: _Places) -> list[TrackedFrame]:
    for number in places.by_index:  # every frame is labelled
        places.rows[number] = []
    for item in document['annotations']:
        if item.get('iscrowd') or (video is not None and item['video_id'] != video):
            continue
        shapes, boxes = item.get('segmentations'), item.get('bboxes')
        for number in range(len(shapes or boxes or ())):
            shape = shapes[number] if shapes else None
            box = boxes[number] if boxes else None
            frame = places.by_index.get(number)
            if frame is not None and (shape or box):
                row = _coco_row(int(item['id']), item, shape, box, frame)
                places.rows[frame.index].append(row)
    return places.frames()


def _coco_row(
    track_id: int, item: dict[str, Any], shape: Any, box: Any, frame: TrackedFrame
) -> Row:
    mask = _mask(shape, frame) if shape else None
    if box is None:
        if mask is None:
            raise ValueError(f'track {track_id} has neither box nor segmentation')
        return Row(track_id, _window(mask), int(item.get('category_id', -1)), mask)
    left, top, width, height = (float(v) for v in box)
    place = (left, top, left + width, top + height)
    return Row(track_id, place, int(item.get('category_id', -1)), mask)


def _mask(shape: Any, frame: TrackedFrame) -> Mask:
    """Mask of COCO polygons or run lengths."""
    if isinstance(shape, dict):
        mask, size = mask_from_coco_rle(shape), tuple(shape['size'])
        if size != (frame.height, frame.width):
            raise SourceError(
                f'frame {frame.index} has {frame.width} x {frame.height} pixels in the tracks and '
                f'{size[1]} x {size[0]} in the ground truth'
            )
        return mask
    drawn = coco.decode(coco.merge(coco.frPyObjects(shape, frame.height, frame.width)))
    return crop(drawn.astype(np.bool_))


def _window(mask: Mask | None) -> tuple[float, float, float, float]:
    assert mask is not None
    height, width = mask.height, mask.width
    return mask.x, mask.y, mask.x + width, mask.y + height


def _scalabel(
    path: Path, frames: list[dict[str, Any]], found: Sequence[TrackedFrame], video: str
) -> list[TrackedFrame]:
    """Frames with ``labels`` of ``id``, ``category``, ``box2d`` and perhaps ``rle``."""
    names = [str(f.get('videoName') or f.get('video_name') or '') for f in frames]
    chosen = _choose(path, names, video) if frames else ''
    categories = sorted({label['category'] for f in frames for label in f.get('labels') or ()})
    places, ids = _Places(path, found), dict[str, int]()
    for order, (item, name) in enumerate(zip(frames, names)):
        if name != chosen:
            continue
        number = item.get('frameIndex', item.get('index', order))
        frame = places.frame(str(item.get('name', '')), number)
        if frame is None:
            continue
        for label in item.get('labels') or ():
            attributes = label.get('attributes') or {}
            if attributes.get('crowd') or attributes.get('ignored'):
                continue
            # Ids are any strings there.
            track_id = ids.setdefault(str(label['id']), len(ids) + 1)
            mask = _mask(label['rle'], frame) if label.get('rle') else None
            box = label.get('box2d')
            place = [float(box[k]) for k in ('x1', 'y1', 'x2', 'y2')] if box else None
            if place is None and mask is None:
                continue
            if place is None:
                place = list(_window(mask))
            row = Row(track_id, place, categories.index(label['category']), mask)
            places.rows[frame.index].append(row)
    return places.frames()


def _png_folder(path: Path, found: Sequence[TrackedFrame]) -> list[TrackedFrame]:
    """Read images of ids, 8 or 16 bits: 0 is background; their names or their order pair them."""
    files = natural_order(path.glob('*.png'))
    if not files:
        raise SourceError(f'{path} is a folder without PNG files')
    places = _Places(path, found)
    named = any(file.stem in places.by_name for file in files)
    for order, file in enumerate(files):
        frame = places.frame(file.name, None if named else order)
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
                places.rows[frame.index].append(Row(track_id, _window(mask), -1, mask))
    return places.frames()


def _id_image(file: Path) -> NDArray[np.integer]:
    try:
        with Image.open(file) as image:
            ids = np.asarray(image)
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise SourceError(f'{file} is no readable PNG: {error}') from error
    if ids.ndim != 2 or ids.dtype.kind not in 'ui':
        raise SourceError(f'{file} has colours; expected one channel (or a palette) of ids')
    return ids
