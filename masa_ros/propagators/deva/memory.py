# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What DEVA remembers of one stream; see ``masa_ros.propagators.protocol.Memory``.

Of every object: buckets of tokens that are asked in every frame, a sensory memory that follows
it from frame to frame, and where it was in the last one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from masa_ros.models.deva.network import ImageMaps, coarse, probabilities
from masa_ros.models.stages import Run, Stage, run_rows
from masa_ros.propagators.deva.buckets import Bucket, Tokens
from masa_ros.propagators.deva.options import MemoryConfig
from masa_ros.propagators.deva.placement import Placement
from masa_ros.propagators.loaded import InStages
from masa_ros.propagators.protocol import check_masks


class Encoded(NamedTuple):
    """What the network sees in a frame without knowing any object.

    Attributes
    ----------
    place: of the frame in the network's input.
    image: (1, 3, H, W) the input.
    maps: of it.
    keys, selections: (Q, K), shrinkage (Q, 1) of its Q = H / 16 * W / 16 positions.
    run: the stages that go on with it.

    """

    place: Placement
    image: Tensor
    maps: ImageMaps
    keys: Tensor
    selections: Tensor
    shrinkage: Tensor
    run: Mapping[str, Run]


class _Reading(NamedTuple):
    """What was read of a frame: masks (1 + N, H, W) in the network's input, what ids then know."""

    encoded: Encoded
    masks: Tensor
    sensory: dict[int, Tensor]


class DevaMemory:
    """Sensory, working and long-term memory (paper, section 3.1).

    Bounded: a bucket holds less than ``max_mid`` frames and up to ``max_long`` tokens of older
    ones, an object one sensory memory; there are no more buckets than objects.

    All frames must come to the same size in the network; ``forget`` before another one.

    Parameters
    ----------
    propagator: whose network and options are used.

    Attributes
    ----------
    buckets: oldest first.
    sensory: (C, h, w) by the id of each object.
    since: frames remembered since the last one that went into the buckets.

    """

    def __init__(self, propagator: InStages) -> None:
        self._propagator = propagator
        self.buckets: list[Bucket] = []
        self.sensory: dict[int, Tensor] = {}
        self.since = 0
        self._last: dict[int, Tensor] = {}
        self._reading: _Reading | None = None

    @property
    def _config(self) -> MemoryConfig:
        config: MemoryConfig = self._propagator.config
        return config

    @property
    def ids(self) -> tuple[int, ...]:
        """Of the objects, in the order of their masks."""
        return tuple(self.sensory)

    @torch.inference_mode()
    def read(self, encoded: Encoded) -> Tensor:
        """Find the objects again; see ``Memory``."""
        masks, sensory = self._segment(encoded)
        self._reading = _Reading(encoded, masks, sensory)
        return encoded.place.masks_out(masks)

    def _segment(self, encoded: Encoded) -> tuple[Tensor, dict[int, Tensor]]:
        """Give masks in the network's input, and the sensory memories after the frame."""
        if not self.sensory:
            return encoded.image.new_ones((1, *encoded.image.shape[-2:])), {}
        self._check_size(encoded)
        size = encoded.maps.key.shape[-2:]
        read: dict[int, Tensor] = {}
        for bucket in self.buckets:
            values = bucket.read(encoded.keys, encoded.selections, self._config.top_k)
            read |= zip(bucket.ids, values.permute(1, 2, 0).unflatten(2, size))
        decoded = self._run(
            'masks',
            encoded,
            readout=_stacked(read[each] for each in self.ids),
            sensory=_stacked(self.sensory.values()),
            last=torch.stack([self._last[each] for each in self.ids]),
        )
        return probabilities(decoded['logits']), dict(zip(self.ids, decoded['sensory']))

    def _run(self, name: str, encoded: Encoded, **rows: Tensor) -> dict[str, Tensor]:
        """Run a stage on any number of objects of a frame."""
        stage: Stage = self._propagator.stages[name]
        tensors = {'images': encoded.image, **encoded.maps._asdict(), **rows}
        found = run_rows(stage, encoded.run[name], tensors, self._config.chunk)
        return {key: value.to(self._propagator.dtype) for key, value in found.items()}

    @torch.inference_mode()
    def remember(
        self,
        encoded: Encoded,
        ids: Sequence[int],
        masks: Tensor | None = None,
        certain: bool = False,
    ) -> None:
        """Take what is true of a frame; see ``Memory``.

        The channel of the background is not looked at. New objects go into the buckets whatever
        ``certain`` says.

        Raises
        ------
        ValueError
            When ids and masks do not fit each other or the frame, or the frame the memory.

        """
        inside = self._masks_inside(encoded, ids, masks)
        self._check_size(encoded)
        sensory, last = self._followed(encoded, ids), dict(zip(ids, coarse(inside)))
        self.drop([each for each in self.ids if each not in ids])
        new = [each for each in ids if each not in self.sensory]
        self.since += 1
        if ids and (certain or new or self.since >= self._config.mem_every):
            sensory = self._put(encoded, new, dict(zip(ids, inside)), sensory)
            self.since = 0
        # Last, so that nothing is half known where memory runs out on the way.
        self.sensory, self._last, self._reading = sensory, last, None

    def _masks_inside(self, encoded: Encoded, ids: Sequence[int], masks: Tensor | None) -> Tensor:
        """Return the masks (N, H, W) of objects in the network's input."""
        if masks is None:
            reading = self._reading
            if reading is None or reading.encoded is not encoded:
                raise ValueError('no masks of a frame that was not read last')
            rows = {each: i for i, each in enumerate(reading.sensory, 1)}
            if unknown := [each for each in ids if each not in rows]:
                raise ValueError(f'no masks of the objects {unknown}, which were not read')
            return reading.masks[[rows[each] for each in ids]]
        place = encoded.place
        check_masks(masks, ids, place.height, place.width)
        return place.masks_in(masks[1:].to(encoded.image))

    def _followed(self, encoded: Encoded, ids: Sequence[int]) -> dict[int, Tensor]:
        """Return the sensory memories of objects after what was read of this frame, if it was."""
        shape = self._propagator.network.sizes.value, *encoded.maps.key.shape[-2:]
        nothing = encoded.maps.f16.new_zeros(shape)
        sensory = {each: self.sensory.get(each, nothing) for each in ids}
        if (reading := self._reading) is not None and reading.encoded is encoded:
            known = self.sensory.keys() & reading.sensory.keys() & sensory.keys()
            sensory |= {each: reading.sensory[each] for each in known}
        return sensory

    def _put(
        self,
        encoded: Encoded,
        new: Sequence[int],
        masks: Mapping[int, Tensor],
        sensory: Mapping[int, Tensor],
    ) -> dict[int, Tensor]:
        """Put a frame into the buckets; returns the sensory memories with what it says."""
        found = self._run(
            'values',
            encoded,
            masks=torch.stack([*masks.values()]),
            sensory=_stacked(sensory[each] for each in masks),
        )
        values = dict(zip(masks, found['values']))

        def tokens(ids: Sequence[int]) -> Tokens:
            stacked = torch.stack([values[each].flatten(1).T for each in ids], 1)
            return Tokens.unread(encoded.keys, encoded.selections, encoded.shrinkage, stacked)

        for bucket in self.buckets:
            bucket.add(tokens(bucket.ids), self._config)
        if new:
            self.buckets.append(Bucket(new, tokens(new)))
        return dict(zip(masks, found['sensory']))

    def drop(self, ids: Sequence[int]) -> None:
        """Forget some objects; see ``Memory``."""
        stay = [each for each in self.ids if each not in ids]
        self.buckets = [bucket for bucket in self.buckets if bucket.keep(stay)]
        self.sensory = {each: self.sensory[each] for each in stay}
        self._last = {each: self._last[each] for each in stay}

    def forget(self) -> None:
        """Forget everything; see ``Memory``."""
        self.buckets, self.sensory, self._last = [], {}, {}
        self.since, self._reading = 0, None

    def figures(self) -> Mapping[str, Any]:
        """Return how large it is: the frames of the fullest bucket, bytes of all, prototypes."""
        positions = next((state[0].numel() for state in self.sensory.values()), 1)
        held = [x for bucket in self.buckets for x in bucket.tokens]
        held += [*self.sensory.values(), *self._last.values()]
        working = (bucket.tokens.size - bucket.long for bucket in self.buckets)
        return {
            'memory_frames': max(working, default=0) // positions,
            'memory_bytes': sum(x.nbytes for x in held),
            'memory_prototypes': sum(bucket.long for bucket in self.buckets),
        }

    def _check_size(self, encoded: Encoded) -> None:
        size = tuple(encoded.maps.key.shape[-2:])
        for state in self.sensory.values():
            if (own := tuple(state.shape[-2:])) != size:
                raise ValueError(f'a frame of {size} positions in a memory of {own}')


def _stacked(maps: Iterable[Tensor]) -> Tensor:
    """Put maps (C, h, w) on one another, channels last in memory, as convolutions are faster."""
    return torch.stack([x.permute(1, 2, 0) for x in maps]).permute(0, 3, 1, 2)
