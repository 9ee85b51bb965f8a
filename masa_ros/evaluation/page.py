# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One HTML file to look at: a timeline for every object and track, and the frames behind it."""

from __future__ import annotations

import base64
import collections
import dataclasses
import html
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from masa_ros import overlay
from masa_ros.evaluation.metrics import Pair, Scores, text_of
from masa_ros.types import Instances, class_name

_MATCH = 0.5  # overlap at which a track stands for an object, as in CLEAR MOT
_PICTURE = 480  # longest side of the embedded pictures, pixels
_MOST_PICTURES = 300


class Event(NamedTuple):
    """An id switch: which object, at which frame (row of the pairs), from which to which track."""

    truth_id: int
    row: int
    before: int
    after: int


class Timelines(NamedTuple):
    """What happened to every object and track, frame by frame.

    Attributes
    ----------
    objects: by truth id, for each frame: the track that stands for it, 0: missed, -1: not there.
    extra: by track id, for each frame: whether it is there and stands for no object.
    switches: in the order of frames.

    """

    objects: dict[int, NDArray[np.int64]]
    extra: dict[int, NDArray[np.bool_]]
    switches: list[Event]


def timelines(pairs: Sequence[Pair]) -> Timelines:
    """Match tracks to objects frame by frame; who stood for an object goes on while it overlaps.

    The rule is that of CLEAR MOT (Bernardin and Stiefelhagen 2008).
    """
    length = len(pairs)
    objects: dict[int, NDArray[np.int64]] = {}
    extra: dict[int, NDArray[np.bool_]] = {}
    last: dict[int, int] = {}
    switches = []
    for row, p in enumerate(pairs):
        truth, claims = p.truth.track_ids.tolist(), p.claims.track_ids.tolist()
        held = np.array([[last.get(t) == c for c in claims] for t in truth], bool)
        worth = np.where(p.overlap >= _MATCH, p.overlap + 1000 * held.reshape(p.overlap.shape), 0)
        i, j = linear_sum_assignment(-worth)
        stands = {truth[a]: claims[b] for a, b in zip(i, j) if worth[a, b] > 0}
        for truth_id in truth:
            line = objects.setdefault(truth_id, np.full(length, -1, np.int64))
            track_id = line[row] = stands.get(truth_id, 0)
            if track_id:
                if last.get(truth_id, track_id) != track_id:
                    switches.append(Event(truth_id, row, last[truth_id], int(track_id)))
                last[truth_id] = int(track_id)
        for track_id in set(claims) - set(stands.values()):
            extra.setdefault(track_id, np.zeros(length, bool))[row] = True
    return Timelines(dict(sorted(objects.items())), dict(sorted(extra.items())), switches)


def page(
    pairs: Sequence[Pair],
    scores: Scores,
    images: Iterable[NDArray[np.uint8] | None],
    title: str,
) -> str:
    """Return the page as HTML that needs nothing else.

    Parameters
    ----------
    pairs: the compared frames.
    scores: of them.
    images: (H, W, 3) RGB of the whole recording, in its order; where one is missing the objects
        are drawn on grey.
    title: what was evaluated.

    """
    lines = timelines(pairs)
    objects = _called('object', ((p.truth, p.truth_names) for p in pairs))
    tracks = _called('track', ((p.claims, p.frame.class_names) for p in pairs))
    rows = [
        (objects[key], _runs(values), [e for e in lines.switches if e.truth_id == key])
        for key, values in lines.objects.items()
    ]
    rows += [
        (f'{tracks[key]}, no object', _runs(np.where(there, key, -1)), [])
        for key, there in lines.extra.items()
    ]
    width = len(pairs)
    drawn = '\n'.join(_row(label, runs, events, tracks, width) for label, runs, events in rows)
    every = max(1, -(-width // _MOST_PICTURES))
    shown = {pairs[row].frame.index: row for row in range(0, width, every)}
    pictures = {shown[i]: _jpeg(pairs[shown[i]], x) for i, x in enumerate(images) if i in shown}
    for row in shown.values():
        if row not in pictures:
            pictures[row] = _jpeg(pairs[row], None)
    figures = ''.join(
        f'<tr><td>{name}</td><td>{html.escape(text_of(value))}</td></tr>'
        for name, value in dataclasses.asdict(scores).items()
    )
    data = {
        'pictures': pictures,
        'every': every,
        'labels': [f'frame {p.frame.index} {p.frame.source}'.strip() for p in pairs],
        'switches': [e.row for e in lines.switches],
    }
    text = _PAGE.replace('@TITLE@', html.escape(title)).replace('@FIGURES@', figures)
    text = text.replace('@ROWS@', drawn).replace('@WIDTH@', str(width))
    # '<' could end the script; in JSON it may be written as an escape.
    return text.replace('@DATA@', json.dumps(data).replace('<', '\\u003c'))


def _called(what: str, frames: Iterable[tuple[Instances, Mapping[int, str]]]) -> dict[int, str]:
    """Texts for everything with an id: the id, and the class it has most often by its name."""
    names: dict[int, collections.Counter[str]] = {}
    for one, known in frames:
        for own, label in zip(one.track_ids.tolist(), one.labels.tolist()):
            names.setdefault(own, collections.Counter())[class_name(label, known)] += 1
    return {
        own: html.escape(f'{what} {own} {counts.most_common(1)[0][0]}'.strip())
        for own, counts in names.items()
    }


def _runs(values: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Stretches of equal values that are not -1: (first, end, value)."""
    edges = np.flatnonzero(np.diff(values)) + 1
    bounds = [0, *edges.tolist(), len(values)]
    return [(a, b, int(values[a])) for a, b in itertools.pairwise(bounds) if values[a] != -1]


def _row(
    label: str,
    runs: list[tuple[int, int, int]],
    events: list[Event],
    tracks: Mapping[int, str],
    width: int,
) -> str:
    """One timeline: a bar of the track's colour, hollow where the object is missed."""
    parts = []
    for first, end, track_id in runs:
        place = f'x="{first}" width="{end - first}" y="2" height="12"'
        if track_id:
            red, green, blue = overlay.colour_of(track_id)
            parts.append(
                f'<rect {place} fill="rgb({red},{green},{blue})">'
                f'<title>{tracks[track_id]}</title></rect>'
            )
        else:
            parts.append(f'<rect {place} class="missed"><title>missed</title></rect>')
    parts += [
        f'<line class="switch" x1="{e.row}" x2="{e.row}" y1="0" y2="16">'
        f'<title>{e.before} became {e.after}</title></line>'
        for e in events
    ]
    return (
        f'<div class="row"><span title="{label}">{label}</span><svg viewBox="0 0 {width} 16" '
        f'preserveAspectRatio="none">{"".join(parts)}</svg></div>'
    )


def _jpeg(p: Pair, image: NDArray[np.uint8] | None) -> str:
    """Draw the frame with its tracks, and the truth as thin white boxes."""
    frame = p.frame
    if image is None or image.shape[:2] != (frame.height, frame.width):
        image = np.full((frame.height, frame.width, 3), 96, np.uint8)
    canvas = overlay.draw(image, p.claims, frame.class_names)
    for box in p.truth.boxes:
        x0, y0, x1, y1 = (round(float(v)) for v in box)
        cv2.rectangle(canvas, (x0, y0), (x1 - 1, y1 - 1), (255, 255, 255), 1)
    scale = min(1.0, _PICTURE / max(canvas.shape[:2]))
    if scale < 1:
        canvas = cv2.resize(canvas, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode('.jpg', canvas[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 65])
    return base64.b64encode(data.tobytes()).decode('ascii')


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>@TITLE@</title>
<style>
body { font: 14px/1.4 sans-serif; margin: 1.5em; color: #222; background: #fff }
main { display: flex; gap: 1.5em; flex-wrap: wrap; align-items: flex-start }
#frame { width: 640px; max-width: 100%; background: #ddd }
table { border-collapse: collapse } td { padding: 0 1em 0 0 } td + td { text-align: right }
.row { display: flex; align-items: center; cursor: pointer }
.row span { width: 11em; flex: none; overflow: hidden; white-space: nowrap }
.row svg { flex: 1; height: 16px; background: #f3f3f3; margin: 1px 0 }
.missed { fill: #fff; stroke: #999; stroke-width: 1; vector-effect: non-scaling-stroke }
.switch { stroke: #000; stroke-width: 3; vector-effect: non-scaling-stroke }
#lines { position: relative; margin-top: 1em }
#cursor { position: absolute; top: 0; bottom: 0; width: 1px; background: #c00;
  pointer-events: none }
</style></head><body>
<h1>@TITLE@</h1>
<main><div><img id="frame" alt="the chosen frame"><p id="label"></p>
<p><button id="previous">previous switch</button> <button id="next">next switch</button>
click a timeline, or use the arrow keys; white boxes are the truth</p></div>
<table>@FIGURES@</table></main>
<div id="lines">
@ROWS@
<div id="cursor"></div></div>
<script type="application/json" id="data">@DATA@</script>
<script>
const data = JSON.parse(document.getElementById('data').textContent), width = @WIDTH@;
const lines = document.getElementById('lines'), cursor = document.getElementById('cursor');
let row = 0;
function show(to) {
  row = Math.max(0, Math.min(width - 1, to));
  const stored = row - row % data.every;
  document.getElementById('frame').src = 'data:image/jpeg;base64,' + data.pictures[stored];
  document.getElementById('label').textContent = data.labels[row];
  const bar = lines.querySelector('svg');
  if (bar) cursor.style.left = (bar.getBoundingClientRect().left
    - lines.getBoundingClientRect().left
    + (row + 0.5) / width * bar.getBoundingClientRect().width) + 'px';
}
lines.addEventListener('click', event => {
  const bar = event.target.closest('.row')?.querySelector('svg');
  if (!bar) return;
  const box = bar.getBoundingClientRect();
  show(Math.floor((event.clientX - box.left) / box.width * width));
});
document.addEventListener('keydown', event => {
  if (event.key === 'ArrowRight') show(row + 1);
  if (event.key === 'ArrowLeft') show(row - 1);
});
document.getElementById('next').onclick = () =>
  show(data.switches.find(at => at > row) ?? row);
document.getElementById('previous').onclick = () =>
  show(data.switches.filter(at => at < row).pop() ?? row);
window.addEventListener('resize', () => show(row));
show(0);
</script></body></html>
"""
