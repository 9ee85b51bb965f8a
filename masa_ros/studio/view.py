# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A lane's picture in one browser: what is seen, clicked, boxed and stroked there."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from nicegui import events, ui
from numpy.typing import NDArray

from masa_ros import overlay
from masa_ros.studio.lane import Lane, Shown, scale_of
from masa_ros.types import Instances, Mask, Prompt

_PATIENCE_SECONDS = 5.0  # for a browser to show a picture; then it is sent the next one,
_LONG_SECONDS = 60.0  # and if that is not shown either, seldom another one
_STROKE_POINTS = 24  # that a stroke is told by
_BESIDE = 220  # pixels of the window's height for what is not the picture
_SMALLEST = 4.0  # pixels of a box or stroke; less is a click
_MOST_POINTS = 2000  # of a stroke while it is drawn


@dataclasses.dataclass
class Pointed:
    """Clicks on one object in one image; a further one makes the answer better."""

    number: int
    track_id: int
    points: list[tuple[float, float]]
    positive: list[bool]


class View:
    """The picture of lane ``number``.

    A picture is sent when the browser has shown the one before: who does not look costs nothing.

    Parameters
    ----------
    number: of the lane; part of the picture's address.
    lane: what is shown.
    tool: returns what the mouse does: 'select', 'add', 'away', 'box' or 'stroke'.
    target: returns the id of the object that is corrected, 0 for a new one.
    pointed: takes what was pointed at.
    selected: takes the id of the object that was clicked, 0 for none.

    """

    def __init__(
        self,
        number: int,
        lane: Lane,
        tool: Callable[[], str],
        target: Callable[[], int],
        pointed: Callable[[View, Shown, Prompt], Awaitable[None]],
        selected: Callable[[int], None],
    ) -> None:
        self._number, self.lane = number, lane
        self._tool, self._target = tool, target
        self._pointed, self._selected = pointed, selected
        self._sent, self._sent_at, self._waits = -1, 0.0, False
        self._seen: Shown | None = None
        self._times = 0  # that a picture was sent
        self._patience = _PATIENCE_SECONDS
        self._pending: Shown | None = None
        self._drag: list[tuple[float, float]] = []
        self._clicks: Pointed | None = None
        self._offered: Mask | None = None
        self._zoom = 1.0
        with ui.column().classes('grow gap-1 min-w-0'):
            self.title = ui.label().classes('text-sm opacity-70').props('aria-label="title"')
            with ui.element('div').classes('w-full overflow-auto rounded'):
                self.image = ui.interactive_image(
                    on_mouse=self._on_mouse,
                    events=['mousedown', 'mouseup'],
                    cross='#fff8',
                    sanitize=False,  # of numbers, made below
                )
                self.image.on('loaded', self._on_loaded)
                self.image.props(f'aria-label="picture {number}"')

    @property
    def attentive(self) -> bool:
        """Whether the browser has shown what it was sent lately."""
        return not self._waits or time.monotonic() - self._sent_at < _PATIENCE_SECONDS

    def zoom(self, percent: float) -> None:
        """Show the picture so many percent as large as it fits."""
        self._zoom = percent / 100
        self._fit()

    def _fit(self) -> None:
        """Keep the picture, and what stands below it, in the window."""
        seen = self._seen
        height, width = (3, 4) if seen is None else seen.result.frame.shape
        room = f'min(100%, (100vh - {_BESIDE}px) * {width / height:.4f})'
        self.image.style(f'width: calc({room} * {self._zoom:.2f})')

    def use(self, tool: str) -> None:
        """Ask the browser for the events that a tool needs."""
        moves = ['mousemove'] if tool in ('box', 'stroke') else []
        self.image.props['events'] = ['mousedown', 'mouseup', *moves]

    def follow(self) -> None:
        """Send the newest picture, where the browser has shown the last one."""
        now = time.monotonic()
        if self._waits and now - self._sent_at < self._patience:
            return
        shown = self.lane.shown
        if shown is None or (shown.version == self._sent and not self._waits):
            return
        self._patience = _LONG_SECONDS if self._waits else _PATIENCE_SECONDS
        self.title.text = f'{self.lane.title}: {shown.name}'
        self._sent, self._sent_at, self._waits = shown.version, now, True
        self._pending, self._times = shown, self._times + 1
        self.image.set_source(f'/picture/{self._number}?v={shown.version}.{self._times}')

    def _on_loaded(self) -> None:
        self._waits = False
        before, self._seen, self._pending = self._seen, self._pending, None
        if before is None:
            self._fit()
        self.mark()
        self.follow()  # not only at the next tick

    def offer(self, mask: Mask | None) -> None:
        """Outline something that may be meant."""
        self._offered = mask
        self.mark()

    def mark(self) -> None:
        """Draw the selected object, clicks and what is being drawn over the picture."""
        seen = self._seen
        if seen is None:
            return
        scale = scale_of(seen.result.frame.shape)
        parts = []
        track_id, tracks = self._target(), seen.result.tracks
        for i in np.flatnonzero(tracks.track_ids == track_id).tolist() if track_id else ():
            x0, y0, x1, y1 = (float(value) * scale for value in tracks.boxes[i])
            parts.append(
                f'<rect x="{x0 - 3:.1f}" y="{y0 - 3:.1f}" width="{x1 - x0 + 6:.1f}" '
                f'height="{y1 - y0 + 6:.1f}" {_line("#fff", 2)} stroke-dasharray="6 4"/>'
            )
        if self._clicks is not None and self._clicks.number == seen.number:
            for (x, y), positive in zip(self._clicks.points, self._clicks.positive):
                colour = '#0a0' if positive else '#d00'
                parts.append(
                    f'<circle cx="{x * scale:.1f}" cy="{y * scale:.1f}" r="5" fill="{colour}" '
                    'stroke="#fff" stroke-width="2"/>'
                )
        if self._offered is not None:
            lines = [_path(outline * scale) for outline in _outline(self._offered)]
            parts += [f'<path d="{line}Z" {_line("#ff0", 3)}/>' for line in lines]
        if len(self._drag) > 1:
            parts.append(_drawn(self._tool(), self._drag, scale))
        self.image.set_content(''.join(parts))

    async def _on_mouse(self, event: events.MouseEventArguments) -> None:
        seen = self._seen
        if seen is None or event.button not in (0, 2):
            return
        height, width = seen.result.frame.shape
        scale = scale_of((height, width))
        x, y = float(event.image_x) / scale, float(event.image_y) / scale
        if not (np.isfinite(x) and np.isfinite(y)):
            return
        at = min(max(x, 0.0), width - 1e-3), min(max(y, 0.0), height - 1e-3)
        tool = self._tool()
        if event.type == 'mousedown':
            self._drag = [at]
        elif event.type == 'mousemove':
            if event.buttons and self._drag and len(self._drag) < _MOST_POINTS:
                self._drag.append(at)
                self.mark()
        elif self._drag:
            drag, self._drag = [*self._drag, at], []
            await self._finish(tool, seen, drag, event.shift or event.alt)
            self.mark()

    async def _finish(
        self, tool: str, seen: Shown, drag: list[tuple[float, float]], away: bool
    ) -> None:
        """Make of a click, or of what was drawn, what it means."""
        if tool == 'select':
            self._selected(under(seen.result.tracks, drag[-1]))
            return
        track_id = self._target()
        length = float(np.abs(np.subtract(drag[-1], drag[0])).max())
        if tool == 'box' and length >= _SMALLEST:
            box = np.array([np.min(drag, axis=0), np.max(drag, axis=0)], np.float32).ravel()
            prompt = Prompt(0, track_id, box=box)
        elif tool == 'stroke' and length >= _SMALLEST:
            prompt = Prompt(0, track_id, points=along(drag))
        else:
            positive = tool != 'away' and not away
            prompt = self._click(seen, track_id, drag[-1], positive)
        await self._pointed(self, seen, prompt)

    def _click(
        self, seen: Shown, track_id: int, at: tuple[float, float], positive: bool
    ) -> Prompt:
        known = self._clicks
        if known is None or (known.number, known.track_id) != (seen.number, track_id):
            known = self._clicks = Pointed(seen.number, track_id, [], [])
        known.points.append(at)
        known.positive.append(positive)
        points = np.array(known.points, np.float32)
        return Prompt(0, track_id, points=points, positive=np.array(known.positive))

    def became(self, track_id: int) -> None:
        """Count further clicks in this image for a track, 0: for none."""
        if self._clicks is not None and track_id:
            self._clicks.track_id = track_id
        else:
            self._clicks = None
        self.mark()


def under(tracks: Instances, at: tuple[float, float]) -> int:
    """Return the id of the smallest object at a place, 0 where there is none."""
    best, smallest = 0, float('inf')
    x, y = at
    for i, (x0, y0, x1, y1) in enumerate(tracks.boxes.tolist()):
        area = (x1 - x0) * (y1 - y0)
        if not (x0 <= x < x1 and y0 <= y < y1) or area >= smallest:
            continue
        mask = tracks.masks[i] if tracks.masks is not None else None
        if mask is not None:
            row, column = int(y) - mask.y, int(x) - mask.x
            inside = 0 <= row < mask.height and 0 <= column < mask.width
            if not inside or not mask.pixels[row, column]:
                continue
        best, smallest = int(tracks.track_ids[i]), area
    return best


def along(drag: Sequence[tuple[float, float]]) -> NDArray[np.float32]:
    """Return points (P, 2) along a stroke, as far from each other."""
    line = np.array(drag, np.float32)
    steps = np.concatenate(([0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))))
    count = int(min(max(steps[-1] // _SMALLEST, 2), _STROKE_POINTS))
    wanted = np.linspace(0, steps[-1], count)
    sides = [np.interp(wanted, steps, line[:, side]) for side in (0, 1)]
    return np.stack(sides, axis=1).astype(np.float32)


def _outline(mask: Mask) -> list[NDArray[np.float32]]:
    one = Instances(boxes=np.array([mask.box], np.float32), masks=(mask,))
    return overlay.outlines(one, 0)


def _drawn(tool: str, drag: Sequence[tuple[float, float]], scale: float) -> str:
    """Return what is being drawn, as SVG."""
    line = np.array(drag, np.float32) * scale
    if tool == 'stroke':
        return f'<path d="{_path(line)}" {_line("#fff", 3)}/>'
    (x0, y0), (x1, y1) = np.minimum(line[0], line[-1]), np.maximum(line[0], line[-1])
    return (
        f'<rect x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}" '
        f'{_line("#fff", 2)}/>'
    )


def _path(points: NDArray[np.float32]) -> str:
    return 'M' + 'L'.join(f'{x:.1f} {y:.1f}' for x, y in points)


def _line(colour: str, width: int) -> str:
    return f'fill="none" stroke="{colour}" stroke-width="{width}"'
