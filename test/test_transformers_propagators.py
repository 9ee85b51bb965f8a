# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Propagators of the library transformers: small ones with random weights, from folders."""

import dataclasses
import gc
import itertools
import shutil
import sys

import cv2
import numpy as np
import pytest
import torch
from conftest import scene

from masa_ros import cli, options
from masa_ros.detectors import DETECTORS
from masa_ros.errors import ConfigError, WeightsError
from masa_ros.methods import METHODS
from masa_ros.methods.deva.options import DevaConfig
from masa_ros.propagators import PROPAGATORS
from masa_ros.propagators.transformers import TransformersPropagator, TransformersPropagatorConfig
from masa_ros.recordings.tracks_file import read_tracks
from masa_ros.streams.stream import Stream
from masa_ros.types import Frame, Prompt

transformers = pytest.importorskip('transformers')
pytest.importorskip('timm', reason='the backbone of EdgeTAM')

import sam_kit  # noqa: E402  (needs both)

SHAPE = 48, 80
NETWORKS = 'sam2', 'edgetam', 'sam3'


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """Folders of small networks by name, each made when it is first asked for."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            sam_kit.save(name, made[name])
        return made[name]

    return folder


def load(folder, **chosen):
    config = TransformersPropagatorConfig(weights=str(folder), **chosen)
    return TransformersPropagator.load(config, 'cpu')


def picture(i, shape=SHAPE):
    """A frame of noise, in which a bright patch moves."""
    image = np.random.default_rng(i).integers(0, 128, (*shape, 3), dtype=np.uint8)
    image[10:30, 5 + i % 40 : 30 + i % 40] += 100
    return Frame(image, i)


def painted(*boxes, shape=SHAPE):
    """Masks of boxes (x1, y1, x2, y2) as a memory takes them."""
    masks = torch.zeros(1 + len(boxes), *shape)
    for mask, (left, top, right, bottom) in zip(masks[1:], boxes):
        mask[top:bottom, left:right] = 1
    masks[0] = 1 - masks[1:].sum(0)
    return masks


LEFT, RIGHT, LOW = (5, 10, 30, 30), (50, 5, 75, 25), (35, 30, 60, 45)


def carry_on(propagator, memory, numbers):
    for i in numbers:
        (encoded,) = propagator.encode([picture(i)])
        memory.read(encoded)
        memory.remember(encoded, memory.ids)


def begun(propagator, *boxes, i=0):
    """A memory of objects 7, 8, ... that were shown in a frame."""
    memory = propagator.memory()
    (encoded,) = propagator.encode([picture(i)])
    ids = range(7, 7 + len(boxes))
    memory.remember(encoded, ids, painted(*boxes), certain=True)
    return memory


@pytest.mark.parametrize('name', NETWORKS)
def test_the_numbers_are_those_of_the_librarys_session(saved, name):
    propagator = load(saved(name))
    session = propagator.session()  # the library's own; nothing is ever taken out of it
    library = transformers.Sam2VideoProcessor(
        image_processor=transformers.AutoImageProcessor.from_pretrained(saved(name)),
        video_processor=transformers.Sam2VideoVideoProcessor(),
        target_size=sam_kit.SIDE,
    )
    memory = propagator.memory()
    for i in range(60):
        frame = picture(i)
        (encoded,) = propagator.encode([frame])
        if i == 0:
            masks = painted(LEFT, RIGHT)
            library.add_inputs_to_inference_session(
                session, frame_idx=0, obj_ids=[7, 9], input_masks=list(masks[1:])
            )
            memory.remember(encoded, [7, 9], masks, certain=True)
        pixels = library(images=frame.image, return_tensors='pt').pixel_values[0]
        expected = propagator.network(inference_session=session, frame=pixels)
        if i == 0:
            continue
        look = memory.look(encoded)
        assert torch.equal(look.logits, expected.pred_masks), i
        assert look.logits.std() > 0.01, 'a network that sees nothing shows nothing'
        found = memory.read(encoded)
        (own,) = library.post_process_masks(
            [expected.pred_masks], original_sizes=[SHAPE], binarize=False
        )
        alone = own.amax(0)[0] > 0
        assert torch.equal(found.argmax(0) > 0, alone)
        memory.remember(encoded, memory.ids)
    assert len(session.processed_frames) == 60
    assert memory.figures()['memory_frames'] == 7


def held():
    """Number and bytes of all tensors that live."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if type(each) is torch.Tensor]
    stores = {each.untyped_storage().data_ptr(): each.untyped_storage() for each in tensors}
    return len(tensors), sum(store.nbytes() for store in stores.values())


@pytest.mark.parametrize(
    'name, prompt_every', [('sam2', 0), ('sam2', 5), ('edgetam', 5), ('sam3', 5)]
)
def test_the_memory_does_not_grow(saved, name, prompt_every):
    propagator = load(saved(name))
    memory = begun(propagator, LEFT, RIGHT)
    every = propagator.encode([picture(i) for i in range(10)])
    seen = []
    for i in range(1, 301):
        encoded = every[i % 10]
        memory.read(encoded)
        if prompt_every and i % prompt_every == 0:
            memory.remember(encoded, memory.ids, painted(LEFT, RIGHT), certain=True)
        else:
            memory.remember(encoded, memory.ids)
        if i % 50 == 0:
            seen.append((memory.figures(), held()))
    assert all(each == seen[0] for each in seen), seen
    figures = seen[0][0]
    # Of six frames before, the last one, or two with a prompt every five, are prompts.
    assert figures['memory_frames'] == (8 if prompt_every else 7)
    stored = sum(x.nbytes for x in every_tensor(memory))
    assert figures['memory_bytes'] == stored
    memory.forget()
    assert memory.ids == () and memory.figures() == {'memory_frames': 0, 'memory_bytes': 0}


def every_tensor(memory):
    """All tensors of a memory that has nothing read, each once."""
    found = {}
    waiting = list(vars(memory).values())
    while waiting:
        each = waiting.pop()
        if isinstance(each, torch.Tensor):
            assert each.untyped_storage().nbytes() == each.nbytes, 'a view of something larger'
            found[each.data_ptr()] = each
        elif isinstance(each, dict):
            waiting += each.values()
        elif isinstance(each, tuple):
            waiting += each
    return found.values()


@pytest.mark.parametrize('name', NETWORKS)
def test_objects_come_and_go(saved, name):
    propagator = load(saved(name))
    memory, alone = begun(propagator, LEFT, RIGHT), begun(propagator, LEFT)
    for each in (memory, alone):
        carry_on(propagator, each, range(1, 9))
    (encoded,) = propagator.encode([picture(9)])
    assert memory.read(encoded).shape == (3, *SHAPE)
    memory.remember(encoded, [8, 9, 7], painted(RIGHT, LOW, LEFT))
    alone.remember(encoded, [7], painted(LEFT))
    assert memory.ids == (8, 9, 7)
    carry_on(propagator, memory, [10])
    memory.drop([8])
    carry_on(propagator, memory, range(11, 20))
    carry_on(propagator, alone, range(10, 20))
    assert memory.ids == (9, 7)
    (encoded,) = propagator.encode([picture(20)])
    together, single = memory.look(encoded).logits, alone.look(encoded).logits
    # Every object is known by itself; in a pass of several, numbers are rounded in another way.
    apart = (together[0] - together[1]).abs().mean()
    assert apart > 0.05
    assert (together[1] - single[0]).abs().mean() < 0.1 * apart
    found = memory.read(encoded)
    torch.testing.assert_close(found.sum(0), torch.ones(SHAPE))
    memory.remember(encoded, [7])
    assert memory.ids == (7,)
    memory.remember(encoded, [], painted())
    assert memory.ids == () and (memory.read(encoded) == 1).all()


def test_one_object_has_its_sigmoid(saved):
    propagator = load(saved('sam2'))
    memory = begun(propagator, LEFT)
    (encoded,) = propagator.encode([picture(1)])
    logits = memory.look(encoded).logits
    upright = torch.nn.functional.interpolate(logits, SHAPE, mode='bilinear')[0, 0]
    torch.testing.assert_close(memory.read(encoded)[1], upright.sigmoid())


def test_reading_leaves_no_trace(saved):
    propagator = load(saved('sam2'))
    memory, other = begun(propagator, LEFT, RIGHT), begun(propagator, LEFT, RIGHT)
    for i in range(1, 6):
        (encoded, ahead) = propagator.encode([picture(i), picture(i + 20)])
        memory.read(ahead)
        with torch.inference_mode():
            memory.read(encoded)[:] = 0  # whoever gets them may draw in them
        assert torch.equal(memory.read(encoded), other.read(encoded))
        memory.remember(encoded, memory.ids)
        other.remember(encoded, other.ids)


def test_what_somebody_is_certain_of_stays(saved):
    propagator = load(saved('sam2'), max_prompted=3)
    memory = begun(propagator, LEFT)
    nothing = painted((0, 0, 0, 0))
    for i in range(1, 40):
        (encoded,) = propagator.encode([picture(i)])
        before = memory.read(encoded)
        if i % 10 == 0:
            memory.remember(encoded, [7], painted(RIGHT), certain=True)
            after = memory.read(encoded)
            assert (before - after).abs().max() > 1e-3, 'it was corrected'
        elif i % 10 == 5:  # it is not seen
            memory.remember(encoded, [7], nothing, certain=True)
        else:
            memory.remember(encoded, [7], painted(RIGHT) if i % 10 == 6 else None)
    prompts = [index for index, seen in memory.known[7].items() if seen.prompted]
    assert prompts == [0, 20, 30]
    newest = [index for index, seen in memory.known[7].items() if not seen.prompted]
    assert newest == [i for i in range(25, 40) if i != 30]
    full = [index for index in newest if memory.known[7][index].features is not None]
    assert full == list(range(34, 40))
    propagator.configure(dataclasses.replace(propagator.config, max_prompted=1))
    carry_on(propagator, memory, [40])
    assert [index for index, seen in memory.known[7].items() if seen.prompted] == [30]


def test_images_are_encoded_once(saved):
    propagator = load(saved('sam2'))
    passes = []
    propagator.network.vision_encoder.register_forward_hook(lambda *given: passes.append(1))
    assert propagator.encode([]) == []
    first, second = propagator.encode([picture(1), picture(2)])
    assert len(passes) == 1
    for frame, encoded in ((picture(1), first), (picture(2), second)):
        (single,) = propagator.encode([frame])
        for one, other in zip(single.features + single.positions, encoded[2] + encoded[3]):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    passes.clear()
    memory = propagator.memory()
    memory.remember(first, [1, 2], painted(LEFT, RIGHT), certain=True)
    for encoded in (second, first, second):
        memory.read(encoded)
        memory.remember(encoded, memory.ids)
    assert not passes


def test_frames_may_change_their_size(saved):
    propagator = load(saved('sam2'))
    memory = begun(propagator, LEFT)
    large = 96, 160
    (encoded,) = propagator.encode([picture(1, large)])
    assert memory.read(encoded).shape == (2, *large)
    memory.remember(encoded, [7], painted(LEFT, shape=large))
    with pytest.raises(ValueError, match='masks'):
        memory.remember(encoded, [7], painted(LEFT))


def test_what_does_not_fit_is_refused(saved):
    propagator = load(saved('sam2'))
    memory = begun(propagator, LEFT)
    one, other = propagator.encode([picture(1), picture(2)])
    for ids, masks, text in (
        ([7], None, 'not read last'),
        ([7, 8], painted(LEFT), r'masks \(2, 48, 80\) of ids \(7, 8\)'),
        ([7, 7], painted(LEFT, RIGHT), 'masks'),
    ):
        with pytest.raises(ValueError, match=text):
            memory.remember(one, ids, masks)
    memory.read(other)
    with pytest.raises(ValueError, match='not read last'):
        memory.remember(one, [7])
    with pytest.raises(ValueError, match=r'the objects \[8\]'):
        memory.remember(other, [7, 8])
    before = dict(memory.known)
    memory.drop([99])
    assert memory.known == before


def test_the_published_file_of_sam3_holds_the_tracker(saved):
    whole = transformers.Sam3VideoModel.from_pretrained(saved('sam3_video'))
    propagator = load(saved('sam3_video'))
    assert propagator.facts()['model'] == 'Sam3TrackerVideoModel'
    own, backbone = dict(propagator.network.named_parameters()), whole.detector_model
    theirs = dict(whole.tracker_model.named_parameters())
    theirs |= {f'vision_encoder.neck.{k}': v for k, v in whole.tracker_neck.named_parameters()}
    theirs |= {
        f'vision_encoder.backbone.{key}': value
        for key, value in backbone.vision_encoder.backbone.named_parameters()
    }
    assert own.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in own.items())


@pytest.mark.parametrize('method', ['deva', 'sam_track'])
@pytest.mark.parametrize('name', ['sam2', 'edgetam'])
def test_methods_run_with_it(saved, seeded_weights, tmp_path, method, name):
    frames = tmp_path / 'frames'
    frames.mkdir()
    for k in range(8):
        cv2.imwrite(str(frames / f'{k}.png'), scene(4 * k)[:, :, ::-1])
    chosen = {
        **({'find': 'everything'} if method == 'sam_track' else {}),
        'method': method,
        'propagator': 'transformers',
        'transformers-weights': str(saved(name)),
        'weights': str(seeded_weights),
        'score-threshold': '0',
        'max-instances': '4',
        'detection-every': '3',
        'device': 'cpu',
        'output': str(tmp_path / 'out'),
    }
    arguments = [part for key, value in chosen.items() for part in (f'--{key}', value)]
    assert cli.main(['replay', str(frames), *arguments]) == 0
    tracked = read_tracks(tmp_path / 'out' / 'tracks.json')
    assert len(tracked) == 8
    ids = [set(frame.instances.track_ids.tolist()) for frame in tracked]
    assert any(one & other for one, other in itertools.pairwise(ids)), 'nothing was carried on'


@pytest.mark.parametrize('name', ['deva', 'sam_track'])
def test_what_is_pointed_at_is_carried_on_until_it_is_removed(saved, name):
    values = {
        'device': 'cpu',
        'find': 'nothing',
        'propagator': 'transformers',
        'transformers.weights': str(saved('sam2')),
    }
    kind = METHODS[name]
    stream = Stream(kind.load(options.build(kind.options, values), lambda text: None))

    def track(t, size=(240, 320)):
        return stream.track(Frame(np.ascontiguousarray(scene(t, size)), (t + 1) * 100_000_000))

    track(0)
    for place, expected in (((70, 80), [1]), ((215, 150), [2])):
        tracks = stream.ask(Prompt(0, 0, np.array([place], np.float32))).tracks
        assert tracks.track_ids.tolist() == expected
    seen = set()
    for t in range(1, 8):
        for result in track(t):
            seen |= set(result.tracks.track_ids.tolist())
    assert seen == {1, 2}, 'objects of a random network are somewhere'
    assert stream.figures()['memory_frames'] >= 7
    tracks = stream.ask(Prompt(0, 1, box=np.array((36, 46, 105, 115), np.float32))).tracks
    assert tracks.track_ids.tolist() == [1]
    track(8)
    assert stream.remove(2) and not stream.remove(2)
    track(9, (120, 160))  # another camera mode: the objects go on
    results = [*track(10, (120, 160)), *stream.finish()]
    assert all(set(result.tracks.track_ids.tolist()) <= {1} for result in results)
    assert stream.figures()['tracks_in_memory'] == 1
    stream.reset()
    assert stream.figures()['memory_bytes'] == 0


def test_options_stand_beside_those_of_the_detector():
    kinds = DETECTORS['transformers'].options, PROPAGATORS['transformers'].options
    one, other = ({each.name for each in options.listed(kind)} for kind in kinds)
    assert not one & other
    values = {
        'detector': 'transformers',
        'propagator': 'transformers',
        'transformers.model': 'a/detector',
        'transformers.weights': 'a/propagator',
    }
    chosen = options.build(DevaConfig, values)
    assert chosen.finder.model == 'a/detector'
    assert chosen.carrier.weights == 'a/propagator'


def test_what_is_missing_is_named(saved, tmp_path, monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    text = tmp_path / 'text'
    transformers.CLIPTextConfig(architectures=['CLIPTextModel']).save_pretrained(text)
    silent = tmp_path / 'silent'
    shutil.copytree(saved('sam2'), silent)
    (silent / 'preprocessor_config.json').unlink()
    hollow = tmp_path / 'hollow'
    shutil.copytree(saved('sam2'), hollow)
    (hollow / 'model.safetensors').write_bytes(b'nothing')
    for name, kind, words in (
        (tmp_path / 'nothing', WeightsError, 'there is no folder'),
        ('masa-ros-test/nothing', WeightsError, "no model 'masa-ros-test/nothing' from the hub"),
        (tmp_path, WeightsError, f'no model in {tmp_path}'),
        (hollow, WeightsError, f'no model in {hollow}'),
        (silent, WeightsError, f'no image processor in {silent}'),
        (text, ConfigError, 'carries no masks on: it holds CLIPTextModel'),
    ):
        with pytest.raises(kind, match=words) as error:
            load(name)
        assert '\n' not in str(error.value), name
    with pytest.raises(ConfigError, match='device'):
        PROPAGATORS['transformers'].load(TransformersPropagatorConfig(), 'quantum')
    monkeypatch.setitem(sys.modules, 'transformers', None)
    with pytest.raises(ConfigError, match='needs the package transformers: pip install'):
        load(saved('sam2'))
