# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The ``Lane`` of a running node."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping
from typing import Any

from masa_ros.errors import MasaError
from masa_ros.methods import METHODS
from masa_ros.nodes.client import Declared, NodeClient
from masa_ros.studio.catalogue import Catalogue
from masa_ros.studio.lane import Answer, Field, Figures, Notice, Shown
from masa_ros.types import Mask, Prompt

_PERIOD_SECONDS = 1 / 15  # between pictures
_SILENT_SECONDS = 5.0  # without diagnostics
_LEVELS = {0: 'ok', 1: 'warning', 2: 'error', 3: 'error'}
_ALL_KINDS = frozenset(('point', 'box', 'mask', 'text'))


class _Told(Figures):
    """Figures that the node tells of itself."""

    told_rate = 0.0

    def rate(self, now: float) -> float:
        return self.told_rate


class Live:
    """See ``Lane``.

    Parameters
    ----------
    client: the node.

    """

    def __init__(self, client: NodeClient) -> None:
        self._client = client
        self.catalogue, self.figures = Catalogue(), _Told()
        self._shown: Shown | None = None
        self._looked, self._told_at, self._count = 0.0, 0.0, 0
        self._problem = ''
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name='live lane', daemon=True)

    def begin(self) -> None:
        """Start the threads."""
        self._client.begin()
        self._thread.start()

    @property
    def title(self) -> str:
        """The node, and its method and model."""
        told = self._client.figures
        about = f'{told.get("method", "")} {told.get("model", "")}'.strip()
        return f'{self._client.name} {self._client.camera} {about}'.strip()

    @property
    def accepts(self) -> frozenset[str]:
        """All kinds of prompts: the node says which of them its method does not understand."""
        method = self._client.figures.get('method', '')
        return _ALL_KINDS if method in METHODS or not method else frozenset()

    @property
    def shown(self) -> Shown | None:
        """See ``Lane``; whoever asks looks at it."""
        self._client.look()
        return self._shown

    def _run(self) -> None:
        while not self._closing.wait(_PERIOD_SECONDS):
            try:
                result = self._client.newest()
                self._problem = ''
            except MasaError as error:
                self._problem = str(error)
                continue
            if result is not None:
                self._count += 1
                self.catalogue.take(self._count, result)
                stamp = result.frame.stamp_ns
                name = f'{stamp // 1_000_000_000}.{stamp % 1_000_000_000:09d}'
                self._shown = Shown(self._count, self._count, name, result)
            if self._client.heard > self._told_at:
                self._told_at = self._client.heard
                told = self._client.figures
                self.figures.add(float(told.get('latency_ms_p50', 0)), self._told_at)
                self.figures.told_rate = float(told.get('rate_hz', 0))

    def ask(self, shown: Shown, prompt: Prompt) -> Answer:
        """See ``Lane``."""
        try:
            found = self._client.ask(shown.result.frame.stamp_ns, prompt)
        except MasaError as error:
            return Answer((), str(error))
        return Answer(tuple(found), '' if found else 'nothing was found there')

    def candidates(self, shown: Shown, prompt: Prompt) -> list[Mask]:
        """Return nothing: no service of the node tells."""
        return []

    def remove(self, track_id: int) -> None:
        """See ``Lane``."""
        self._client.remove(track_id)

    def keep_only(self, track_ids: Collection[int]) -> None:
        """See ``Lane``."""
        self._client.keep_only(list(track_ids))

    def rename(self, track_id: int, name: str) -> None:
        """See ``Lane``."""
        self._client.rename(track_id, name)
        self.catalogue.rename(track_id, name)

    def fields(self) -> list[Field]:
        """See ``Lane``; raises NodeError where the node does not answer."""
        return [field_of(each) for each in self._client.parameters()]

    def change(self, values: Mapping[str, Any]) -> None:
        """See ``Lane``; what is not live lets the node be configured anew."""
        live = {field.name for field in self.fields() if field.live}
        self._client.set_parameters(values, configure=not set(values) <= live)

    def notices(self) -> list[Notice]:
        """See ``Lane``."""
        client = self._client
        silent = time.monotonic() - client.heard
        if client.health is None or silent > _SILENT_SECONDS:
            since = '' if client.health is None else f' for {silent:.0f} s'
            return [
                Notice('error', f'{client.name} publishes no diagnostics{since}: does it run?')
            ]
        level = _LEVELS.get(client.health.level[0], 'error')
        found = [Notice(level, client.health.message)]
        if self._problem:
            found.append(Notice('warning', self._problem))
        return found + [
            Notice('fact', f'{name}: {value}') for name, value in client.figures.items()
        ]

    def memory_mib(self) -> float:
        """See ``Lane``."""
        return float(self._client.figures.get('process_mib', 0))

    def close(self) -> None:
        """Leave the node alone."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._client.close()


def field_of(declared: Declared) -> Field:
    """Return a parameter as a form shows it."""
    descriptor, value = declared
    low = high = None
    ranges = [*descriptor.floating_point_range, *descriptor.integer_range]
    if ranges:
        low, high = float(ranges[0].from_value), float(ranges[0].to_value)
    constraints = descriptor.additional_constraints.split('; ')
    choices: tuple[str, ...] = ()
    for text in constraints:
        if text.startswith('one of: '):
            choices = tuple(text.removeprefix('one of: ').split(', '))
    live = 'read when the node is configured' not in constraints
    fixed = descriptor.read_only
    return Field(
        descriptor.name,
        descriptor.description,
        [value] if fixed else value,
        low,
        high,
        choices,
        live,
    )


def open_live(name: str, camera: str) -> Live:
    """Return the lane of a camera of a node, by its name."""
    return Live(NodeClient(name, camera))
