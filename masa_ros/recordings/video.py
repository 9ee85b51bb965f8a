# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Writing of videos."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from numpy.typing import NDArray


class VideoWriter:
    """Write RGB images to an H.264 file; the first image sets its size."""

    def __init__(self, path: Path, fps: float) -> None:
        self._container = av.open(str(path), 'w')
        rate = Fraction(fps).limit_denominator(1000)
        self._stream = self._container.add_stream('libx264', rate=rate)
        self._stream.pix_fmt = 'yuv420p'
        self._stream.options = {'crf': '20'}
        self._shape: tuple[int, int] | None = None

    def __enter__(self) -> VideoWriter:
        """Return the open writer."""
        return self

    def write(self, image: NDArray[np.uint8]) -> None:
        """Add an (H, W, 3) image; one of another size is cropped or padded with black."""
        height, width = image.shape[:2]
        if self._shape is None:
            # The codec wants even sides.
            self._shape = (max(2, height - height % 2), max(2, width - width % 2))
            self._stream.height, self._stream.width = self._shape
        if (height, width) != self._shape:
            canvas = np.zeros((*self._shape, 3), np.uint8)
            rows, columns = min(height, self._shape[0]), min(width, self._shape[1])
            canvas[:rows, :columns] = image[:rows, :columns]
            image = canvas
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format='rgb24')
        self._container.mux(self._stream.encode(frame))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Flush and close the file."""
        if self._shape is not None:
            self._container.mux(self._stream.encode(None))
        self._container.close()
