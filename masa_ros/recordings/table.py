# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tracks as a Parquet table: a row for every instance of every image."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet
from pycocotools import mask as coco

# Name, type, what it is; docs/fleet.md has the same, and a test sees to it.
COLUMNS: tuple[tuple[str, pa.DataType, str], ...] = (
    ('frame', pa.int64(), 'index of the image in the recording, from 0'),
    ('source', pa.string(), 'its name there'),
    ('stamp_ns', pa.int64(), 'its stamp, nanoseconds'),
    ('height', pa.int32(), 'of the image, pixels'),
    ('width', pa.int32(), 'of the image, pixels'),
    ('track_id', pa.int64(), 'from 1, of this recording'),
    ('state', pa.string(), 'tentative, tracked, lost or coasted'),
    ('score', pa.float32(), '0..1'),
    ('class_id', pa.int32(), '-1: none'),
    ('class_name', pa.string(), 'empty: none'),
    ('name', pa.string(), 'that somebody gave the object, empty: none'),
    ('x_min', pa.float32(), 'left side of the box, pixels of the image'),
    ('y_min', pa.float32(), 'top'),
    ('x_max', pa.float32(), 'right side'),
    ('y_max', pa.float32(), 'bottom'),
    ('mask_area', pa.int64(), 'pixels; null without a mask'),
    ('mask', pa.string(), 'COCO run lengths, compressed, of the whole image; null without'),
)
SCHEMA = pa.schema([pa.field(name, kind) for name, kind, _ in COLUMNS])
_ROWS = 1 << 14  # of a row group: what is held in memory


def write_table(tracks: Path, table: Path) -> int:
    """Write what stands in tracks.json, as it stands there, to a Parquet file.

    Returns
    -------
    The number of rows. What is held in memory does not grow with the recording.

    """
    count, rows = 0, list[dict[str, Any]]()
    with parquet.ParquetWriter(table, SCHEMA, compression='zstd') as writer:
        for row in _rows(tracks):
            rows.append(row)
            if len(rows) == _ROWS:
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
                count, rows = count + len(rows), []
        if rows or not count:
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
    return count + len(rows)


def _rows(tracks: Path) -> Iterator[dict[str, Any]]:
    with tracks.open() as file:
        for line in file:  # a frame a line, between that of the head and that of the end
            if not line.startswith('{"index"'):
                continue
            frame = json.loads(line.rstrip(',\n'))
            image = {key: frame[key] for key in ('source', 'stamp_ns', 'height', 'width')}
            for each in frame['instances']:
                x_min, y_min, x_max, y_max = each['box']
                mask = each['mask']
                yield {
                    'frame': frame['index'],
                    **image,
                    **{k: each[k] for k in ('track_id', 'state', 'score', 'class_id')},
                    'class_name': each['class_name'],
                    'name': each.get('name', ''),
                    **{'x_min': x_min, 'y_min': y_min, 'x_max': x_max, 'y_max': y_max},
                    'mask_area': None if mask is None else int(coco.area(mask)),
                    'mask': None if mask is None else mask['counts'],
                }
