# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What DeAOT remembers of one stream; see ``masa_ros.propagators.protocol.Memory``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from masa_ros.models.aot.network import DeAotNetwork, ImageMaps, Seen
from masa_ros.models.stages import Run
from masa_ros.propagators.deaot.engine import Engine, bytes_of, merged
from masa_ros.propagators.deaot.options import DeaotPropagatorConfig
from masa_ros.propagators.deaot.placement import Placement
from masa_ros.propagators.loaded import Loaded
from masa_ros.propagators.protocol import check_masks


class Encoded(NamedTuple):
    """What the network sees in a frame without knowing any object.

    Attributes
    ----------
    place: of the frame in the network's input.
    maps: of it.
    run: the stages that go on with it.

    """

    place: Placement
    maps: ImageMaps
    run: Mapping[str, Run]


class _Reading(NamedTuple):
    """What was read of a frame: labels (height, width), which count the ids; seen by object."""

    encoded: Encoded
    ids: tuple[int, ...]
    labels: Tensor
    seen: dict[int, tuple[Seen, ...]]


class DeaotMemory:
    """Long- and short-term memory of up to ten objects an engine (Yang and Yang 2022, section 4).

    An engine is one pass of the network in every frame. New objects go to the first with an
    identity that is free, which then reads the frame they are shown in by itself and keeps it.
    The others go on, and keep it when it is their turn or somebody is certain of it; so does
    SAM-Track, while the code that was published with the paper shows every engine all such frames.

    Whoever is dropped is taken out of every frame that is remembered, and its identity is free.

    Bounded: an engine holds up to ``max_frames`` frames and the one before, all of them together
    ``max_megabytes``, but for one frame an engine; ``Engine.limited`` says which frames leave. The
    engine of most frames loses one first. Engines without objects are gone.

    All frames must come to the same size in the network; ``forget`` before another one.

    Parameters
    ----------
    propagator: whose network and options are used.

    Attributes
    ----------
    engines: in the order in which they began.
    ids: of the objects, in the order of their masks.

    """

    def __init__(self, propagator: Loaded) -> None:
        self._propagator = propagator
        self._network: DeAotNetwork = propagator.network
        self.engines: tuple[Engine, ...] = ()
        self.ids: tuple[int, ...] = ()
        self._reading: _Reading | None = None

    @property
    def _config(self) -> DeaotPropagatorConfig:
        config: DeaotPropagatorConfig = self._propagator.config
        return config

    @torch.inference_mode()
    def read(self, encoded: Encoded) -> Tensor:
        """Find the objects again; see ``Memory``."""
        place = encoded.place
        if not self.ids:
            labels = encoded.maps.embedding.new_zeros((place.height, place.width))
            self._reading = _Reading(encoded, (), labels, {})
            return torch.ones_like(labels)[None]
        self._check_size(encoded)
        logits, seen = [], dict[int, tuple[Seen, ...]]()
        for engine in self.engines:
            look = engine.look(self._network, encoded.maps, encoded.run)
            logits.append(place.logits_out(look.logits))
            seen |= dict.fromkeys(engine.ids, look.seen)
        rows = {each: i for i, each in enumerate(seen, 1)}
        found = merged(logits)[[0, *(rows[each] for each in self.ids)]]
        self._reading = _Reading(encoded, self.ids, found.argmax(0), seen)
        return found / found.sum(0)

    @torch.inference_mode()
    def remember(
        self,
        encoded: Encoded,
        ids: Sequence[int],
        masks: Tensor | None = None,
        certain: bool = False,
    ) -> None:
        """Take what is true of a frame; see ``Memory``.

        In every pixel the most probable object counts alone, of equals the first. New objects go
        into the long-term memory whatever ``certain`` says.

        Raises
        ------
        ValueError
            When ids and masks do not fit each other or the frame, or the frame the memory.

        """
        labels = encoded.place.labels_in(self._labels(encoded, ids, masks))
        self._check_size(encoded)
        reading = self._reading
        seen = reading.seen if reading is not None and reading.encoded is encoded else {}
        engines = []
        for before, own in self._with_new(ids):
            table = labels.new_tensor([0, *(own.get(each, 0) for each in ids)])
            engines.append(self._updated(before, own, encoded, seen, table[labels], certain))
        # Last, so that nothing is half known where memory runs out on the way.
        self.engines, self.ids, self._reading = self._limited(engines), tuple(ids), None

    def _labels(self, encoded: Encoded, ids: Sequence[int], masks: Tensor | None) -> Tensor:
        """Return the labels (height, width) of a frame: 0, or 1 + the place of an id."""
        place = encoded.place
        if masks is not None:
            check_masks(masks, ids, place.height, place.width)
            return masks.to(encoded.maps.embedding.device).argmax(0)
        reading = self._reading
        if reading is None or reading.encoded is not encoded:
            raise ValueError('no masks of a frame that was not read last')
        if unknown := [each for each in ids if each not in reading.ids]:
            raise ValueError(f'no masks of the objects {unknown}, which were not read')
        labels = torch.zeros_like(reading.labels)
        for row, each in enumerate(ids, 1):
            labels[reading.labels == 1 + reading.ids.index(each)] = row
        return labels

    def _with_new(self, ids: Sequence[int]) -> Iterator[tuple[Engine | None, dict[int, int]]]:
        """Give every engine without the objects that go, and the identities it has from now on."""
        every = range(1, 1 + self._network.sizes.objects)
        new = [each for each in ids if each not in self.ids]
        for engine in self._keeping(ids):
            identities = dict(engine.ids)
            free = [identity for identity in every if identity not in identities.values()]
            identities |= zip(new, free)
            new = new[len(free) :]
            yield engine, identities
        while new:
            yield None, dict(zip(new, every))
            new = new[len(every) :]

    def _updated(
        self,
        before: Engine | None,
        ids: Mapping[int, int],
        encoded: Encoded,
        seen: Mapping[int, tuple[Seen, ...]],
        labels: Tensor,
        certain: bool,
    ) -> Engine:
        """Return an engine after a frame with labels (H, W) of the network's input."""
        own = next((seen[each] for each in ids if each in seen), None)
        if before is None or own is None or len(ids) > len(before.ids):
            return Engine.shown(self._network, encoded.maps, labels, ids, before)
        keep = certain or before.since + 1 >= self._config.mem_every
        return before.followed(self._network, own, labels, keep)

    def _keeping(self, ids: Collection[int]) -> Iterator[Engine]:
        every = (engine.keeping(self._network, ids) for engine in self.engines)
        return (engine for engine in every if engine.ids)

    def _limited(self, engines: Sequence[Engine]) -> tuple[Engine, ...]:
        """Keep the bounds."""
        engines = [engine.limited(self._config.max_frames) for engine in engines]
        while bytes_of(engines) > self._config.max_megabytes * 1_000_000:
            fullest = max(range(len(engines)), key=lambda i: len(engines[i].long))
            frames = len(engines[fullest].long)
            if frames == 1:
                break
            engines[fullest] = engines[fullest].limited(frames - 1)
        return tuple(engines)

    @torch.inference_mode()
    def drop(self, ids: Sequence[int]) -> None:
        """Forget some objects; see ``Memory``."""
        stay = tuple(each for each in self.ids if each not in ids)
        self.engines, self.ids = tuple(self._keeping(stay)), stay

    def forget(self) -> None:
        """Forget everything; see ``Memory``."""
        self.engines, self.ids, self._reading = (), (), None

    def figures(self) -> Mapping[str, Any]:
        """Return how large it is: the frames of the fullest engine, bytes of all, engines."""
        return {
            'memory_frames': max((len(engine.long) for engine in self.engines), default=0),
            'memory_bytes': bytes_of(self.engines),
            'memory_engines': len(self.engines),
        }

    def _check_size(self, encoded: Encoded) -> None:
        size = encoded.place.rows, encoded.place.columns
        for engine in self.engines:
            if (own := tuple(engine.short.labels.shape)) != size:
                raise ValueError(f'a frame of {size} pixels in a memory of {own}')
