"""Pictures of tracks for people to look at."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from masa_ros.types import Instances, TrackState

_TINT = 0.45


def colour_of(track_id: int) -> tuple[int, int, int]:
    """Return the RGB colour of a track: the same id, the same colour, neighbours far apart."""
    hue = (track_id * 0.618033988749895) % 1.0  # golden ratio: hues spread evenly
    value = 1.0 if track_id % 3 else 0.8
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85 if track_id % 2 else 0.65, value)
    return int(red * 255), int(green * 255), int(blue * 255)


def draw(
    image: NDArray[np.uint8],
    tracks: Instances,
    class_names: Mapping[int, str] = MappingProxyType({}),
) -> NDArray[np.uint8]:
    """Draw tracks over a copy of an image.

    Masks are tinted and outlined, boxes thin, ids and names at their upper left corner. Tentative
    and coasted tracks have no tint, lost ones only a grey box.

    Parameters
    ----------
    image: (H, W, 3) uint8 RGB.
    tracks: of this image, drawn as far as they lie in it; without tracking (ids 0) all have one
        colour.
    class_names: of their labels, where they have any.

    """
    canvas = np.ascontiguousarray(image).copy()
    height, width = canvas.shape[:2]
    finite = np.asarray(np.isfinite(tracks.boxes).all(axis=1))
    tracks = tracks[finite].clipped(height, width)
    line = max(1, round(height / 480))
    order = range(len(tracks) - 1, -1, -1)  # the best scored last, on top
    for i in order:
        mask = tracks.masks[i] if tracks.masks is not None else None
        if mask is None or not mask.pixels.size or tracks.states[i] == TrackState.LOST:
            continue
        colour = np.array(colour_of(int(tracks.track_ids[i])))
        rows, columns = mask.height, mask.width
        window = canvas[mask.y : mask.y + rows, mask.x : mask.x + columns]
        if tracks.states[i] == TrackState.TRACKED:
            tinted = window[mask.pixels] * (1 - _TINT) + colour * _TINT
            window[mask.pixels] = tinted.astype(np.uint8)
        contours, _ = cv2.findContours(
            mask.pixels.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(
            canvas, contours, -1, colour.tolist(), line, cv2.LINE_AA, offset=(mask.x, mask.y)
        )
    for i in order:
        name = class_names.get(int(tracks.labels[i]), '')
        _label(canvas, tracks, i, f'{tracks.track_ids[i]} {name}'.strip(), line)
    return canvas


def _label(canvas: NDArray[np.uint8], tracks: Instances, i: int, text: str, line: int) -> None:
    """Draw the box and the text of one track."""
    lost = tracks.states[i] == TrackState.LOST
    colour = (150, 150, 150) if lost else colour_of(int(tracks.track_ids[i]))
    x0, y0, x1, y1 = (round(float(v)) for v in tracks.boxes[i])
    cv2.rectangle(canvas, (x0, y0), (x1 - 1, y1 - 1), colour, 1, cv2.LINE_AA)
    scale = max(0.35, canvas.shape[0] / 1100)
    (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, line)
    left = min(max(x0, 0), max(canvas.shape[1] - width - 4, 0))
    top = y0 - height - base - 2
    if top < 0:
        top = max(y0, 0)
    cv2.rectangle(canvas, (left, top), (left + width + 4, top + height + base + 2), colour, -1)
    dark = sum(colour) > 380
    ink = (0, 0, 0) if dark else (255, 255, 255)
    place = (left + 2, top + height + 1)
    cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, line, cv2.LINE_AA)
