"""What goes wrong around a tracker on a robot, done to the real node over real DDS.

Every fault is a row: what happens, what is promised, how to do it, and what the diagnostics must
have counted. ``test_faults`` runs them, ``tools/reliability.py`` makes a table of them.
"""

import array
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from conftest import scene
from lifecycle_msgs.msg import State
from ros_harness import SECOND, Harness, jpeg
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from masa_ros.errors import EngineError
from masa_ros.images import SUPPORTED_ENCODINGS
from masa_ros.nodes.messages import stamp_to_ns
from masa_ros.pipeline import Pipeline

RECOVERY = 1.0  # seconds of good images within which there must be an answer again
REFUSED = [
    *(f'{kind}C{n}' for kind in ('8S', '16S', '32S', '32F', '64F') for n in range(1, 5)),
    *('8UC2', '16UC2', '16UC3', '16UC4', 'nv24', '', 'rgb8; jpeg compressed bgr8', 'rgb888'),
]


@dataclasses.dataclass(frozen=True)
class Fault:
    """One row of the table.

    Attributes
    ----------
    what, promise: in words.
    do: causes it; gives what diagnostics must have counted at least, by key.
    parameters: of the node.
    build: of the node, for faults inside the model.

    """

    what: str
    promise: str
    do: Callable[['Scene'], dict[str, int]]
    parameters: dict = dataclasses.field(default_factory=dict)
    build: Callable | None = None


@dataclasses.dataclass(frozen=True)
class Observed:
    """What came of it."""

    resumed: float  # seconds until the first answer to a good image
    wrong: int  # answers to images that must have none, or with another size
    counted: dict[str, tuple[int, int]]  # at least, observed
    balanced: bool  # in = out + skipped + rejected + failed

    @property
    def good(self) -> bool:
        """Whether all promises were kept."""
        enough = all(seen >= least for least, seen in self.counted.values())
        return self.resumed <= RECOVERY and not self.wrong and self.balanced and enough

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
        self.harness = Harness(parameters | fault.parameters, fault.build)
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
        """Publish, and wait until the node has looked at it, so that it is not skipped."""
        harness = self.harness
        worker, camera = harness.node._worker, harness.node._cameras[0]
        before = camera.statistics.received
        (harness.compressed if self.compressed else harness.images).publish(message)
        self.sent += 1
        harness.until(
            lambda: camera.statistics.received > before and not worker.waiting(camera), 0.5
        )
        time.sleep(0.02)

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
        while time.monotonic() < start + 5 * RECOVERY:
            self.send(self.good())
            if len(self.harness.tracks) > first:
                return time.monotonic() - start
        return 99.0

    def balanced(self) -> bool:
        """Tell whether every image that was received is in one of the counters, at rest."""

        def adds_up() -> bool:
            names = ('processed', 'skipped', 'rejected', 'failed')
            return self.count('received') == sum(map(self.count, names)) > 0

        return self.harness.until(adds_up, 6)

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
        assert stage.resume() < 5, 'the node does not work at all'
        least = fault.do(stage)
        resumed = stage.resume()
        stage.harness.until(lambda: all(stage.count(k) >= v for k, v in least.items()), 5)
        balanced = stage.balanced()
        counted = {key: (value, stage.count(key)) for key, value in least.items()}
        return Observed(resumed, stage.wrong(), counted, balanced)
    finally:
        stage.harness.close()


# Images


def truncated(stage: Scene) -> dict[str, int]:
    for size in (0, 1, 100, 240 * 320 * 3 - 1):
        stage.bad(data=array.array('B', bytes(size)))
    return {'rejected_data': 4}


def impossible_sizes(stage: Scene) -> dict[str, int]:
    for height, width in ((0, 0), (0, 320), (240, 0), (2**32 - 1, 2**32 - 1), (40_000, 320)):
        stage.bad(height=height, width=width)
    return {'rejected_size': 5}


def wrong_steps(stage: Scene) -> dict[str, int]:
    for step in (0, 1, 959):
        stage.bad(step=step)
    stage.bad(step=2**32 - 1)
    return {'rejected_step': 3, 'rejected_data': 1}


def longer_than_needed(stage: Scene) -> dict[str, int]:
    for extra in (1, 4096):
        message = stage.good()
        message.data = array.array('B', message.data.tobytes() + bytes(extra))
        stage.send(message)
    return {'processed': 3}


def every_encoding(stage: Scene) -> dict[str, int]:
    for encoding in (*SUPPORTED_ENCODINGS, *REFUSED):
        message = stage.harness.image(scene(), encoding)
        message.step = 320 * 8 * 4  # more than any needs
        message.data = array.array('B', bytes(message.step * 360))
        if encoding in SUPPORTED_ENCODINGS:
            stage.expected[stamp_to_ns(message.header.stamp)] = (240, 320)
        stage.send(message)
        time.sleep(0.06)
    return {'rejected_encoding': len(REFUSED), 'processed': len(SUPPORTED_ENCODINGS) // 2}


def changing_size(stage: Scene) -> dict[str, int]:
    for height, width in ((480, 640), (120, 160), (31, 57), (1, 1), (720, 1280)):
        stage.send(stage.good(np.full((height, width, 3), 90, np.uint8)))
        time.sleep(0.25)
    return {'processed': 4}


def changing_encoding(stage: Scene) -> dict[str, int]:
    for encoding, pixels in (
        *(('rgb8', scene()), ('bgr8', scene()), ('mono8', scene()[:, :, 0])),
        *(('bgra8', np.dstack((scene(), scene()[:, :, :1]))), ('rgb8', scene())),
    ):
        message = stage.harness.image(pixels, encoding)
        stage.expected[stamp_to_ns(message.header.stamp)] = (240, 320)
        stage.send(message)
        time.sleep(0.05)
    return {'processed': 4}


def compressed_garbage(stage: Scene) -> dict[str, int]:
    rng, whole = np.random.default_rng(0), jpeg(scene())
    for data in (
        b'',
        b'\xff',
        rng.bytes(5000),
        whole[:60],
        whole[:4] + rng.bytes(900),
        whole[:-9],
    ):
        message = CompressedImage(header=stage.harness.header(), format='jpeg')
        message.data = array.array('B', data)
        stage.send(message)
    return {'rejected_data': 6}


# Time


def without_stamps(stage: Scene) -> dict[str, int]:
    for _ in range(3):
        stage.send(stage.good(stamp_ns=0))
        time.sleep(0.05)
    return {'event_no_stamp': 3}


def future(stage: Scene) -> dict[str, int]:
    stage.send(stage.good(stamp_ns=10**9 * 2_000_000_000))
    time.sleep(0.1)
    return {'event_time_jump': 1}


def backwards(stage: Scene) -> dict[str, int]:
    for start in (200, 100, 100):  # a bag that loops
        stage.harness._stamp = start * SECOND
        for _ in range(10):
            stage.send(stage.good())
    return {'event_time_jump': 2}


def disorder(stage: Scene) -> dict[str, int]:
    for back in (50, 100, 400):
        message = stage.harness.image(scene(), stamp_ns=stage.harness._stamp - back * 10**6)
        stage.send(message)
    return {'rejected_late': 3}


# The middleware


def two_publishers(stage: Scene) -> dict[str, int]:
    harness = stage.harness
    second = harness.peer.create_publisher(Image, 'image_raw', 10)
    harness.until(lambda: second.get_subscription_count() == 1, 5)
    for _ in range(10):
        stage.send(stage.good())
        second.publish(stage.good())
        time.sleep(0.05)
    seen = harness.until(lambda: stage.count('publishers') == 2, 4)
    harness.peer.destroy_publisher(second)
    return {'publishers': 1} if seen else {'publishers': 2}


def overload(stage: Scene) -> dict[str, int]:
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        stage.harness.images.publish(stage.good())
        time.sleep(0.002)
    return {'skipped': 50}


_CAMERA = """
import array, rclpy, time
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node('camera')
images = node.create_publisher(Image, '/image_raw', qos_profile_sensor_data)
while not images.get_subscription_count():
    time.sleep(0.01)
for size in [1080 * 1920 * 3] * 20 + [0] * 5:  # large: many times what a socket holds
    images.publish(Image(encoding='none', data=array.array('B', bytes(size))))
    time.sleep(0.02)
"""


def lost_on_the_way(stage: Scene) -> dict[str, int]:
    subprocess.run([sys.executable, '-c', _CAMERA], cwd='/', check=True, timeout=60)
    return {'event_lost': 1}


def silence(stage: Scene) -> dict[str, int]:
    harness = stage.harness
    said = harness.until(
        lambda: any('no image for' in s.message for d in harness.diagnostics for s in d.status), 6
    )
    assert said, 'diagnostics say nothing of the silence'
    return {}


def publisher_restarts(stage: Scene) -> dict[str, int]:
    harness = stage.harness
    for _ in range(3):
        harness.peer.destroy_publisher(harness.images)
        time.sleep(0.1)
        harness.images = harness.peer.create_publisher(Image, 'image_raw', 10)
        assert harness.until(lambda: harness.images.get_subscription_count(), 10)
        stage.resume()
    return {}


_LISTENER = """
import rclpy
from masa_ros.msg import TrackedInstanceArray
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node('listener')
node.create_subscription(TrackedInstanceArray, '/masa_tracker/tracks', lambda m: None, 10)
node.create_subscription(Image, '/masa_tracker/overlay', lambda m: None, 10)
print('ready', flush=True)
rclpy.spin(node)
"""


@contextlib.contextmanager
def listener(stage: Scene):
    """A subscriber of the tracks and of the overlay in a process of its own."""
    camera = stage.harness.node._cameras[0]
    tracks, overlay = camera._tracks, camera._overlay
    before = tracks.get_subscription_count()

    def listens() -> bool:
        return tracks.get_subscription_count() > before and overlay.get_subscription_count() > 0

    process = subprocess.Popen(
        [sys.executable, '-c', _LISTENER], stdout=subprocess.PIPE, text=True, cwd='/'
    )
    try:
        assert process.stdout is not None
        assert 'ready' in process.stdout.readline()
        assert stage.harness.until(listens, 10)
        yield process
    finally:
        process.kill()
        process.wait()


def never_reads(stage: Scene) -> dict[str, int]:
    with listener(stage) as process:
        os.kill(process.pid, signal.SIGSTOP)
        before = stage.count('processed')
        stage.stream(2.0)
        assert stage.harness.until(lambda: stage.count('processed') > before + 10, 3)
    return {}


def killed_listener(stage: Scene) -> dict[str, int]:
    with listener(stage) as process:
        os.kill(process.pid, signal.SIGKILL)
        stage.stream(1.0)
    return {}


def bad_calibration(stage: Scene) -> dict[str, int]:
    harness, passed = stage.harness, []
    publisher = harness.peer.create_publisher(CameraInfo, 'camera_info', 10)
    harness.peer.create_subscription(CameraInfo, '/masa_tracker/camera_info', passed.append, 10)
    assert harness.until(lambda: publisher.get_subscription_count(), 5)
    good = CameraInfo(height=240, width=320, k=[300.0, 0, 160, 0, 300, 120, 0, 0, 1])
    nan = CameraInfo(height=240, width=320, k=[float('nan')] * 9)
    for info in (nan, CameraInfo(height=9, width=7), good):
        publisher.publish(info)
        time.sleep(0.1)
        stage.send(stage.good())
        time.sleep(0.1)
    assert harness.until(lambda: passed, 3), 'a good calibration is not passed on'
    assert all(np.isfinite(info.k).all() and info.width == 320 for info in passed)
    return {'event_bad_camera_info': 2}


# The model


def _breaking(error: Callable[[], Exception], device: str = 'cpu') -> Callable:
    """Build pipelines whose network fails while ``broken`` is set and they are on ``device``."""

    def build(config, log):
        pipeline = Pipeline.build(
            dataclasses.replace(
                config, detector=dataclasses.replace(config.detector, device='cpu')
            )
        )
        on_device = config.detector.device == device

        encode = pipeline.encode

        def perhaps(frames):
            if build.broken and on_device:
                raise error()
            return encode(frames)

        pipeline.encode = perhaps
        return pipeline

    build.broken = False
    return build


def _break(stage: Scene) -> None:
    stage.harness.node._build.broken = True
    for _ in range(3):
        stage.send(stage.harness.image(scene()))
        time.sleep(0.1)


def model_fails(stage: Scene) -> dict[str, int]:
    _break(stage)
    time.sleep(0.4)
    stage.harness.node._build.broken = False
    return {'failed': 3}


def moves_to_cpu(stage: Scene) -> dict[str, int]:
    _break(stage)  # and stays broken: the device is gone
    assert stage.harness.until(lambda: stage.count('failed') >= 1, 5)
    time.sleep(1.0)
    stage.expected |= {
        stamp_to_ns(t.header.stamp): (240, 320) for t in stage.harness.tracks
    }  # images that were sent while the model was loaded may be answered
    return {'event_device_failure': 1}


def deactivates(stage: Scene) -> dict[str, int]:
    _break(stage)
    unconfigured = State.PRIMARY_STATE_UNCONFIGURED
    assert stage.harness.until(lambda: stage.state() == unconfigured, 5)
    assert stage.harness.images.get_subscription_count() == 0
    node = stage.harness.node
    node._build.broken = False
    node.trigger_configure()
    node.trigger_activate()
    stage.harness.wait_until_tracking()
    return {'event_device_failure': 1}


def engine_breaks(stage: Scene) -> dict[str, int]:
    engines = stage.harness.node._pipeline.engines
    stage.harness.node._build.broken = True
    stage.send(stage.harness.image(scene()))
    assert stage.harness.until(lambda: 'no more' in engines.status, 5), engines.status
    stage.harness.node._build.broken = False
    return {'failed': 1}


def replaced_weights(stage: Scene) -> dict[str, int]:
    node = stage.harness.node
    path = Path(node.get_parameter('weights').value)
    whole = path.read_bytes()
    node.trigger_deactivate()
    node.trigger_cleanup()
    try:
        for garbage in (b'', os.urandom(5000), whole[: len(whole) // 2]):
            path.write_bytes(garbage)
            node.trigger_configure()
            assert stage.state() == State.PRIMARY_STATE_UNCONFIGURED
    finally:
        path.write_bytes(whole)
    node.trigger_configure()
    node.trigger_activate()
    stage.harness.wait_until_tracking()
    return {}


def everything(stage: Scene) -> dict[str, int]:
    for _ in range(3):
        for fault in (truncated, impossible_sizes, wrong_steps, disorder, without_stamps):
            fault(stage)
            stage.stream(0.1)
    return {'rejected_data': 12, 'rejected_size': 15, 'rejected_step': 9, 'event_no_stamp': 3}


def out_of_memory() -> Exception:
    return torch.cuda.OutOfMemoryError('CUDA out of memory')


_REFUSED = 'refused and counted by cause, one line in the log; the next good image is answered'
FAULTS = {
    'truncated': Fault('image data cut short or empty', _REFUSED, truncated),
    'sizes': Fault('images of no or absurd size', _REFUSED, impossible_sizes),
    'steps': Fault('`step` too small or absurd', _REFUSED, wrong_steps),
    'oversized': Fault('more data than the image needs', 'tracked', longer_than_needed),
    'encodings': Fault(
        'every encoding of sensor_msgs', 'converted, or refused by name', every_encoding
    ),
    'new_size': Fault('another size in every image, down to 1 x 1', 'tracked', changing_size),
    'new_encoding': Fault('another encoding in every image', 'tracked', changing_encoding),
    'compressed': Fault(
        'compressed garbage', _REFUSED, compressed_garbage, {'image_transport': 'compressed'}
    ),
    'no_stamps': Fault(
        'stamps at zero', 'tracked by the time of arrival, counted', without_stamps
    ),
    'future': Fault('a stamp in the year 2033', 'tracks are reset when time is back', future),
    'loop': Fault('stamps jump back: a bag that loops', 'tracks are reset, counted', backwards),
    'loop_continue': Fault(
        'the same with `on_time_jump: continue`', 'tracks go on, counted', backwards,
        {'on_time_jump': 'continue'},
    ),
    'disorder': Fault('images up to half a second late', 'dropped and counted', disorder),
    'two_publishers': Fault('two publishers on one topic', 'diagnostics warn', two_publishers),
    'overload': Fault('images ten times too fast', 'newest first, the rest counted', overload),
    'lost': Fault(
        'images that the network loses (best effort)', 'counted, diagnostics warn', lost_on_the_way
    ),
    'silence': Fault('no image any more', 'diagnostics warn', silence),
    'restarts': Fault('the camera driver restarts', 'tracking goes on', publisher_restarts),
    'hangs': Fault(
        'a subscriber of the tracks and the overlay hangs', 'nothing is held up', never_reads
    ),
    'killed': Fault('a DDS participant is killed', 'nothing is held up', killed_listener),
    'calibration': Fault(
        'camera_info of NaN or another size', 'not passed on, counted', bad_calibration
    ),
    'model': Fault(
        'the model raises', 'counted, the node goes on', model_fails,
        build=_breaking(lambda: ValueError('broken')),
    ),
    'gpu_to_cpu': Fault(
        'GPU out of memory or gone', 'goes on on the CPU with the same tracks', moves_to_cpu,
        {'device': 'gpu'}, _breaking(out_of_memory, 'gpu'),
    ),
    'gpu_off': Fault(
        'the same with `on_device_failure: deactivate`', 'unconfigured, can be started again',
        deactivates, {'device': 'gpu', 'on_device_failure': 'deactivate'},
        _breaking(out_of_memory, 'gpu'),
    ),
    'engine': Fault(
        'an engine fails at run time', 'PyTorch runs instead', engine_breaks,
        build=_breaking(lambda: EngineError('no more')),
    ),
    'weights': Fault(
        'the weights file is garbage when the node is configured again',
        'stays unconfigured with one line; starts when the file is right', replaced_weights,
    ),
    'combined': Fault('refused images, disorder and no stamps, mixed', _REFUSED, everything),
}  # fmt: skip
