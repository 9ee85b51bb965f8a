# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Seconds of each stage of the published models, and of segmenting everything, on this machine.

Weights are random: time does not depend on them, except that SAM's automatic mask generator keeps
next to no masks of a random decoder and so is spared most of its post-processing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data
import torch
import torchvision
from segment_anything.modeling.image_encoder import Attention as EncoderAttention

from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.models.network import MasaNetwork
from masa_ros.models.sam import FusedAttention, SamEncoder
from masa_ros.models.sampling import ModulatedDeformConv
from masa_ros.models.zoo import model_config
from masa_ros.types import Instances

ROUNDS = 3


def random_detector(name: str, alone: bool = False, **options: Any) -> MasaDetector:
    """Return a model with random weights on the CPU; ``alone``: SAM without what finds objects."""
    torch.manual_seed(0)
    model = model_config(name)
    if alone:
        model = dataclasses.replace(model, network=dataclasses.replace(model.network, levels=0))
    config = DetectorConfig(model=name, device='cpu', **options)
    return MasaDetector(model, MasaNetwork(model.network), config, 'cpu')


def median(work: Callable[[], Any], rounds: int = ROUNDS) -> tuple[float, Any]:
    """Median seconds of a few calls, and the last result."""
    times, result = [], None
    for _ in range(rounds):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return float(np.median(times)), result


def released_deform_conv(
    self: ModulatedDeformConv, x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Convolve with torchvision's operator, the algorithm of the one the released code calls."""
    return torchvision.ops.deform_conv2d(
        x, offset, self.weight, stride=self.stride, padding=1, mask=mask
    )


@contextlib.contextmanager
def released_operators() -> Iterator[None]:
    """Put the operators that the released code runs in the place of ours."""
    deform, attention = ModulatedDeformConv.forward, FusedAttention.forward
    ModulatedDeformConv.forward = released_deform_conv  # type: ignore[method-assign]
    FusedAttention.forward = EncoderAttention.forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        ModulatedDeformConv.forward = deform  # type: ignore[method-assign]
        FusedAttention.forward = attention  # type: ignore[method-assign]


@torch.inference_mode()
def stages(name: str, input_size: int = 0) -> dict[str, Any]:
    """Measure the stages of one model on a 640x480 image with 18 given boxes."""
    detector = random_detector(name, input_size=input_size)
    network = detector.network
    image = cv2.resize(skimage.data.astronaut(), (640, 480))
    x, view = detector.preprocess(image)
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 300, (18, 2))
    boxes = torch.from_numpy(np.hstack((corner, corner + rng.uniform(20, 170, (18, 2)))))
    boxes = boxes.float() * torch.tensor([*view.scale, *view.scale])
    row: dict[str, Any] = {'model': name}
    row['backbone'], maps = median(lambda: network.backbone(x))
    row['pyramid'], levels = median(lambda: network.pyramid(maps.maps))
    row['fusion'], _ = median(lambda: network.fusion(levels))
    encoded = detector.encode_tensor(x, view)[0]
    row['embed'], _ = median(lambda: detector.embed(encoded, boxes))
    with released_operators():
        row['backbone_released'] = row['backbone']
        if isinstance(network.backbone, SamEncoder):  # the others have nothing to replace
            row['backbone_released'], _ = median(lambda: network.backbone(x), 1)
        row['fusion_released'], _ = median(lambda: network.fusion(levels), 1)
        expected = network.fusion(network.pyramid(network.backbone(x).maps))
    levels = [encoded.tensors[key] for key in detector.levels]
    worst = max(float((a - b).abs().max() / b.std()) for a, b in zip(levels, expected))
    row['difference'] = worst
    row['total'] = sum(row[k] for k in ('backbone', 'pyramid', 'fusion', 'embed'))
    replaced = row['backbone_released'] + row['fusion_released']
    row['total_released'] = row['total'] - row['backbone'] - row['fusion'] + replaced
    row['ratio'] = row['total_released'] / row['total']
    row['proposals'], _ = median(lambda: detector.select(detector.see(encoded)))
    return row


@torch.inference_mode()
def everything() -> list[dict[str, Any]]:
    """Segment everything: SAM's automatic mask generator against proposals and the decoder."""
    from segment_anything import SamAutomaticMaskGenerator
    from segment_anything.modeling import Sam

    detector = random_detector('masa_sam_vitb', score_threshold=0.0, nms_iou=0.9)
    network = detector.network
    image = cv2.resize(skimage.data.astronaut(), (640, 480))
    x, view = detector.preprocess(image)
    encode, _ = median(lambda: network.backbone(x), 1)
    adapt, (encoded,) = median(lambda: detector.encode_tensor(x, view), 1)

    encoder: Any = network.backbone
    forward = type(encoder).forward
    whole = Sam(encoder, network.masks.prompt_encoder, network.masks.mask_decoder)
    encoder.img_size = 1024
    type(encoder).forward = lambda self, images: forward(self, images).detail
    try:
        generator = SamAutomaticMaskGenerator(whole)
        all_points, masks = median(lambda: generator.generate(image), 1)
    finally:
        type(encoder).forward = forward
    rows = [{'what': 'SAM, 32 x 32 points', 'masks': len(masks), 'seconds': all_points - encode}]
    rng = np.random.default_rng(0)
    for count in (100, 300):
        corner = rng.uniform(0, 0.7, (count, 2)) * (640, 480)
        size = rng.uniform(0.05, 0.5, (count, 2)) * (640, 480)
        boxes = np.hstack((corner, np.minimum(corner + size, (640, 480)))).astype(np.float32)
        given = Instances(boxes)

        def ours(given: Instances = given) -> Any:
            detector.select(detector.see(encoded))
            return detector.describe(encoded, given).masks

        seconds, placed = median(ours)
        rows.append(
            {
                'what': f'proposals + {count} boxes',
                'masks': sum(mask is not None for mask in placed),
                'seconds': seconds,
                'ratio': (all_points - encode) / seconds,
                'adapter_seconds': adapt - encode,
                'ratio_with_adapter': (all_points - encode) / (seconds + adapt - encode),
                'ratio_with_encoder': all_points / (seconds + adapt),
            }
        )
    return rows


def _peak_mb() -> float:
    """Largest resident memory of this process so far; that of getrusage counts its parent's."""
    found = re.search(r'VmHWM:\s+(\d+) kB', Path('/proc/self/status').read_text())
    assert found is not None
    return int(found[1]) / 1024


def _memory(result: Any) -> None:
    detector = random_detector('masa_sam_vitb')
    image = cv2.resize(skimage.data.astronaut(), (1920, 1080))
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 0.6, (300, 2)) * (1920, 1080)
    size = rng.uniform(0.05, 0.4, (300, 2)) * (1920, 1080)
    given = Instances(np.hstack((corner, corner + size)).astype(np.float32))
    loaded = _peak_mb()
    found = detector(image, given)
    result.put((loaded, _peak_mb(), sum(m is not None for m in found.masks or ())))


def main(quick: bool = False) -> dict[str, Any]:
    """Print the tables and return their figures."""
    names = ('backbone', 'pyramid', 'fusion', 'embed', 'total', 'total_released', 'ratio')
    print('seconds, fp32, 640x480 image at the size of the model, 18 boxes')
    print(f'{"":16}' + ''.join(f'{name:>15}' for name in names))
    if quick:
        rows = [stages('masa_r50', 128)]
    else:
        rows = [stages(name) for name in ('masa_r50', 'masa_sam_vitb')]
    for row in rows:
        print(f'{row["model"]:16}' + ''.join(f'{row[name]:>15.2f}' for name in names))
        print(
            f'{"":16}with the released operators: backbone {row["backbone_released"]:.2f} s, '
            f'fusion {row["fusion_released"]:.2f} s, largest difference '
            f'{row["difference"]:.0e} std; '
            f'proposals and box head {row["proposals"]:.2f} s'
        )
    if quick:
        return {'stages': rows}
    print('\nsegment everything, ViT-B, the same image and encoder pass')
    scenes = everything()
    for scene in scenes:
        ratios = ''.join(
            f'  {key.replace("_", " ")} {scene[key]:.1f}' for key in scene if 'ratio' in key
        )
        print(f'{scene["what"]:24}{scene["masks"]:>6} masks{scene["seconds"]:>9.2f} s{ratios}')
    context = multiprocessing.get_context('spawn')
    result = context.Queue()
    process = context.Process(target=_memory, args=(result,))
    process.start()
    loaded, peak, masks = result.get()
    process.join()
    print(
        f'\nmasa_sam_vitb, 1920x1080, 300 boxes, {masks} masks: peak memory {peak:.0f} MB, '
        f'{loaded:.0f} MB of it with the model loaded'
    )
    memory = {'peak_mb': peak, 'loaded_mb': loaded, 'masks': masks}
    return {'stages': rows, 'everything': scenes, 'memory': memory}


if __name__ == '__main__':
    main()
