# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The video of one camera, decoded in a thread of its own."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from masa_ros.codecs.decoder import VideoDecoder
from masa_ros.errors import ImageError
from masa_ros.images import Picture

T = TypeVar('T')

_LONGEST = 100  # packets that wait: some seconds of a camera


class Decoding(Generic[T]):
    """Decode every packet in its order, whatever is done with the pictures.

    A packet builds on those before it, so none can be passed over as images can. The executor has
    other things to do than to decode, and the worker would find all packets of the time that a
    model takes waiting for it, before it had the newest picture.

    Parameters
    ----------
    ready: takes every tag with its picture.
    reject: takes every tag that gets none, by cause and text: one call a tag.
    skip: is called for every packet that was not decoded, as decoding takes longer than the video.
    fail: takes what is raised by a mistake, for one packet.
    behind: takes the number of the packets each time that some are skipped.

    """

    def __init__(
        self,
        ready: Callable[[T, Picture], None],
        reject: Callable[[str, str], None],
        skip: Callable[[], None],
        fail: Callable[[Exception], None],
        behind: Callable[[int], None],
    ) -> None:
        self._ready, self._reject, self._skip = ready, reject, skip
        self._fail, self._behind = fail, behind
        self._decoder: VideoDecoder[T] = VideoDecoder()
        self._condition = threading.Condition()
        self._queue: collections.deque[tuple[Any, T] | None] = collections.deque()
        self._running = True
        self._thread = threading.Thread(target=self._run, name='masa_decoder', daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Return the number of packets that are not decided yet."""
        return len(self._queue) + len(self._decoder)

    def offer(self, message: Any, tag: T) -> None:
        """Hand over a packet with what its picture belongs to."""
        dropped = 0
        with self._condition:
            if not self._running:
                dropped = 1
            else:
                if len(self._queue) > _LONGEST:
                    dropped = sum(item is not None for item in self._queue)
                    self._queue.clear()
                    self._queue.append(None)  # here packets are missing
                self._queue.append((message, tag))
                self._condition.notify()
        for _ in range(dropped):
            self._skip()
        if dropped > 1:
            self._behind(dropped)

    def stop(self) -> None:
        """End the thread; packets that are not decided are skipped."""
        with self._condition:
            self._running = False
            self._condition.notify()
        self._thread.join()
        left = sum(item is not None for item in self._queue) + len(self._decoder.drop())
        self._queue.clear()
        for _ in range(left):
            self._skip()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._queue or not self._running)
                if not self._running:
                    return
                item = self._queue.popleft()
            try:
                if item is None:
                    answers = self._decoder.flush('packets were skipped')
                else:
                    answers = self._decoder.decode(*item)
            except Exception as error:  # a mistake: of this packet only
                self._fail(error)
                for _ in self._decoder.drop():
                    self._skip()
                continue
            for tag, answer in answers:
                self._give(tag, answer)

    def _give(self, tag: T, answer: Picture | ImageError) -> None:
        try:
            if isinstance(answer, Picture):
                self._ready(tag, answer)
            else:
                self._reject(answer.cause, str(answer))
        except Exception as error:  # as above
            self._fail(error)
