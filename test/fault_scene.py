# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A node, its camera, and what is promised when something goes wrong around them."""

import array
import contextlib
import dataclasses
import time
from collections.abc import Callable

import numpy as np
from conftest import scene
from ros_harness import ENDS, PATIENCE, Harness, jpeg
from sensor_msgs.msg import CompressedImage, Image

from masa_ros.nodes.messages import stamp_to_ns

RECOVERY = 1.0  # seconds of good images within which a quiet machine has an answer again


@dataclasses.dataclass(frozen=True)
class Fault:
    """One row of the table.

    Attributes
    ----------
    what, promise: in words.
    do: causes it; gives what diagnostics must have counted at least, by key.
    parameters: of the node.
    load: of the node, for faults inside the method.

    """

    what: str
    promise: str
    do: Callable[['Scene'], dict[str, int]]
    parameters: dict = dataclasses.field(default_factory=dict)
    load: Callable | None = None


@dataclasses.dataclass(frozen=True)
class Observed:
    """What came of it."""

    resumed: float  # seconds until the first answer to a good image
    wrong: int  # answers to images that must have none, or with another size
    counted: dict[str, tuple[int, int]]  # at least, observed
    balanced: bool  # in = out + skipped + rejected + failed

    def good(self, recovery: float = RECOVERY) -> bool:
        """Whether all promises were kept, and an answer came within ``recovery`` seconds."""
        enough = all(seen >= least for least, seen in self.counted.values())
        return self.resumed <= recovery and not self.wrong and self.balanced and enough

    def __str__(self) -> str:
        """Say it in words."""
        counted = ', '.join(f'{key} {seen}' for key, (_, seen) in self.counted.items())
        text = f'next answer after {self.resumed:.2f} s'
        text += f'; counted: {counted}' if counted else ''
        text += f'; {self.wrong} wrong answers' if self.wrong else ''
        return text if self.balanced else text + '; the counters do not add up'


class Scene:
    """A node, its camera, and the book of what may be answered."""

    def __init__(self, fault: Fault, weights: str) -> None:
        parameters = {
            **{'weights': weights, 'device': 'cpu', 'input_size': 192, 'silence_seconds': 1.0},
            **{'score_threshold': 0.0, 'init_score_thr': 0.0, 'obj_score_thr': 0.0},
            'publish_tentative': True,
        }
        self.harness = Harness(parameters | fault.parameters, fault.load)
        self.harness.wait_until_tracking()
        self.compressed = fault.parameters.get('image_transport') == 'compressed'
        self.expected: dict[int, tuple[int, int]] = {}
        self.sent = 0

    def good(self, pixels: np.ndarray | None = None, stamp_ns: int | None = None) -> Image:
        """Make an image that deserves an answer."""
        pixels = scene(self.sent % 20) if pixels is None else pixels
        message = self.harness.image(pixels, stamp_ns=stamp_ns)
        if self.compressed:
            message = CompressedImage(header=message.header, format='jpeg')
            message.data = array.array('B', jpeg(pixels))
        self.expected[stamp_to_ns(message.header.stamp)] = pixels.shape[:2]
        return message

    def send(self, message: Image | CompressedImage) -> None:
        """Publish, and wait until something became of it: the next must not replace it."""
        harness = self.harness
        (camera,) = harness.cameras or (None,)
        before = camera.statistics.received if camera else 0
        (harness.compressed if self.compressed else harness.images).publish(message)
        self.sent += 1
        if camera is None:
            return
        if harness.until(lambda: camera.statistics.received > before, 5):
            harness.until(self._at_rest, 10)
        time.sleep(0.02)

    def _at_rest(self) -> bool:
        """Tell whether no image is in work, or nobody is there who works."""
        return not self.harness.cameras or len(set(self.harness.account())) == 1

    def bad(self, **fields: object) -> None:
        """Publish an image with some fields broken."""
        message = self.harness.image(scene())
        for name, value in fields.items():
            setattr(message, name, value)
        self.send(message)

    def stream(self, seconds: float) -> None:
        """Publish good images for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.send(self.good())

    def state(self) -> int:
        """Return the node's lifecycle state."""
        return int(self.harness.node._state_machine.current_state[0])

    def count(self, key: str) -> int:
        """Return a figure of the newest diagnostics."""
        with contextlib.suppress(ValueError):
            return int(self.harness.report(key))
        return 0

    def resume(self) -> float:
        """Publish good images until one is answered; gives the seconds it took."""
        start, first = time.monotonic(), len(self.harness.tracks)
        while time.monotonic() < start + PATIENCE:
            self.send(self.good())
            if len(self.harness.tracks) > first:
                return time.monotonic() - start
        return float('inf')

    def balanced(self) -> bool:
        """Tell whether every image that was received is in one of the counters, at rest."""

        def adds_up() -> bool:
            return self.count('received') == sum(map(self.count, ENDS)) > 0

        return self.harness.until(adds_up)

    def wrong(self) -> int:
        """Count answers that belong to no good image, or say another size."""
        return sum(
            self.expected.get(stamp_to_ns(t.header.stamp)) != (t.image_height, t.image_width)
            for t in self.harness.tracks
        )


def run(fault: Fault, weights: str) -> Observed:
    """Do it and watch."""
    stage = Scene(fault, weights)
    try:
        assert stage.resume() < PATIENCE, 'the node does not work at all'
        least = fault.do(stage)
        resumed = stage.resume()
        stage.harness.until(lambda: all(stage.count(k) >= v for k, v in least.items()))
        balanced = stage.balanced()
        counted = {key: (value, stage.count(key)) for key, value in least.items()}
        return Observed(resumed, stage.wrong(), counted, balanced)
    finally:
        stage.harness.close()
