# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Fleets for tests: short recordings of the demo's generator, and workers that wait, die or fail.

As a program it is ``masa_ros`` with workers that wait at a gate, on a cluster that is killed
under it.
"""

import errno
import functools
import os
import signal
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import ray

from masa_ros import cli
from masa_ros.demo import scene
from masa_ros.evaluation.truth import from_masks
from masa_ros.fleet import command
from masa_ros.fleet.work import Tracker
from masa_ros.recordings.bags import IMAGE_TYPE, BagWriter
from masa_ros.recordings.fleet_folder import FleetFolder
from masa_ros.recordings.table import write_table
from masa_ros.recordings.tracks_file import write_tracks

SIZE = (160, 120)  # width, height
OPTIONS = ('--input-size', '160', '--device', 'cpu', '--confirm-frames', '1')
FRAMES = 4  # of a recording


@functools.cache
def pictures(frames=20):
    """The demo's scene, small: images with their truth."""
    made = []
    for frame, truth in scene.render(frames=frames):
        masks = [m.full(*scene.SIZE)[::4, ::4] for m in truth.instances.masks]
        ids = truth.instances.track_ids.tolist()
        kept = [(m, i) for m, i in zip(masks, ids) if m.any()]
        image = cv2.resize(frame.image, SIZE, interpolation=cv2.INTER_AREA)
        made.append((image, frame.stamp_ns, *map(np.array, zip(*kept))))
    return made


def make_recordings(folder, names, frames=FRAMES):
    """Write bags of the scene, and the truth of each into FOLDER/truth."""
    (folder / 'truth').mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        first = (3 * number) % (20 - frames + 1)
        part = pictures()[first : first + frames]
        with BagWriter(folder / f'{name}.mcap', '/camera/image_raw', IMAGE_TYPE) as bag:
            for image, stamp_ns, *_ in part:
                bag.write_image(image, stamp_ns, 'camera')
        truth = [from_masks(i, p[1], p[2], p[3]) for i, p in enumerate(part)]
        write_tracks(folder / 'truth' / f'{name}.json', 'truth', truth)
    return [folder / f'{name}.mcap' for name in names]


def made_fleet(root):
    """Two recordings of plain squares: objects that are lost and found, ids that change."""
    still, moving = (20, 20), (100, 20)

    def frame(number, **objects):
        masks = np.zeros((len(objects), 80, 160), bool)
        for mask, (x, y) in zip(masks, objects.values()):
            mask[y : y + 20, x : x + 20] = True
        return from_masks(number, number * 10**8, masks, [int(key[1:]) for key in objects])

    # Object 1 is away in frames 3..6, object 2 always there.
    lost = [frame(i, **({} if 3 <= i < 7 else {'t1': still}), t2=(100 + i, 20)) for i in range(10)]
    # One still object has the ids 1, 2, 3 in turn; another one, elsewhere, comes when it ends.
    switches = [frame(i, **{f't{1 + i // 3}': still}) for i in range(9)]
    switches.append(frame(9, t9=moving))
    for name, frames in (('lost-00000001', lost), ('switches-00000002', switches)):
        folder = FleetFolder(root).of(name)
        folder.mkdir(parents=True)
        write_tracks(folder / 'tracks.json', 'made', frames)
        write_table(folder / 'tracks.json', folder / 'tracks.parquet')


class Waiting(Tracker):
    """Says when it begins a recording, and waits with those called wait... for a file."""

    def do(self, recording, attempt):
        home = self.folder.parent
        if recording.name.startswith('wait'):
            node = ray.get_runtime_context().get_node_id()
            (home / f'began-{recording.name}-{attempt}-{node}').touch()
            while not (home / 'open').exists():
                time.sleep(0.05)
        return super().do(recording, attempt)


class Dying(Tracker):
    """Recordings called poison... kill the process."""

    def do(self, recording, attempt):
        if recording.name.startswith('poison'):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().do(recording, attempt)


class Full(Tracker):
    """The disk is full."""

    def do(self, recording, attempt):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))


class Light:
    """Work without a network: what a task says."""

    def begin(self):
        return os.getpid()

    def do(self, task, attempt):
        if task == 'die':
            os.kill(os.getpid(), signal.SIGKILL)
        if task == 'devices':
            return os.environ.get('CUDA_VISIBLE_DEVICES')
        if task == 'mistake':
            raise ZeroDivisionError('by zero')
        if isinstance(task, Path) and attempt == 1:  # ends with its node
            (task / f'at-{ray.get_runtime_context().get_node_id()}').touch()
            time.sleep(600)
        return os.getpid(), attempt


if __name__ == '__main__':
    import fleet_kit  # by the name that workers know

    command.Tracker = fleet_kit.Waiting
    sys.exit(cli.main(sys.argv[1:]))
