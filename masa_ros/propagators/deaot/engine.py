# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Up to ten objects that share the identities of the network, and the frames they are known by."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from masa_ros.models.aot.attention import Written
from masa_ros.models.aot.network import DeAotNetwork, ImageMaps, Seen
from masa_ros.models.precision import at_least_float32
from masa_ros.models.stages import Run


class Look(NamedTuple):
    """What an engine finds in a frame.

    Attributes
    ----------
    logits: (1 + N, H / 4, W / 4) the background, then its objects in their order.
    seen: of every layer, which becomes memory when the labels are known.

    """

    logits: Tensor
    seen: tuple[Seen, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Page:
    """A remembered frame.

    What was seen is kept apart from who was there, so that an object can be taken out of it.

    Attributes
    ----------
    seen: of every layer.
    labels: (H, W) uint8 of the network's input, the identities.
    written: of every layer: both.
    began: ids of the objects that were shown in this frame for the first time.

    """

    seen: tuple[Seen, ...]
    labels: Tensor
    written: tuple[Written, ...]
    began: frozenset[int]

    @classmethod
    def of(
        cls,
        network: DeAotNetwork,
        seen: tuple[Seen, ...],
        labels: Tensor,
        began: Collection[int] = (),
    ) -> Page:
        """Write down who is where in what was seen."""
        written = network.LSTT.write(seen, network.identities(labels))
        return cls(seen, labels.to(torch.uint8), written, frozenset(began))

    def without(self, network: DeAotNetwork, ids: Mapping[int, int]) -> Page:
        """Take objects (identity by id) out: where they were is background, as if always."""
        began = self.began - ids.keys()
        gone = torch.isin(self.labels, self.labels.new_tensor(list(ids.values())))
        if not bool(gone.any()):
            return dataclasses.replace(self, began=began)
        return Page.of(network, self.seen, self.labels.masked_fill(gone, 0), began)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        seen = [x for layer in self.seen for x in layer if x is not None]
        return sum(x.nbytes for x in (*seen, *(w.identity for w in self.written), self.labels))


@dataclasses.dataclass(frozen=True, eq=False)
class Engine:
    """Some objects and their memory; a change makes another engine.

    Attributes
    ----------
    ids: identities 1 .. 10 by the ids of the objects, in the order in which they began.
    long: frames of the long-term memory, oldest first.
    short: the frame before.
    since: frames since the last one that went into the long-term memory.

    """

    ids: Mapping[int, int]
    long: tuple[Page, ...]
    short: Page
    since: int = 0

    def look(self, network: DeAotNetwork, maps: ImageMaps, run: Mapping[str, Run]) -> Look:
        """Find the objects in what is seen of a frame; ``run``: the stages."""
        memory = [page.written for page in self.long], self.short.written
        passed = network.LSTT(maps.embedding, memory)
        drawn = run['masks'](final=passed.final, f4=maps.f4, f8=maps.f8, f16=maps.f16)
        logits = at_least_float32(drawn['logits'])
        return Look(logits[[0, *self.ids.values()]], passed.seen)

    @classmethod
    def shown(
        cls,
        network: DeAotNetwork,
        maps: ImageMaps,
        labels: Tensor,
        ids: Mapping[int, int],
        before: Engine | None,
    ) -> Engine:
        """Show objects in a frame that reads itself, as SAM-Track's reference frames do.

        Parameters
        ----------
        network: see there.
        maps: of the frame.
        labels: (H, W) of the network's input: identities.
        ids: of all objects from now on.
        before: what was known, or None.

        """
        passed = network.LSTT(maps.embedding, network.identities(labels))
        new = [each for each in ids if before is None or each not in before.ids]
        page = Page.of(network, passed.seen, labels, new)
        return cls(dict(ids), (*(before.long if before else ()), page), page)

    def followed(
        self, network: DeAotNetwork, seen: tuple[Seen, ...], labels: Tensor, keep: bool
    ) -> Engine:
        """Take the labels (H, W) of a frame in which the objects were looked for.

        It goes into the long-term memory where ``keep`` says so.
        """
        page = Page.of(network, seen, labels)
        if keep:
            return Engine(self.ids, (*self.long, page), page)
        return Engine(self.ids, self.long, page, self.since + 1)

    def keeping(self, network: DeAotNetwork, ids: Collection[int]) -> Engine:
        """Forget all objects but these."""
        gone = {each: place for each, place in self.ids.items() if each not in ids}
        if not gone:
            return self
        pages = {id(page): page for page in (*self.long, self.short)}  # the last may be in both
        clean = {key: page.without(network, gone) for key, page in pages.items()}
        return dataclasses.replace(
            self,
            ids={each: place for each, place in self.ids.items() if each in ids},
            long=tuple(clean[id(page)] for page in self.long),
            short=clean[id(self.short)],
        )

    def limited(self, most: int) -> Engine:
        """Leave frames out of the long-term memory until there are no more than ``most``.

        The last one stays. Of the others the oldest goes in which no object began that is still
        known; where one began in each of them, the oldest.
        """
        long = list(self.long)
        while len(long) > max(most, 1):
            plain = (i for i, page in enumerate(long[:-1]) if not page.began & self.ids.keys())
            del long[next(plain, 0)]
        return dataclasses.replace(self, long=tuple(long))


def bytes_of(engines: Sequence[Engine]) -> int:
    """Return how much all remembered frames take."""
    pages = {id(page): page for each in engines for page in (*each.long, each.short)}
    return sum(page.nbytes for page in pages.values())


def merged(logits: Sequence[Tensor]) -> Tensor:
    """Merge what several engines say, each of which takes the objects of others for background.

    Parameters
    ----------
    logits: (1 + N_i, H, W) of each, the background first.

    Returns
    -------
    (1 + N, H, W) in 0..1, the background first: of one engine the softmax; of several their
    softmax side by side behind the product of their backgrounds, within 1e-5 of both ends, so
    that they do not sum to 1.

    """
    every = [each.softmax(0) for each in logits]
    if len(every) == 1:
        return every[0]
    ground = torch.stack([each[0] for each in every]).prod(0, keepdim=True)
    return torch.cat((ground, *(each[1:] for each in every))).clamp(1e-5, 1 - 1e-5)
