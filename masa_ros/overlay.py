# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of tracks for people to look at."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from masa_ros.types import Instances, Prompt, TrackState, class_name

_TINT = 0.45
_LOST = (150, 150, 150)
_LONGEST = 24  # characters of a class name, of a longer one the beginning
_ASCII_ONLY = int(cv2.__version__.split('.')[0]) < 5  # the fonts of OpenCV before 5


def colour_of(track_id: int) -> tuple[int, int, int]:
    """Return the RGB colour of a track: the same id, the same colour, neighbours far apart."""
    hue = (track_id * 0.618033988749895) % 1.0  # golden ratio: hues spread evenly
    value = 1.0 if track_id % 3 else 0.8
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85 if track_id % 2 else 0.65, value)
    return int(red * 255), int(green * 255), int(blue * 255)


def colour_in(tracks: Instances, i: int) -> tuple[int, int, int]:
    """Return the RGB colour of track number ``i``: that of its id, grey where it is lost."""
    if tracks.states[i] == TrackState.LOST:
        return _LOST
    return colour_of(int(tracks.track_ids[i]))


def ink_on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return black or white, whichever can be read on a colour."""
    return (0, 0, 0) if sum(colour) > 380 else (255, 255, 255)


def caption(tracks: Instances, i: int, class_names: Mapping[int, str], score: bool = True) -> str:
    """Return what is written beside track number ``i``, one short line: id, name, score."""
    own = tracks.names[i]
    name = ' '.join((own or class_name(int(tracks.labels[i]), class_names)).split())
    if len(name) > _LONGEST:
        name = name[: _LONGEST - 2] + '..'
    if name.isdecimal() and not own:  # else a number among numbers
        name = f'class {name}'
    parts = [str(tracks.track_ids[i]), name, f'{tracks.scores[i]:.2f}' if score else '']
    return ' '.join(part for part in parts if part)


def outlines(tracks: Instances, i: int) -> list[NDArray[np.float32]]:
    """Return the closed outlines of track number ``i`` for viewers that draw them themselves.

    Those of the mask, to within a pixel and without holes; the box where there is no mask, and of
    a lost track.

    Returns
    -------
    One (M, 2) float32 or more: x, y in pixels, (0, 0) the outer corner of the top-left pixel.

    """
    mask = tracks.masks[i] if tracks.masks is not None else None
    if mask is not None and mask.pixels.size and tracks.states[i] != TrackState.LOST:
        contours, _ = cv2.findContours(
            mask.pixels.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
        )
        simple = (cv2.approxPolyDP(contour, 1.0, True)[:, 0] for contour in contours)
        corner = (mask.x + 0.5, mask.y + 0.5)  # contours go through the centres of pixels
        found = [np.add(points, corner, dtype=np.float32) for points in simple if len(points) > 2]
        if found:
            return found
    x0, y0, x1, y1 = tracks.boxes[i]
    return [np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float32)]


def draw(
    image: NDArray[np.uint8],
    tracks: Instances,
    class_names: Mapping[int, str] = MappingProxyType({}),
    notes: Mapping[int, str] = MappingProxyType({}),
) -> NDArray[np.uint8]:
    """Draw tracks over a copy of an image.

    Masks are tinted and outlined, boxes thin; at their upper left corners stand ids, names and
    scores, in a small image as much of these as fits. Tentative and coasted tracks have no tint,
    lost ones only a grey box.

    Parameters
    ----------
    image: (H, W, 3) uint8 RGB.
    tracks: of this image, drawn as far as they lie in it; without tracking (ids 0) all have one
        colour.
    class_names: of their labels, where they have any.
    notes: a few characters more to some tracks by their ids, as a distance.

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
        _label(canvas, tracks, i, class_names, line, notes.get(int(tracks.track_ids[i]), ''))
    return canvas


def point_out(image: NDArray[np.uint8], prompt: Prompt) -> None:
    """Draw into an image what somebody pointed at in it.

    Clicks are green discs, red ones what is not meant; a box is a white line.

    Parameters
    ----------
    image: (H, W, 3) uint8 RGB, changed.
    prompt: of this image, or of one a moment ago.

    """
    radius = max(4, round(image.shape[0] / 80))
    for (x, y), positive in zip(prompt.points, prompt.positive):
        centre = int(x), int(y)
        cv2.circle(image, centre, radius + 2, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(
            image, centre, radius, (0, 170, 0) if positive else (220, 0, 0), -1, cv2.LINE_AA
        )
    if prompt.box is not None:
        x0, y0, x1, y1 = (round(float(v)) for v in prompt.box)
        cv2.rectangle(image, (x0, y0), (x1 - 1, y1 - 1), (255, 255, 255), 2, cv2.LINE_AA)


def _label(
    canvas: NDArray[np.uint8],
    tracks: Instances,
    i: int,
    class_names: Mapping[int, str],
    line: int,
    note: str,
) -> None:
    """Draw the box and the text of one track."""
    colour = colour_in(tracks, i)
    x0, y0, x1, y1 = (round(float(v)) for v in tracks.boxes[i])
    cv2.rectangle(canvas, (x0, y0), (x1 - 1, y1 - 1), colour, 1, cv2.LINE_AA)
    scale = max(0.35, canvas.shape[0] / 1100)
    note = f' {note}' if note else ''
    for text in (
        caption(tracks, i, class_names) + note,
        caption(tracks, i, class_names, score=False) + note,
        f'{tracks.track_ids[i]}{note}',
        str(tracks.track_ids[i]),
    ):
        if _ASCII_ONLY:
            text = text.encode('ascii', 'replace').decode()
        (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, line)
        if width + 4 < canvas.shape[1]:
            break
    left = min(max(x0, 0), max(canvas.shape[1] - width - 5, 0))
    top = y0 - height - base - 2
    if top < 0:
        top = max(min(y0, canvas.shape[0] - height - base - 3), 0)
    cv2.rectangle(canvas, (left, top), (left + width + 4, top + height + base + 2), colour, -1)
    ink = ink_on(colour)
    place = (left + 2, top + height + 1)
    cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, line, cv2.LINE_AA)
