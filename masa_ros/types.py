"""The values that travel through the package: ``Frame``, ``Mask``, ``Instances``."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
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

    """

    image: NDArray[np.uint8]
    stamp_ns: int
    frame_id: str = ''


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

    def full(self, height: int, width: int) -> NDArray[np.bool_]:
        """Return the mask as (height, width) bool."""
        canvas = np.zeros((height, width), dtype=np.bool_)
        canvas[self.y : self.y + self.height, self.x : self.x + self.width] = self.pixels
        return canvas


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


@dataclasses.dataclass(frozen=True)
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

    def __post_init__(self) -> None:
        """Fill the defaults and check that all arrays have one length."""
        count = len(self.boxes)
        for name, (fill, dtype, shape) in _DEFAULTS.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, np.full((count, *shape), fill, dtype))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and len(value) != count:
                raise ValueError(f'{field.name} has length {len(value)}, boxes has {count}')

    def __len__(self) -> int:
        """Return the number of instances."""
        return len(self.boxes)

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
        values: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value: Any = getattr(self, field.name)
            if isinstance(value, tuple):
                values[field.name] = tuple(value[i] for i in chosen)
            else:
                values[field.name] = None if value is None else value[chosen]
        return Instances(**values)

    @classmethod
    def concatenate(cls, parts: Sequence[Instances]) -> Instances:
        """Join instances of one image; there are masks where the first part has them."""
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            columns = [getattr(part, field.name) for part in parts]
            if field.name != 'masks':
                values[field.name] = np.concatenate(columns)
            elif columns[0] is not None:
                masks = (c or (None,) * len(part) for c, part in zip(columns, parts))
                values[field.name] = tuple(mask for some in masks for mask in some)
        return cls(**values)

    @classmethod
    def empty(cls, embedding_size: int = 0) -> Instances:
        """Return no instances."""
        return cls(
            boxes=np.zeros((0, 4), np.float32),
            embeddings=np.zeros((0, embedding_size), np.float32),
            masks=(),
        )
