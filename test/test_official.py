# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Published checkpoints, SAM's masks, given detections."""

import dataclasses
import hashlib
import http.server
import json
import os
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import scene
from test_models import SHARED, SMALL_SAM

from masa_ros import cli
from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.errors import SourceError, WeightsError
from masa_ros.models import command, files, official, zoo
from masa_ros.models.configs import NetworkConfig, ResNetConfig, SamConfig
from masa_ros.models.masks import View, paste_frames
from masa_ros.models.network import MasaNetwork
from masa_ros.recordings.detections import read_detections
from masa_ros.types import Instances

sam = pytest.importorskip('masa_ros.models.sam', reason='segment-anything is not installed')


def official_names(network):
    """Our parameters of masa_r50 or of a SAM model under their published names, SAM's left out."""
    sam_model = isinstance(network.config.backbone, SamConfig)
    for name, value in network.state_dict().items():
        part, _, rest = name.partition('.')
        rest = rest.removeprefix('merge.')
        words = rest.split('.')
        if sam_model and part in ('backbone', 'masks'):
            continue
        if words[0] in ('up4', 'up2'):
            layer = {'up4.0': 'fpn1.0', 'up4.1': 'fpn1.1.ln', 'up4.3': 'fpn1.3', 'up2': 'fpn2.0'}
            yield f'masa_adapter.0.{layer[rest.rpartition(".")[0]]}.{words[-1]}', value
        elif part == 'backbone' and words[0] == 'stem':
            yield f'backbone.{"conv1" if words[1] == "conv" else "bn1"}.{words[2]}', value
        elif part == 'backbone':
            _, stage, block, conv, kind, leaf = words
            if conv == 'downsample':
                layer = f'downsample.{int(kind == "norm")}'
            else:
                layer = conv if kind == 'conv' else f'bn{conv[-1]}'
            yield f'backbone.layer{int(stage) + 1}.{block}.{layer}.{leaf}', value
        elif part == 'pyramid':
            kind = {'lateral': 'lateral_convs', 'output': 'fpn_convs'}[words[0]]
            layer = {'conv': 'conv', 'norm': 'bn'}[words[2]]
            yield f'masa_adapter.0.{kind}.{words[1]}.{layer}.{words[3]}', value
        elif part == 'fusion':
            layer = 'spatial_conv_' + '.'.join(words[1:])
            if words[1] == 'scale':
                layer = f'scale_attn_module.1.{words[-1]}'
            elif words[1] == 'task':
                layer = f'task_attn_module.{words[2]}.conv.{words[-1]}'
            yield f'masa_adapter.1.dyhead_blocks.{words[0]}.{layer}', value
        elif part == 'proposals':
            yield f'rpn_head.rpn_{rest}', value
        elif part == 'boxes':
            shared = 'fc_' if words[0] in ('cls', 'reg') else 'shared_'
            yield f'roi_head.bbox_head.{shared}{rest.replace(".norm.", ".bn.")}', value
        else:
            head = rest.replace('.norm.', '.gn.')
            head = head.replace('embed.', 'fc_embed.') if words[0] == 'embed' else head
            yield f'track_head.embed_head.{head}', value


@pytest.fixture(scope='module')
def r50():
    """Network of a small masa_r50, and its parameters under their published names."""
    torch.manual_seed(0)
    backbone = ResNetConfig((3, 4, 6, 3), (16, 32, 48, 64), stem=8, bottleneck=True)
    config = NetworkConfig(
        backbone, channels=32, box_convs=4, box_widths=(64,), embed_width=64, embedding=32
    )
    real = zoo.ZOO['masa_r50']
    zoo.ZOO['masa_r50'] = dataclasses.replace(real, network=config)
    network = MasaNetwork(config)
    yield network, dict(official_names(network))
    zoo.ZOO['masa_r50'] = real


def load(path, model='masa_r50'):
    return MasaDetector.load(DetectorConfig(model=model, weights=str(path), device='cpu'))


def test_a_published_file_fills_every_parameter(r50, tmp_path):
    network, tensors = r50
    path = tmp_path / 'masa_r50.pth'
    more = {'meta': {'epoch': 12}, 'optimizer': {'state': {0: torch.ones(3)}, 'param_groups': []}}
    torch.save({'state_dict': tensors, **more}, path)
    loaded = load(path).network.state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(loaded[name], value), name


@pytest.fixture
def small_model():
    """Network of a small masa_sam_vitb that takes the place of the real one."""
    torch.manual_seed(0)
    heads = {'box_widths': (64,), 'embed_width': 64, 'embedding': 32}
    config = NetworkConfig(SMALL_SAM, channels=64, fusion_attention=True, **heads)
    real = zoo.ZOO['masa_sam_vitb']
    small = dataclasses.replace(real, network=config, input_size=256, pad_multiple=256)
    zoo.ZOO['masa_sam_vitb'] = small
    yield MasaNetwork(config)
    zoo.ZOO['masa_sam_vitb'] = real


@pytest.mark.parametrize('whole', [True, False])
def test_sam_models_take_one_file_or_two(small_model, tmp_path, monkeypatch, whole):
    monkeypatch.setenv('MASA_ROS_WEIGHTS', str(tmp_path / 'nowhere'))
    path = tmp_path / 'sam_vitb_masa.pth'
    own = dict(official_names(small_model))
    frozen = {
        name.replace('backbone.', 'image_encoder.', 1).removeprefix('masks.'): value
        for name, value in small_model.state_dict().items()
        if name.startswith(('backbone.', 'masks.'))
    }
    if whole:
        own |= {f'detector.{k.replace("image_encoder", "backbone")}': v for k, v in frozen.items()}
    torch.save({'state_dict': own}, path)
    if not whole:
        with pytest.raises(WeightsError, match='sam_vit_b_01ec64'):
            load(path, 'masa_sam_vitb')
        torch.save(frozen, tmp_path / 'sam_vit_b_01ec64.pth')
    detector = load(path, 'masa_sam_vitb')
    for name, value in detector.network.state_dict().items():
        assert torch.equal(value, small_model.state_dict()[name]), name
    detector.configure(DetectorConfig(model='masa_sam_vitb', score_threshold=0.0))
    found = detector(scene())
    assert len(found) and found.masks is not None
    assert all(m is None or m.x + m.pixels.shape[1] <= 320 for m in found.masks)
    if whole:
        broken = {k: v for k, v in own.items() if 'iou_token' not in k}
        torch.save(broken, path)
        with pytest.raises(WeightsError, match=r'iou_token.weight is missing'):
            load(path, 'masa_sam_vitb')


def test_half_precision_files_are_read(r50, tmp_path):
    network, tensors = r50
    path = tmp_path / 'half.pth'
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}, path)
    weight = load(path).network.state_dict()['boxes.cls.weight']
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, network.boxes.cls.weight.detach(), atol=1e-4, rtol=1e-3)


class Evil:
    def __init__(self, function, argument):
        self.call = (function, (argument,))

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    'make, words',
    [
        (lambda p, t: p.write_bytes(np.random.default_rng(0).bytes(5000)), 'not a PyTorch check'),
        (lambda p, t: p.write_bytes(b''), 'is empty'),
        (lambda p, t: p.write_bytes(b'PK' + bytes(99)), 'cut off'),
        (
            lambda p, t: p.write_bytes(pickle.dumps({'state_dict': [1, 2]})),
            'not a PyTorch|no stat',
        ),
        (lambda p, t: torch.save({'state_dict': {'a': 1}}, p), 'no state_dict with tensors'),
        (lambda p, t: torch.save([1, 2], p), 'no state_dict with tensors'),
        (
            lambda p, t: torch.save({k: v for k, v in t.items() if 'rpn_cls' not in k}, p),
            'proposals.cls.bias is missing.*proposals.cls.weight is missing',
        ),
        (lambda p, t: torch.save(t | {'neck.weight': torch.ones(1)}, p), 'neck.weight is unknown'),
        (
            lambda p, t: torch.save(t | {'rpn_head.rpn_cls.bias': torch.ones(9)}, p),
            r'shape \(9,\), expected \(3,\)',
        ),
    ],
)
def test_a_wrong_file_gives_one_clear_error(r50, tmp_path, make, words):
    path = tmp_path / 'masa_r50.pth'
    make(path, r50[1])
    with pytest.raises(WeightsError, match=words) as error:
        load(path)
    assert str(path) in str(error.value)


def test_a_truncated_file_says_so(r50, tmp_path):
    path = tmp_path / 'masa_r50.pth'
    torch.save(r50[1], path)
    with path.open('r+b') as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(WeightsError, match='cut off or damaged'):
        load(path)


def test_the_file_of_another_model_is_recognised(r50, tmp_path):
    path = tmp_path / 'some.pth'
    torch.save(r50[1], path)
    with pytest.raises(WeightsError, match=r'masa_gdino.*looks like a file of masa_r50'):
        load(path, 'masa_gdino')


@pytest.mark.parametrize(
    'function, named',
    [
        (os.system, 'posix.system'),
        (subprocess.getoutput, 'subprocess.getoutput'),
        (eval, 'builtins.eval'),
        (exec, 'builtins.exec'),
        (os.unlink, 'posix.unlink'),
    ],
)
@pytest.mark.parametrize('legacy', [False, True])
def test_code_in_a_checkpoint_does_not_run(tmp_path, function, named, legacy):
    witness = tmp_path / 'witness'
    witness.write_text('alive')
    commands = {os.unlink: str(witness)}
    argument = commands.get(function, f'rm {witness}')
    if function in (eval, exec):
        argument = f'__import__("os").unlink({str(witness)!r})'
    path = tmp_path / 'evil.pth'
    content = {'state_dict': {'a': torch.ones(1)}, 'meta': Evil(function, argument)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=named):
        load(path)
    assert witness.read_text() == 'alive'


class HistoryBuffer(dict):
    """As training frameworks keep beside the weights."""

    def mean(self):
        raise AssertionError('an object of a foreign class was made')

    def __setstate__(self, state):
        raise AssertionError('an object of a foreign class was made')


def test_objects_of_foreign_classes_stay_inert(tmp_path):
    path = tmp_path / 'masa.pth'
    buffer = HistoryBuffer(a=1)
    buffer.history, buffer.statistics = np.arange(4), {'mean': HistoryBuffer.mean}
    hub = {'hub': buffer, 'lr': np.float64(0.1), 'path': Path('x')}
    torch.save({'state_dict': {'a': torch.arange(3.0)}, 'message_hub': hub}, path)
    assert official.read(path)['a'].tolist() == [0, 1, 2]


def small_sam():
    torch.manual_seed(0)
    parts = sam.SamMasks(SMALL_SAM).eval()
    for parameter in parts.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return parts


def test_the_decoder_equals_that_of_segment_anything():
    parts = small_sam()
    embedding = torch.randn(1, 64, 16, 16)
    boxes = torch.tensor([[10.0, 20, 200, 150], [0, 0, 256, 256], [100, 100, 101, 103]])
    with torch.inference_mode():
        sparse, dense = parts.prompt_encoder(None, boxes, None)
        position = parts.prompt_encoder.get_dense_pe()
        for multiple in (False, True):
            expected, iou = parts.mask_decoder(embedding, position, sparse, dense, multiple)
            logits, ours = parts.decode(embedding, sparse, dense, multiple)
            torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(ours, iou, atol=1e-5, rtol=1e-4)
        single = parts.mask_decoder(embedding, position, sparse, dense, False)[0][:, 0]
        image = torch.zeros(3, dtype=torch.long)
        torch.testing.assert_close(
            parts(embedding, None, boxes, image), single, atol=1e-5, rtol=1e-4
        )
        two = torch.cat((torch.randn_like(embedding), embedding))
        torch.testing.assert_close(
            parts(two, None, boxes, image + 1), single, atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize('height, width', [(480, 640), (720, 400), (31, 200), (256, 256)])
def test_pasted_masks_equal_both_resizings_of_sam(height, width):
    scale = 256 / max(height, width)
    rows, columns = int(height * scale + 0.5), int(width * scale + 0.5)
    torch.manual_seed(1)
    blob = F.interpolate(torch.randn(6, 1, 6, 6), (64, 64), mode='bicubic') - 0.8
    blob[5] = -1  # nothing
    full = F.interpolate(blob, (256, 256), mode='bilinear', align_corners=False)
    full = full[:, :, :rows, :columns]
    full = F.interpolate(full, (height, width), mode='bilinear', align_corners=False)[:, 0]
    pasted = paste_frames(blob[:, 0], 256, View(height, width, rows, columns)).masks
    assert pasted[5] is None
    for mask, logits in zip(pasted[:5], full[:5]):
        certain = logits.abs() > 1e-4
        ours = torch.from_numpy(mask.full(height, width)) if mask is not None else torch.zeros(())
        assert ((ours > 0) == (logits > 0))[certain].all()


def test_given_boxes_come_back_described(seeded_weights):
    detector = MasaDetector.load(DetectorConfig(weights=str(seeded_weights), score_threshold=0.0))
    found = detector(scene())
    given = Instances(
        boxes=found.boxes[::-1].copy(),
        scores=found.scores[::-1].copy(),
        labels=np.arange(len(found), dtype=np.int32),
    )
    described = detector(scene(), given)
    np.testing.assert_array_equal(described.boxes, given.boxes)
    np.testing.assert_array_equal(described.labels, given.labels)
    np.testing.assert_allclose(described.embeddings, found.embeddings[::-1], atol=1e-3)
    assert described.masks is not None and len(described.masks) == len(found)
    kept = detector(scene(), described)
    assert all(a is b for a, b in zip(kept.masks, described.masks))
    assert len(detector(scene(), Instances.empty())) == 0


def test_detections_are_read_from_both_formats(tmp_path):
    mot = tmp_path / 'det.txt'
    mot.write_text('1,-1,10,20,30,40,0.9\n3,-1,1,2,3,4,-1,2\n1,-1,5,5,5,5,0.95\n')
    given = read_detections(mot)
    first = given.at(0, 'a.jpg')
    assert first.boxes.tolist() == [[5, 5, 10, 10], [10, 20, 40, 60]]
    assert given.at(2, 'c.jpg').labels.tolist() == [2] and given.at(2, '').scores.tolist() == [1]
    assert len(given.at(1, 'b.jpg')) == 0 and not given.unused
    results = tmp_path / 'results.json'
    mask = {'size': [8, 8], 'counts': [8, 8, 48]}
    item = {'image_id': 0, 'category_id': 7, 'bbox': [1, 0, 1, 8], 'score': 0.5}
    results.write_text(json.dumps([item | {'segmentation': mask}]))
    (found,) = read_detections(results).at(0, 'x').masks
    assert (found.x, found.y, found.pixels.shape) == (1, 0, (8, 1))
    data = tmp_path / 'set.json'
    images = [{'id': 17, 'file_name': 'frames/000.jpg'}, {'id': 18, 'file_name': '001.jpg'}]
    items = [item | {'image_id': 18}]
    data.write_text(json.dumps({'images': images, 'annotations': items}))
    assert len(read_detections(data).at(1, 'elsewhere/001.jpg')) == 1


@pytest.mark.parametrize(
    'name, text, words',
    [
        ('a.txt', '1,-1,10,20,30,40,0.9\n1,-1,10,20\n', 'line 2'),
        ('a.txt', '1,-1,10,20,x,40,0.9\n', 'line 1'),
        ('a.txt', '1,-1,10,20,nan,40,0.9\n', 'no box'),
        ('a.txt', '1,-1,10,20,0,40,0.9\n', 'no box'),
        ('a.txt', '1,-1,10,20,5,40,1.9\n', 'score 1.9'),
        ('a.json', '{', 'no COCO'),
        ('a.json', '[{"image_id": 0}]', 'annotation 0'),
        (
            'a.json',
            '{"images": [], "annotations": [{"image_id": 3, "bbox": [1,1,1,1]}]}',
            '3|anno',
        ),
    ],
)
def test_wrong_detections_name_their_place(tmp_path, name, text, words):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(SourceError, match=words) as error:
        read_detections(path)
    assert str(path) in str(error.value)


class RangeServer(http.server.BaseHTTPRequestHandler):
    """Serves ``content``; gives up after ``limit`` bytes of an answer."""

    content, limit, ranges = b'', 1 << 30, True

    def do_GET(self):
        begin = 0
        if self.ranges:
            begin = int(self.headers['Range'][6:-1])
        if begin >= len(self.content):
            self.send_error(416)
            return
        self.send_response(206 if self.ranges else 200)
        self.send_header('Content-Length', str(len(self.content) - begin))
        self.end_headers()
        self.wfile.write(self.content[begin : begin + self.limit])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    handler = type('Handler', (RangeServer,), {})
    handler.content = np.random.default_rng(0).bytes(300_000)
    running = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield handler, f'http://127.0.0.1:{running.server_port}/w.pth'
    running.shutdown()
    running.server_close()


def published(url, sha256):
    return files.WeightsFile('w.pth', url, 0, sha256, 'Apache-2.0', 'test weights')


@pytest.mark.parametrize('ranges', [True, False])
def test_an_interrupted_download_goes_on(server, tmp_path, ranges):
    handler, url = server
    handler.ranges = ranges
    file = published(url, hashlib.sha256(handler.content).hexdigest())
    handler.limit = 100_000
    with pytest.raises(WeightsError, match=r'could not|early'):
        command.fetch(file, tmp_path)
    assert not (tmp_path / 'w.pth').exists()
    handler.limit = 1 << 30
    path = command.fetch(file, tmp_path)
    assert path.read_bytes() == handler.content
    assert [p.name for p in tmp_path.iterdir()] == ['w.pth']


def test_other_bytes_than_published_are_thrown_away(server, tmp_path):
    with pytest.raises(WeightsError, match='thrown away'):
        command.fetch(published(server[1], '0' * 64), tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_a_network_it_says_what_to_put_where(tmp_path):
    with pytest.raises(WeightsError, match=f'put the file into {tmp_path}'):
        command.fetch(published('http://127.0.0.1:9/w.pth', ''), tmp_path)


def test_the_weights_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('MASA_ROS_WEIGHTS', str(tmp_path))
    assert cli.main(['weights', 'list']) == 0
    listed = capsys.readouterr().out
    assert 'sam_vitb_masa.pth' in listed and str(tmp_path) in listed and 'Apache-2.0' in listed
    assert cli.main(['weights', 'verify']) == 0
    (tmp_path / 'sam_vit_b_01ec64.pth').write_bytes(b'something else')
    assert cli.main(['weights', 'verify', 'sam_vit_b_01ec64.pth']) == 1
    assert 'BAD' in capsys.readouterr().out
    assert cli.main(['weights', 'verify', 'masa_r50']) == 2
    assert cli.main(['weights', 'fetch', 'nonsense']) == 2
    assert re.search('DEVA-propagation.pth .* CC-BY-NC-SA-4.0', listed)
    with pytest.raises(WeightsError, match='masa_ros weights fetch'):
        MasaDetector.load(DetectorConfig(model='masa_r50'))


def test_detections_of_another_node_become_instances():
    from masa_ros.nodes.detections import ClassNames, detections_from_msg

    def detection(x, y, width, height, *hypotheses, theta=0.0):
        centre = SimpleNamespace(position=SimpleNamespace(x=x, y=y), theta=theta)
        results = [
            SimpleNamespace(hypothesis=SimpleNamespace(class_id=name, score=score))
            for name, score in hypotheses
        ]
        box = SimpleNamespace(center=centre, size_x=width, size_y=height)
        return SimpleNamespace(bbox=box, results=results)

    classes = ClassNames()
    items = [
        detection(50.0, 40.0, 20.0, 10.0, ('car', 0.3), ('person', 0.8)),
        detection(50.0, 40.0, 20.0, 10.0, ('17', 0.5), theta=np.pi / 2),
        detection(5.0, 5.0, 2.0, 2.0),
        detection(float('nan'), 5.0, 2.0, 2.0),
    ]
    found = detections_from_msg(SimpleNamespace(detections=items), classes)
    np.testing.assert_allclose(found.boxes[:2], [[40, 35, 60, 45], [45, 30, 55, 50]], atol=1e-4)
    np.testing.assert_allclose(found.scores, [0.8, 0.5, 1.0, 1.0])
    assert found.labels.tolist() == [0, 17, -1, -1] and classes.names == {0: 'person'}
    assert found.finite.tolist() == [True, True, True, False]  # the stream refuses and counts it


def test_operators_equal_those_of_the_original_code():
    fixtures = SHARED / 'parity'
    if not fixtures.is_dir():
        pytest.skip(f'numbers of the original code are not at {fixtures}')
    tool = Path(__file__).parents[1] / 'tools/parity.py'
    done = subprocess.run(
        [sys.executable, str(tool), str(fixtures), '--only', 'ops'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert ' 0 failed' in done.stdout
