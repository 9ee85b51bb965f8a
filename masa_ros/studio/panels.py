# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What stands beside the picture: the objects, the options, how it goes."""

from __future__ import annotations

import concurrent.futures
import time
import traceback
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import numpy as np
from nicegui import events, run, ui

from masa_ros.errors import MasaError
from masa_ros.studio.catalogue import Seen, bar
from masa_ros.studio.lane import Field, Lane

_ROWS = 60  # objects that are listed; of more those that were seen last
_SHORTEST = 50  # images that a timeline is long at least
_WINDOW = 900  # images that the timelines of a running node show
_LONGEST_NAME = 200
_CHOSEN = 'bg-blue-500/20'
_COLOURS = {'ok': 'positive', 'warning': 'warning', 'error': 'negative'}
_ICONS = {'ok': 'check_circle', 'warning': 'warning', 'error': 'error'}  # facts have none
_ORDER = ('error', 'warning', 'ok', 'fact')

Do = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Does something in another thread; what goes wrong is shown, and None comes back."""


class Objects:
    """The list of objects of a lane.

    Parameters
    ----------
    number: of the lane; part of the thumbnails' addresses.
    lane: whose objects.
    live: whether it is that of a node, whose timelines show the last images only.
    select: takes the id of an object that is chosen.
    do: see there.

    """

    def __init__(
        self, number: int, lane: Lane, live: bool, select: Callable[[int], None], do: Do
    ) -> None:
        self._number, self._lane, self._live = number, lane, live
        self._select, self._do = select, do
        self._rows: dict[int, _Row] = {}
        self._selected = 0
        self._summary = ui.label().classes('text-sm opacity-70').props('aria-label="objects"')
        self._list = ui.column().classes('w-full gap-0')

    def select(self, track_id: int) -> None:
        """Show which object is chosen, 0 for none."""
        self._selected = track_id
        for key, row in self._rows.items():
            row.select(key == track_id)

    def update(self) -> None:
        """Show what is known now."""
        seen = self._lane.catalogue.listed()
        shown = self._lane.shown
        number = shown.number if shown is not None else 0
        present = set(shown.result.tracks.track_ids.tolist()) if shown is not None else set()
        self._summary.text = f'{len(seen)} objects, {len(present)} in view'
        seen.sort(key=lambda each: (each.track_id not in present, -each.last_ns, each.track_id))
        listed = {each.track_id: each for each in seen[:_ROWS]}
        for track_id in self._rows.keys() - listed.keys():
            self._rows.pop(track_id).delete()
        last = max((each.runs[-1][1] for each in seen), default=0)
        last = max(last, number, _SHORTEST)
        first = max(last - _WINDOW, 0) if self._live else 0
        begin = min((each.first_ns for each in seen), default=0)
        for place, (track_id, each) in enumerate(listed.items()):
            if track_id not in self._rows:
                with self._list:
                    self._rows[track_id] = _Row(self, each)
                self._rows[track_id].select(track_id == self._selected)
            self._rows[track_id].update(each, place, track_id in present, begin, first, last)

    def chosen(self, track_id: int) -> None:
        """Select an object that was clicked, or none where it was selected."""
        self._select(0 if track_id == self._selected else track_id)

    def thumbnail(self, seen: Seen) -> str:
        """Return the address of an object's picture; another one when that is a better one."""
        return f'/thumbnail/{self._number}/{seen.track_id}?v={seen.area:.0f}'

    async def remove(self, track_id: int) -> None:
        """Forget an object."""
        await self._do(lambda: self._lane.remove(track_id))

    async def keep_only(self, track_id: int) -> None:
        """Forget all others, and look for no more."""
        await self._do(lambda: self._lane.keep_only([track_id]))

    async def rename(self, track_id: int) -> None:
        """Ask what an object is called."""
        with ui.dialog() as dialog, ui.card():
            ui.label(f'Name of object {track_id}')
            name = (
                ui.input(value='')
                .props(f'autofocus maxlength={_LONGEST_NAME}')
                .props('aria-label="name"')
            )
            name.on('keydown.enter', lambda: dialog.submit(name.value))
            ui.button('Rename', on_click=lambda: dialog.submit(name.value)).props(
                'aria-label="rename"'
            )
        text = await dialog
        dialog.delete()
        if text is not None:
            text = str(text)[:_LONGEST_NAME]
            await self._do(lambda: self._lane.rename(track_id, text))


class _Row:
    """One object of the list."""

    def __init__(self, panel: Objects, seen: Seen) -> None:
        track_id = seen.track_id
        self._panel, self._told = panel, ('', '', '', '')
        self._place = -1
        self._row = ui.row().classes('w-full items-center gap-2 no-wrap rounded p-1')
        self._row.props(f'aria-label="object {track_id}"')
        with self._row:
            self._image = ui.image().classes('w-10 h-10 flex-none').props('fit=contain no-spinner')
            with ui.column().classes('grow gap-0 min-w-0'):
                with ui.row().classes('w-full no-wrap items-baseline gap-2'):
                    self._name = ui.label().classes('text-sm font-medium truncate')
                    self._when = ui.label().classes('text-xs opacity-70 whitespace-nowrap')
                self._bar = ui.html('', sanitize=False).classes('w-full')  # of numbers
            menu = ui.button(icon='more_vert').props('flat dense round size=sm aria-label="menu"')
            with menu, ui.menu():
                ui.menu_item('Rename', lambda: panel.rename(track_id))
                ui.menu_item('Keep only this', lambda: panel.keep_only(track_id))
                ui.menu_item('Remove', lambda: panel.remove(track_id))
        for part in (self._image, self._name, self._when, self._bar):
            part.on('click', lambda: panel.chosen(track_id))

    def select(self, selected: bool) -> None:
        if selected:
            self._row.classes(add=_CHOSEN)
        else:
            self._row.classes(remove=_CHOSEN)

    def update(
        self, seen: Seen, place: int, present: bool, begin: int, first: int, last: int
    ) -> None:
        since, until = ((ns - begin) * 1e-9 for ns in (seen.first_ns, seen.last_ns))
        state = seen.state.name.lower() if present else 'not in view'
        told = (
            f'{seen.track_id} {seen.name}'.strip(),
            f'{state} · {since:.1f}-{until:.1f} s',
            bar(seen, first, last),
            self._panel.thumbnail(seen),
        )
        for now, before, part in zip(told, self._told, (self._name, self._when)):
            if now != before:
                part.text = now
        if told[2] != self._told[2]:
            self._bar.content = told[2]
        if told[3] != self._told[3]:
            self._image.set_source(told[3])
        self._told = told
        if place != self._place:
            self._place = place
            self._row.move(target_index=place)

    def delete(self) -> None:
        self._row.delete()


class Options:
    """A form of the options of a lane: numbers with their limits, choices, switches.

    Parameters
    ----------
    lane: whose options.
    do: see there.
    changed: told when a form has to be made anew.

    """

    def __init__(self, lane: Lane, do: Do, changed: Callable[[], None]) -> None:
        self._lane, self._do, self._changed = lane, do, changed
        self._waiting: dict[str, Any] = {}
        self._values: dict[str, Any] = {}
        self._all: list[tuple[Field, ui.element]] = []
        search = ui.input(placeholder='find an option', on_change=self._search).props('dense')
        search.props('clearable').classes('w-full').props('aria-label="search"')
        self._apply = ui.button('', on_click=self._begin_again).classes('w-full')
        self._apply.visible = False
        self._form = ui.column().classes('w-full gap-1')
        ui.timer(0, self._load, once=True)  # a node answers in its own time

    async def _load(self) -> None:
        """Make the form of what holds now."""
        fields = await self._do(self._lane.fields)
        with self._form:
            for text, live in (('at once', True), ('everything is tracked again', False)):
                chosen = [field for field in fields or () if field.live is live]
                if chosen:
                    ui.label(text).classes('text-xs uppercase opacity-60 mt-2')
                for field in chosen:
                    self._values[field.name] = field.value
                    self._show(field)

    def _search(self, event: events.ValueChangeEventArguments) -> None:
        words = str(event.value or '').lower().split()
        for field, element in self._all:
            text = f'{field.name} {field.text}'.lower()
            element.visible = all(word in text for word in words)

    def _show(self, field: Field) -> None:
        name, value = field.name, field.value
        with ui.element('div').classes('w-full') as place:
            made: Any
            if field.fixed:
                text = ', '.join(map(str, value)) if isinstance(value, list) else str(value)
                made = ui.input(name, value=text).props('readonly dense')
            elif isinstance(value, bool):
                made = ui.switch(name, value=value)
            elif field.choices:
                made = ui.select(list(field.choices), value=value, label=name).props('dense')
            elif isinstance(value, (int, float)):
                made = ui.number(name, value=value, min=field.low, max=field.high).props('dense')
            else:
                made = ui.input(name, value=value).props('dense')
            made.classes('w-full').props(f'aria-label="option {name}"')
            with made:
                limits = '' if field.low is None else f' ({field.low:g} to {field.high:g})'
                ui.tooltip(f'{field.text}{limits}').classes('max-w-80 text-sm')
        self._all.append((field, place))
        if field.fixed:
            return

        async def change() -> None:
            await self._take(field, made)

        if isinstance(value, bool) or field.choices:
            made.on_value_change(change)
        else:  # not at every key
            made.on('blur', change)
            made.on('keydown.enter', change)

    async def _take(self, field: Field, made: Any) -> None:
        """Set an option to what its element says."""
        try:
            value = field.read(made.value)
        except (TypeError, ValueError) as error:
            ui.notify(f'{field.name}: {error}', type='negative')
            return
        if value == self._values[field.name] and field.name not in self._waiting:
            return
        if field.live:

            def change() -> bool:
                self._lane.change({field.name: value})
                return True

            if await self._do(change):
                self._values[field.name] = value
            else:
                made.value = self._values[field.name]
            return
        self._waiting[field.name] = value
        self._apply.text = f'Set {", ".join(self._waiting)}, and track again'
        self._apply.visible = True

    async def _begin_again(self) -> None:
        values, self._waiting = self._waiting, {}
        self._apply.visible = False
        ui.notify('loading; this may take a moment', type='ongoing', timeout=1500)
        await self._do(lambda: self._lane.change(values))
        self._changed()


class Health:
    """How it goes: times, rates, memory, and what is told in words."""

    def __init__(self, lanes: Collection[Lane]) -> None:
        self._lanes, self._words = list(lanes), ''
        self._summary = ui.label().classes('text-sm').props('aria-label="health"')
        self._memory: list[float] = []
        line = {'type': 'line', 'showSymbol': False, 'animation': False}
        self._chart = ui.echart(
            {
                'grid': {'left': 44, 'right': 44, 'top': 44, 'bottom': 8},
                'legend': {'top': 0, 'textStyle': {'color': '#888'}},
                'xAxis': {'type': 'category', 'show': False},
                'yAxis': [{'name': 'ms'}, {'name': 'MiB'}],
                'series': [
                    {**line, 'name': 'milliseconds an image', 'data': []},
                    {**line, 'name': 'memory', 'yAxisIndex': 1, 'data': []},
                ],
            }
        ).classes('w-full h-48')
        self._list = ui.column().classes('w-full gap-0')

    def measure(self) -> None:
        """Note the memory; once a second."""
        self._memory = [*self._memory[-299:], self._lanes[0].memory_mib()]

    def update(self) -> None:
        """Show what is known now."""
        now = time.monotonic()
        texts = []
        for lane in self._lanes:
            figures = lane.figures
            texts.append(
                f'{lane.title}: {figures.median_ms():.0f} ms an image, '
                f'{figures.rate(now):.0f} images/s'
            )
        memory = self._memory[-1] if self._memory else 0
        self._summary.text = '; '.join(texts) + f'; {memory:.0f} MiB'
        series = self._chart.options['series']
        series[0]['data'] = np.round(list(self._lanes[0].figures.took_ms), 1).tolist()
        series[1]['data'] = np.round(self._memory).tolist()
        self._chart.update()
        notices = [notice for lane in self._lanes for notice in lane.notices()]
        if (words := repr(notices)) == self._words:
            return
        self._words = words
        self._list.clear()
        with self._list:
            for notice in sorted(notices, key=lambda each: _ORDER.index(each.level)):
                with ui.row().classes('w-full no-wrap items-start gap-1'):
                    if notice.level in _ICONS:
                        icon = ui.icon(_ICONS[notice.level], color=_COLOURS[notice.level])
                        icon.classes('mt-1')
                    ui.label(notice.text).classes('text-sm break-all')


async def in_thread(job: Callable[[], Any]) -> Any:
    """Do something in another thread, and show what goes wrong; see ``Do``."""
    try:
        return await run.io_bound(job)
    except concurrent.futures.TimeoutError:
        text = 'it takes too long'
    except (MasaError, OSError, ValueError) as error:
        text = str(error)
    except Exception as error:  # must be told too
        traceback.print_exc()
        text = f'a mistake in the program: {type(error).__name__}: {error}'
    ui.notify(text, type='negative', multi_line=True, timeout=8000)
    return None
