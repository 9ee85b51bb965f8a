# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The values that travel through the package: ``Frame``, ``Instances``, ``Prompt``, ``Result``."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LARGEST_SIDE = 1 << 15  # pixels; a larger image or mask is a damaged one


class Frame(NamedTuple):
    """One camera image.

    Attributes
    ----------
    image:
        (H, W, 3) uint8, RGB. May be a read-only or strided view of foreign memory.
    stamp_ns:
        Time of acquisition, nanoseconds.
    frame_id:
        Name of the camera's optical frame (REP 105), passed through untouched.
    stamped:
        False where the camera gave no stamp and ``stamp_ns`` is the time of arrival.

    """

    image: NDArray[np.uint8]
    stamp_ns: int
    frame_id: str = ''
    stamped: bool = True

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image, pixels."""
        return self.image.shape[0], self.image.shape[1]


class TrackState(enum.IntEnum):
    """Where a track stands; the values are those of ``masa_ros/msg/TrackedInstance``."""

    TENTATIVE = 0
    TRACKED = 1
    LOST = 2
    COASTED = 3


class Mask:
    """A binary mask as the smallest useful window: a full-size mask is never stored.

    Held as pixels or as run lengths, whichever it was made of; the other is made when asked for.

    Attributes
    ----------
    x, y:
        Column and row of the window's top-left pixel in the image.
    width, height:
        Of the window, pixels.

    """

    __slots__ = ('_counts', '_pixels', 'height', 'width', 'x', 'y')
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, x: int, y: int, pixels: NDArray[np.bool_]) -> None:
        self.x, self.y = x, y
        self.height, self.width = pixels.shape
        self._pixels: NDArray[np.bool_] | None = pixels
        self._counts: NDArray[np.uint32] | None = None

    @classmethod
    def from_counts(
        cls, x: int, y: int, width: int, height: int, counts: NDArray[np.integer]
    ) -> Mask:
        """Make a mask of run lengths: of the window, column by column, beginning with background.

        Raises
        ------
        ValueError
            When the run lengths do not add up to width * height.

        """
        runs = np.asarray(counts, dtype=np.int64)
        if (runs < 0).any() or runs.sum() != width * height:
            raise ValueError(
                f'mask run lengths add up to {runs.sum()}, '
                f'the window has {width} x {height} pixels'
            )
        mask = cls.__new__(cls)
        mask.x, mask.y, mask.width, mask.height = int(x), int(y), int(width), int(height)
        mask._pixels, mask._counts = None, runs.astype(np.uint32)
        return mask

    def __eq__(self, other: object) -> bool:
        """Tell whether both are the same window with the same pixels."""
        if not isinstance(other, Mask):
            return NotImplemented
        ours = (self.x, self.y, self.width, self.height)
        theirs = (other.x, other.y, other.width, other.height)
        return ours == theirs and np.array_equal(self.counts, other.counts)

    @property
    def pixels(self) -> NDArray[np.bool_]:
        """The window (height, width), True on the object."""
        if self._pixels is None:
            assert self._counts is not None
            flat = np.repeat(np.arange(len(self._counts)) % 2 == 1, self._counts)
            self._pixels = flat.reshape((self.height, self.width), order='F')
        return self._pixels

    @property
    def counts(self) -> NDArray[np.uint32]:
        """Run lengths of the window, column by column, beginning with background."""
        if self._counts is None:
            assert self._pixels is not None
            flat = self._pixels.ravel(order='F')
            edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
            counts = np.diff(np.concatenate(([0], edges, [flat.size])))
            if flat.size and flat[0]:
                counts = np.concatenate(([0], counts))
            self._counts = counts.astype(np.uint32)
        return self._counts

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The window as x1, y1, x2, y2, pixels of the image."""
        return self.x, self.y, self.x + self.width, self.y + self.height

    def full(self, height: int, width: int) -> NDArray[np.bool_]:
        """Return the mask as (height, width) bool."""
        canvas = np.zeros((height, width), dtype=np.bool_)
        canvas[self.y : self.y + self.height, self.x : self.x + self.width] = self.pixels
        return canvas

    def clipped(self, height: int, width: int) -> Mask:
        """Return the part that lies in an image of this size; nothing is copied when all does."""
        x0, y0 = max(self.x, 0), max(self.y, 0)
        x1, y1 = min(self.x + self.width, width), min(self.y + self.height, height)
        if (x0, y0, x1 - x0, y1 - y0) == (self.x, self.y, self.width, self.height):
            return self
        if x0 >= x1 or y0 >= y1:
            return Mask(0, 0, np.zeros((0, 0), np.bool_))
        return Mask(x0, y0, self.pixels[y0 - self.y : y1 - self.y, x0 - self.x : x1 - self.x])

    def scaled(self, x: float, y: float) -> Mask:
        """Return the mask in an image whose sides are ``x`` and ``y`` times as long."""
        left, right = round(self.x * x), round((self.x + self.width) * x)
        top, bottom = round(self.y * y), round((self.y + self.height) * y)
        rows = np.minimum((np.arange(top, bottom) + 0.5) / y - self.y, self.height - 1)
        columns = np.minimum((np.arange(left, right) + 0.5) / x - self.x, self.width - 1)
        index = np.ix_(np.maximum(rows, 0).astype(np.intp), np.maximum(columns, 0).astype(np.intp))
        return Mask(left, top, self.pixels[index])


@dataclasses.dataclass(frozen=True, eq=False)
class TrackedPoints:
    """Points of one object that are followed, in their order until they are chosen anew.

    Attributes
    ----------
    points:
        (P, 2) float32, x y in pixels of the image; (0, 0) is the centre of its first pixel.
    visible:
        (P,) bool; the others are where they are thought to be.
    positive:
        (P,) bool, False for those beside the object.

    """

    points: NDArray[np.float32]
    visible: NDArray[np.bool_]
    positive: NDArray[np.bool_]

    def __eq__(self, other: object) -> bool:
        """Tell whether all values are the same."""
        if not isinstance(other, TrackedPoints):
            return NotImplemented
        names = ('points', 'visible', 'positive')
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)

    __hash__ = None  # type: ignore[assignment]


# Value, type, and shape behind the first axis.
_DEFAULTS: dict[str, tuple[int, type[np.generic], tuple[int, ...]]] = {
    'scores': (1, np.float32, ()),
    'labels': (-1, np.int32, ()),
    'embeddings': (0, np.float32, (0,)),
    'track_ids': (0, np.int64, ()),
    'states': (0, np.uint8, ()),
    'first_seen_ns': (0, np.int64, ()),
    'frames_since_seen': (0, np.int32, ()),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Instances:
    """The objects of one image as parallel arrays of length N, best score first.

    A model fills the first five; association adds identity and history. What is not known has
    its default: score 1, no class, an embedding without length, no masks, no identity.

    Attributes
    ----------
    boxes:
        (N, 4) float32, x_min y_min x_max y_max in pixels of the original image.
    scores:
        (N,) float32 in 0..1.
    labels:
        (N,) int32 class ids, -1 when class-agnostic.
    embeddings:
        (N, C) float32 appearance, not normalised.
    masks:
        N masks (None: this one has no mask), or None where the model gives no masks.
    track_ids:
        (N,) int64, at least 1; 0 where association has not run.
    states:
        (N,) uint8 of ``TrackState``.
    first_seen_ns:
        (N,) int64, stamp of the frame in which the track began.
    frames_since_seen:
        (N,) int32, 0 when seen in this frame.
    names:
        N names that somebody gave these objects, '' for none.
    points:
        N times the points that an object is followed by (None: by none), or None where the method
        follows no points.

    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32] = None  # type: ignore[assignment]  # filled below, as are others
    labels: NDArray[np.int32] = None  # type: ignore[assignment]
    embeddings: NDArray[np.float32] = None  # type: ignore[assignment]
    masks: tuple[Mask | None, ...] | None = None
    track_ids: NDArray[np.int64] = None  # type: ignore[assignment]
    states: NDArray[np.uint8] = None  # type: ignore[assignment]
    first_seen_ns: NDArray[np.int64] = None  # type: ignore[assignment]
    frames_since_seen: NDArray[np.int32] = None  # type: ignore[assignment]
    names: tuple[str, ...] = None  # type: ignore[assignment]
    points: tuple[TrackedPoints | None, ...] | None = None

    def __post_init__(self) -> None:
        """Fill the defaults and check that all arrays have one length."""
        count = len(self.boxes)
        for name, (fill, dtype, shape) in _DEFAULTS.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, np.full((count, *shape), fill, dtype))
        if self.names is None:
            object.__setattr__(self, 'names', ('',) * count)
        for name, value in vars(self).items():
            if value is not None and len(value) != count:
                raise ValueError(f'{name} has length {len(value)}, boxes has {count}')

    def __len__(self) -> int:
        """Return the number of instances."""
        return len(self.boxes)

    def __eq__(self, other: object) -> bool:
        """Tell whether all values are the same, masks pixel by pixel."""
        if not isinstance(other, Instances):
            return NotImplemented
        for field in dataclasses.fields(self):
            ours, theirs = getattr(self, field.name), getattr(other, field.name)
            if field.name in ('masks', 'names', 'points'):
                if ours != theirs:
                    return False
            elif not np.array_equal(ours, theirs):
                return False
        return True

    __hash__ = None  # type: ignore[assignment]  # arrays have none either

    @property
    def finite(self) -> NDArray[np.bool_]:
        """True (N,) where box, score and embedding are numbers, not NaN or infinite."""
        rows = np.isfinite(self.boxes).all(axis=1) & np.isfinite(self.embeddings).all(axis=1)
        return np.asarray(rows & np.isfinite(self.scores))

    @property
    def present(self) -> NDArray[np.bool_]:
        """True (N,) where the track is confirmed and said to be in this image."""
        return np.isin(self.states, (TrackState.TRACKED, TrackState.COASTED))

    def __getitem__(self, index: NDArray[np.generic] | Sequence[int] | slice) -> Instances:
        """Select by a boolean mask, an index array or a slice; order is that of the index."""
        if not isinstance(index, slice):
            index = np.asarray(index)
            if index.size == 0:
                index = index.astype(np.intp)
        chosen = np.arange(len(self))[index]
        rows = chosen.tolist()
        # Not by the constructor: of parts of one length it has nothing to fill and to check.
        part = object.__new__(Instances)
        for name, value in vars(self).items():
            if isinstance(value, tuple):
                part.__dict__[name] = tuple([value[i] for i in rows])
            else:
                part.__dict__[name] = None if value is None else value.take(chosen, axis=0)
        return part

    @classmethod
    def concatenate(cls, parts: Sequence[Instances]) -> Instances:
        """Join instances of one image; embeddings must have one length.

        Parts without instances say nothing. There are masks, or points, where any other part has
        them.
        """
        parts = [part for part in parts if len(part)] or list(parts[:1])
        if len(parts) == 1:
            return parts[0]
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            columns = [getattr(part, field.name) for part in parts]
            if field.name == 'names':
                values[field.name] = tuple(name for column in columns for name in column)
            elif field.name not in ('masks', 'points'):
                values[field.name] = np.concatenate(columns)
            elif any(column is not None for column in columns):
                some = (c or (None,) * len(part) for c, part in zip(columns, parts))
                values[field.name] = tuple(each for column in some for each in column)
        return cls(**values)

    def clipped(self, height: int, width: int) -> Instances:
        """Return what lies in an image of this size: boxes and masks cut to it.

        Boxes without an area in the image are left out.
        """
        limits = np.array((width, height, width, height), np.float32)
        boxes = np.clip(self.boxes, 0, limits)
        inside = np.asarray((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
        masks = self.masks
        if masks is not None:
            masks = tuple(mask and mask.clipped(height, width) for mask in masks)
        cut = dataclasses.replace(self, boxes=boxes, masks=masks)
        return cut if inside.all() else cut[inside]

    @classmethod
    def empty(cls, embedding_size: int = 0) -> Instances:
        """Return no instances."""
        return cls(
            boxes=np.zeros((0, 4), np.float32),
            embeddings=np.zeros((0, embedding_size), np.float32),
            masks=(),
        )


class Expected(NamedTuple):
    """Where tracks should be seen in an image, by who knows more than images tell.

    Attributes
    ----------
    track_ids:
        (N,) int64.
    boxes:
        (N, 4) float64, xyxy in pixels, inside the image or not.

    """

    track_ids: NDArray[np.int64]
    boxes: NDArray[np.float64]


class Result(NamedTuple):
    """What a session says of one frame, which may be an earlier one than the last it was given.

    Attributes
    ----------
    frame:
        The frame that the tracks are of.
    tracks:
        With ids and states, best score first.
    class_names:
        Names of the labels, where they have any.

    """

    frame: Frame
    tracks: Instances
    class_names: Mapping[int, str] = MappingProxyType({})


def class_name(label: int, names: Mapping[int, str]) -> str:
    """Return what a class is called: its name, else its number as text; '' for none (-1)."""
    return names.get(label) or (str(label) if label >= 0 else '')


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt:
    """What somebody points at, or names, in one frame of a stream.

    Attributes
    ----------
    stamp_ns:
        Of the frame that it was made on.
    track_id:
        The track that is corrected; 0 for a new object.
    points:
        (N, 2) float32, x y in pixels of the image.
    positive:
        (N,) bool, False where a point says what does not belong to the object.
    box:
        (4,) float32 xyxy pixels, or None.
    mask:
        Or None.
    text:
        Words for what is meant; alone: everything that answers to them.
    name:
        For the tracks that it becomes, '' for none.

    """

    stamp_ns: int
    track_id: int = 0
    points: NDArray[np.float32] = dataclasses.field(
        default_factory=lambda: np.zeros((0, 2), np.float32)
    )
    positive: NDArray[np.bool_] = None  # type: ignore[assignment]  # filled below
    box: NDArray[np.float32] | None = None
    mask: Mask | None = None
    text: str = ''
    name: str = ''

    def __post_init__(self) -> None:
        """Take points without signs for positive; raises ValueError where the signs are short."""
        if self.positive is None:
            object.__setattr__(self, 'positive', np.ones(len(self.points), np.bool_))
        if len(self.positive) != len(self.points):
            raise ValueError(f'{len(self.points)} points with {len(self.positive)} signs')

    @property
    def kinds(self) -> frozenset[str]:
        """What it is made of: of 'point', 'box', 'mask' and 'text'."""
        given = {
            'point': len(self.points) > 0,
            'box': self.box is not None,
            'mask': self.mask is not None,
            'text': bool(self.text),
        }
        return frozenset(kind for kind, there in given.items() if there)
