"""Where training scenes come from: photographs with proposals, composites, mixtures of both."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np

from masa_ros.errors import SourceError
from masa_ros.training.proposals import Entry
from masa_ros.training.views import Labelled, Sample, ViewConfig, make_sample


class Source(Protocol):
    """Scenes by number: the same number gives the same scene."""

    def sample(self, index: int) -> Sample:
        """Make scene number ``index``."""


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
        When no entry has a mask.

    Attributes
    ----------
    unreadable: names of files that turned out not to be images, or whose masks are damaged; others
        take their place.

    """

    def __init__(
        self,
        entries: Sequence[Entry],
        config: ViewConfig,
        exhaustive: bool = False,
        seed: int = 0,
        plain_after: float = math.inf,
    ) -> None:
        self.entries = [entry for entry in entries if entry.masks]
        if not self.entries:
            raise SourceError(f'none of the {len(entries)} images to learn from has a proposal')
        self.config, self.exhaustive, self.seed = config, exhaustive, seed
        self.plain_after, self._plain = plain_after, dataclasses.replace(config, mixup=0.0)
        self.unreadable: set[str] = set()

    def sample(self, index: int) -> Sample:
        """Make scene number ``index``."""
        rng = np.random.default_rng((self.seed, 1, index))
        scenes: list[Labelled] = []
        while len(scenes) < 2:
            scene = self._read(self.entries[int(rng.integers(len(self.entries)))])
            if scene is not None:
                scenes.append(scene)
        config = self.config if index < self.plain_after else self._plain
        return make_sample(scenes, config, rng)

    def _read(self, entry: Entry) -> Labelled | None:
        image = cv2.imread(str(entry.path), cv2.IMREAD_COLOR)
        if image is None:
            self._leave_out(entry)
            return None
        # Twice the size of a view is all that large-scale jitter can show.
        scale = 2 * max(self.config.size) / max(image.shape[:2])
        if scale < 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        try:
            masks = entry.decode(image.shape[0], image.shape[1])
        except ValueError:
            self._leave_out(entry)
            return None
        return Labelled(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), masks, self.exhaustive)

    def _leave_out(self, entry: Entry) -> None:
        self.unreadable.add(entry.path.name)
        if len(self.unreadable) == len({e.path.name for e in self.entries}):
            raise SourceError(f'none of {len(self.entries)} images can be read with its masks')


class Mixture:
    """Several sources, each with its share of the scenes."""

    def __init__(self, parts: Sequence[tuple[float, Source]], seed: int = 0) -> None:
        shares = np.array([share for share, _ in parts])
        self._limits, self._sources = np.cumsum(shares / shares.sum()), [s for _, s in parts]
        self._seed = seed

    def sample(self, index: int) -> Sample:
        """Make scene number ``index``, of the source that its number falls to."""
        chance = np.random.default_rng((self._seed, 2, index)).random()
        return self._sources[int(np.searchsorted(self._limits, chance))].sample(index)
