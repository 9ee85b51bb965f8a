# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The positions of all tracks of a stream, image by image."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from masa_ros.space.cameras import Camera
from masa_ros.space.config import RecordedSpaceConfig
from masa_ros.space.depth import Depth
from masa_ros.space.estimate import Estimate, Reason, estimate, mask_of_box
from masa_ros.space.foresight import Foresight
from masa_ros.space.motion import Motion, Motions
from masa_ros.types import Instances, TrackState

_NOWHERE = np.zeros((3, 3))


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """What is known of space when an image was taken.

    Attributes
    ----------
    depth: (H, W) metres, registered to the image.
    camera: of the image.
    sparse: whether most of its pixels have no depth.

    """

    depth: Depth
    camera: Camera
    sparse: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """Where one track is.

    Attributes
    ----------
    measured: what the depth of this image says, or why it says nothing.
    position: (3,) metres in the optical frame: measured, else predicted; None where neither is.
    covariance: (3, 3) of the position.
    motion: in the target frame; None where it is not known.

    """

    measured: Estimate | Reason
    position: NDArray[np.float64] | None
    covariance: NDArray[np.float64]
    motion: Motion | None

    @property
    def reason(self) -> Reason:
        """Why nothing was measured."""
        return self.measured if isinstance(self.measured, Reason) else Reason.NONE


class Locator:
    """Positions of the tracks of one stream, and their motion.

    Attributes
    ----------
    foresight: where the tracks should be seen next; other threads may ask it.

    """

    def __init__(self, config: RecordedSpaceConfig) -> None:
        self.config, self.foresight = config, Foresight()
        self._motions = Motions(config.motion)
        self._shape = (0, 0)

    def locate(
        self,
        tracks: Instances,
        stamp_ns: int,
        view: View | Reason,
        to_target: NDArray[np.float64] | None,
    ) -> list[Place]:
        """Return where every track is.

        Parameters
        ----------
        tracks: of an image, boxes and masks inside it.
        stamp_ns: of the image, nanoseconds.
        view: depth of the image, or why there is none.
        to_target: (4, 4) from the optical frame of the camera to the frame that stands still, at
            the time of the image; None where it is not known: there is no motion then.

        """
        measured = [self._measure(tracks, i, view) for i in range(len(tracks))]
        ids = tracks.track_ids.tolist()
        if to_target is None:
            return [_place(each, None, None) for each in measured]
        turn, shift = to_target[:3, :3], to_target[:3, 3]
        motions = self._motions.step(
            stamp_ns,
            {
                track_id: (turn @ each.position + shift, turn @ each.covariance @ turn.T)
                for track_id, each in zip(ids, measured)
                if isinstance(each, Estimate)
            },
        )
        self._shape = view.depth.shape if isinstance(view, View) else self._shape
        self.foresight.see(tracks, motions, stamp_ns, to_target, self._shape)
        return [
            _place(each, motions.get(track_id), to_target) for track_id, each in zip(ids, measured)
        ]

    def _measure(self, tracks: Instances, i: int, view: View | Reason) -> Estimate | Reason:
        if tracks.states[i] == TrackState.LOST:
            return Reason.NOT_SEEN
        if isinstance(view, Reason):
            return view
        mask = tracks.masks[i] if tracks.masks is not None else None
        loose = mask is None
        if mask is None:
            mask = mask_of_box(tracks.boxes[i]).clipped(*view.depth.shape)
        return estimate(view.depth, view.camera, mask, self.config.estimate, loose, view.sparse)


def _place(
    measured: Estimate | Reason, motion: Motion | None, to_target: NDArray[np.float64] | None
) -> Place:
    if isinstance(measured, Estimate):
        return Place(measured, measured.position, measured.covariance, motion)
    if motion is None or to_target is None:
        return Place(measured, None, _NOWHERE, None)
    back, shift = to_target[:3, :3].T, to_target[:3, 3]
    predicted = back @ (motion.position - shift)
    return Place(measured, predicted, back @ motion.covariance @ back.T, motion)
