"""Masks of everything in a folder of photographs: made once, read by the training.

Written as COCO json with run-length masks, a hundred images a file, so that a run that was
interrupted goes on with the next file. SA-1B's own files and any COCO instance file are read too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco
from tqdm import tqdm

from masa_ros.errors import ConfigError, SourceError, WeightsError
from masa_ros.masks import coco_rle, crop, mask_from_coco_rle, pixels_from_coco_rle
from masa_ros.models.configs import SamConfig
from masa_ros.models.detector import Detector, DetectorConfig
from masa_ros.models.files import SAM_FILES, locate
from masa_ros.models.official import read
from masa_ros.models.zoo import ZOO
from masa_ros.training.cutouts import image_files
from masa_ros.types import Mask

Image = NDArray[np.uint8]
_A_FILE = 100  # images


class Entry(NamedTuple):
    """One photograph with the run-length masks of its instances.

    Attributes
    ----------
    path: of the photograph.
    masks: COCO run lengths, compressed or not, or polygons, as they stand in the file.
    size: (height, width) that the masks are of.

    """

    path: Path
    masks: tuple[Any, ...]
    size: tuple[int, int]

    def decode(self, height: int, width: int) -> NDArray[np.bool_]:
        """Return the masks (N, height, width) bool at the size the image was read at."""
        decoded = np.zeros((len(self.masks), height, width), np.bool_)
        for out, item in zip(decoded, self.masks):
            polygons = isinstance(item, list)
            rle = coco.merge(coco.frPyObjects(item, *self.size)) if polygons else item
            pixels = pixels_from_coco_rle(rle)
            out[:] = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_NEAREST)
        return decoded


def read_proposals(path: Path, images: Path) -> list[Entry]:
    """Read a COCO json file, or a folder of such files or of SA-1B's.

    Parameters
    ----------
    path: file or folder.
    images: folder that the file names are relative to.

    Raises
    ------
    SourceError
        When nothing there can be read, or none of the photographs exists.

    """
    files = sorted(path.glob('*.json')) if path.is_dir() else [path]
    entries = [entry for file in files for entry in _read(file, images)]
    there = [entry for entry in entries if entry.path.is_file()]
    if not there:
        example = f', for example {entries[0].path}' if entries else ''
        raise SourceError(f'{path}: none of its {len(entries)} images is in {images}{example}')
    if len(there) < len(entries):
        print(f'{path}: {len(entries) - len(there)} of {len(entries)} images are not there')
    return there


def _read(file: Path, images: Path) -> list[Entry]:
    try:
        return list(_entries(json.loads(file.read_text()), images))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f'{file} is neither COCO instances nor one of SA-1B ({error!r})'
        ) from error


def _entries(document: dict[str, Any], images: Path) -> Iterator[Entry]:
    if 'image' in document:  # SA-1B: a file an image
        info = document['image']
        masks = tuple(a['segmentation'] for a in document['annotations'])
        yield Entry(images / info['file_name'], masks, (info['height'], info['width']))
        return
    by_image: dict[int, list[Any]] = {info['id']: [] for info in document['images']}
    for annotation in document['annotations']:
        if not annotation.get('iscrowd') and annotation.get('segmentation'):
            by_image[annotation['image_id']].append(annotation['segmentation'])
    for info in document['images']:
        masks = tuple(by_image[info['id']])
        yield Entry(images / info['file_name'], masks, (info['height'], info['width']))


Segment = Callable[[Image], list[tuple[Mask, float]]]
"""What makes masks with their scores of an image (H, W, 3) uint8 RGB."""


def by_sam(model: str, device: str) -> Segment:
    """Segment everything by SAM's automatic mask generator, as the paper did (supplement J).

    32 points a side, predicted IoU 0.88, box suppression at 0.7, holes and islands below 100
    pixels removed.

    Raises
    ------
    ConfigError, WeightsError
        When the model is no SAM, or its weights are not there.

    """
    backbone = ZOO[model].network.backbone if model in ZOO else None
    if not isinstance(backbone, SamConfig):
        raise ConfigError(f"'{model}' is no SAM model; there are: {', '.join(SAM_FILES)}")
    from segment_anything import SamAutomaticMaskGenerator, sam_model_registry

    path = locate(SAM_FILES[model])
    network = sam_model_registry['vit_h' if model.endswith('vith') else 'vit_b']()
    try:
        network.load_state_dict(read(path))
    except RuntimeError as error:
        raise WeightsError(f'{path} does not hold {model}: {str(error)[:200]}') from error
    generator = SamAutomaticMaskGenerator(
        network.to(device).eval(),
        points_per_side=32,
        pred_iou_thresh=0.88,
        box_nms_thresh=0.7,
        min_mask_region_area=100,
        output_mode='uncompressed_rle',
    )

    def segment(image: Image) -> list[tuple[Mask, float]]:
        found = generator.generate(image)
        return [(mask_from_coco_rle(m['segmentation']), m['predicted_iou']) for m in found]

    return segment


def by_agreement(detector: Detector, sides: Sequence[int] = (384, 576), votes: int = 3) -> Segment:
    """Segment by a small model that must find an instance again at other sizes and mirrored.

    What one look finds is often half an object; what several looks agree on is mostly a whole one.
    The mask is where most of the looks see it. Regions that lie along the border for more than a
    third of their outline are left out: they are mostly ground, walls and sky.
    """
    config = detector.config

    def segment(image: Image) -> list[tuple[Mask, float]]:
        height, width = image.shape[:2]
        scale = min(1.0, max(sides) / max(height, width))
        size = round(width * scale), round(height * scale)
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        looks: list[tuple[int, NDArray[np.bool_], float]] = []
        for number, (side, mirrored) in enumerate((s, m) for s in sides for m in (False, True)):
            detector.configure(dataclasses.replace(config, input_size=side))
            seen = detector(np.ascontiguousarray(small[:, ::-1]) if mirrored else small)
            for mask, score in zip(seen.masks or (), seen.scores.tolist()):
                if mask is not None:
                    full = mask.full(size[1], size[0])
                    looks.append((number, full[:, ::-1] if mirrored else full, score))
        detector.configure(config)
        return [
            (crop(_enlarged(inside, width, height)), score)
            for inside, score in _agreeing(looks, votes)
        ]

    return segment


def _enlarged(inside: NDArray[np.bool_], width: int, height: int) -> NDArray[np.bool_]:
    soft = cv2.resize(inside.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(soft > 0.5)


def _agreeing(
    looks: list[tuple[int, NDArray[np.bool_], float]], votes: int
) -> Iterator[tuple[NDArray[np.bool_], float]]:
    """Make one mask of each group of different looks that overlap by 0.7."""
    looks = sorted(looks, key=lambda look: -look[2])
    if not looks:
        return
    flat = np.stack([inside[::2, ::2].ravel() for _, inside, _ in looks]).astype(np.float32)
    area, shared = flat.sum(1), flat @ flat.T
    overlap = shared / np.maximum(area[:, None] + area[None] - shared, 1)
    free = np.ones(len(looks), bool)
    for i in range(len(looks)):
        if not free[i]:
            continue
        group = np.flatnonzero(free & (overlap[i] >= 0.7))
        free[group] = False
        agreeing = {looks[k][0]: k for k in group[::-1]}  # the best of each look
        if len(agreeing) < votes:
            continue
        members = [looks[k] for k in agreeing.values()]
        inside = np.mean([mask for _, mask, _ in members], axis=0) >= 0.5
        if inside.any() and _border_share(inside) < 1 / 3:
            yield inside, float(np.mean([score for _, _, score in members]))


def _border_share(inside: NDArray[np.bool_]) -> float:
    """Share of an outline that lies on the border of the image."""
    border = np.concatenate((inside[0], inside[-1], inside[:, 0], inside[:, -1])).sum()
    within = inside & ~cv2.erode(inside.astype(np.uint8), np.ones((3, 3))).astype(bool)
    return float(border / max(int(within.sum()) + int(border), 1))


def write_proposals(
    files: Sequence[Path], root: Path, output: Path, segment: Segment, what: str
) -> tuple[int, list[str]]:
    """Write proposals of images to ``output``, a file for every hundred; finished ones are kept.

    Returns
    -------
    Number of instances in the files written now, and names of images that cannot be read.

    """
    output.mkdir(parents=True, exist_ok=True)
    count, unreadable = 0, []
    starts = range(0, len(files), _A_FILE)
    bar = tqdm(total=len(files), unit='image', disable=not sys.stderr.isatty())
    for start in starts:
        target = output / f'proposals-{start // _A_FILE:05d}.json'
        part = files[start : start + _A_FILE]
        if target.is_file():
            bar.update(len(part))
            continue
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, file in enumerate(part, start + 1):
            bar.update()
            read_image = cv2.imread(str(file), cv2.IMREAD_COLOR)
            if read_image is None:
                unreadable.append(str(file.relative_to(root)))
                continue
            image = cv2.cvtColor(read_image, cv2.COLOR_BGR2RGB)
            height, width = image.shape[:2]
            name = str(file.relative_to(root))
            images.append({'id': number, 'file_name': name, 'height': height, 'width': width})
            for mask, score in segment(image):
                rle = coco_rle(mask, height, width)
                x, y, w, h = coco.toBbox({**rle, 'counts': rle['counts'].encode()}).tolist()
                annotations.append(
                    {
                        'id': start * 1000 + len(annotations) + 1,
                        'image_id': number,
                        'category_id': 1,
                        'segmentation': rle,
                        'bbox': [x, y, w, h],
                        'area': int(mask.counts[1::2].sum()),
                        'score': round(score, 4),
                        'iscrowd': 0,
                    }
                )
        document = {
            'info': {'description': what},
            'images': images,
            'categories': [{'id': 1, 'name': 'object'}],
            'annotations': annotations,
        }
        temporary = target.with_suffix('.part')
        temporary.write_text(json.dumps(document))
        temporary.replace(target)
        count += len(annotations)
    bar.close()
    return count, unreadable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--images', type=Path, required=True, metavar='DIR', help='any depth')
    parser.add_argument('--output', type=Path, required=True, metavar='DIR')
    parser.add_argument(
        '--model',
        default='masa_sam_vith',
        help='whose SAM segments everything, or masa_nano, whose finds must agree (%(default)s)',
    )
    parser.add_argument('--weights', default='', metavar='FILE', help='of masa_nano')
    parser.add_argument('--exclude', default='', metavar='PREFIX', help='skip files named so')
    parser.add_argument('--device', default='auto', help='(%(default)s)')


def run(arguments: argparse.Namespace) -> int:
    """Segment every image of a folder."""
    from masa_ros.models.detector import choose_device

    device = str(choose_device(arguments.device))
    if arguments.model == 'masa_nano':
        config = DetectorConfig(
            weights=arguments.weights, device=device, score_threshold=0.3, nms_iou=0.7
        )
        segment = by_agreement(Detector.load(config))
    else:
        segment = by_sam(arguments.model, device)
    files = image_files(arguments.images, arguments.exclude)
    count, unreadable = write_proposals(
        files,
        arguments.images,
        arguments.output,
        segment,
        f'masa_ros proposals, {arguments.model}',
    )
    print(f'{count} instances of {len(files)} images: {arguments.output}')
    if unreadable:
        print(f'{len(unreadable)} cannot be read: {", ".join(unreadable[:10])}')
    return 0
