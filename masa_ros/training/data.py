# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where training scenes come from: photographs with proposals, composites, mixtures of both."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from masa_ros.errors import SourceError
from masa_ros.training.cutouts import read_image, shrunk
from masa_ros.training.proposals import Entry
from masa_ros.training.views import Known, Labelled, Twice, ViewConfig, ViewPair, make_pair

_FRAME_WEIGHT = 0.25  # of a photograph's
_SAME_FRAME = 0.3  # of the scenes of a recording are one frame seen twice
_LATEST = 12  # frames between the two others


class Scenes(Protocol):
    """Scenes by number: the same number gives the same views of the same scene."""

    @property
    def left_out(self) -> Mapping[str, str]:
        """Photographs that cannot be used, and why, as far as this process has met them.

        Others took their place.
        """
        ...

    def pair(self, index: int) -> ViewPair:
        """Make the views of scene number ``index``."""
        ...


class Photographs:
    """Views of photographs whose instances are known from proposals.

    Parameters
    ----------
    entries: from ``proposals.read_proposals``.
    config: of the views.
    exhaustive: whether the proposals are all there is, as those of SAM are, so that the rest is
        background; otherwise nothing is known of the rest.
    seed: of the generator.
    plain_after: scenes from this number on are never two photographs blended; the released models
        were finished so.

    Raises
    ------
    SourceError
        When no entry has a mask; later, when none of the photographs can be read with its masks.

    """

    def __init__(
        self,
        entries: Sequence[Entry],
        config: ViewConfig,
        exhaustive: bool = False,
        seed: int = 0,
        plain_after: float = math.inf,
    ) -> None:
        # Where the rest is background, a photograph without an object is worth as much.
        self.entries = [
            entry
            for entry in entries
            if exhaustive or any(kind != Known.DOUBTFUL for kind in entry.kinds)
        ]
        if not any(entry.shapes for entry in self.entries):
            raise SourceError(f'none of the {len(entries)} images to learn from has a proposal')
        self.config, self.exhaustive, self.seed = config, exhaustive, seed
        self.plain_after, self._plain = plain_after, dataclasses.replace(config, mixup=0.0)
        self.left_out: dict[str, str] = {}
        self._photographs = len({entry.path for entry in self.entries})

    @property
    def weight(self) -> float:
        """Return how much they count beside others: frames of a recording are much alike."""
        return sum(_FRAME_WEIGHT if entry.linked else 1.0 for entry in self.entries)

    def pair(self, index: int) -> ViewPair:
        """Make the views of scene number ``index``."""
        rng = np.random.default_rng((self.seed, 1, index))
        scenes: list[Twice] = []
        while len(scenes) < 2:
            number = int(rng.integers(len(self.entries)))
            scene = self._read(self.entries[number])
            if scene is None:
                continue
            later = self._later(number, rng)
            second = (None if later is None else self._read(later)) or scene
            scenes.append(_numbered(scene, second))
        config = self.config if index < self.plain_after else self._plain
        return make_pair(scenes, config, rng)

    def _later(self, number: int, rng: np.random.Generator) -> Entry | None:
        """Return another frame of a recording, now and then; the entries are in its order."""
        entry = self.entries[number]
        if not entry.linked or rng.random() < _SAME_FRAME:
            return None
        other = number + int(rng.integers(1, _LATEST + 1)) * int(rng.choice((-1, 1)))
        if not 0 <= other < len(self.entries):
            return None
        later = self.entries[other]
        same = later.path.parent == entry.path.parent and later.linked
        return later if same else None

    def _read(self, entry: Entry) -> Labelled | None:
        """Return a photograph with its masks; None when it is left out."""
        image = read_image(entry.path)
        if image is not None:
            # Twice the size of a view is all that large-scale jitter can show.
            image = shrunk(image, 2 * max(self.config.size))
        problem = 'the image cannot be read'
        if image is not None:
            try:
                masks = entry.decode(image.shape[0], image.shape[1])
                kinds = np.array(entry.kinds, np.uint8)
                ids = np.array(entry.tracks, np.int64)
                if not entry.linked:
                    ids = np.arange(len(ids))
                return Labelled(image, masks, self.exhaustive, kinds, ids)
            except ValueError as error:
                problem = str(error)
        self.left_out[str(entry.path)] = problem
        if len(self.left_out) == self._photographs:
            raise SourceError(
                f'none of {self._photographs} images can be read with its masks; {entry.path}: '
                f'{problem}'
            )
        return None


def _numbered(first: Labelled, second: Labelled) -> Twice:
    """Give objects numbers from 0: those of tracks count over all recordings."""
    ids = np.union1d(first.ids, second.ids)
    return (
        first._replace(ids=np.searchsorted(ids, first.ids)),
        second._replace(ids=np.searchsorted(ids, second.ids)),
    )


class Mixture:
    """Several kinds of scenes, each with its share."""

    def __init__(self, parts: Sequence[tuple[float, Scenes]], seed: int = 0) -> None:
        shares = np.array([share for share, _ in parts])
        self._limits, self._parts = np.cumsum(shares / shares.sum()), [part for _, part in parts]
        self._seed = seed

    @property
    def left_out(self) -> Mapping[str, str]:
        """Photographs that none of the parts can use, and why."""
        return {path: why for part in self._parts for path, why in part.left_out.items()}

    def pair(self, index: int) -> ViewPair:
        """Make the views of scene number ``index``, of the part that its number falls to."""
        chance = np.random.default_rng((self._seed, 2, index)).random()
        return self._parts[int(np.searchsorted(self._limits, chance))].pair(index)
