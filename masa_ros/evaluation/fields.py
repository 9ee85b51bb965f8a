# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Values of foreign JSON documents: each of its kind, or a ValueError that says what it is."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from typing import Any

import numpy as np

from masa_ros.errors import SourceError

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""

_FARTHEST = 1e6  # pixels; whatever lies further out than this is no place in an image


def read_json(path: Path) -> Any:
    """Return the document in a file; raises SourceError when there is none."""
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise SourceError(f'{path} cannot be read: {error.strerror}') from error
    except ValueError as error:
        raise SourceError(f'{path} is no json: {error}') from error
    except RecursionError as error:
        raise SourceError(
            f'{path} is no json that can be read: it is nested too deeply'
        ) from error


def short(value: Any) -> str:
    """Return a value as a text of moderate length."""
    return reprlib.repr(value)


def member(item: Any, name: str) -> Any:
    """Return what an object holds under a name, None where it holds nothing."""
    if not isinstance(item, dict):
        raise ValueError(f'{short(item)} is no object with names and values')
    return item.get(name)


def listed(item: Any, name: str) -> list[Any]:
    """Return a list in an object, an empty one where there is none."""
    value = member(item, name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f'{name} is {short(value)}, no list')
    return value


def text(item: Any, name: str, default: str | None = None) -> str:
    """Return a string in an object; one that is not there needs a default."""
    value = member(item, name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise ValueError(f'{name} is {short(value)}, no text')
    return value


def key(item: Any, name: str) -> int | str:
    """Return what something is referred to by: a whole number or a string."""
    value = member(item, name)
    return value if isinstance(value, str) else whole(value, name)


def whole(value: Any, name: str, bits: int = 64) -> int:
    """Return a whole number that fits a signed integer of so many bits."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(f'{name} is {short(value)}, no whole number')
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise ValueError(f'{name} is {short(value)}, too large')
    return int(value)


def box_of(left: Any, top: Any, right: Any, bottom: Any) -> Box:
    """Return a box with an area, somewhere near an image."""
    x0, y0, x1, y1 = (_pixels(value) for value in (left, top, right, bottom))
    if np.float32(x1) <= np.float32(x0) or np.float32(y1) <= np.float32(y0):
        raise ValueError(f'the box from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g}) has no area')
    return x0, y0, x1, y1


def box_of_size(values: Any) -> Box:
    """Return the box of left, top, width, height."""
    if not isinstance(values, list) or len(values) != 4:
        raise ValueError(f'{short(values)} is no box of left, top, width and height')
    left, top, width, height = (_pixels(value) for value in values)
    return box_of(left, top, left + width, top + height)


def _pixels(value: Any) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not abs(value) <= _FARTHEST:
        raise ValueError(f'a box with {short(value)} for a number of pixels')
    return float(value)
