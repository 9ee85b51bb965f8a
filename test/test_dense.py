# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One-stage proposals: what they say, how they are asked, how they learn."""

import dataclasses
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import scene
from engine_kit import STAGES, detector

from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.engines.prepare import EngineConfig
from masa_ros.errors import ConfigError
from masa_ros.methods.masa import Masa, MasaConfig
from masa_ros.models.configs import CspConfig, DenseConfig
from masa_ros.models.csp import Csp
from masa_ros.models.dense import DenseHead, DenseMaps
from masa_ros.models.network import MasaNetwork
from masa_ros.models.zoo import model_config
from masa_ros.streams.stream import Stream
from masa_ros.tracking.geometry import ious
from masa_ros.training.dense_losses import assign, dense_loss, keep_loss
from masa_ros.training.mask_losses import outline_loss
from masa_ros.training.targets import LossConfig, Rois, Target
from masa_ros.types import Frame, Instances

SHARED = Path(os.environ.get('MASA_ROS_SHARED', Path(__file__).parents[2] / 'shared'))
TOOLS = Path(__file__).parents[1] / 'tools'
NANO = model_config('masa_nano')
STRIDES = (8, 16, 32)


def target(boxes, doubtful=(), size=(64, 64), drawn=True):
    """An image of these boxes, all filled."""
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    masks = torch.zeros(len(boxes), *size)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist()):
        mask[y0:y1, x0:x1] = 1
    return Target(
        boxes,
        masks,
        torch.arange(len(boxes)),
        torch.zeros(size, dtype=torch.bool),
        torch.full((len(boxes),), drawn),
        torch.tensor(doubtful, dtype=torch.float32).reshape(-1, 4),
    )


@pytest.fixture(scope='module')
def shipped():
    return MasaDetector.load(DetectorConfig(device='cpu'))


@pytest.fixture
def head():
    torch.manual_seed(0)
    made = DenseHead((16, 32, 64), STRIDES, DenseConfig(32, 5, 11, 16))
    for output in made.known.output:
        torch.nn.init.normal_(output.weight, std=0.3)
    return made


def maps(rows=9, columns=13):
    sizes = [(-(-rows // (1 << i)), -(-columns // (1 << i))) for i in range(3)]
    return [torch.randn(2, 16 << i, *size) for i, size in enumerate(sizes)]


@pytest.mark.parametrize('size', [(64, 96), (33, 65), (7, 5)])
def test_the_backbone_halves_and_doubles(size):
    found = Csp(CspConfig())(torch.zeros(1, 3, *size))
    for stride, channels, x in zip(
        (4, 8, 16, 32), (64, 128, 256, 512), (found.detail, *found.maps)
    ):
        assert x.shape == (1, channels, *(-(-side // stride) for side in size))


def test_candidates_are_the_best_positions_of_every_level(head):
    found = head(maps())
    seen = head.candidates(found, 20)
    assert seen.boxes.shape == (2, 20 + 20 + 12, 4)  # the last level has no more
    everything = head.candidates(found, 10_000)
    assert everything.boxes.shape[1] == 9 * 13 + 5 * 7 + 3 * 4
    for image in range(2):
        start = 0
        for stride, objects, distances, classes in zip(STRIDES, *found):
            rows, columns = objects.shape[2:]
            order = objects[image, 0].flatten().argsort(descending=True)
            for i, place in enumerate(order.tolist()):
                y, x = divmod(place, columns)
                share = distances[image, :, y, x].reshape(4, 11).softmax(1)
                edges = (share * torch.arange(11)).sum(1) * stride
                middle = torch.tensor([x + 0.5, y + 0.5]) * stride
                box = torch.cat((middle - edges[:2], middle + edges[2:]))
                torch.testing.assert_close(
                    everything.boxes[image, start + i], box, atol=1e-3, rtol=0
                )
                assert everything.logits[image, start + i] == objects[image, 0, y, x]
                torch.testing.assert_close(
                    everything.classes[image, start + i], classes[image, :, y, x]
                )
            start += rows * columns


def test_the_adapter_begins_by_adding_nothing(head):
    seen = maps()
    found = head(seen)
    for objects, classes in zip(found.objects, found.classes):
        torch.testing.assert_close(objects[:, 0], classes.max(1).values)
    with torch.no_grad():
        head.object.bias += 1
    # What it adds later goes to the objects alone, not to the classes.
    for before, after in zip(found.objects, head(seen).objects):
        torch.testing.assert_close(after, before + 1)
    for before, after in zip(found.classes, head(seen).classes):
        assert torch.equal(before, after)


def test_published_weights_say_what_they_said(tmp_path, monkeypatch):
    folder = SHARED / 'pretrained'
    if not folder.is_dir():
        pytest.skip(f'the weights of NanoDet-g are not at {folder}')
    for path in (TOOLS, folder / 'sketches'):
        monkeypatch.syspath_prepend(str(path))
    import nanodet_weights

    start = tmp_path / 'start.safetensors'
    nanodet_weights.main(folder / 'weights', start)
    converted = MasaDetector.load(DetectorConfig(weights=str(start), device='cpu'))
    image = cv2.imread(str(next((SHARED / 'data/labelled/coco_persons4/images').iterdir())))
    image = cv2.resize(image, (416, 320))
    import csp

    monkeypatch.chdir(folder)  # the sketch looks for its weights from there
    boxes, scores, labels = csp.detect(image, 416, square=False)
    converted.configure(DetectorConfig(input_size=416, class_threshold=0.0))
    (encoded,) = converted.encode([np.ascontiguousarray(image[:, :, ::-1])])
    seen = converted.see(encoded)
    best = scores > 0.3
    assert best.sum() > 5
    # The same position has the same score: each of theirs is found among ours.
    ours = (torch.logit(seen.scores) - converted.network.proposals.shift).sigmoid().numpy()
    apart = np.abs(ours[:, None] - scores[best][None])
    apart += 0.01 * np.abs(seen.boxes.numpy()[:, None] - boxes[best][None]).max(2)
    same = apart.argmin(0)
    assert len(set(same.tolist())) == best.sum()
    np.testing.assert_allclose(ours[same], scores[best], atol=2e-3)
    np.testing.assert_allclose(seen.boxes[same], boxes[best], atol=0.5)
    np.testing.assert_array_equal(converted.labels_of(seen)[same], labels[best])
    assert labels[scores.argmax()] == NANO.class_names.index('person')


def people():
    """A photograph of people."""
    folder = SHARED / 'data/labelled/coco_persons4/images'
    if not folder.is_dir():
        pytest.skip(f'there are no photographs at {folder}')
    image = cv2.imread(str(sorted(folder.iterdir())[0]))
    return np.ascontiguousarray(image[:, :, ::-1])


def test_what_is_found_has_a_name(shipped):
    image, person = people(), NANO.class_names.index('person')
    found = shipped(image)
    assert (found.labels[:3] == person).any()
    shipped.configure(DetectorConfig(classes=False))
    assert set(shipped(image).labels.tolist()) == {-1}
    (encoded,) = shipped.encode([image])
    best, label = encoded.tensors['classes'][0].sigmoid().max(1)
    for limit in (0.0, 0.5, 1.0):
        shipped.configure(DetectorConfig(class_threshold=limit))
        labels = shipped.labels_of(shipped.see(encoded))
        assert torch.equal(labels, torch.where(best >= limit, label, -1))
        assert bool((labels >= 0).any()) is (limit < 1)
    shipped.configure(DetectorConfig())
    (only,) = shipped.detect([Frame(image, 0)], ['person'])
    assert 0 < len(only) <= len(found) and set(only.labels.tolist()) == {person}
    with pytest.raises(ConfigError, match="masa_nano has no class 'persn'; it has: person,"):
        shipped.detect([Frame(image, 0)], ['persn'])
    # Names come with the network's own finds, not with those of others.
    method = Masa(shipped, MasaConfig(engines=EngineConfig(runtime='eager')))
    (result,) = Stream(method).track(Frame(image, 1))
    assert result.class_names[person] == 'person'
    (result,) = Stream(method).track(Frame(image, 1), found)
    assert not result.class_names


def test_an_object_is_found_where_somebody_looks_for_it(shipped):
    image = people()
    found = shipped(image)[:3]
    (encoded,) = shipped.encode([image])
    side = found.boxes[:, 2:] - found.boxes[:, :2]
    near = found.boxes + np.tile(side, 2) * np.float32(0.06)
    there = shipped.probe(encoded, near)
    np.testing.assert_allclose(there.boxes, found.boxes, atol=0.2 * side.max())
    assert (there.scores > 0.5 * found.scores).all() and there.masks is not None
    corner = np.array([[0, 0, 2, 2]], np.float32)
    assert shipped.probe(encoded, corner).scores.tolist() == [0.0]
    assert len(shipped.probe(encoded, near[:0])) == 0


@pytest.mark.parametrize('name', ['masa_nano', 'masa_nano2'])
def test_networks_of_both_kinds_find_and_look(name):
    found = detector(name=name)
    found.configure(DetectorConfig(score_threshold=0.0, input_size=256))
    image, some = scene(size=(240, 320)), len(STAGES) - (name == 'masa_nano')
    assert len(found.stages) == some
    (encoded,) = found.encode([image])
    objects = found.find(encoded)
    assert len(objects) > 10 and len(objects.masks) == len(objects) <= 100
    assert (np.diff(objects.scores) <= 0).all()
    # One answer for each box, in their order, inside the image.
    asked = np.concatenate((objects.boxes[:5], [[-50, -40, 30, 30], [310, 230, 900, 900]]))
    there = found.probe(encoded, asked.astype(np.float32))
    assert len(there) == len(there.masks) == len(there.embeddings) == 7
    assert (there.boxes >= 0).all() and (there.boxes <= np.tile((320, 240), 2) + 1e-3).all()
    assert ((there.scores >= 0) & (there.scores <= 1)).all()
    again = found.probe(encoded, asked[4:5].astype(np.float32))
    np.testing.assert_allclose(again.boxes[0], there.boxes[4], atol=1e-2)
    if name == 'masa_nano':  # it answers with what it sees there itself
        same = ious(there.boxes, asked.astype(np.float32)).diagonal() >= 0.29
        assert same[:5].all() and not there.scores[~same].any()


def test_every_object_is_somebodys():
    head = DenseHead((16, 32, 64), STRIDES, DenseConfig(32, 5, 11, 16))
    points, strides = head.positions([(8, 8), (4, 4), (2, 2)], torch.device('cpu'))
    half = strides[:, None] * 2
    boxes = torch.cat((points - half, points + half), 1)
    objects = target([(4, 4, 60, 60), (16, 16, 48, 48), (33.5, 33.5, 34.5, 34.5), (0, 0, 8, 8)])
    wanted, index, learns = assign(points, boxes, objects)
    for i in range(4):
        assert (learns & (index == i)).any()
    assert (wanted >= 0).all() and (wanted <= 1).all()
    inner = points[learns & (index == 1)]
    assert ((inner > 16) & (inner < 48)).all()
    # The score is the overlap with the object that is meant.
    best = int(wanted.argmax())
    assert wanted[best] > 0.5
    wanted, _, learns = assign(points, boxes, target([]))
    assert not wanted.any() and not learns.any()


def exact(head, boxes, size=64):
    """Maps that say the truth: every position in an object sees it, the best ones say so."""
    sizes = [(size // stride,) * 2 for stride in STRIDES]
    points, strides = head.positions(sizes, torch.device('cpu'))
    counts = [rows * columns for rows, columns in sizes]
    objects = torch.full((len(points),), -12.0)
    distances = torch.zeros(len(points), 4, head.bins)
    for x0, y0, x1, y1 in boxes:
        box = torch.tensor([x0, y0, x1, y1], dtype=torch.float32)
        off = torch.cat((points - box[:2], box[2:] - points), 1) / strides[:, None]
        inside = (off > 0).all(1) & (off < head.bins - 1).all(1)
        low = off[inside].long()
        share = torch.zeros(int(inside.sum()), 4, head.bins)
        share.scatter_(2, low[..., None], (1 - (off[inside] - low))[..., None])
        share.scatter_(2, low[..., None] + 1, (off[inside] - low)[..., None])
        distances[inside] = (share + 1e-9).log()
    seen = head.decode(points, strides, distances.flatten(1))
    objects[assign(points, seen, target(boxes))[2]] = 12.0
    found = DenseMaps([], [], [])
    flat = (objects[:, None], distances.flatten(1), torch.zeros(len(points), head.classes))
    for values, kind in zip(flat, found):
        for part, size in zip(values.split(counts), sizes):
            kind.append(part.T.reshape(1, -1, *size).requires_grad_())
    return found


def test_the_truth_costs_next_to_nothing(head):
    boxes = [(8, 8, 40, 48)]
    losses = dense_loss(head, exact(head, boxes), [target(boxes)], LossConfig())
    assert losses['object'] < 1e-3 and losses['box'] < 1e-3
    wrong = dense_loss(head, exact(head, [(16, 0, 60, 30)]), [target(boxes)], LossConfig())
    assert wrong['object'] > 0.5 and wrong['box'] > 0.3


def test_doubtful_boxes_teach_nothing(head):
    seen = exact(head, [(8, 8, 40, 48)])
    dense_loss(head, seen, [target([], doubtful=[(8, 8, 40, 48)])], LossConfig())[
        'object'
    ].backward()
    inside = torch.cat([x.flatten() for x in seen.objects]) > 0
    gradient = torch.cat([x.grad.flatten() for x in seen.objects])
    assert inside.any() and not gradient[inside].any()
    seen = exact(head, [(8, 8, 40, 48)])
    dense_loss(head, seen, [target([])], LossConfig())['object'].backward()
    assert torch.cat([x.grad.flatten() for x in seen.objects])[inside].gt(0).all()


def test_generated_scenes_count_less(head):
    boxes = [(8, 8, 40, 48)]
    real = target(boxes)
    made = real._replace(generated=True)
    nothing = LossConfig(generated=0.0)
    for maps_of in ([(16, 0, 60, 30)], []):
        found = exact(head, maps_of)
        losses = dense_loss(head, found, [made], nothing)
        assert [float(loss.detach()) for loss in losses.values()] == [0, 0, 0]
        sum(losses.values()).backward()
        every = (*found.objects, *found.distances)
        assert not any(x.grad.any() for x in every if x.grad is not None)
    # Of a photograph and a scene alike, each for itself and both together.
    wrong = exact(head, [(12, 4, 44, 44)])
    pair = DenseMaps(*([torch.cat(x) for x in zip(*kinds)] for kinds in zip(wrong, wrong)))
    alone = dense_loss(head, wrong, [real], LossConfig())
    for share in (0.0, 0.25, 1.0):
        both = dense_loss(head, pair, [real, made], LossConfig(generated=share))
        for name, loss in alone.items():
            torch.testing.assert_close(both[name], loss)
    fine = exact(head, boxes)
    pair = DenseMaps(*([torch.cat(x) for x in zip(*kinds)] for kinds in zip(fine, wrong)))
    errors = [
        float(dense_loss(head, pair, [real, made], LossConfig(generated=share))['box'].detach())
        for share in (0.0, 0.25, 1.0)
    ]
    assert errors[0] < 1e-3 < errors[1] < errors[2] < float(alone['box'].detach())


def test_classes_are_kept(head):
    said = DenseMaps(*([x.detach() for x in kind] for kind in head(maps())))
    assert keep_loss(said, said) == 0
    changed = said._replace(classes=[(x + 1).requires_grad_() for x in said.classes])
    loss = keep_loss(changed, said)
    assert loss > 0
    loss.backward()
    assert all((x.grad > 0).all() for x in changed.classes)


def test_a_square_is_learned():
    torch.manual_seed(0)
    small = dataclasses.replace(
        NANO.network, backbone=CspConfig(8, (1, 1, 1, 1)), dense=DenseConfig(32, 5, 11, 16)
    )
    network = MasaNetwork(small)
    image = torch.zeros(1, 3, 96, 96)
    image[:, :, 24:64, 16:56] = 2.0
    truth = [target([(16, 24, 56, 64)], size=(96, 96))]
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
    losses = []
    for _ in range(120):
        found = network.proposals(network(image).maps)
        loss = sum(dense_loss(network.proposals, found, truth, LossConfig()).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.4 * max(losses)
    seen = network.proposals.candidates(network.proposals(network(image).maps), 50)
    best = seen.boxes[0, seen.logits[0].argmax()]
    np.testing.assert_allclose(best.detach(), (16, 24, 56, 64), atol=5)


def outline(mask, box=(8, 8, 40, 40), roi=(0, 0, 48, 48), image=None):
    """Loss of a mask (28, 28) of probabilities in a window, of which only a box is known."""
    rois = Rois(
        torch.tensor([roi], dtype=torch.float32),
        torch.zeros(1, dtype=torch.long),
        torch.zeros(1, dtype=torch.long),
        torch.ones(1),
        torch.ones(1, dtype=torch.bool),
    )
    if image is None:  # no two neighbours of one colour
        y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing='ij')
        image = ((x + 3 * y) * 0.2).expand(1, 3, 64, 64)
    logits = (mask * 2 - 1)[None] * 8
    return float(outline_loss(logits, rois, [target([box], drawn=False)], image))


def window(x0, y0, x1, y1, side=48):
    """Cells (28, 28) of a window of 48 pixels that lie in a box."""
    middle = (torch.arange(28) + 0.5) / 28 * side
    return (
        ((middle > y0) & (middle < y1))[:, None] & ((middle > x0) & (middle < x1))[None]
    ).float()


def test_a_mask_reaches_the_sides_of_its_box_and_follows_colours():
    torch.manual_seed(0)
    fits = outline(window(8, 8, 40, 40))
    assert fits < outline(window(8, 8, 40, 30)) and fits < outline(window(0, 8, 48, 40))
    # A disc of one colour before another: along its edge is better than across.
    image = torch.zeros(1, 3, 64, 64)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing='ij')
    image[:, :, (y - 24) ** 2 + (x - 24) ** 2 < 16**2] = 2.0
    middle = (torch.arange(28) + 0.5) / 28 * 48
    disc = ((middle[:, None] - 24) ** 2 + (middle[None] - 24) ** 2 < 16**2).float()
    cross = torch.maximum(window(8, 20, 40, 28), window(20, 8, 28, 40))
    assert outline(disc, image=image) < outline(cross, image=image)
    assert outline(disc, image=image) < outline(window(8, 8, 40, 40), image=image)
    nobody = Rois(*(torch.zeros(0, *shape) for shape in ((4,), (), (), (), ())))
    nobody = Rois(nobody.boxes, *(value.long() for value in nobody[1:4]), nobody.positive.bool())
    assert float(outline_loss(torch.zeros(0, 28, 28), nobody, [target([])], image)) == 0


def test_no_objects_are_instances_too(shipped):
    blank = np.full((120, 160, 3), 128, np.uint8)
    found = shipped(blank)
    assert isinstance(found, Instances) and found.embeddings.shape[1] == 128
