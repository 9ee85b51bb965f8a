# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""DEVA's network and memory: what is remembered, for how long, and what it costs."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import scene
from safetensors.torch import save_file

from masa_ros.errors import ConfigError, WeightsError
from masa_ros.models.deva import weights
from masa_ros.models.deva.network import DevaNetwork, DevaSizes, aggregate, probabilities
from masa_ros.models.deva.reading import similarity, strongest, weighted_sum
from masa_ros.propagators import PROPAGATORS
from masa_ros.propagators.deva import DevaPropagator, DevaPropagatorConfig
from masa_ros.propagators.deva.buckets import Bucket, Tokens
from masa_ros.types import Frame

SHARED = Path(os.environ.get('MASA_ROS_SHARED', Path(__file__).parents[2] / 'shared'))
TOOLS = Path(__file__).parents[1] / 'tools'
TINY = DevaSizes(8, 32, 16, 8, 16, (1, 1, 1), (1, 1, 1))
SIZE = (64, 96)
PLACES = 4 * 6


def tiny(**options):
    """A propagator of few channels; every test gets the same weights."""
    torch.manual_seed(0)
    options = {'size': 0, 'top_k': 5} | options
    return DevaPropagator(DevaNetwork(TINY), DevaPropagatorConfig(**options), 'cpu')


def frame(i, size=SIZE):
    return Frame(np.ascontiguousarray(scene(2 * i)[: size[0], : size[1]]), i)


def encode(propagator, i, size=SIZE):
    (encoded,) = propagator.encode([frame(i, size)])
    return encoded


def masks(count, size=SIZE):
    """Upright stripes, one for each object, and ground beside them."""
    drawn = torch.zeros(1 + count, *size)
    for i in range(count):
        drawn[1 + i, 8:40, 12 * i : 12 * i + 9] = 1
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
    return [(bucket.ids, bucket.tokens.size - bucket.long) for bucket in memory.buckets]


def test_the_registry_knows_it():
    kind = PROPAGATORS['deva']
    assert kind.options is DevaPropagatorConfig
    assert tiny().facts()['model'] == 'DEVA'


def test_without_objects_everything_is_background():
    propagator = tiny()
    memory = propagator.memory()
    for i in range(7):
        encoded = encode(propagator, i)
        found = memory.read(encoded)
        assert found.shape == (1, *SIZE) and (found == 1).all()
        memory.remember(encoded, (), found, certain=i == 3)
    assert memory.ids == () and held(memory) == []
    assert set(memory.figures().values()) == {0}


def test_objects_come_and_go():
    propagator = tiny(mem_every=2)
    memory = started(propagator)
    assert memory.ids == (7, 3) and held(memory) == [([7, 3], PLACES)]
    found = run(propagator, memory, (1,))
    assert found.shape == (3, *SIZE)
    torch.testing.assert_close(found.sum(0), torch.ones(SIZE))
    assert held(memory) == [([7, 3], PLACES)]  # between the frames that are kept
    encoded = encode(propagator, 2)
    found = memory.read(encoded)
    memory.remember(encoded, (7, 3, 20, 5), masks(4))
    assert held(memory) == [([7, 3], 2 * PLACES), ([20, 5], PLACES)]
    encoded = encode(propagator, 3)
    assert memory.read(encoded).shape == (5, *SIZE)
    memory.remember(encoded, (20, 7), masks(2), certain=True)  # in another order
    assert memory.ids == (20, 7)
    assert held(memory) == [([7], 3 * PLACES), ([20], 2 * PLACES)]
    memory.drop([20])
    assert memory.ids == (7,) and held(memory) == [([7], 3 * PLACES)]
    assert run(propagator, memory, (4, 5)).shape == (2, *SIZE)
    memory.drop([7])
    assert memory.ids == () and memory.figures()['memory_bytes'] == 0
    assert (run(propagator, memory, (6,)) == 1).all()
    memory.remember(encode(propagator, 7), (7,), masks(1))  # and begins anew
    assert held(memory) == [([7], PLACES)]


def test_an_object_without_pixels_is_an_object():
    propagator = tiny()
    memory = propagator.memory()
    drawn = masks(2)
    drawn[2] = 0
    memory.remember(encode(propagator, 0), (1, 2), drawn, certain=True)
    assert memory.ids == (1, 2)
    assert run(propagator, memory, range(1, 4)).isfinite().all()


def test_who_is_dropped_was_never_there():
    propagator = tiny()
    memory, alone = started(propagator, (1, 2, 3)), started(propagator, (1,))
    memory.drop((2, 3))
    for ours, theirs in zip(memory.buckets[0].tokens, alone.buckets[0].tokens):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        run(propagator, memory, range(1, 7)), run(propagator, alone, range(1, 7))
    )


@pytest.mark.parametrize('long_term', [True, False])
def test_the_memory_is_bounded(long_term):
    propagator = tiny(
        mem_every=1, max_mid=4, min_mid=2, prototypes=5, max_long=12, long_term=long_term
    )
    memory = started(propagator)
    figures = []
    for i in range(1, 40):
        encoded = encode(propagator, i % 20)
        memory.read(encoded)
        ids = memory.ids if i != 3 else (*memory.ids, 11)
        given = None if i != 3 else masks(3)
        memory.remember(encoded, ids, given, certain=i % 7 == 0)
        figures.append(memory.figures())
    early, late = figures[:20], figures[20:]
    for name in ('memory_frames', 'memory_bytes', 'memory_prototypes'):
        assert max(each[name] for each in late) == max(each[name] for each in early)
    assert max(each['memory_frames'] for each in figures) == 3
    most = 12 if long_term else 0
    assert all(bucket.long <= most for bucket in memory.buckets)
    assert any(bucket.long for bucket in memory.buckets) is long_term


def test_the_bytes_are_those_of_all_tensors():
    memory = started(tiny())
    tokens = PLACES * (8 + 8 + 1 + 2 * 32 + 2)
    states = 2 * PLACES * (32 + 1)
    assert memory.figures() == {
        'memory_frames': 1,
        'memory_bytes': 4 * (tokens + states),
        'memory_prototypes': 0,
    }


def test_the_first_frame_the_last_and_the_most_used_places_stay():
    config = DevaPropagatorConfig(max_mid=4, min_mid=2, prototypes=3, max_long=10)

    def tokens(i):
        torch.manual_seed(i)
        keys = torch.randn(PLACES, 8)
        return Tokens.unread(
            keys, torch.rand(PLACES, 8), torch.ones(PLACES, 1), torch.randn(PLACES, 2, 4)
        )

    frames = [tokens(i) for i in range(4)]
    bucket = Bucket((1, 2), frames[0])
    for each in frames[1:3]:
        bucket.add(each, config)
    assert bucket.tokens.size == 3 * PLACES
    bucket.read(torch.randn(5, 8), torch.rand(5, 8), 4)
    used = (PLACES + 3, PLACES + 20, 2 * PLACES + 1)  # of the frames in between
    bucket.tokens.uses[list(used)] = torch.tensor((8.0, 9.0, 7.0))
    bucket.tokens.uses[0] = 100  # of the first frame, which stays anyway
    keys = bucket.tokens.keys.clone()
    bucket.add(frames[3], config)
    assert bucket.long == 3 and bucket.tokens.size == 3 + 2 * PLACES
    now = bucket.tokens
    assert torch.equal(now.keys[:3], keys[[used[1], used[0], used[2]]])
    assert torch.equal(now.keys[3 : 3 + PLACES], frames[0].keys)
    assert torch.equal(now.keys[3 + PLACES :], frames[3].keys)
    assert now.uses[:3].tolist() == [0, 0, 0] and now.uses[3] == 100
    # A prototype's value is a mean of values: within their range.
    between = torch.cat([each.values for each in frames[1:3]])
    assert (now.values[:3] <= between.amax(0)).all() and (now.values[:3] >= between.amin(0)).all()


def test_the_least_used_places_leave_the_long_term_memory():
    config = DevaPropagatorConfig(max_mid=2, min_mid=1, prototypes=3, max_long=10)
    torch.manual_seed(0)

    def tokens():
        values = torch.randn(PLACES, 1, 4)
        return Tokens.unread(
            torch.randn(PLACES, 8), torch.rand(PLACES, 8), torch.ones(PLACES, 1), values
        )

    bucket = Bucket((1,), tokens())
    for _ in range(3):
        bucket.add(tokens(), config)
    assert bucket.long == 9  # more than 7, which leaves room for three: two have to go
    bucket.tokens.reads.fill_(1)
    bucket.tokens.uses[:9] = torch.tensor((5.0, 1, 2, 2, 4, 6, 7, 8, 9))
    keys = bucket.tokens.keys.clone()
    bucket.add(tokens(), config)
    assert bucket.long == 6 + 3  # what equals the last of them goes too
    assert torch.equal(bucket.tokens.keys[:6], keys[[0, 4, 5, 6, 7, 8]])


def test_what_is_only_read_leaves_no_trace():
    propagator = tiny(mem_every=1)
    memory, other = started(propagator), started(propagator)
    ahead = encode(propagator, 9)
    memory.read(ahead)
    run(propagator, memory, (1, 2))
    memory.read(ahead)
    run(propagator, other, (1, 2))
    torch.testing.assert_close(run(propagator, memory, (3,)), run(propagator, other, (3,)))


def test_what_was_read_is_remembered_as_if_it_were_given():
    propagator = tiny(mem_every=2)
    memory, given = started(propagator), started(propagator)
    for i in range(1, 6):
        encoded = encode(propagator, i)
        found, again = memory.read(encoded), given.read(encoded)
        torch.testing.assert_close(found, again)
        memory.remember(encoded, memory.ids)
        given.remember(encoded, given.ids, again)


def test_what_was_read_belongs_to_who_asked():
    propagator = tiny()
    memory, other = started(propagator), started(propagator)
    encoded = encode(propagator, 1)
    with torch.inference_mode():
        memory.read(encoded).zero_()
    other.read(encoded)
    for each in (memory, other):
        each.remember(encoded, each.ids)
    assert torch.equal(run(propagator, memory, (2,)), run(propagator, other, (2,)))


def test_an_error_on_the_way_leaves_nothing_half_known(monkeypatch):
    propagator = tiny()
    memory = started(propagator)
    encoded = encode(propagator, 1)
    memory.read(encoded)
    with monkeypatch.context() as patch:
        patch.setattr(propagator.network.mask_encoder, 'forward', lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            memory.remember(encoded, (3, 9), masks(2))
    assert memory.ids == (3,) and held(memory) == [([3], PLACES)]
    assert run(propagator, memory, (2,)).shape == (2, *SIZE)
    memory.remember(encode(propagator, 3), (3, 9), masks(2))
    assert held(memory) == [([3], 2 * PLACES), ([9], PLACES)]


@pytest.mark.parametrize('size', [(61, 83), (17, 40), (5, 7)])
@pytest.mark.parametrize('options', [{}, {'size': 48}, {'size': 48, 'resize': 'eval'}], ids=str)
def test_frames_of_any_size(size, options):
    propagator = tiny(mem_every=1, **options)
    memory = started(propagator, size=size)
    for i in range(1, 3):
        found = run(propagator, memory, (i,), size)
        assert found.shape == (3, *size)
        torch.testing.assert_close(found.sum(0), torch.ones(size))


def _place(height, width, size, rule):
    return DevaPropagatorConfig(size=size, resize=rule).placement(height, width)


def test_a_frame_lies_in_the_middle():
    assert _place(185, 250, 0, 'demo').padding == (3, 3, 3, 4)
    place = _place(60, 81, 96, 'demo')
    assert place[2:4] == (96, 129) and place.padding == (7, 8, 0, 0)
    assert _place(720, 1280, 480, 'eval')[2:4] == (480, 853)
    assert _place(1280, 720, 480, 'eval')[2:4] == (853, 480)
    drawn = masks(2, (60, 81))
    inside = place.masks_in(drawn[1:])
    assert inside.shape == (2, 96, 144) and set(inside.unique().tolist()) == {0, 1}
    whole = _place(61, 83, 0, 'demo')
    assert torch.equal(whole.masks_out(whole.masks_in(masks(3, (61, 83)))), masks(3, (61, 83)))


def test_all_objects_at_once_or_one_by_one():
    together, single = tiny(mem_every=1), tiny(mem_every=1, chunk=1)
    ours, theirs = started(together, (1, 2, 3)), started(single, (1, 2, 3))
    torch.testing.assert_close(run(together, ours, range(1, 4)), run(single, theirs, range(1, 4)))


def test_frames_of_a_batch_are_encoded_as_alone():
    propagator = tiny()
    batch = propagator.encode([frame(i) for i in range(3)])
    assert propagator.encode([]) == []
    for i, encoded in enumerate(batch):
        alone = encode(propagator, i)
        torch.testing.assert_close(encoded.keys, alone.keys)
        torch.testing.assert_close(encoded.maps.f4, alone.maps.f4)
        assert encoded.keys.untyped_storage().nbytes() == encoded.keys.nbytes
    view = frame(1)._replace(image=frame(1).image[:, ::-1])  # of strides, as bgr8 gives it
    copy = frame(1)._replace(image=frame(1).image[:, ::-1].copy())
    (ours,), (theirs,) = propagator.encode([view]), propagator.encode([copy])
    assert torch.equal(ours.image, theirs.image)


def test_another_size_needs_a_fresh_memory():
    propagator = tiny()
    memory = started(propagator)
    other = encode(propagator, 1, (64, 64))
    with pytest.raises(ValueError, match=r'a frame of \(4, 4\) positions in a memory of \(4, 6\)'):
        memory.read(other)
    with pytest.raises(ValueError, match='positions'):
        memory.remember(other, (7,), masks(1, (64, 64)))
    assert memory.ids == (7, 3)
    memory.forget()
    assert memory.ids == () and set(memory.figures().values()) == {0}
    memory.remember(other, (7,), masks(1, (64, 64)))
    assert memory.read(other).shape == (2, 64, 64)


def test_masks_that_fit_nothing_are_refused():
    propagator = tiny()
    memory = started(propagator)
    encoded = encode(propagator, 1)
    for ids, given in (((7,), masks(2)), ((7, 7), masks(2)), ((7,), masks(1, (64, 64)))):
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
        ({'min_mid': 10}, 'min_mid is 10; it must be below max_mid, which is 10'),
        ({'prototypes': 500, 'max_long': 500}, 'prototypes is 500'),
        ({'resize': 'nearest'}, 'resize'),
        ({'size': 7}, 'size is 7; it must be in 16 .. 4096, or 0'),
        ({'mem_every': 0}, 'mem_every'),
    ],
)
def test_options_that_make_no_sense_are_named(values, text):
    with pytest.raises(ConfigError, match=text):
        DevaPropagatorConfig(**values)


def test_similarity_is_the_weighted_distance():
    torch.manual_seed(0)
    keys, memory, selections = torch.randn(5, 8), torch.randn(9, 8), torch.rand(5, 8)
    shrinkage = 1 + torch.rand(9, 1)
    apart = (selections[:, None] * (memory[None] - keys[:, None]).square()).sum(2)
    expected = -apart * shrinkage[:, 0] / 8**0.5
    found = similarity(keys, selections, memory, shrinkage)
    torch.testing.assert_close(found, expected)
    weights_, index = strongest(found, 4)
    dense = torch.zeros(5, 9).scatter(1, index, weights_)
    assert (dense > 0).sum(1).tolist() == [4] * 5
    torch.testing.assert_close(dense.sum(1), torch.ones(5))
    values = torch.randn(9, 6)
    torch.testing.assert_close(weighted_sum(weights_, index, values), dense @ values)


def test_far_away_and_few_places_are_read():
    """The published code divides nothing by nothing, and asks for more places than there are."""
    weights_, index = strongest(torch.tensor([[-900.0, -901.0, -1e6]]), 30)
    assert index.shape == (1, 3)
    torch.testing.assert_close(
        weights_.sort().values, torch.tensor([[0.0, 1 - 0.7310586, 0.7310586]])
    )


@pytest.mark.parametrize('size', [40, 43, 47])
def test_the_best_of_many_places_are_read(size):
    """Also where they stand side by side, or behind the last whole group."""
    torch.manual_seed(0)
    many = torch.randn(6, size)
    many[0, 8:12] += 5
    many[1, -4:] += 5
    many[2, ::8][:4] += 5
    weights_, index = strongest(many, 4)
    expected = many.topk(4)
    assert torch.equal(index.sort().values, expected.indices.sort().values)
    dense = torch.zeros_like(many).scatter(1, index, weights_)
    best = torch.zeros_like(many).scatter(1, expected.indices, expected.values.softmax(1))
    torch.testing.assert_close(dense, best)


def test_where_no_object_is_there_is_background():
    drawn = torch.zeros(2, 1, 3)
    drawn[0, 0, 0], drawn[1, 0, 1] = 1, 0.5
    logits = aggregate(drawn)
    assert logits[:, 0].argmax(0).tolist()[0] == 1
    torch.testing.assert_close(logits[0, 0, 2], torch.tensor(15.942385))
    torch.testing.assert_close(logits[1, 0, 2], torch.tensor(-16.118095))
    assert aggregate(torch.zeros(0, 2, 2)).shape == (1, 2, 2)
    found = probabilities(torch.randn(3, 4, 5))
    assert found.shape == (4, 16, 20)
    torch.testing.assert_close(found.sum(0), torch.ones(16, 20))


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_weights_are_read(tmp_path, suffix):
    torch.manual_seed(1)
    state = DevaNetwork(TINY).state_dict()
    kept = {k: v for k, v in state.items() if not k.endswith('num_batches_tracked')}
    path = tmp_path / f'deva{suffix}'
    if suffix == '.pth':
        torch.save(kept, path)
    else:
        save_file(kept, path)
    network = tiny().network
    weights.load(network, path)
    for name, value in kept.items():
        assert torch.equal(network.state_dict()[name], value)
    kept['extra'] = kept.pop('mask_decoder.pred.bias')
    torch.save(kept, tmp_path / 'other.pth')
    text = '2 differences: mask_decoder.pred.bias is missing; extra is unknown'
    with pytest.raises(WeightsError, match=text):
        weights.load(network, tmp_path / 'other.pth')


def test_weights_of_another_network_are_refused(tmp_path, seeded_weights, monkeypatch):
    def load(path):
        return PROPAGATORS['deva'].load(DevaPropagatorConfig(weights=str(path)), 'cpu')

    with pytest.raises(WeightsError, match="does not fit DEVA's propagation network"):
        load(seeded_weights)
    narrow = dataclasses.replace(TINY, image_depths=(3, 4, 6), mask_depths=(2, 2, 2))
    save_file(DevaNetwork(narrow).state_dict(), tmp_path / 'tiny.safetensors')
    with pytest.raises(WeightsError, match=r'has shape \(.*\), expected \('):
        load(tmp_path / 'tiny.safetensors')
    for name in ('broken.pth', 'broken.safetensors'):
        (tmp_path / name).write_bytes(b'PK and then nothing')
        with pytest.raises(WeightsError, match=name):
            load(tmp_path / name)
    with pytest.raises(WeightsError, match=r'there is no file .*absent\.pth'):
        load(tmp_path / 'absent.pth')
    monkeypatch.setenv('MASA_ROS_WEIGHTS', str(tmp_path))
    with pytest.raises(WeightsError, match=r'masa_ros weights fetch DEVA-propagation\.pth'):
        load('')
    with pytest.raises(ConfigError, match='device'):
        PROPAGATORS['deva'].load(DevaPropagatorConfig(), 'abacus')


def test_numbers_of_the_original(monkeypatch):
    folder = SHARED / 'parity' / 'deva'
    if not (folder / 'network.npz').is_file():
        pytest.skip(f'the numbers of the original code are not at {folder}')
    monkeypatch.syspath_prepend(str(TOOLS))
    from parity_checks import deva, report

    fixtures = report.Fixtures(folder, report.load_seeded(folder.parent))
    lines = report.Report()
    arrays = fixtures.arrays('network.npz')
    with torch.inference_mode():
        propagator = deva.load_propagator(fixtures)
        encoded = [deva.encode(propagator, image) for image in arrays['frames.rgb'][:4]]
        deva.compare_stages(lines, fixtures, propagator, arrays, encoded)
        deva.compare_masks_given(lines, propagator, arrays, ('F',))
        deva.compare_projection(lines, propagator, arrays, encoded)
        deva.compare_preprocessing(lines, fixtures)
    assert lines.lines > 50 and not lines.failed
