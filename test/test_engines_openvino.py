# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""OpenVINO, and which runtime ``auto`` takes on a CPU."""

import copy
import importlib.util
import itertools

import numpy as np
import pytest
import torch
from conftest import openvino_missing, scene
from engine_kit import SHAPE, SIZE, STAGES, Pretended, detector, engines_of
from torch import nn

from masa_ros.engines import identity, race, runtimes
from masa_ros.engines.openvino import OpenVINO
from masa_ros.errors import ConfigError, EngineError
from masa_ros.models.precision import PRECISIONS, storage
from masa_ros.models.staged import check_precision
from masa_ros.models.stages import Case, Eager, Stage

with_openvino = [
    pytest.mark.engines,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        importlib.util.find_spec('openvino') is None,
        reason='openvino is not installed: make setup-engines',
    ),
]
INPUT = (32, 48)


class See(Stage):
    """A map of the image."""

    name, inputs, outputs = 'see', ('image',), ('map',)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, image):
        return (self.norm(self.conv(image).relu()),)


class Look(Stage):
    """What the map has at some places, which count further than bfloat16 can."""

    name, inputs, outputs = 'look', ('map', 'places'), ('seen', 'moved')
    rows, exact, most = ('places',), ('places',), 8

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, map, places):
        table = map.flatten(2)[0].T
        index = (places[:, 0] + 0.25).long()
        return self.layer(table[index]), places * 1.5


class Fragile(Stage):
    """A map of the image by weights whose difference bfloat16 cannot tell."""

    name, inputs, outputs = 'fragile', ('image',), ('map',)

    def __init__(self):
        super().__init__()
        self.one, self.other = (nn.Conv2d(3, 4, 3, bias=False) for _ in range(2))
        nn.init.constant_(self.other.weight, 1000.0)
        nn.init.normal_(self.one.weight, 1000.0)

    def forward(self, image):
        return (self.one(image) - self.other(image),)


class Small:
    """A network of some stages, all of which see an image or its map."""

    name, device, precision = 'small', 'cpu', 'fp32'

    def __init__(self, *kinds, asked='auto'):
        torch.manual_seed(0)
        self.asked = asked
        self.stages = {kind.name: kind() for kind in kinds}
        self.eager = {name: Eager(stage, torch.float32) for name, stage in self.stages.items()}
        self.runs = lambda shape: self.eager

    def input_shape(self, height, width):
        return height, width

    def reference(self):
        return self

    @torch.inference_mode()
    def cases(self, images):
        return [self.case(image) for image in images]

    def case(self, image):
        tensors = {'image': torch.from_numpy(image).permute(2, 0, 1)[None] / 255}
        tensors['places'] = torch.tensor([[1001.0, 2], [3, 4], [1535, 0]])
        tensors['map'] = torch.zeros(1, 4, *INPUT)
        inputs, outputs = {}, {}
        for name, run in self.eager.items():
            inputs[name] = {key: tensors[key] for key in self.stages[name].inputs}
            outputs[name] = run(**inputs[name])
            tensors |= outputs[name]
        return Case(inputs, outputs)

    def stages_in(self, precision):
        return {name: PRECISIONS[precision](copy.deepcopy(s)) for name, s in self.stages.items()}


# OpenVINO itself


@pytest.fixture
def real(monkeypatch):
    """OpenVINO, which the other tests do without."""
    monkeypatch.setattr(OpenVINO, 'missing', openvino_missing)
    monkeypatch.setattr(OpenVINO, 'lower', lambda self, device: 'bf16')  # on any processor
    return runtimes.RUNTIMES['openvino']


@pytest.mark.parametrize('kind', ['gpu', 'npu'])
@pytest.mark.parametrize('found', [('CPU',), ('CPU', 'GPU.0', 'GPU.1', 'NPU')])
def test_other_processors_are_asked_for_by_their_names(monkeypatch, kind, found):
    class Core:
        available_devices = found

        def get_property(self, name, what):
            return 'a processor'

    class Module:
        pass

    Module.Core = Core
    monkeypatch.setattr(OpenVINO, 'missing', openvino_missing)
    monkeypatch.setattr('masa_ros.engines.openvino._module', lambda: Module)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: object())
    name = f'openvino_{kind}'
    if len(found) > 1:
        assert [each.name for each in runtimes.choose(name, 'cpu')] == [name]
    else:
        with pytest.raises(ConfigError, match=f'finds no {kind.upper()}; there are: CPU'):
            runtimes.choose(name, 'cpu')
    assert name not in [each.name for each in runtimes.choose('auto', 'cpu')]


class TestOpenVINO:
    """Real engines of small networks, and of a detector."""

    pytestmark = with_openvino

    @pytest.mark.parametrize('precision', ['bf16', 'fp32'])
    def test_it_takes_any_number_of_rows_and_keeps_places_exact(self, real, precision):
        network = Small(See, Look)
        case = network.cases([scene(size=INPUT)])[0]
        given = case.inputs['look']
        stage, dtype = network.stages_in(precision)['look'], storage(precision)
        data = real.build(stage, stage.arrange(given, dtype))
        run = real.load(stage, data, dtype, 'cpu')
        numbers = torch.randperm(INPUT[0] * INPUT[1])[:8].float()
        for count in (3, 1, 8):
            places = torch.stack((numbers[:count], numbers[:count] + 0.125), 1)
            found, expected = (
                r(map=given['map'], places=places) for r in (run, Eager(stage, dtype))
            )
            torch.testing.assert_close(found['moved'], expected['moved'])
            torch.testing.assert_close(
                found['seen'].float(), expected['seen'].float(), atol=0.03, rtol=0.03
            )
        before = found['seen'].clone()
        run(map=given['map'] * 2, places=places)
        assert torch.equal(found['seen'], before)  # nobody writes where an answer lies
        with pytest.raises(EngineError, match='look'):
            run(map=given['map'][:, :, 1:], places=places)

    def test_weights_in_any_order_of_memory_are_read(self, real):
        network = Small(See)
        inputs = network.cases([scene(size=INPUT)])[0].inputs['see']
        for precision in ('bf16', 'fp32'):
            stage, dtype = network.stages_in(precision)['see'], storage(precision)
            stage.to(memory_format=torch.channels_last)
            data = real.build(stage, stage.arrange(inputs, dtype))
            found = real.load(stage, data, dtype, 'cpu')(**inputs)['map']
            with torch.inference_mode():
                expected = Eager(stage, dtype)(**inputs)['map']
            torch.testing.assert_close(found.float(), expected.float(), atol=0.03, rtol=0.03)

    @pytest.mark.parametrize(
        'spoil', [lambda d: d[: len(d) // 2], lambda d: b'', lambda d: b'\xff' * 99]
    )
    def test_what_is_no_engine_is_not_accepted(self, real, spoil):
        network = Small(See)
        inputs = network.cases([scene(size=INPUT)])[0].inputs['see']
        data = real.build(network.stages['see'], [inputs['image']])
        with pytest.raises(EngineError, match='see: OpenVINO does not accept the engine'):
            real.load(network.stages['see'], spoil(data), torch.float32, 'cpu')

    def test_what_cannot_be_converted_says_so(self, real):
        stage = See()
        stage.conv = nn.LSTM(3, 3)  # it takes no images
        with pytest.raises(EngineError, match='see cannot be'):
            real.build(stage, [torch.zeros(1, 3, *INPUT)])

    def test_a_precision_that_disagrees_is_given_up_for_the_next(self, real, tmp_path):
        engines, _ = engines_of(Small(Fragile, See, asked='bf16'), tmp_path, runtime='openvino')
        fragile, see = engines.prepare(INPUT)
        assert (fragile.precision, see.precision) == ('fp32', 'bf16')
        assert fragile.notes[0].startswith('bf16 disagrees: cosine, least')
        assert not engines.failed

    def test_engines_are_kept_and_read_again(self, real, tmp_path, monkeypatch):
        def prepared():
            engines, lines = engines_of(Small(See, Look), tmp_path, runtime='openvino')
            done = engines.prepare(INPUT)
            assert [p.precision for p in done] == ['bf16', 'bf16'] and done[0].size > 1000
            found = engines.runs(INPUT)['see'](image=torch.ones(1, 3, *INPUT))['map']
            assert found.dtype == torch.float32  # as by PyTorch
            return [p.origin for p in done], found, lines

        origins, first, _ = prepared()
        assert origins == ['built', 'built']
        with monkeypatch.context() as patch:
            patch.setattr(OpenVINO, 'build', None)
            origins, again, _ = prepared()
        assert origins == ['kept', 'kept'] and torch.equal(first, again)
        for file in tmp_path.glob('*.engine'):
            data = file.read_bytes()
            file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        origins, _, lines = prepared()
        assert origins == ['built', 'built']
        assert sum('damaged' in line for line in lines) == 2

    def test_all_stages_of_a_detector_give_what_pytorch_gives(self, real, tmp_path):
        found, image = detector(), scene(size=SIZE)
        expected = found(image)
        engines, _ = engines_of(found, tmp_path, runtime='openvino')
        assert {p.origin for p in engines.prepare(SHAPE)} == {'built'}
        assert engines.status == ', '.join(f'{name} openvino fp32' for name in STAGES)
        seen = found(image)
        np.testing.assert_allclose(seen.boxes, expected.boxes, atol=0.05)
        np.testing.assert_allclose(seen.embeddings, expected.embeddings, atol=1e-3)


# Which one is the fastest


class Clock:
    """Stands still but for what pretends to take time."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def taking(self, seconds, run):
        """Let a call take that long."""

        def slow(**tensors):
            self.now += seconds
            return run(**tensors)

        return slow


class Timed(Pretended):
    """In the place of OpenVINO: eager, and taking the time that is told by precision."""

    name, keeps = 'openvino', True

    def __init__(self, clock):
        self.clock, self.built, self.taken, self.error = clock, [], {}, None

    def lower(self, device):
        return 'bf16'

    def build(self, stage, inputs):
        if self.error is not None:
            raise self.error
        precision = 'bf16' if inputs[0].dtype == torch.bfloat16 else 'fp32'
        self.built.append(precision)
        return precision.encode()

    def load(self, stage, data, dtype, device):
        return self.clock.taking(self.taken[data.decode()], Eager(stage, dtype))


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(race, 'clock', made)
    return made


@pytest.fixture
def pretended(clock, monkeypatch):
    made = Timed(clock)
    monkeypatch.setitem(runtimes.RUNTIMES, 'openvino', made)
    return made


def small(clock, seconds, *kinds, **options):
    """A network whose stages take so long by PyTorch."""
    network = Small(*(kinds or (See,)), **options)
    network.eager = {name: clock.taking(seconds, run) for name, run in network.eager.items()}
    return network


@pytest.mark.parametrize(
    'bf16, fp32, eager, chosen',
    [
        (0.1, 0.2, 0.4, 'openvino bf16'),
        (0.3, 0.2, 0.4, 'openvino fp32'),
        (0.3, 0.2, 0.1, 'eager fp32'),
        (0.196, 0.2, 0.4, 'openvino fp32'),  # what is hardly slower and more exact
        (0.196, 0.2, 0.201, 'eager fp32'),
        (0.5, 0.96, 1.0, 'openvino bf16'),
    ],
)
def test_auto_takes_the_fastest(pretended, clock, tmp_path, bf16, fp32, eager, chosen):
    pretended.taken = {'bf16': bf16, 'fp32': fp32}
    network = small(clock, eager)
    engines, lines = engines_of(network, tmp_path, runtime='auto')
    (done,) = engines.prepare(INPUT)
    assert f'{done.runtime} {done.precision}' == chosen and not engines.failed
    assert engines.status == f'see {chosen}'
    (told,) = [line for line in lines if 'fastest of' in line]
    assert told.startswith(f'see: {chosen}') and f'eager fp32 {eager * 1e3:.1f} ms' in told
    assert (engines.runs(INPUT) is network.eager) is (chosen == 'eager fp32')


def test_every_stage_gets_its_own(pretended, clock, tmp_path):
    pretended.taken = {'bf16': 0.1, 'fp32': 0.2}
    network = small(clock, 0.4, See, Look)
    network.eager['look'] = clock.taking(0.05, Eager(network.stages['look'], torch.float32))
    engines, _ = engines_of(network, tmp_path, runtime='auto')
    assert [p.runtime for p in engines.prepare(INPUT)] == ['openvino', 'eager']
    assert not engines.failed
    assert engines.runs(INPUT)['look'] is network.eager['look']


def test_what_disagrees_is_not_taken_however_fast(pretended, clock, tmp_path):
    pretended.taken = {'bf16': 0.1, 'fp32': 0.3}
    engines, _ = engines_of(small(clock, 0.4, Fragile), tmp_path, runtime='auto')
    (done,) = engines.prepare(INPUT)
    assert (done.runtime, done.precision) == ('openvino', 'fp32')
    assert done.notes[0].startswith('openvino bf16 disagrees') and 'bf16' not in done.choice


def test_float32_that_was_asked_for_stays(pretended, clock, tmp_path):
    pretended.taken = {'bf16': 0.1, 'fp32': 0.2}
    engines, _ = engines_of(small(clock, 0.4, asked='fp32'), tmp_path, runtime='auto')
    (done,) = engines.prepare(INPUT)
    assert (done.runtime, done.precision) == ('openvino', 'fp32') and pretended.built == ['fp32']


@pytest.mark.parametrize('eager, chosen', [(0.4, 'openvino'), (0.05, 'eager')])
def test_a_choice_is_kept_until_the_machine_is_another(
    pretended, clock, tmp_path, monkeypatch, eager, chosen
):
    pretended.taken = {'bf16': 0.1, 'fp32': 0.2}

    def prepared():
        engines, _ = engines_of(small(clock, eager), tmp_path, runtime='auto')
        (done,) = engines.prepare(INPUT)
        assert done.runtime == chosen and not engines.failed
        return done

    first = prepared()
    measured = clock.now
    again = prepared()
    assert (first.origin, again.origin) == ('built', 'kept') and again.choice == first.choice
    assert clock.now - measured <= 4 * eager  # the cases at most: nothing was measured
    assert pretended.built == ['bf16', 'fp32']
    monkeypatch.setattr(identity, '_cpu_facts', lambda: 'another processor')
    assert prepared().origin == 'built'


def test_a_build_that_fails_leaves_pytorch_and_is_tried_again(pretended, clock, tmp_path):
    pretended.taken = {'bf16': 0.1, 'fp32': 0.2}
    pretended.error = RuntimeError('no memory\nand much more')
    network = small(clock, 0.4)
    engines, lines = engines_of(network, tmp_path, runtime='auto')
    (done,) = engines.prepare(INPUT)
    assert engines.runs(INPUT) is network.eager
    assert done.choice == 'eager fp32 alone agrees' and not engines.failed
    (told,) = [line for line in lines if 'no memory' in line]
    assert 'openvino bf16 failed: RuntimeError: no memory; openvino fp32 failed' in told
    pretended.error = None
    engines, _ = engines_of(small(clock, 0.4), tmp_path, runtime='auto')
    assert [p.runtime for p in engines.prepare(INPUT)] == ['openvino']


def test_auto_without_openvino_is_eager_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(OpenVINO, 'missing', openvino_missing)
    find = importlib.util.find_spec
    absent = 'openvino'
    monkeypatch.setattr(importlib.util, 'find_spec', lambda n: None if n == absent else find(n))
    network = Small(See)
    engines, lines = engines_of(network, tmp_path, runtime='auto')
    assert lines == [
        'runtime auto: eager alone, without openvino: the package openvino is not installed'
    ]
    assert engines.runs(INPUT) is network.eager and engines.prepare(INPUT) == ()
    assert not engines.busy and not engines.failed and engines.status == 'eager'
    with pytest.raises(ConfigError, match='the package openvino is not installed'):
        runtimes.choose('openvino', 'cpu')
    with pytest.raises(ConfigError, match='OpenVINO is for Intel and Arm processors'):
        runtimes.choose('openvino', 'cuda:0')


def test_runs_are_measured_in_turns_and_not_for_ever(clock):
    order = []

    def noting(name, seconds):
        return clock.taking(seconds, lambda **tensors: order.append((name, tensors['n'])))

    a, b = race.medians([noting('a', 10.0), noting('b', 2.0)], [{'n': 0}, {'n': 1}])
    assert (a, b) == (10.0, 2.0)
    assert order == [(name, i % 2) for i in range(4) for name in 'ab']  # one to warm up, and three
    order.clear()
    seconds = itertools.cycle([1e-3, 1e-3, 9e-3])

    def unsteady(**tensors):
        order.append(0)
        clock.now += next(seconds)

    assert race.medians([unsteady], [{'n': 0}]) == [pytest.approx(1e-3)]
    assert len(order) < 100


def test_bfloat16_is_for_engines_on_a_cpu():
    check_precision('bf16', torch.device('cpu'))
    with pytest.raises(ConfigError, match='bf16 is for the CPU'):
        check_precision('bf16', torch.device('cuda'))
    found = detector('bf16')
    assert (found.asked, found.precision) == ('bf16', 'fp32')
    assert next(found.network.parameters()).dtype == torch.float32
    assert found.stages['image'].precisions('bf16') == ['bf16', 'fp32']
    halved = found.stages_in('bf16')['image']
    assert next(halved.parameters()).dtype == torch.bfloat16
