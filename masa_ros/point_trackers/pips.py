# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Points followed by PIPs through windows of 8 frames, which are linked where they are visible.

An answer waits for at most the seven frames behind it. Every frame is seen by the network once;
the original sees it again for every window that it is in.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from masa_ros import options
from masa_ros.errors import ConfigError
from masa_ros.models import pips
from masa_ros.models.devices import choose_device
from masa_ros.models.files import fingerprint
from masa_ros.models.pips import FRAMES, LEVELS, Maps, Pips
from masa_ros.models.staged import Recorded, Staged, check_precision, precision_option
from masa_ros.models.stages import Case, Run, Stage, run_rows
from masa_ros.models.upload import to_device
from masa_ros.options import option
from masa_ros.point_trackers.protocol import Points, Seen
from masa_ros.types import Frame

_PUBLISHED = (
    'model-000200000.pth in the archive reference_model that https://github.com/aharley/pips links'
)
_LINKED = 0.9  # visibility in the frame that the next window begins with
_LOWER = 0.02  # by so much it is asked for less, until a frame fits
_VISIBLE = 0.5
_GRID = 6  # points along each side that engines are tested with
_SMALLEST = 64  # pixels of a side: the coarsest maps must not be empty


@dataclasses.dataclass(frozen=True)
class PipsConfig:
    """Options of PIPs; raises ConfigError naming one that is wrong."""

    # Not half of itself: places are found to parts of a pixel, over six iterations.
    precision: str = precision_option('fp32')
    weights: str = option('', "file of the network's weights; there is none that is shipped")
    size: int = option(
        0,
        'long side that larger images are resized to, pixels',
        _SMALLEST,
        4096,
        special=(0, 'not at all'),
    )

    def __post_init__(self) -> None:
        """Check every value by itself."""
        options.check(self)


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """What the network sees in a frame, its pixels for one of the image: x, y; the stages."""

    maps: Maps
    scale: tuple[float, float]
    run: Mapping[str, Run]


class PipsTracker(Staged):
    """See ``PointTracker``, and ``masa_ros.engines.compilable.Compilable``.

    Parameters
    ----------
    network: see there.
    config: of the tracker; weights are not looked at.
    device: 'cpu', 'cuda:0', ...
    weights: what was loaded, for diagnostics.

    """

    name = 'pips'
    late = FRAMES - 1
    patch = 0

    def __init__(
        self,
        network: Pips,
        config: PipsConfig | None = None,
        device: str = 'cpu',
        weights: str = 'random',
    ) -> None:
        self.config, self.weights = config or PipsConfig(), weights
        super().__init__(network, device, self.config.precision)

    def stages_of(self, network: Pips) -> Mapping[str, Stage]:
        """See ``Staged``."""
        return pips.pips_stages(network)

    def loaded_in(self, precision: str) -> PipsTracker:
        """See ``Staged``."""
        return self.load(dataclasses.replace(self.config, precision=precision), self.device)

    @classmethod
    def load(cls, config: PipsConfig, device: str) -> PipsTracker:
        """Build the network and read its weights.

        Raises
        ------
        ConfigError
            When the device is not there, or has not the precision, or no file is named.
        WeightsError
            When the weights file is missing or does not fit.

        """
        where = choose_device(device)
        check_precision(config.precision, where)
        if not config.weights:
            raise ConfigError(f'pips.weights: name the file, {_PUBLISHED}')
        path = Path(config.weights).expanduser()
        network = Pips()
        pips.load(network, path)
        return cls(network, config, str(where), f'{path.name} sha256:{fingerprint(path)[:12]}')

    @torch.inference_mode()
    def encode(self, frames: Sequence[Frame]) -> list[Encoded]:
        """See the frames; see ``PointTracker``."""
        if not frames:
            return []
        height, width = frames[0].shape
        rows, columns = self.input_shape(height, width)
        images = [np.ascontiguousarray(frame.image) for frame in frames]
        if (rows, columns) != (height, width):
            images = [np.asarray(cv2.resize(image, (columns, rows))) for image in images]
        scale = columns / width, rows / height
        return self._encoded(images, scale, self.runs((rows, columns)))

    def _encoded(
        self,
        images: Sequence[NDArray[np.uint8]],
        scale: tuple[float, float],
        run: Mapping[str, Run],
    ) -> list[Encoded]:
        pixels = [to_device(image, self.device).permute(2, 0, 1) for image in images]
        made = self.image_stage(torch.stack(pixels).to(self.dtype), run)
        # Copies: a window that holds one frame must not hold the maps of a whole batch.
        return [
            Encoded(Maps(tuple(each[level][0].clone() for level in LEVELS)), scale, run)
            for each in made
        ]

    def input_shape(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns that the network sees of images of this size."""
        scale = min(1.0, (self.config.size or max(height, width)) / max(height, width))
        return tuple(max(round(side * scale), _SMALLEST) for side in (height, width))  # type: ignore[return-value]

    def case(self, image: NDArray[np.uint8]) -> Case:
        """Follow points of an image while it moves on; see ``Staged``."""
        height, width = image.shape[:2]
        recorded = Recorded(self.eager)
        video = [np.roll(image, (t, 2 * t), (0, 1)) for t in range(FRAMES)]
        window = self._encoded(video, (1.0, 1.0), recorded.run)
        x, y = (np.linspace(0.1, 0.9, _GRID, dtype=np.float32) * side for side in (width, height))
        points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
        self.window(window, points, self.features(window[0], points))
        return recorded.case()

    def begin(self, encoded: Encoded, points: Points) -> PipsChain:
        """Begin with points of a frame; see ``PointTracker``."""
        return PipsChain(self, encoded, points)

    @torch.inference_mode()
    def features(self, encoded: Encoded, points: Points) -> torch.Tensor:
        """Return what points (N, 2) are known by."""
        return self.network.features(encoded.maps, self._inside(encoded, points))

    @torch.inference_mode()
    def window(
        self, window: Sequence[Encoded], points: Points, known: torch.Tensor
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Follow points (N, 2) of the first of 8 frames: (8, N, 2), and how visible (8, N)."""
        levels = dict(zip(LEVELS, pips.stacked([each.maps for each in window])))
        tensors = {'points': self._inside(window[0], points), 'known': known, **levels}
        found = run_rows(self.stages['window'], window[-1].run['window'], tensors)
        places = found['places'].transpose(0, 1).float().cpu().numpy()
        visible = found['visible'].float().sigmoid().T.cpu().numpy()
        return np.asarray(places / np.array(window[0].scale), np.float32), visible

    def _inside(self, encoded: Encoded, points: Points) -> torch.Tensor:
        scaled = points * np.array(encoded.scale, np.float32)
        return torch.from_numpy(scaled).to(self.device)

    def facts(self) -> Mapping[str, Any]:
        """Return what was loaded, for diagnostics."""
        return {
            'model': 'PIPs',
            'weights': self.weights,
            'parameters': sum(p.numel() for p in self.network.parameters()),
            'device': self.device,
            'precision': self.precision,
        }


class PipsChain:
    """See ``Chain``. Frames are counted from the one that the points were chosen in.

    Parameters
    ----------
    tracker: see there.
    encoded: the frame.
    points: (N, 2) of it.

    """

    def __init__(self, tracker: PipsTracker, encoded: Encoded, points: Points) -> None:
        self._tracker = tracker
        self._known = tracker.features(encoded, points)
        self._first = 0  # frame that the lists below begin with
        self._answered = 0
        self._frames = [encoded]
        self._points = [np.array(points, np.float32).reshape(-1, 2)]
        self._visible = [np.ones(len(points), np.float32)]
        self._begin = np.zeros(len(points), np.intp)  # of the next window of every point

    @property
    def _last(self) -> int:
        return self._first + len(self._frames) - 1

    def step(self, encoded: Encoded) -> list[Seen]:
        """Run the windows that are full now; see ``Chain``."""
        self._append(encoded)
        self._advance(lambda: int(self._begin.min(initial=self._last)) + FRAMES - 1 <= self._last)
        decided = int(self._begin.min(initial=self._last))
        seen = [self._seen(frame) for frame in range(self._answered + 1, decided + 1)]
        self._answered = decided
        drop = decided - self._first
        for every in (self._frames, self._points, self._visible):
            del every[:drop]  # type: ignore[attr-defined]
        self._first = decided
        return seen

    def _append(self, encoded: Encoded) -> None:
        self._frames.append(encoded)
        self._points.append(self._points[-1].copy())
        self._visible.append(np.zeros_like(self._visible[-1]))

    def _advance(self, more: Callable[[], bool]) -> None:
        """Run window after window while there is more; the earliest first."""
        while len(self._begin) and more():
            frame = int(self._begin.min())
            chosen = np.flatnonzero(self._begin == frame)
            frames = self._frames[frame - self._first :][:FRAMES]
            count = len(frames)
            # A short window repeats its last frame, as in the released tracker.
            frames = frames + frames[-1:] * (FRAMES - count)
            start = self._points[frame - self._first][chosen]
            found, visible = self._tracker.window(frames, start, self._known[chosen])
            for i in range(1, count):
                self._points[frame - self._first + i][chosen] = found[i]
                self._visible[frame - self._first + i][chosen] = visible[i]
            self._begin[chosen] = frame + _next_frame(visible[:count])

    def _seen(self, frame: int) -> Seen:
        at = frame - self._first
        return Seen(self._points[at].copy(), self._visible[at] > _VISIBLE)

    def rest(self) -> list[Seen]:
        """Answer with windows that end with the last frame; see ``Chain``."""
        ahead = copy.copy(self)
        ahead._begin = self._begin.copy()
        ahead._points = [each.copy() for each in self._points]
        ahead._visible = [each.copy() for each in self._visible]
        ahead._advance(lambda: int(ahead._begin.min()) < ahead._last)
        return [ahead._seen(frame) for frame in range(self._answered + 1, self._last + 1)]

    def keep(self, index: NDArray[np.intp]) -> None:
        """Follow only these points; see ``Chain``."""
        self._known, self._begin = self._known[index], self._begin[index]
        self._points = [each[index] for each in self._points]
        self._visible = [each[index] for each in self._visible]


def _next_frame(visible: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the frame of a window that the next one begins with, for visibilities (T, N).

    The last one in which a point is visible for certain; where there is none, for almost certain.
    """
    count, points = visible.shape
    chosen = np.zeros(points, np.intp)
    limit = np.float32(_LINKED)
    while (open_ := chosen == 0).any():
        fits = ~(visible[1:] <= limit)
        last = count - 1 - fits[::-1].argmax(0)
        chosen = np.where(open_ & fits.any(0), last, chosen)
        limit = np.float32(limit - np.float32(_LOWER))
    return chosen
