# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The page: one ``Page`` for every browser, all of one ``Studio``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from nicegui import app, events, ui

from masa_ros.errors import PromptError
from masa_ros.methods import METHODS
from masa_ros.studio.lane import Lane, Shown
from masa_ros.studio.panels import Health, Objects, Options, in_thread
from masa_ros.studio.player import SPEEDS, PlayedLane, Player
from masa_ros.studio.studio import Studio, other_settings
from masa_ros.studio.view import View
from masa_ros.types import Mask, Prompt

TOOLS = {
    'select': 'Select',
    'add': 'Click on it',
    'away': 'Not this',
    'box': 'Box',
    'stroke': 'Stroke',
}
_KIND = {'add': 'point', 'away': 'point', 'box': 'box', 'stroke': 'point'}
_PICTURE_SECONDS, _LIST_SECONDS, _HEALTH_SECONDS = 0.03, 0.5, 1.0
_NO_STORE = {'Cache-Control': 'no-store'}


def serve(studio: Studio, largest: int) -> FastAPI:
    """Return the application that shows a studio; one in a process.

    Parameters
    ----------
    studio: what is shown.
    largest: bytes of a file that may be brought.

    """

    @app.get('/picture/{number}')
    async def picture(number: int) -> Response:
        jpeg = await asyncio.to_thread(studio.picture, number)
        return Response(jpeg, 200 if jpeg else 404, _NO_STORE, 'image/jpeg')

    @app.get('/thumbnail/{number}/{track_id}')
    def thumbnail(number: int, track_id: int) -> Response:
        lanes = studio.lanes
        seen = lanes[number].catalogue.get(track_id) if 0 <= number < len(lanes) else None
        jpeg = seen.thumbnail if seen is not None else b''
        return Response(jpeg, 200 if jpeg else 404, _NO_STORE, 'image/jpeg')

    @ui.page('/', title='masa_ros studio')
    def page() -> None:
        Page(studio, largest)

    app.on_startup(studio.begin)
    application = FastAPI(openapi_url=None)
    ui.run_with(application, dark=None, show_welcome_message=False, title='masa_ros studio')
    return application


class Page:
    """What one browser shows; its own are what is selected, the tool, and the zoom."""

    def __init__(self, studio: Studio, largest: int) -> None:
        self._studio, self._largest = studio, largest
        self._tool, self._selected, self._chosen = 'select', 0, 0
        self._busy = False
        self._views: list[View] = []
        self._version = -1
        self._sliding, self._tab = False, 'Objects'
        ui.colors(primary='#2b6cb0')
        with ui.header().classes('items-center py-2 gap-4'):
            ui.label('masa_ros studio').classes('text-lg font-bold')
            self._name = (
                ui.label()
                .classes('opacity-80 truncate')
                .props('aria-label="name of the recording"')
            )
        self._body = ui.row().classes('w-full no-wrap items-start gap-4')
        ui.keyboard(on_key=self._on_key)
        self._build()
        ui.timer(_PICTURE_SECONDS, self._follow)
        ui.timer(_LIST_SECONDS, self._list)
        ui.timer(_HEALTH_SECONDS, self._measure)

    def _build(self) -> None:
        """Make the page anew, for what is shown now."""
        studio = self._studio
        self._version, self._views = studio.version, []
        lanes, player = studio.lanes, studio.player
        self._chosen = min(self._chosen, max(len(lanes) - 1, 0))
        self._name.text = studio.name
        self._body.clear()
        with self._body:
            with ui.column().classes('grow min-w-0 gap-2'):
                if not lanes:
                    ui.label('Open a recording: a bag (.mcap, .db3) or a video.')
                self._toolbar(lanes)
                with ui.row().classes('w-full no-wrap gap-2'):
                    for number, lane in enumerate(lanes):
                        self._views.append(self._view(number, lane))
                self._offers = (
                    ui.row().classes('items-center gap-2 h-8').props('aria-label="offers"')
                )
                if player is not None:
                    self._transport(player)
            with ui.column().classes('w-96 flex-none gap-0'):
                self._panels(lanes)

    def _view(self, number: int, lane: Lane) -> View:
        def selected(track_id: int) -> None:
            self._chosen = number
            self._select(track_id)

        return View(
            number,
            lane,
            lambda: self._tool,
            lambda: self._selected if self._chosen == number else 0,
            self._pointed,
            selected,
        )

    # What is pointed at

    def _toolbar(self, lanes: Any) -> None:
        accepts = frozenset().union(*(lane.accepts for lane in lanes)) if lanes else frozenset()
        tools = {k: v for k, v in TOOLS.items() if k == 'select' or _KIND[k] in accepts}
        if self._tool not in tools:
            self._tool = 'select'
        with ui.row().classes('items-center gap-2'):
            _toggle(tools, self._tool, self._use)
            self._target = ui.label().classes('text-sm').props('aria-label="target"')
            if 'text' in accepts:
                words = ui.input(placeholder='in words: person. red cup.').props('dense')
                words.props('aria-label="words"')

                async def follow_words() -> None:
                    await self._follow_words(str(words.value or ''))

                words.on('keydown.enter', follow_words)
                ui.button('Follow', on_click=follow_words).props('dense flat').props(
                    'aria-label="follow"'
                )
            self._spinner = ui.spinner(size='sm').props('aria-label="busy"')
            self._spinner.visible = self._busy
            ui.label('zoom').classes('text-sm opacity-70')
            zoom = ui.slider(min=100, max=400, step=25, value=100).classes('w-24')
            zoom.on_value_change(self._zoom)

    def _zoom(self, event: events.ValueChangeEventArguments) -> None:
        for view in self._views:
            view.zoom(float(event.value))

    def _use(self, event: events.ValueChangeEventArguments) -> None:
        self._tool = event.value
        for view in self._views:
            view.use(self._tool)

    def _select(self, track_id: int) -> None:
        self._selected = track_id
        self._objects.select(track_id)
        for view in self._views:
            view.mark()

    async def _pointed(self, view: View, shown: Shown, prompt: Prompt) -> None:
        """Follow what was pointed at, then offer what else may have been meant."""
        if prompt.track_id == 0 and not prompt.positive.any() and prompt.box is None:
            ui.notify('select the object that this does not belong to first', type='warning')
            view.became(0)
            return
        self._chosen = self._views.index(view)
        if not await self._ask(view, shown, prompt) or 'mask' not in view.lane.accepts:
            return
        if len(prompt.points) != 1 or prompt.box is not None:
            return
        masks = await in_thread(lambda: view.lane.candidates(shown, prompt))
        if masks and len(masks) > 1:
            self._offer(view, shown, list(masks))

    async def _ask(self, view: View, shown: Shown, prompt: Prompt) -> bool:
        """Follow a prompt; True where it became a track, which is selected then."""
        if self._busy:
            ui.notify('still busy with what was asked for before', type='warning')
            return False
        try:
            self._studio.admit()
        except PromptError as error:
            ui.notify(str(error), type='warning')
            return False
        self._busy = self._spinner.visible = True
        self._offers.clear()
        view.offer(None)
        try:
            answer = await in_thread(lambda: view.lane.ask(shown, prompt))
        finally:
            self._busy = self._spinner.visible = False
        if answer is None or answer.problem:
            if answer is not None:
                ui.notify(answer.problem, type='negative', multi_line=True)
            view.became(prompt.track_id)
            return False
        self._select(answer.track_ids[0])
        view.became(answer.track_ids[0])
        ui.notify(f'object {", ".join(map(str, answer.track_ids))}', type='positive', timeout=1500)
        return True

    def _offer(self, view: View, shown: Shown, masks: list[Mask]) -> None:
        track_id = self._selected

        async def choose(mask: Mask) -> None:
            await self._ask(view, shown, Prompt(0, track_id, mask=mask))

        def button(number: int, mask: Mask) -> None:
            made = ui.button(str(number), on_click=lambda: choose(mask)).props('dense outline')
            made.on('mouseenter', lambda: view.offer(mask))
            made.on('mouseleave', lambda: view.offer(None))
            made.props(f'aria-label="offer {number}"')

        with self._offers:
            ui.label('or was this meant?').classes('text-sm')
            for number, mask in enumerate(masks, start=1):
                button(number, mask)

    async def _follow_words(self, words: str) -> None:
        words = words.strip()[:2000]
        if not words or not self._views:
            return
        view = self._views[self._chosen]
        shown = view.lane.shown
        if shown is not None:
            self._select(0)
            await self._ask(view, shown, Prompt(0, text=words))

    # Playing

    def _transport(self, player: Player) -> None:
        with ui.row().classes('w-full items-center no-wrap gap-1'):
            self._play = ui.button(
                icon='play_arrow', on_click=lambda: player.play(not player.playing)
            )
            self._play.props('round dense').props('aria-label="play"')
            for icon, by in (('skip_previous', -1), ('skip_next', 1)):
                step = ui.button(icon=icon, on_click=lambda by=by: player.step(by))
                step.props('round flat dense').props(f'aria-label="step {by}"')
            self._slider = ui.slider(min=0, max=max(player.length - 1, 1), value=0)
            self._slider.classes('grow').props('label').props('aria-label="position"')
            self._slider.on('pan', self._on_pan, args=None)
            self._slider.on('change', lambda event: self._seek(player, event.args))
            self._place = (
                ui.label().classes('text-sm whitespace-nowrap').props('aria-label="place"')
            )
            ui.select(
                list(SPEEDS),
                value=next(k for k, v in SPEEDS.items() if v == player.speed),
                on_change=lambda event: setattr(player, 'speed', SPEEDS[event.value]),
            ).props('dense options-dense').props('aria-label="speed"')
            ui.checkbox(
                'loop',
                value=player.loop,
                on_change=lambda event: setattr(player, 'loop', bool(event.value)),
            ).props('dense').props('aria-label="loop"')

    def _on_pan(self, event: events.GenericEventArguments) -> None:
        self._sliding = event.args == 'start'

    def _seek(self, player: Player, value: Any) -> None:
        self._sliding = False
        if isinstance(value, (int, float)):
            player.playing = False
            player.seek(int(value))

    def _on_key(self, event: events.KeyEventArguments) -> None:
        player = self._studio.player
        if player is None or not event.action.keydown:
            return
        if event.key.space:
            player.play(not player.playing)
        elif event.key.arrow_left or event.key.arrow_right:
            player.step(1 if event.key.arrow_right else -1)

    # Beside the picture

    def _panels(self, lanes: Any) -> None:
        live = self._studio.player is None
        with ui.tabs().props('dense').classes('w-full') as tabs:
            named = {
                n: ui.tab(n).props(f'aria-label="tab {n}"')
                for n in ('Objects', 'Options', 'Health', 'Files')
            }
        tab = self._tab if lanes else 'Files'
        with ui.tab_panels(tabs, value=tab, on_change=self._turn) as panels:
            panels.classes('w-full')
            if lanes:
                lane = lanes[self._chosen]
                with ui.tab_panel(named['Objects']).classes('p-1'):
                    self._which(lanes)
                    self._objects = Objects(self._chosen, lane, live, self._select, in_thread)
                with ui.tab_panel(named['Options']).classes('p-1'):
                    self._which(lanes)
                    self._options_of(lane)
                with ui.tab_panel(named['Health']).classes('p-1'):
                    self._health = Health(lanes)
            with ui.tab_panel(named['Files']).classes('p-1'):
                self._files()

    def _turn(self, event: events.ValueChangeEventArguments) -> None:
        self._tab = str(event.value)

    def _which(self, lanes: Any) -> None:
        """Let somebody choose which of two lanes is meant."""
        if len(lanes) > 1:
            names = {number: f'{"AB"[number]}: {lane.title}' for number, lane in enumerate(lanes)}
            _toggle(names, self._chosen, self._choose)

    def _choose(self, event: events.ValueChangeEventArguments) -> None:
        self._chosen, self._selected = int(event.value), 0
        self._build()

    def _options_of(self, lane: Lane) -> None:
        def anew() -> None:
            self._studio.version += 1

        player = self._studio.player
        if isinstance(lane, PlayedLane) and player is not None:
            again = ui.button('Track again from the first image')
            again.on_click(lambda: in_thread(lane.track_again))
            again.props('flat dense no-caps').props('aria-label="again"')
        Options(lane, in_thread, anew)

    def _files(self) -> None:
        player = self._studio.player

        async def save(suffix: str, name: str) -> None:
            write = PlayedLane.save_tracks if suffix == '.json' else PlayedLane.save_video
            path: Path | None = await in_thread(lambda: self._studio.save(suffix, write))
            if path is not None:
                ui.download.file(path, name)

        async def still() -> None:
            jpeg = await in_thread(self._studio.still)
            if jpeg is not None:
                ui.download.content(jpeg, 'still.jpg', 'image/jpeg')

        async def prompts() -> None:
            text = await in_thread(self._studio.prompts_json)
            if text is not None:
                ui.download.content(text, 'prompts.json', 'application/json')

        with ui.column().classes('w-full gap-1'):
            if player is not None:
                _button('Save prompts.json', prompts)
                _button('Save tracks.json', lambda: save('.json', 'tracks.json'))
                _button('Save the video', lambda: save('.mp4', 'overlay.mp4'))
            if self._studio.lanes:
                _button('Save a still', still)
            ui.upload(
                label='Open a recording, prompts.json or tracks.json',
                auto_upload=True,
                max_file_size=self._largest,
                on_upload=self._on_upload,
                on_rejected=lambda: ui.notify(
                    f'at most {self._largest >> 20} MiB are taken', type='negative'
                ),
            ).classes('w-full').props('aria-label="upload"')
            if player is not None:
                self._comparing(player)

    def _comparing(self, player: Player) -> None:
        settings = player.lanes[0].recorded.settings
        ui.label('Compare').classes('text-xs uppercase opacity-60 mt-2')
        if len(player.lanes) > 1:
            _button('End the comparison', lambda: in_thread(lambda: self._studio.compare(None)))
            return
        method = ui.select(list(METHODS), value=settings.method, label='with the method')
        method.classes('w-full').props('aria-label="other method"')

        async def compare() -> None:
            ui.notify('loading; this may take a moment', type='ongoing', timeout=1500)
            other = other_settings(settings, str(method.value))
            await in_thread(lambda: self._studio.compare(other))

        _button('Show it beside', compare)

    async def _on_upload(self, event: events.UploadEventArguments) -> None:
        name = Path(event.file.name).name[:100]
        suffix = Path(name).suffix.lower()
        known = suffix if suffix.isascii() and suffix[1:].isalnum() and len(suffix) < 8 else ''
        path = self._studio.temporary(known)
        await event.file.save(path)
        done = await in_thread(lambda: self._studio.take(path, name))
        if done is not None:
            ui.notify(done, type='positive')
        if done is None or path.suffix == '.json':
            path.unlink()

    # As time goes by

    def _follow(self) -> None:
        if self._studio.version != self._version:
            self._build()
        for view in self._views:
            view.follow()
        player = self._studio.player
        if player is None or not self._views or not self._views[0].attentive:
            return
        self._play.props(f'icon={"pause" if player.playing else "play_arrow"}')
        ahead = f', tracking up to {player.target}' if player.target > player.position + 1 else ''
        self._place.text = f'{max(player.position, 0)} / {max(player.length - 1, 0)}{ahead}'
        if not self._sliding:
            most = max(player.length - 1, 1)
            if self._slider.props.get('max') != most:
                self._slider.props(f'max={most}')
            self._slider.value = max(player.position, 0)

    def _list(self) -> None:
        if not self._views or not all(view.attentive for view in self._views):
            return
        name = f'object {self._selected}' if self._selected else 'a new object'
        self._target.text = '' if self._tool == 'select' else f'for {name}'
        if self._tab == 'Objects':
            self._objects.update()

    def _measure(self) -> None:
        if self._views and all(view.attentive for view in self._views):
            self._health.measure()
            if self._tab == 'Health':
                self._health.update()


def _toggle(choices: dict[Any, str], value: Any, act: Callable[[Any], Any]) -> None:
    made = ui.toggle(choices, value=value, on_change=act)
    made.props('dense no-caps padding="4px 10px"')


def _button(text: str, act: Callable[[], Any]) -> None:
    ui.button(text, on_click=act).props('flat dense no-caps align=left').classes('w-full')
