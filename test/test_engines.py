"""Engines: the forms that convert, the checks before use, the cache."""

import copy
import dataclasses
import json
import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import scene

from masa_ros.cli import main
from masa_ros.engines import prepare, runtimes, trust
from masa_ros.engines.cache import EngineCache, Stored
from masa_ros.engines.prepare import EngineConfig, Engines
from masa_ros.errors import ConfigError, EngineError, ImageError
from masa_ros.models import checkpoints
from masa_ros.models.configs import SamConfig
from masa_ros.models.detector import Detector, DetectorConfig
from masa_ros.models.forms import portable_forms
from masa_ros.models.network import MasaNetwork
from masa_ros.models.precision import PRECISIONS, storage
from masa_ros.models.sampling import ModulatedDeformConv, RoIAlign, roi_levels
from masa_ros.models.stages import Eager, stages_of
from masa_ros.models.zoo import model_config

SIZE = (240, 320)


def detector(precision='fp32', seed=0, spoil=None):
    """masa_nano with random weights that find many boxes."""
    torch.manual_seed(seed)
    model = model_config('masa_nano')
    network = MasaNetwork(model.network)
    torch.nn.init.normal_(network.boxes.cls.weight, std=0.5)
    if spoil:
        spoil(network)
    config = DetectorConfig(device='cpu', precision=precision, input_size=256)
    return Detector(model, network, config, 'cpu')


class Recorded:
    """A runtime that keeps something on disk, runs eagerly and remembers what it was asked."""

    name, keeps = 'recorded', True

    def __init__(self):
        self.built, self.loaded, self.delay = [], [], 0.0
        self.stages = {}

    def missing(self, device):
        return ''

    def version(self):
        return '1'

    def build(self, stage, inputs):
        time.sleep(self.delay)
        self.built.append(stage.name)
        self.stages[stage.name] = stage
        return f'engine of {stage.name}'.encode()

    def load(self, stage, data, dtype, device):
        if data != f'engine of {stage.name}'.encode():
            raise EngineError(f'{stage.name}: TensorRT does not accept the engine')
        self.loaded.append(stage.name)
        return Eager(stage, dtype)


@pytest.fixture
def runtime(monkeypatch):
    recorded = Recorded()
    monkeypatch.setitem(runtimes.RUNTIMES, 'recorded', recorded)
    return recorded


def engines_of(found, folder, precision='fp32', **options):
    lines = []
    engines = Engines(
        found,
        EngineConfig(runtime='recorded', folder=str(folder), **options),
        lines.append,
        reference=detector,
    )
    return engines, lines


STAGES = ['image', 'boxes', 'looks', 'masks']


# The forms that convert


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
@pytest.mark.parametrize('stride', [1, 2])
def test_the_portable_deformable_convolution_equals_torchvision(stride, dtype):
    torch.manual_seed(0)
    conv = ModulatedDeformConv(16, 8, stride)
    x = torch.randn(1, 16, 17, 23)
    rows, columns = -(-17 // stride), -(-23 // stride)
    offset, mask = torch.randn(1, 18, rows, columns) * 2, torch.rand(1, 9, rows, columns)
    expected = torchvision.ops.deform_conv2d(
        x, offset, conv.weight, stride=stride, padding=1, mask=mask
    )
    with portable_forms():
        found = conv.to(dtype)(x.to(dtype), offset.to(dtype), mask.to(dtype))
    assert found.dtype == dtype
    limit = 1e-4 if dtype == torch.float32 else 0.01 * float(expected.detach().std())
    torch.testing.assert_close(found.float(), expected, atol=limit, rtol=0)


def roi_cases():
    """Boxes of all sizes, up to four times as long as wide, and the maps they lie on."""
    generator = torch.Generator().manual_seed(0)
    strides = (4, 8, 16, 32)
    levels = [torch.randn(1, 6, 800 // s, 1024 // s, generator=generator) for s in strides]
    side = 10 ** (1 + 1.8 * torch.rand(300, generator=generator))
    shape = 2 ** (2 * torch.rand(300, generator=generator) - 1)
    corner = torch.rand(300, 2, generator=generator) * torch.tensor([900.0, 700.0])
    boxes = torch.cat((corner, corner + torch.stack((side * shape, side / shape), 1)), 1)
    return strides, levels, boxes, shape


def adaptive(strides, levels, boxes):
    parts = []
    for i, level in enumerate(roi_levels(boxes, len(strides)).long().tolist()):
        roi = torch.cat((torch.zeros(1), boxes[i]))[None]
        scale = 1 / strides[level]
        parts.append(torchvision.ops.roi_align(levels[level], roi, 7, scale, 0, aligned=True)[0])
    return torch.stack(parts)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_the_portable_roi_align_is_exact_where_its_grid_suffices(dtype):
    strides, levels, boxes, _ = roi_cases()
    align, scale = RoIAlign(7, strides, 0), torch.tensor([1.0 / s for s in strides])
    sides = (boxes[:, 2:] - boxes[:, :2]) * scale[roi_levels(boxes, 4).long()][:, None]
    enough = ((sides / 7).ceil() <= RoIAlign.MOST).all(1)
    assert 0.6 < enough.float().mean() < 0.95  # both kinds are there
    expected = adaptive(strides, levels, boxes)
    with portable_forms():
        index = torch.zeros(len(boxes), dtype=torch.long)
        found = align([x.to(dtype) for x in levels], boxes, index).float()
    limit = 1e-4 if dtype == torch.float32 else 0.01
    torch.testing.assert_close(found[enough], expected[enough], atol=limit, rtol=0)
    # Beyond, the cell's average is taken over fewer points: other numbers of the same thing.
    cosine = torch.cosine_similarity(found[~enough].flatten(1), expected[~enough].flatten(1))
    assert 0.6 < cosine.min() < 0.9999


def test_the_portable_attention_equals_the_fused_one():
    sam = pytest.importorskip('masa_ros.models.sam')
    torch.manual_seed(0)
    attention = sam.FusedAttention(32, 4, use_rel_pos=True, input_size=(8, 8))
    torch.nn.init.normal_(attention.rel_pos_h)
    torch.nn.init.normal_(attention.rel_pos_w)
    x = torch.randn(2, 8, 8, 32)
    fused = attention(x)
    with portable_forms():
        torch.testing.assert_close(attention(x), fused, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('precision', ['fp16', 'mixed'])
def test_half_precision_keeps_its_islands(precision):
    config = SamConfig(
        width=32, depth=2, heads=2, global_blocks=(1,), taps=(0, 0, 1, 1), image_size=64
    )
    model = model_config('masa_sam_vitb')
    network = MasaNetwork(dataclasses.replace(model.network, backbone=config)).eval()
    halved = PRECISIONS[precision](copy.deepcopy(network))
    norms = [m for m in halved.modules() if type(m).__name__ in ('LayerNorm', 'LayerNorm2d')]
    assert len(norms) > 8 and all(m.weight.dtype == torch.float32 for m in norms)
    fourier = halved.masks.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    assert fourier.dtype == torch.float32
    convolution = halved.fusion[0].mid.norm, halved.backbone.patch_embed.proj
    assert [m.weight.dtype for m in convolution] == [torch.float32, torch.float16]
    # A channel norm of values whose squares leave the range of half precision.
    big = torch.randn(1, 256, 4, 4) * 300
    norm = next(m for m in halved.backbone.neck if type(m).__name__ == 'LayerNorm2d')
    assert norm(big.to(storage(precision))).isfinite().all()


# Checks


def test_the_check_accepts_the_same_network_and_half_of_it():
    reference = detector()
    samples = trust.make_samples(reference, [reference.preprocess(scene())])
    for precision in ('fp32', 'fp16'):
        twin = PRECISIONS[precision](copy.deepcopy(reference.network))
        for name, stage in stages_of(twin, reference.model).items():
            measures = trust.compare(name, Eager(stage, storage(precision)), samples)
            assert measures and all(m.good for m in measures), [str(m) for m in measures]
            if precision == 'fp32':
                assert all(m.value > 0.99999 for m in measures)


@pytest.mark.parametrize(
    'stage, part',
    [
        ('image', 'network.pyramid.output.0.conv'),
        ('image', 'network.proposals.cls'),
        ('boxes', 'head.reg'),
        ('boxes', 'head.cls'),
        ('looks', 'embed.embed'),
        ('masks', 'head.logits'),
    ],
)
def test_the_check_refuses_wrong_numbers(stage, part):
    reference = Detector.load(DetectorConfig(device='cpu'))  # what it knows can be forgotten
    samples = trust.make_samples(reference, [reference.preprocess(scene())])
    twin = copy.deepcopy(reference.network)
    wrong = stages_of(twin, reference.model)[stage]
    with torch.no_grad():
        layer = wrong.get_submodule(part)
        layer.weight += torch.randn_like(layer.weight) * layer.weight.std() * 2
    measures = trust.compare(stage, Eager(wrong, torch.float32), samples)
    assert not all(m.good for m in measures)


def test_the_check_refuses_what_is_not_a_number():
    reference = detector()
    samples = trust.make_samples(reference, [reference.preprocess(scene())])

    def broken(**tensors):
        found = reference.eager['looks'](**tensors)
        found['embeddings'][0, 0] = float('nan')
        return found

    assert not any(m.good for m in trust.compare('looks', broken, samples))


# From disk or built


def test_engines_are_built_once_and_change_nothing(runtime, tmp_path):
    found, image = detector(), scene(size=SIZE)
    expected = found(image)
    engines, lines = engines_of(found, tmp_path / 'engines')
    prepared = engines.prepare(*SIZE)
    assert runtime.built == STAGES
    assert [p.origin for p in prepared] == ['built'] * 4
    assert any('embedding cosine' in line for line in lines)
    again = found(image)
    np.testing.assert_allclose(again.boxes, expected.boxes, atol=1e-3)
    np.testing.assert_allclose(again.embeddings, expected.embeddings, atol=1e-4)

    second, _ = engines_of(detector(), tmp_path / 'engines')
    assert [p.origin for p in second.prepare(*SIZE)] == ['kept'] * 4
    assert runtime.built == STAGES
    assert oct((tmp_path / 'engines').stat().st_mode)[-3:] == '700'
    assert {oct(f.stat().st_mode)[-3:] for f in (tmp_path / 'engines').iterdir()} == {'600'}


def overflowing(network):
    """Activations beyond the range of half precision, brought back by the norm behind them."""
    stem = network.backbone.stem
    with torch.no_grad():
        stem.conv.weight *= 1e6
        stem.norm.running_var *= 1e12


def test_what_overflows_in_half_precision_is_built_in_full(runtime, tmp_path):
    found = detector('fp16', spoil=overflowing)
    lines = []
    engines = Engines(
        found,
        EngineConfig(runtime='recorded', folder=str(tmp_path)),
        lines.append,
        reference=lambda: detector(spoil=overflowing),
    )
    prepared = {p.stage: p for p in engines.prepare(*SIZE)}
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

    class Off(Eager):
        def __call__(self, **tensors):
            return {k: torch.randn_like(v) for k, v in super().__call__(**tensors).items()}

    runtime.load = lambda stage, data, dtype, device: Off(stage, dtype)
    prepared = engines.prepare(*SIZE)
    assert {p.origin for p in prepared} == {'refused'} and engines.failed
    np.testing.assert_allclose(found(scene(size=SIZE)).boxes, expected.boxes, atol=1e-4)
    built = len(runtime.built)
    again, _ = engines_of(detector(), tmp_path)
    assert [p.origin for p in again.prepare(*SIZE)] == ['kept'] * 4  # nor is it tried again
    assert len(runtime.built) == built and again.failed


def test_what_failed_for_the_moment_is_tried_again(runtime, tmp_path):
    build = runtime.build

    def without_memory(stage, inputs):
        raise RuntimeError('CUDA out of memory\nand much more')

    runtime.build = without_memory
    prepared = engines_of(detector(), tmp_path)[0].prepare(*SIZE)
    assert {p.origin for p in prepared} == {'refused'}
    assert prepared[0].notes == ('fp32 failed: RuntimeError: CUDA out of memory',)
    runtime.build = build
    again, _ = engines_of(detector(), tmp_path)
    assert [p.origin for p in again.prepare(*SIZE)] == ['built'] * 4
    assert again.prepare(SIZE[0] * 2, SIZE[1] * 2) == again.prepared  # the same network input
    assert runtime.built == STAGES


def spoiled(folder, spoil):
    """Change all engines in a folder."""
    for file in Path(folder).glob('*.engine'):
        file.write_bytes(spoil(file.read_bytes()))


@pytest.mark.parametrize(
    'spoil',
    [
        lambda data: data[: len(data) // 2],
        lambda data: b'',
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: b'\x80\x04' + data,
        lambda data: data.replace(b'"stage"', b'"stXge"'),
    ],
    ids=['cut', 'empty', 'one bit', 'foreign', 'record'],
)
def test_a_damaged_engine_is_built_again(runtime, tmp_path, spoil):
    engines_of(detector(), tmp_path)[0].prepare(*SIZE)
    spoiled(tmp_path, spoil)
    engines, lines = engines_of(detector(), tmp_path)
    assert [p.origin for p in engines.prepare(*SIZE)] == ['built'] * 4
    assert sum('damaged' in line for line in lines) == 4
    assert [p.origin for p in engines_of(detector(), tmp_path)[0].prepare(*SIZE)] == ['kept'] * 4


def test_an_engine_that_the_runtime_does_not_accept_is_built_again(runtime, tmp_path):
    engines_of(detector(), tmp_path)[0].prepare(*SIZE)
    runtime.load, good = refuse_once(runtime.load), runtime.load
    engines, lines = engines_of(detector(), tmp_path)
    assert [p.origin for p in engines.prepare(*SIZE)] == ['built', 'kept', 'kept', 'kept']
    assert any('does not accept' in line and 'built again' in line for line in lines)
    assert good


def refuse_once(load):
    calls = []

    def loading(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise EngineError('image: TensorRT does not accept the engine')
        return load(*arguments)

    return loading


@pytest.mark.parametrize('what', ['runtime', 'code', 'weights', 'size', 'limits'])
def test_an_engine_of_other_circumstances_is_not_used(runtime, tmp_path, what, monkeypatch):
    engines_of(detector(), tmp_path)[0].prepare(*SIZE)
    size, found = SIZE, detector()
    if what == 'runtime':
        runtime.version = lambda: '2'
    elif what == 'code':
        monkeypatch.setattr(prepare.cache, 'code_version', lambda: 'another')
    elif what == 'weights':
        with torch.no_grad():
            found.network.embed.embed.bias += 1e-6
    elif what == 'limits':
        monkeypatch.setitem(trust.LIMITS, 'mask IoU, least', 0.81)
    else:
        size = (320, 240)
    engines, _ = engines_of(found, tmp_path)
    assert [p.origin for p in engines.prepare(*size)] == ['built'] * 4


def test_an_engine_of_somebody_else_is_not_used(runtime, tmp_path):
    engines_of(detector(), tmp_path)[0].prepare(*SIZE)
    files = sorted(tmp_path.glob('*.engine'))
    files[0].chmod(0o666)
    target = files[1].rename(tmp_path / 'elsewhere')
    files[1].symlink_to(target)
    foreign = 2
    if os.getuid() == 0:
        os.chown(files[2], 12345, 12345)
        foreign = 3
    engines, lines = engines_of(detector(), tmp_path)
    assert sum(p.origin == 'built' for p in engines.prepare(*SIZE)) == foreign
    assert sum('not used' in line for line in lines) == foreign


def build_in_a_process(folder, results):
    recorded = Recorded()
    recorded.delay = 0.5
    runtimes.RUNTIMES['recorded'] = recorded
    torch.set_num_threads(1)
    engines, _ = engines_of(detector(), folder)
    prepared = engines.prepare(*SIZE)
    results.put([p.origin for p in prepared])


def test_two_processes_build_each_engine_once(tmp_path):
    context = multiprocessing.get_context('spawn')
    results = context.Queue()
    processes = [
        context.Process(target=build_in_a_process, args=(tmp_path, results)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    origins = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(origins[0] + origins[1]) == ['built'] * 4 + ['kept'] * 4
    assert not list(tmp_path.glob('*.part'))


def test_a_folder_that_cannot_be_written_costs_only_time(runtime, tmp_path):
    found = detector()
    engines, lines = engines_of(found, '/proc/masa_ros/engines')
    assert [p.origin for p in engines.prepare(*SIZE)] == ['built'] * 4
    assert sum('is not kept' in line for line in lines) == 4
    assert found.engines


def write_until_full(folder, results):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    store = EngineCache(folder)
    results.put((store.write('big', Stored({}, bytes(5000))), store.problem))


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    EngineCache(tmp_path).write('big', Stored({'old': True}, b'old'))
    context = multiprocessing.get_context('spawn')
    results = context.Queue()
    process = context.Process(target=write_until_full, args=(tmp_path, results))
    process.start()
    written, problem = results.get(timeout=60)
    process.join()
    assert written is None and 'not kept' in problem
    assert [f.name for f in tmp_path.iterdir()] == ['big.engine']
    assert EngineCache(tmp_path).read('big').data == b'old'


def write_for_ever(folder):
    model = model_config('masa_nano')
    network = MasaNetwork(model.network)
    while True:
        EngineCache(folder).write('big', Stored({}, bytes(10_000_000)))
        checkpoints.save(network, folder / 'weights.safetensors', {'model': model.name})


def test_a_kill_leaves_no_half_written_engine_or_weights(tmp_path):
    weights, model = tmp_path / 'weights.safetensors', model_config('masa_nano')
    process = multiprocessing.get_context('spawn').Process(target=write_for_ever, args=(tmp_path,))
    process.start()
    end = time.monotonic() + 60
    while not weights.exists() and time.monotonic() < end:
        time.sleep(0.01)
    for _ in range(50):  # others may look at any time
        assert len(EngineCache(tmp_path).read('big').data) == 10_000_000
        checkpoints.load(MasaNetwork(model.network), weights, model)
    process.kill()
    process.join()
    assert len(EngineCache(tmp_path).read('big').data) == 10_000_000
    checkpoints.load(MasaNetwork(model.network), weights, model)


def test_several_images_at_once_are_the_same_as_one_by_one(runtime, tmp_path):
    found, images = detector(), [scene(size=SIZE), scene(60, size=SIZE)]
    alone = [found(image) for image in images]
    for compiled in (False, True):
        if compiled:
            engines_of(found, tmp_path)[0].prepare(*SIZE)
        together = [found.find(encoded) for encoded in found.encode(images)]
        for one, other in zip(alone, together):
            np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-2)
            np.testing.assert_allclose(one.embeddings, other.embeddings, atol=1e-3)
    with pytest.raises(ImageError, match='a batch of images'):
        found.encode([images[0], images[0][:100]])


# torch.compile, which keeps nothing on disk


@pytest.mark.engines
def test_torch_compile_takes_any_number_of_boxes():
    reference = detector()
    encoded = reference.encode([scene()])[0]
    stage = reference.stages['looks']
    run = runtimes.RUNTIMES['compile'].load(stage, b'', torch.float32, 'cpu')
    levels = {name: encoded.tensors[name] for name in stage.inputs[1:]}
    boxes = torch.tensor([[10.0, 20, 100, 90], [0, 0, 250, 180], [60, 60, 64, 63]])
    with torch.inference_mode():
        for count in (3, 1, 2):
            found = run(boxes=boxes[:count], **levels)
            expected = reference.eager['looks'](boxes=boxes[:count], **levels)
            for name in stage.outputs:
                torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=1e-4)


# While images come


def test_a_warm_start_runs_eagerly_until_the_engines_are_there(runtime, tmp_path):
    runtime.delay = 0.3
    found, image = detector(), scene(size=SIZE)
    engines, _ = engines_of(found, tmp_path)
    engines.meet(*SIZE)
    assert engines.busy and not found.engines
    assert len(found(image)) > 0
    while engines.busy:
        assert not engines.status or 'building' in engines.status or 'eager' in engines.status
        engines.meet(*SIZE)
        time.sleep(0.01)
    assert list(found.engines) == [(192, 256)]
    assert engines.status == ', '.join(f'{name} recorded fp32' for name in STAGES)
    engines.meet(*SIZE)
    assert not engines.busy and runtime.built == STAGES


def test_without_a_warm_start_the_first_image_waits(runtime, tmp_path):
    found = detector()
    engines, _ = engines_of(found, tmp_path, warm_start=False)
    engines.meet(*SIZE)
    assert found.engines and not engines.busy


def test_engines_that_cannot_be_built_leave_the_detector_as_it_was(runtime, tmp_path):
    def absent():
        raise EngineError('the weights have gone')

    found, lines = detector(), []
    config = EngineConfig(runtime='recorded', folder=str(tmp_path), warm_start=False)
    engines = Engines(found, config, lines.append, absent)
    engines.meet(*SIZE)
    assert engines.failed and 'the weights have gone' in engines.status
    assert 'PyTorch runs eagerly' in lines[-1]
    assert len(found(scene(size=SIZE))) > 0


@pytest.mark.parametrize(
    'options, message',
    [
        ({'runtime': 'onnx'}, "runtime is 'onnx'"),
        ({'runtime': 'tensorrt'}, 'does not run on cpu'),
        ({'camera': '640'}, 'WIDTHxHEIGHT'),
        ({'camera': '0x480'}, 'WIDTHxHEIGHT'),
        ({'calibration': '/nowhere'}, 'no image'),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        Engines(detector(), EngineConfig(**{'runtime': 'eager', **options}))


def test_own_calibration_images_are_used_and_read_safely(tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / 'own.png'), np.zeros((50, 60, 3), np.uint8))
    images = prepare.calibration_images((48, 64), str(tmp_path))
    assert len(images) == 4 and all(image.shape == (48, 64, 3) for image in images)
    (tmp_path / 'text.jpg').write_text('no image')
    with pytest.raises(ConfigError, match='is not an image'):
        prepare.calibration_images((48, 64), str(tmp_path))


# The command


def test_the_command_lists_and_clears(runtime, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('MASA_ROS_ENGINES', str(tmp_path))
    assert main(['engines', 'list']) == 0
    assert 'no engines' in capsys.readouterr().out
    engines_of(detector(), tmp_path)[0].prepare(*SIZE)
    (tmp_path / 'broken.engine').write_bytes(b'nothing')
    assert main(['engines', 'list']) == 0
    listed = capsys.readouterr().out
    assert listed.count('masa_nano') == 4 and 'broken.engine: damaged' in listed
    assert main(['engines', 'clear', '--model', 'masa_nano']) == 0
    assert [f.name for f in tmp_path.glob('*.engine')] == ['broken.engine']
    assert main(['engines', 'clear']) == 0
    assert not list(tmp_path.iterdir())


def test_the_command_builds_and_verifies(runtime, tmp_path, monkeypatch, capsys, seeded_weights):
    monkeypatch.setenv('MASA_ROS_ENGINES', str(tmp_path))
    monkeypatch.setattr(runtimes, 'choose', lambda name, device: runtime)
    monkeypatch.setattr(prepare, 'choose', lambda name, device: runtime)
    options = ['--weights', str(seeded_weights), '--camera-size', '320x240']
    assert main(['engines', 'build', *options, '--input-size', '256', '--device', 'cpu']) == 0
    printed = capsys.readouterr().out
    assert 'embedding cosine' in printed and f'kept in {tmp_path}' in printed
    assert main(['engines', 'verify', *options, '--input-size', '256', '--device', 'cpu']) == 0
    assert capsys.readouterr().out.count('(limit') == 20
    assert runtime.built == STAGES


def test_the_command_says_why_nothing_can_be_built(capsys, seeded_weights):
    options = ['--weights', str(seeded_weights), '--device', 'cpu']
    assert main(['engines', 'build', *options]) == 2
    assert 'TensorRT needs a CUDA device' in capsys.readouterr().err


def test_the_record_beside_an_engine_tells_everything_it_depends_on(runtime, tmp_path):
    engines_of(detector(), tmp_path)[0].prepare(*SIZE)
    (header,) = {
        json.loads(f.read_bytes().split(b'\n')[2])['weights'] for f in tmp_path.glob('*.engine')
    }
    assert len(header) == 64
    _, record = EngineCache(tmp_path).stored()[0]
    expected = {'model', 'stage', 'code', 'version', 'gpu', 'precision', 'input', 'agreement'}
    assert expected <= set(record)
