# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Proposals into files, a hundred images each: those that are there are not made again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from masa_ros.masks import coco_rle
from masa_ros.training.cutouts import read_image
from masa_ros.training.proposals import Locate, Proposal

_A_FILE = 100  # images


def write_proposals(
    files: Sequence[Path], root: Path, output: Path, locate: Locate, what: str
) -> tuple[int, list[str]]:
    """Write proposals of images to ``output``, a file for every hundred; finished ones are kept.

    Returns
    -------
    Number of instances in the files written now, and names of images that cannot be read.

    """
    count, unreadable = 0, list[str]()
    bar = tqdm(total=len(files), unit='image', disable=not sys.stderr.isatty())
    waiting = parts(files, output)
    bar.update(len(files) - sum(len(part.files) for part in waiting))
    for part in waiting:
        found, bad = write_part(part, root, locate, what, bar.update)
        count, unreadable = count + found, unreadable + bad
    bar.close()
    return count, unreadable


class Part(NamedTuple):
    """Images whose proposals go into one file.

    Attributes
    ----------
    target: the file.
    start: how many images come before.
    files: of the images.

    """

    target: Path
    start: int
    files: Sequence[Path]


def parts(files: Sequence[Path], output: Path) -> list[Part]:
    """Return what is not written yet to a folder, which is made."""
    output.mkdir(parents=True, exist_ok=True)
    every = [
        Part(output / f'proposals-{start // _A_FILE:05d}.json', start, files[start:][:_A_FILE])
        for start in range(0, len(files), _A_FILE)
    ]
    return [part for part in every if not part.target.is_file()]


def write_part(
    part: Part,
    root: Path,
    locate: Locate,
    what: str,
    tick: Callable[[], object] = lambda: None,
) -> tuple[int, list[str]]:
    """Write the proposals of some images to their file, whole or not at all.

    Parameters
    ----------
    part: the images.
    root: folder that names in the file are relative to.
    locate: finds proposals.
    what: found them, in words.
    tick: is called for every image.

    Returns
    -------
    As ``write_proposals``.

    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    unreadable = list[str]()
    for number, file in enumerate(part.files, part.start + 1):
        tick()
        image = read_image(file)
        if image is None:
            unreadable.append(str(file.relative_to(root)))
            continue
        height, width = image.shape[:2]
        name = str(file.relative_to(root))
        images.append({'id': number, 'file_name': name, 'height': height, 'width': width})
        for proposal in locate(image, file):
            made = _annotation(proposal, height, width)
            place = {'id': part.start * 1000 + len(annotations) + 1, 'image_id': number}
            annotations.append({**place, **made})
    document = {
        'info': {'description': what},
        'images': images,
        'categories': [{'id': 1, 'name': 'object'}],
        'annotations': annotations,
    }
    temporary = part.target.with_suffix('.part')
    temporary.write_text(json.dumps(document))
    temporary.replace(part.target)
    return len(annotations), unreadable


def _annotation(proposal: Proposal, height: int, width: int) -> dict[str, Any]:
    """Return a proposal as COCO has it."""
    x0, y0, x1, y1 = (round(float(value), 1) for value in proposal.box)
    made: dict[str, Any] = {
        'category_id': 1,
        'bbox': [x0, y0, round(x1 - x0, 1), round(y1 - y0, 1)],
        'area': round((x1 - x0) * (y1 - y0), 1),
        'score': round(proposal.score, 4),
        'iscrowd': int(proposal.doubtful),
    }
    if proposal.mask is not None:
        made['segmentation'] = coco_rle(proposal.mask, height, width)
        made['area'] = int(proposal.mask.counts[1::2].sum())
    if proposal.track_id:
        made['track_id'] = proposal.track_id
    return made
