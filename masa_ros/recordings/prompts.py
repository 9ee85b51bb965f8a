# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""prompts.json: what somebody pointed at, or named, in the frames of a recording."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from masa_ros.errors import SourceError
from masa_ros.masks import mask_from_coco_rle
from masa_ros.types import Prompt

FORMAT = 'masa_ros.prompts/1'
_KEYS = {'frame', 'track_id', 'points', 'positive', 'box', 'mask', 'text', 'name'}


class RecordedPrompt(NamedTuple):
    """A prompt, and the number of the frame from 0 that it was made on; its stamp is 0."""

    frame: int
    prompt: Prompt


@dataclasses.dataclass(frozen=True)
class PromptAnswer:
    """What became of a prompt.

    Attributes
    ----------
    index: of the prompt in its file.
    track_id: the track that it became, 0 where it could not be followed.
    problem: why it could not.

    """

    index: int
    track_id: int
    problem: str = ''


def answered(index: int, track_ids: NDArray[np.int64]) -> PromptAnswer:
    """Return the answer to a prompt that became some tracks, or none."""
    if not len(track_ids):
        return PromptAnswer(index, 0, 'nothing was found there')
    return PromptAnswer(index, int(track_ids[0]))


def every_answer(known: Mapping[int, PromptAnswer], count: int) -> list[PromptAnswer]:
    """Return one answer a prompt, by its index; a prompt whose image never came has none yet."""
    missing = 'the recording has no image of this number that could be tracked'
    return [known.get(index, PromptAnswer(index, 0, missing)) for index in range(count)]


def read_prompts(path: Path) -> list[RecordedPrompt]:
    """Read prompts.json.

    Raises
    ------
    SourceError
        Naming the file, the prompt and what is wrong with it.

    """
    place = 'the file'
    try:
        document = json.loads(path.read_text())
        if document['format'] != FORMAT:
            raise SourceError(f"{path}: format is '{document['format']}', expected '{FORMAT}'")
        prompts = []
        for number, item in enumerate(document['prompts']):
            place = f'prompt {number}'
            prompts.append(_prompt(item))
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f'{path} cannot be read: {error}') from error
    except RecursionError as error:
        raise SourceError(f'{path} is nested too deeply') from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise SourceError(f'{path}, {place}: {error!r}') from error
    return prompts


def _prompt(item: dict[str, Any]) -> RecordedPrompt:
    unknown = set(item) - _KEYS
    if unknown:
        raise ValueError(f'{", ".join(sorted(unknown))} means nothing here')
    frame, track_id = (_natural(item.get(key, 0), key) for key in ('frame', 'track_id'))
    points = item.get('points') or []
    signs = item.get('positive')
    box, mask = item.get('box'), item.get('mask')
    if signs is not None and not all(isinstance(sign, bool) for sign in signs):
        raise ValueError('positive holds something else than true and false')
    text, name = (item.get(key) or '' for key in ('text', 'name'))
    if not isinstance(text, str) or not isinstance(name, str):
        raise ValueError('text or name is no string')
    prompt = Prompt(
        stamp_ns=0,
        track_id=track_id,
        points=_numbers(points, (len(points), 2), 'points'),
        positive=None if signs is None else np.array(signs, np.bool_),  # type: ignore[arg-type]
        box=None if box is None else _box(box),
        mask=None if mask is None else mask_from_coco_rle(mask),
        text=text,
        name=name,
    )
    if not prompt.kinds:
        raise ValueError('neither points, box, mask nor text')
    return RecordedPrompt(frame, prompt)


def _natural(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f'{key} is {value!r}; it must be a whole number from 0 on')
    return value


def _numbers(values: Sequence[Any], shape: tuple[int, ...], key: str) -> NDArray[np.float32]:
    numbers = np.array(values, np.float32).reshape(shape)
    if not np.isfinite(numbers).all():
        raise ValueError(f'{key} holds numbers that are not finite')
    return numbers


def _box(values: Sequence[Any]) -> NDArray[np.float32]:
    box = _numbers(values, (4,), 'box')
    if (box[2:] <= box[:2]).any():
        raise ValueError(f'the box {box.tolist()} (x1, y1, x2, y2) has no area')
    return box
