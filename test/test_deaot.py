# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""DeAOT's memory: who is remembered, by which frames, and what it costs."""

import numpy as np
import pytest
import torch
from conftest import scene

from masa_ros.errors import ConfigError
from masa_ros.methods.deva import Deva
from masa_ros.models.aot.network import AotSizes, DeAotNetwork
from masa_ros.propagators import PROPAGATORS
from masa_ros.propagators.deaot import DeaotPropagator, DeaotPropagatorConfig
from masa_ros.propagators.deaot.engine import merged
from masa_ros.types import Frame, Instances

TINY = AotSizes(stem=8, depths=(1, 1, 1), embed=32, layers=2, reach=2)
SIZE = (65, 97)  # as the network takes it
PLACES = 5 * 7


def tiny(**options):
    """A propagator of few channels; every test gets the same weights."""
    torch.manual_seed(0)
    return DeaotPropagator(DeAotNetwork(TINY), DeaotPropagatorConfig(**options), 'cpu')


def frame(i, size=SIZE):
    return Frame(np.ascontiguousarray(scene(2 * i)[: size[0], : size[1]]), i)


def encode(propagator, i, size=SIZE):
    (encoded,) = propagator.encode([frame(i, size)])
    return encoded


def masks(count, size=SIZE):
    """Upright stripes, one for each object, and ground beside them."""
    drawn = torch.zeros(1 + count, *size)
    for i in range(count):
        left = size[1] * i // count
        drawn[1 + i, size[0] // 8 : size[0] // 2, left : left + max(size[1] // count - 1, 1)] = 1
    drawn[0] = 1 - drawn[1:].sum(0)
    return drawn


def run(propagator, memory, frames, size=SIZE):
    """Read and remember frames as they are read; returns what was read last."""
    for i in frames:
        encoded = encode(propagator, i, size)
        found = memory.read(encoded)
        memory.remember(encoded, memory.ids)
    return found


def started(propagator, ids=(7, 3), size=SIZE):
    memory = propagator.memory()
    memory.remember(encode(propagator, 0, size), ids, masks(len(ids), size), certain=True)
    return memory


def held(memory):
    """Who is in each engine, and by how many frames."""
    return [(list(engine.ids), len(engine.long)) for engine in memory.engines]


def test_the_registry_knows_it():
    assert PROPAGATORS['deaot'].options is DeaotPropagatorConfig
    assert tiny().facts()['model'] == 'DeAOT-L R50'


def test_without_objects_everything_is_background():
    propagator = tiny()
    memory = propagator.memory()
    for i in range(3):
        encoded = encode(propagator, i)
        found = memory.read(encoded)
        assert found.shape == (1, *SIZE) and (found == 1).all()
        memory.remember(encoded, (), found if i else None, certain=i == 2)
    assert memory.ids == () and memory.engines == ()
    assert set(memory.figures().values()) == {0}


def test_objects_come_and_go():
    propagator = tiny(mem_every=2)
    memory = started(propagator)
    assert memory.ids == (7, 3) and held(memory) == [([7, 3], 1)]
    found = run(propagator, memory, (1,))
    assert found.shape == (3, *SIZE)
    torch.testing.assert_close(found.sum(0), torch.ones(SIZE))
    assert held(memory) == [([7, 3], 1)], 'between the frames that are kept'
    run(propagator, memory, (2,))
    assert held(memory) == [([7, 3], 2)]
    encoded = encode(propagator, 3)
    memory.read(encoded)
    memory.remember(encoded, (20, 7, 3), masks(3))  # in another order
    assert memory.ids == (20, 7, 3) and held(memory) == [([7, 3, 20], 3)]
    assert memory.read(encode(propagator, 4)).shape == (4, *SIZE)
    memory.drop([3])
    assert memory.ids == (20, 7) and held(memory) == [([7, 20], 3)]
    assert run(propagator, memory, (5,)).shape == (3, *SIZE)
    memory.remember(encode(propagator, 6), (5,), masks(1))
    assert held(memory) == [([5], 1)], 'an engine without objects is gone'
    memory.drop([5])
    assert memory.ids == () and memory.figures()['memory_bytes'] == 0
    assert (run(propagator, memory, (7,)) == 1).all()
    memory.remember(encode(propagator, 8), (7,), masks(1))  # and begins anew
    assert held(memory) == [([7], 1)]


def test_more_than_ten_objects():
    propagator = tiny(mem_every=1000)
    ids = tuple(range(1, 24))
    memory = started(propagator, ids)
    first = [*range(1, 11)], [*range(11, 21)], [21, 22, 23]
    assert [own for own, _ in held(memory)] == [*first]
    found = run(propagator, memory, (1, 2))
    assert found.shape == (24, *SIZE) and memory.figures()['memory_engines'] == 3
    torch.testing.assert_close(found.sum(0), torch.ones(SIZE))
    memory.drop([*range(21, 24), 4, 5])
    assert held(memory) == [([1, 2, 3, 6, 7, 8, 9, 10], 1), ([*range(11, 21)], 1)]
    encoded = encode(propagator, 3)
    memory.read(encoded)
    memory.remember(encoded, (*memory.ids, 30, 31, 32), masks(21))
    assert held(memory) == [
        ([1, 2, 3, 6, 7, 8, 9, 10, 30, 31], 2),  # shown the frame, as it has new ones
        ([*range(11, 21)], 1),
        ([32], 1),
    ]
    assert set(memory.engines[0].ids.values()) == set(range(1, 11)), 'no identity twice'
    assert run(propagator, memory, (4,)).shape == (22, *SIZE)


def test_masks_come_in_the_order_of_the_ids():
    propagator = tiny()
    memory = started(propagator, (1, 2, 3))
    found = memory.read(encode(propagator, 1))
    other = propagator.memory()
    drawn = masks(3)[[0, 3, 1, 2]]
    other.remember(encode(propagator, 0), (3, 1, 2), drawn)
    # Identities are not alike, so that only the places of the masks can be compared.
    assert other.ids == (3, 1, 2)
    one_hot = torch.nn.functional.one_hot(found.argmax(0), 4).permute(2, 0, 1).float()
    encoded = encode(propagator, 1)
    memory.read(encoded)
    memory.remember(encoded, (3, 1, 2), one_hot[[0, 3, 1, 2]])
    again = started(propagator, (1, 2, 3))
    run(propagator, again, (1,))
    ahead = encode(propagator, 2)
    torch.testing.assert_close(memory.read(ahead), again.read(ahead)[[0, 3, 1, 2]])


def test_whoever_is_dropped_is_taken_out_of_every_frame():
    propagator = tiny(mem_every=1)
    memory = started(propagator, (1, 2, 3))
    run(propagator, memory, (1, 2))
    before = memory.engines[0]
    memory.drop([2])
    engine = memory.engines[0]
    assert len(engine.long) == 3 and engine.short is engine.long[-1]
    for old, page in zip(before.long, engine.long):
        assert set(page.labels.unique().tolist()) <= {0, 1, 3}
        others = old.labels != 2
        assert torch.equal(page.labels[others], old.labels[others])
        for own, theirs in zip(page.written, old.written):
            assert own.key is theirs.key and own.value is theirs.value
        alone = propagator.network.identities(page.labels)
        first = propagator.network.LSTT.layers[0].write(page.seen[0], alone)
        torch.testing.assert_close(page.written[0].identity, first.identity)
    assert engine.long[0].began == {1, 3}
    memory.drop([99])
    assert memory.engines[0] is engine


@pytest.mark.parametrize('most', [1, 2, 4])
def test_the_memory_is_bounded(most):
    propagator = tiny(mem_every=1, max_frames=most)
    memory = started(propagator)
    figures = []
    for i in range(1, 30):
        encoded = encode(propagator, i % 20)
        memory.read(encoded)
        if i in (3, 9, 14):
            memory.remember(encoded, (*memory.ids[-3:], 10 + i), masks(len(memory.ids[-3:]) + 1))
        else:
            memory.remember(encoded, memory.ids, certain=i % 7 == 0)
        figures.append(memory.figures())
    assert max(each['memory_frames'] for each in figures) == most
    early, late = figures[:15], figures[15:]
    assert max(each['memory_bytes'] for each in late) <= max(x['memory_bytes'] for x in early)


def test_the_bytes_are_bounded():
    propagator = tiny(mem_every=1, max_frames=100, max_megabytes=1)
    memory = started(propagator)
    room = 1_000_000 // memory.figures()['memory_bytes']
    assert room < 25
    run(propagator, memory, range(25))
    assert memory.figures()['memory_frames'] == room
    assert memory.figures()['memory_bytes'] <= 1_000_000
    assert memory.engines[0].long[0].began == {7, 3}, 'the same frames leave as by number'
    memory = started(propagator, tuple(range(210)))
    assert memory.figures()['memory_bytes'] > 1_000_000
    assert [frames for _, frames in held(memory)] == [1] * 21, 'one for every ten objects'


def test_the_bytes_are_those_of_all_tensors():
    memory = started(tiny())
    layers = 2 * PLACES * (16 + 64 + 64) + PLACES * 32
    assert memory.figures() == {
        'memory_frames': 1,
        'memory_bytes': 4 * layers + SIZE[0] * SIZE[1],
        'memory_engines': 1,
    }


def test_frames_in_which_objects_began_leave_last():
    propagator = tiny(mem_every=1, max_frames=3)
    memory = started(propagator, (1, 2))
    run(propagator, memory, (1,))
    encoded = encode(propagator, 2)
    memory.read(encoded)
    memory.remember(encoded, (1, 2, 3), masks(3))

    def began():
        return [set(page.began) for page in memory.engines[0].long]

    assert began() == [{1, 2}, set(), {3}]
    run(propagator, memory, (3,))
    assert began() == [{1, 2}, {3}, set()], 'the last one stays'
    run(propagator, memory, (4,))
    assert began() == [{1, 2}, {3}, set()]
    memory.drop([1, 2])
    run(propagator, memory, (5,))
    assert began() == [{3}, set(), set()], 'nobody needs it any more'
    for i in (4, 5, 6):
        encoded = encode(propagator, 2 + i)
        memory.read(encoded)
        memory.remember(encoded, (*memory.ids, i), masks(i - 2))
    assert began() == [{4}, {5}, {6}], 'of those the oldest'


def test_frames_that_somebody_looked_at_are_kept():
    propagator = tiny(mem_every=9999)
    memory = started(propagator)
    run(propagator, memory, range(1, 4))
    assert held(memory) == [([7, 3], 1)]
    encoded = encode(propagator, 4)
    memory.read(encoded)
    memory.remember(encoded, (7, 3), masks(2), certain=True)
    assert held(memory) == [([7, 3], 2)]
    assert set(memory.engines[0].short.labels.unique().tolist()) == {0, 1, 2}
    memory.remember(encode(propagator, 5), (7, 3), masks(2))  # which was not read
    assert held(memory) == [([7, 3], 3)]


def test_what_is_only_read_leaves_no_trace():
    propagator = tiny(mem_every=1)
    memory, other = started(propagator), started(propagator)
    ahead = encode(propagator, 9)
    memory.read(ahead)
    run(propagator, memory, (1, 2))
    memory.read(ahead)
    run(propagator, other, (1, 2))
    torch.testing.assert_close(run(propagator, memory, (3,)), run(propagator, other, (3,)))


@pytest.mark.parametrize('size', [SIZE, (60, 90)])
def test_what_was_read_is_remembered_as_if_it_were_given(size):
    propagator = tiny(mem_every=2)
    memory, given = (started(propagator, tuple(range(12)), size) for _ in range(2))
    for i in range(1, 5):
        encoded = encode(propagator, i, size)
        found, again = memory.read(encoded), given.read(encoded)
        torch.testing.assert_close(found, again)
        memory.remember(encoded, memory.ids)
        with torch.inference_mode():
            given.remember(encoded, given.ids, again.clone())
            again.zero_()  # what was read belongs to who asked


def test_who_is_left_out_after_reading_is_background():
    propagator = tiny()
    memory = started(propagator, (1, 2, 3))
    encoded = encode(propagator, 1)
    found = memory.read(encoded).argmax(0)
    memory.remember(encoded, (3, 1))
    labels = memory.engines[0].short.labels
    assert torch.equal(labels == 3, found == 3) and torch.equal(labels == 1, found == 1)
    assert held(memory) == [([1, 3], 1)]


def test_an_error_on_the_way_leaves_nothing_half_known(monkeypatch):
    propagator = tiny()
    memory = started(propagator, tuple(range(12)))
    before = memory.engines
    encoded = encode(propagator, 1)
    memory.read(encoded)
    with monkeypatch.context() as patch:
        patch.setattr(propagator.network.id_norm, 'forward', lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            memory.remember(encoded, (3, 90), masks(2))
    assert memory.ids == tuple(range(12)) and memory.engines is before
    memory.remember(encoded, (3, 90), masks(2))
    assert memory.ids == (3, 90)


@pytest.mark.parametrize('size', [(61, 83), (17, 40), (5, 7)])
@pytest.mark.parametrize('options', [{}, {'size': 48}, {'size': 0}], ids=str)
def test_frames_of_any_size(size, options):
    propagator = tiny(mem_every=1, **options)
    memory = started(propagator, size=size)
    for i in range(1, 3):
        found = run(propagator, memory, (i,), size)
        assert found.shape == (3, *size) and found.dtype == torch.float32
        torch.testing.assert_close(found.sum(0), torch.ones(size))


@pytest.mark.parametrize('size', [SIZE, (60, 90)])
def test_frames_of_a_batch_are_encoded_as_alone(size):
    propagator = tiny()
    batch = propagator.encode([frame(i, size) for i in range(3)])
    assert propagator.encode([]) == []
    for i, encoded in enumerate(batch):
        alone = encode(propagator, i, size)
        for ours, theirs in zip(encoded.maps, alone.maps):
            torch.testing.assert_close(ours, theirs)
    view = frame(1, size)._replace(image=frame(1, size).image[:, ::-1])  # of strides, as bgr8
    copy = frame(1, size)._replace(image=frame(1, size).image[:, ::-1].copy())
    (ours,), (theirs,) = propagator.encode([view]), propagator.encode([copy])
    assert torch.equal(ours.maps.f4, theirs.maps.f4)


def test_another_size_needs_a_fresh_memory():
    propagator = tiny()
    memory = started(propagator)
    other = encode(propagator, 1, (65, 65))
    text = r'a frame of \(65, 65\) pixels in a memory of \(65, 97\)'
    with pytest.raises(ValueError, match=text):
        memory.read(other)
    with pytest.raises(ValueError, match=text):
        memory.remember(other, (7,), masks(1, (65, 65)))
    assert memory.ids == (7, 3)
    memory.forget()
    assert memory.ids == () and set(memory.figures().values()) == {0}
    memory.remember(other, (7,), masks(1, (65, 65)))
    assert memory.read(other).shape == (2, 65, 65)


def test_masks_that_fit_nothing_are_refused():
    propagator = tiny()
    memory = started(propagator)
    encoded = encode(propagator, 1)
    for ids, given in (((7,), masks(2)), ((7, 7), masks(2)), ((7,), masks(1, (65, 65)))):
        with pytest.raises(ValueError, match=r'masks .* of ids'):
            memory.remember(encoded, ids, given)
    with pytest.raises(ValueError, match='not read last'):
        memory.remember(encoded, (7,))
    memory.read(encoded)
    with pytest.raises(ValueError, match=r'objects \[8\]'):
        memory.remember(encoded, (7, 8))
    memory.remember(encoded, (3,))  # one of those that were read
    assert memory.ids == (3,)


@pytest.mark.parametrize(
    'values, text',
    [
        ({'size': 7}, 'size is 7; it must be in 16 .. 4096, or 0'),
        ({'mem_every': 0}, 'mem_every'),
        ({'max_frames': 0}, 'max_frames'),
        ({'max_megabytes': 0}, 'max_megabytes'),
    ],
)
def test_options_that_make_no_sense_are_named(values, text):
    with pytest.raises(ConfigError, match=text):
        DeaotPropagatorConfig(**values)


def test_engines_are_merged():
    one = torch.randn(4, 2, 3)
    torch.testing.assert_close(merged([one]), one.softmax(0))
    two = torch.randn(3, 2, 3)
    one[:, 0, 0] = torch.tensor([-30.0, 30.0, 0, 0])
    together = merged([one, two])
    assert together.shape == (6, 2, 3)
    first, second = one.softmax(0), two.softmax(0)
    torch.testing.assert_close(together[0, 1], (first[0] * second[0])[1])
    torch.testing.assert_close(together[4:], second[1:])
    torch.testing.assert_close(together[:2, 0, 0], torch.tensor([1e-5, 1 - 1e-5]))


class _Stripes:
    """A detector that finds the same objects in every frame."""

    takes_words, class_names = False, {0: 'stripe'}

    def detect(self, frames, words=()):
        boxes = np.array([[16 * i, 10, 16 * i + 12, 40] for i in range(12)], np.float32)
        return [Instances(boxes[:6] if each.stamp_ns < 3 else boxes) for each in frames]

    def facts(self):
        return {'model': 'stripes'}


def test_the_method_deva_runs_with_it():
    method = Deva(_Stripes(), tiny())
    session = method.session()
    size = (65, 193)
    results = []
    for i in range(8):
        image = frame(i, size)
        (encoded,) = method.encode([image])
        results += session.update(image, encoded)
    assert len(results) == 8
    figures = session.figures()
    assert figures['memory_bytes'] > 0 and figures['memory_frames'] >= 1
    assert results[5].tracks.track_ids.max() > 6, 'those that came later have ids too'
