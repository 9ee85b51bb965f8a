# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Engines: the checks before use, building while images come, failing, the command."""

import copy
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import scene
from engine_kit import (
    BOTH,
    SHAPE,
    SIZE,
    STAGES,
    detector,
    engines_of,
    registered,
    wait_until,
)

from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.engines import runtimes, trust
from masa_ros.engines.calibration_set import calibration_images
from masa_ros.engines.prepare import EngineConfig, Engines
from masa_ros.errors import ConfigError, EngineError, ImageError, WeightsError
from masa_ros.models.masa_stages import masa_stages
from masa_ros.models.precision import PRECISIONS, storage
from masa_ros.models.stages import Case, Eager, Stage

runtime = pytest.fixture(name='runtime')(registered)
IMAGE = scene(size=SHAPE)


# Checks


@BOTH
def test_the_check_accepts_the_same_network_and_half_of_it(name):
    reference = detector(name=name)
    cases = reference.cases([IMAGE])
    for precision in ('fp32', 'fp16'):
        for stage in reference.stages_in(precision).values():
            measures = trust.compare(stage, Eager(stage, storage(precision)), cases)
            assert [m.name for m in measures] == list(stage.limits), stage.name
            assert all(m.good for m in measures), [str(m) for m in measures]
            if precision == 'fp32':
                assert all(m.value > 0.99999 for m in measures)


def moving(network):
    """Let the box head move boxes."""
    torch.nn.init.normal_(network.boxes.reg.weight, std=0.1)


@pytest.mark.parametrize(
    'name, stage, part',
    [
        ('masa_nano', 'image', 'pyramid.output.0.conv'),
        ('masa_nano', 'image', 'backbone.stem.conv'),
        ('masa_nano', 'image', 'proposals.known.output.0'),
        ('masa_nano2', 'boxes', 'head.reg'),
        ('masa_nano2', 'boxes', 'head.cls'),
        ('masa_nano', 'embeddings', 'embed.embed'),
        ('masa_nano', 'masks', 'head.logits'),
    ],
)
def test_the_check_refuses_wrong_numbers(name, stage, part):
    if name == 'masa_nano':  # what it knows can be forgotten
        reference = MasaDetector.load(DetectorConfig(device='cpu'))
    else:
        reference = detector(spoil=moving)
    cases = reference.cases([scene(size=(384, 512))])
    twin = copy.deepcopy(reference.network)
    wrong = masa_stages(twin, reference.model)[stage]
    with torch.no_grad():
        layer = wrong.get_submodule(part)
        torch.manual_seed(0)
        layer.weight += torch.randn_like(layer.weight) * layer.weight.std() * 4
    measures = trust.compare(wrong, Eager(wrong, torch.float32), cases)
    assert not all(m.good for m in measures)


def test_the_check_refuses_what_is_not_a_number():
    reference = detector()

    def broken(**tensors):
        found = reference.eager['embeddings'](**tensors)
        found['embeddings'][0, 0] = float('nan')
        return found

    measures = trust.compare(reference.stages['embeddings'], broken, reference.cases([IMAGE]))
    assert measures and not any(m.good for m in measures)


def test_the_worst_case_decides():
    reference = detector()
    cases = reference.cases([IMAGE, np.flip(IMAGE).copy()])
    calls = []

    def once_wrong(**tensors):
        calls.append(tensors)
        found = reference.eager['masks'](**tensors)
        return {'masks': -found['masks'] if len(calls) == 1 else found['masks']}

    measures = trust.compare(reference.stages['masks'], once_wrong, cases)
    assert len(calls) == 2 and not any(m.good for m in measures)


def test_precisions_that_are_tried_get_more_exact():
    stages = detector().stages
    assert stages['image'].precisions('fp16') == ['fp16', 'mixed', 'fp32']
    assert stages['boxes'].precisions('fp16') == ['fp16', 'fp32']
    assert stages['boxes'].precisions('mixed') == ['mixed', 'fp32']
    assert stages['image'].precisions('fp32') == ['fp32']
    assert stages['image'].precisions('bf16') == ['bf16', 'fp32']


# Built, refused


@BOTH
def test_engines_are_built_once_and_change_nothing(runtime, tmp_path, name):
    found, image = detector(name=name), scene(size=SIZE)
    stages = [stage for stage in STAGES if stage in found.stages]
    assert stages == list(found.stages) and ('boxes' in stages) is (name == 'masa_nano2')
    expected = found(image)
    engines, lines = engines_of(found, tmp_path)
    prepared = engines.prepare(SHAPE)
    assert runtime.built == stages
    assert [p.origin for p in prepared] == ['built'] * len(stages)
    assert any('embedding cosine' in line for line in lines)
    again = found(image)
    assert runtime.loaded == stages and engines.runs(SHAPE) is not found.eager
    np.testing.assert_allclose(again.boxes, expected.boxes, atol=1e-3)
    np.testing.assert_allclose(again.embeddings, expected.embeddings, atol=1e-4)
    np.testing.assert_array_equal(again.labels, expected.labels)
    assert engines.prepare(SHAPE) == engines.prepared == prepared
    assert runtime.built == stages


def overflowing(network):
    """Activations beyond the range of half precision, brought back by the norm behind them."""
    stem = network.backbone.stem
    with torch.no_grad():
        stem.conv.weight *= 1e6
        stem.norm.running_var *= 1e12


def test_what_overflows_in_half_precision_is_built_in_full(runtime, tmp_path):
    engines, lines = engines_of(detector('fp16', spoil=overflowing), tmp_path)
    prepared = {p.stage: p for p in engines.prepare(SHAPE)}
    assert prepared['image'].precision == 'fp32'
    assert [note.split()[0] for note in prepared['image'].notes] == ['fp16', 'mixed']
    assert 'nan' in prepared['image'].notes[0]
    assert {prepared[name].precision for name in STAGES[1:]} == {'fp16'}
    assert any('fp16 disagrees' in line for line in lines)
    assert not engines.failed


def test_what_never_agrees_is_refused_and_run_by_pytorch(runtime, tmp_path):
    found = detector()
    expected = found(scene(size=SIZE))
    engines, _ = engines_of(found, tmp_path)
    runtime.wrap = lambda run: (
        lambda **tensors: {name: torch.randn_like(value) for name, value in run(**tensors).items()}
    )
    prepared = engines.prepare(SHAPE)
    assert {p.origin for p in prepared} == {'refused'} and engines.failed
    np.testing.assert_allclose(found(scene(size=SIZE)).boxes, expected.boxes, atol=1e-4)
    built = len(runtime.built)
    again, _ = engines_of(detector(), tmp_path)
    assert [p.origin for p in again.prepare(SHAPE)] == ['kept'] * 4  # nor is it tried again
    assert len(runtime.built) == built and again.failed


def test_what_failed_for_the_moment_is_tried_again(runtime, tmp_path, monkeypatch):
    def without_memory(stage, inputs):
        raise RuntimeError('CUDA out of memory\nand much more')

    with monkeypatch.context() as patch:
        patch.setattr(runtime, 'build', without_memory)
        prepared = engines_of(detector(), tmp_path)[0].prepare(SHAPE)
    assert {p.origin for p in prepared} == {'refused'}
    assert prepared[0].notes == ('fp32 failed: RuntimeError: CUDA out of memory',)
    again, _ = engines_of(detector(), tmp_path)
    assert [p.origin for p in again.prepare(SHAPE)] == ['built'] * 4


@BOTH
def test_several_images_at_once_are_the_same_as_one_by_one(runtime, tmp_path, name):
    found, images = detector(name=name), [scene(size=SIZE), scene(60, size=SIZE)]
    alone = [found(image) for image in images]
    for compiled in (False, True):
        if compiled:
            engines_of(found, tmp_path)[0].prepare(SHAPE)
        together = [found.find(encoded) for encoded in found.encode(images)]
        for one, other in zip(alone, together):
            np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-2)
            np.testing.assert_allclose(one.embeddings, other.embeddings, atol=1e-3)
    with pytest.raises(ImageError, match='a batch of images'):
        found.encode([images[0], images[0][:100]])


class Halves(Stage):
    """The one stage of ``Toy``."""

    name, inputs, outputs = 'halves', ('image',), ('half',)

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 2, 1)

    def forward(self, image):
        return (self.layer(image)[..., ::2],)


class Toy:
    """A network of nobody's: all that the engines may know is here."""

    name, device, precision, asked = 'toy', 'cpu', 'fp32', 'fp32'

    def __init__(self):
        torch.manual_seed(0)
        self.stages = {'halves': Halves()}
        self.eager = {name: Eager(stage, torch.float32) for name, stage in self.stages.items()}

    def reference(self):
        return self

    @torch.inference_mode()
    def cases(self, images):
        return [self.case(torch.from_numpy(x).permute(2, 0, 1)[None] / 255) for x in images]

    def case(self, image):
        return Case({'halves': {'image': image}}, {'halves': self.eager['halves'](image=image)})

    def stages_in(self, precision):
        return {name: PRECISIONS[precision](copy.deepcopy(s)) for name, s in self.stages.items()}


def test_any_network_in_stages_gets_engines(runtime, tmp_path):
    engines, _ = engines_of(Toy(), tmp_path)
    (done,) = engines.prepare((32, 48))
    assert done.origin == 'built' and done.agreement[0].startswith('cosine, least 1.0')
    run = engines.runs((32, 48))['halves']
    assert run(image=torch.zeros(1, 3, 32, 48))['half'].shape == (1, 2, 32, 24)


# While images come


def test_a_warm_start_runs_eagerly_until_the_engines_are_there(runtime, tmp_path):
    runtime.delay = 0.3
    found, image, told = detector(), scene(size=SIZE), set()
    engines, _ = engines_of(found, tmp_path)
    assert len(found(image)) > 0
    assert engines.busy and engines.runs(SHAPE) is found.eager
    while engines.busy:
        told.add(engines.status.split(',')[0])
        assert engines.runs(SHAPE) is found.eager or not engines.busy
        time.sleep(0.01)
    assert {f'building {name} (recorded fp32)' for name in STAGES} <= told
    assert engines.status == ', '.join(f'{name} recorded fp32' for name in STAGES)
    found(image)
    assert not engines.busy and runtime.built == STAGES


def test_without_a_warm_start_the_first_image_waits(runtime, tmp_path):
    found = detector()
    engines, _ = engines_of(found, tmp_path, warm_start=False)
    encoded = found.encode([scene(size=SIZE)])[0]
    assert encoded.run is not found.eager and not engines.busy


def test_a_live_change_of_the_input_size_gets_engines_of_its_own(runtime, tmp_path):
    found, image = detector(), scene(size=SIZE)
    engines, _ = engines_of(found, tmp_path)
    found(image)
    wait_until(lambda: engines.prepared)
    compiled = engines.status
    runtime.delay = 0.2
    found.configure(DetectorConfig(input_size=320))
    assert len(found(image)) > 0
    assert compiled not in engines.status and engines.prepared == ()
    wait_until(lambda: 'building image' in engines.status)
    wait_until(lambda: not engines.busy)
    assert engines.status == compiled and runtime.built == STAGES * 2
    assert found.encode([image])[0].run is engines.runs((256, 320)) is not found.eager
    found.configure(DetectorConfig(input_size=256))
    found(image)
    assert engines.status == compiled and not engines.busy  # the first are still there


def test_a_shape_that_is_asked_for_while_another_is_built_comes_later(runtime, tmp_path):
    runtime.delay = 0.1
    engines, _ = engines_of(detector(), tmp_path)
    engines.runs(SHAPE)
    assert engines.runs((256, 192)) is engines.network.eager
    wait_until(lambda: engines.runs((256, 192)) is not engines.network.eager)
    assert engines.runs(SHAPE) is not engines.network.eager
    assert runtime.built == STAGES * 2  # never mixed: one after the other


@pytest.mark.parametrize('way', ['close', 'interrupt', 'give_up'])
@pytest.mark.parametrize('asked', ['runs', 'prepare'])
def test_nobody_waits_for_an_engine_when_a_node_is_stopped(runtime, tmp_path, way, asked):
    runtime.delay = 5.0
    engines, _ = engines_of(detector(), tmp_path, warm_start=False)
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(getattr(engines, asked)(SHAPE)))
    waiting.start()
    wait_until(lambda: 'building image (recorded fp32)' in engines.status)
    start = time.monotonic()
    getattr(engines, way)(*(['enough'] if way == 'give_up' else []))
    waiting.join(timeout=4)
    assert not waiting.is_alive() and time.monotonic() - start < 4
    assert answers == [engines.network.eager if asked == 'runs' else ()]
    runtime.delay = 0.0
    if way == 'interrupt':  # the engines are still wanted
        wait_until(lambda: engines.runs(SHAPE) is not engines.network.eager)
        return
    wait_until(lambda: not engines.busy)
    assert runtime.built == ['image']  # and what nobody wants is not begun
    assert engines.runs(SHAPE) is engines.network.eager and not engines.busy
    assert engines.failed and engines.status.startswith('eager: ')


def test_whoever_was_stopped_before_he_asked_does_not_wait_either(runtime, tmp_path):
    runtime.delay = 5.0
    engines, _ = engines_of(detector(), tmp_path, warm_start=False)
    engines.interrupt()
    start = time.monotonic()
    assert engines.runs(SHAPE) is engines.network.eager
    assert time.monotonic() - start < 4
    runtime.delay = 0.0
    assert len(engines.prepare(SHAPE)) == 4  # who asks for engines alone waits for them


def test_engines_that_cannot_be_built_leave_the_detector_as_it_was(runtime, tmp_path):
    def absent():
        raise WeightsError('the weights have gone')

    found = detector('fp16')
    found.reference = absent
    engines, lines = engines_of(found, tmp_path, warm_start=False)
    assert engines.runs(SHAPE) is found.eager
    assert engines.failed and 'the weights have gone' in engines.status
    assert 'PyTorch runs eagerly' in lines[-1] and 'the weights have gone' in lines[-1]
    engines.runs(SHAPE)
    assert len([line for line in lines if 'have gone' in line]) == 1  # and not again every image
    with pytest.raises(WeightsError, match='have gone'):
        engines.prepare(SHAPE)
    found.reference = detector
    assert len(engines.prepare(SHAPE)) == 4 and not engines.failed


# Failing when they run


class Failing:
    """What runs a stage until it is told otherwise."""

    def __init__(self, run):
        self.run, self.error = run, None

    def __call__(self, **tensors):
        if self.error is not None:
            raise self.error
        return self.run(**tensors)


@pytest.fixture
def failing(runtime, tmp_path):
    """A detector on engines, these engines, their log, and one that can be made to fail."""
    broken = {}

    def wrap(run):
        return broken.setdefault(run.stage.name, Failing(run))

    runtime.wrap = wrap
    found = detector()
    engines, lines = engines_of(found, tmp_path)
    engines.prepare(SHAPE)
    lines.clear()
    return found, engines, lines, broken


@pytest.mark.parametrize('stage', STAGES)
@pytest.mark.parametrize(
    'error, reason',
    [
        (EngineError('image: TensorRT failed to run the engine'), 'image: TensorRT failed'),
        (RuntimeError('a kernel went wrong\nin many lines'), 'RuntimeError: a kernel went wrong'),
    ],
)
def test_an_engine_that_fails_loses_no_image(failing, stage, error, reason):
    found, engines, lines, broken = failing
    image = scene(size=SIZE)
    expected = found(image)
    broken[stage].error = error
    for _ in range(3):
        again = found(image)
        np.testing.assert_allclose(again.boxes, expected.boxes, atol=1e-3)
        np.testing.assert_allclose(again.embeddings, expected.embeddings, atol=1e-4)
        assert [m is None for m in again.masks] == [m is None for m in expected.masks]
    assert engines.status.startswith(f'eager: {reason}') and '\n' not in engines.status
    assert engines.failed and engines.runs(SHAPE) is found.eager
    assert len(lines) == 1 and reason in lines[0]


def test_a_lost_gpu_is_no_fault_of_an_engine(failing):
    found, engines, lines, broken = failing
    status = engines.status
    for error in (RuntimeError('CUDA error: device gone'), torch.cuda.OutOfMemoryError('full')):
        broken['boxes'].error = error
        with pytest.raises(RuntimeError) as raised:
            found(scene(size=SIZE))
        assert raised.value is error
        assert engines.status == status and not engines.failed and not lines


def test_a_wrong_input_is_no_fault_of_an_engine(failing):
    _, engines, lines, _ = failing
    status = engines.status
    run = engines.runs(SHAPE)['image']
    with pytest.raises(RuntimeError):
        run(images=torch.zeros(1, 4, *SHAPE))  # four channels: PyTorch refuses it too
    assert engines.status == status and not engines.failed and not lines


# Options


@pytest.mark.parametrize(
    'options, message',
    [
        ({'runtime': 'onnx'}, "runtime is 'onnx'"),
        ({'runtime': 'tensorrt'}, 'does not run on cpu'),
        ({'camera_size': '640'}, 'WIDTHxHEIGHT'),
        ({'camera_size': '0x480'}, 'WIDTHxHEIGHT'),
        ({'calibration': '/nowhere'}, 'no image'),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        Engines(detector(), EngineConfig(**{'runtime': 'eager', **options}))


def test_the_size_of_the_camera_is_told_or_not():
    assert EngineConfig(camera_size='1280x720').camera == (1280, 720)
    assert EngineConfig().camera is None and EngineConfig().runtime == 'auto'


def test_own_calibration_images_are_used_and_read_safely(tmp_path):
    cv2.imwrite(str(tmp_path / 'own.PNG'), np.zeros((50, 60, 3), np.uint8))
    images = calibration_images((48, 64), str(tmp_path))
    assert len(images) == 4 and all(image.shape == (48, 64, 3) for image in images)
    (tmp_path / 'text.jpg').write_text('no image')
    with pytest.raises(ConfigError, match='is not an image'):
        calibration_images((48, 64), str(tmp_path))


def test_all_runtimes_say_what_they_miss():
    assert runtimes.RUNTIMES['tensorrt'].missing('cpu') == 'TensorRT needs a CUDA device'
    assert [runtime.name for runtime in runtimes.choose('auto', 'cpu')] == ['eager']


ENDS_WHILE_BUILDING = """
import sys
sys.path.insert(0, sys.argv[1])
from engine_kit import SHAPE, Recorded, detector, engines_of
from masa_ros.engines import runtimes

class Told(Recorded):
    def build(self, stage, inputs):
        print('begun', stage.name, flush=True)
        made = super().build(stage, inputs)
        print('built', stage.name, flush=True)
        return made

runtimes.RUNTIMES['recorded'] = runtime = Told()
runtime.delay = 2.0
engines, _ = engines_of(detector(), sys.argv[2])
engines.runs(SHAPE)
while 'recorded' not in engines.status:
    pass
"""


def test_the_end_of_a_process_waits_for_the_engine_in_work_alone(tmp_path):
    process = subprocess.run(
        [sys.executable, '-c', ENDS_WHILE_BUILDING, str(Path(__file__).parent), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert process.returncode == 0, process.stderr
    lines = [line for line in process.stdout.splitlines() if line.startswith(('begun', 'built'))]
    assert lines == ['begun image', 'built image']
