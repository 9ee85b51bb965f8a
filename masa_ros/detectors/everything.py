# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""SAM's automatic mask generator (Kirillov et al. 2023): a grid of points, a mask for each.

What the MASA paper segments everything with (supplement J). Slow: seconds an image on a GPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from masa_ros import options
from masa_ros.detectors.protocol import check_images
from masa_ros.errors import ConfigError, WeightsError
from masa_ros.masks import mask_from_coco_rle
from masa_ros.models.devices import choose_device
from masa_ros.models.files import SAM_FILES, fingerprint, locate
from masa_ros.models.official import read
from masa_ros.options import option
from masa_ros.types import Frame, Instances


@dataclasses.dataclass(frozen=True)
class EverythingConfig:
    """Options of the automatic mask generator; raises ConfigError naming one that is wrong."""

    model: str = option('masa_sam_vitb', 'whose SAM segments everything', choices=tuple(SAM_FILES))
    points_per_side: int = option(32, 'points of the grid along each side of the image', 1, 256)
    predicted_iou: float = option(
        0.88, 'masks whose quality is predicted below this are dropped', 0, 1
    )
    box_nms: float = option(0.7, 'of two boxes that overlap more the better one stays', 0, 1)
    min_area: int = option(
        100, 'smaller holes and islands of masks are removed, pixels', 0, 1_000_000
    )

    def __post_init__(self) -> None:
        """Check every value by itself."""
        options.check(self)


class EverythingDetector:
    """Segment everything by SAM; see ``Detector``.

    Parameters
    ----------
    network: a ``segment_anything.modeling.Sam`` on its device.
    config: see there.

    """

    takes_words = False

    def __init__(self, network: nn.Module, config: EverythingConfig) -> None:
        generator = _segment_anything().SamAutomaticMaskGenerator
        self.config, self.weights = config, 'random'
        self.network = network.eval()
        self._generator = generator(
            network,
            points_per_side=config.points_per_side,
            pred_iou_thresh=config.predicted_iou,
            box_nms_thresh=config.box_nms,
            min_mask_region_area=config.min_area,
            output_mode='uncompressed_rle',
        )

    @classmethod
    def load(cls, config: EverythingConfig, device: str) -> EverythingDetector:
        """Build SAM and read its weights.

        Raises
        ------
        ConfigError
            When the device, or the package segment-anything, is not there.
        WeightsError
            When the weights file is missing or does not fit.

        """
        registry = _segment_anything().sam_model_registry
        where = choose_device(device)
        path = locate(SAM_FILES[config.model])
        network = registry['vit_h' if config.model.endswith('vith') else 'vit_b']()
        try:
            network.load_state_dict(read(path))
        except RuntimeError as error:
            raise WeightsError(f'{path} does not hold SAM: {str(error)[:200]}') from error
        detector = cls(network.to(where), config)
        detector.weights = f'{path.name} sha256:{fingerprint(path)[:12]}'
        return detector

    def detect(self, frames: Sequence[Frame], words: Sequence[str] = ()) -> list[Instances]:
        """Find everything, with masks, one frame after the other; see ``Detector``."""
        found = []
        for frame in frames:
            check_images([frame.image])
            with torch.inference_mode():
                made = self._generator.generate(np.ascontiguousarray(frame.image))
            made.sort(key=lambda item: -item['predicted_iou'])
            masks = tuple(mask_from_coco_rle(item['segmentation']) for item in made)
            boxes = [mask.box for mask in masks]
            scores = [min(item['predicted_iou'], 1.0) for item in made]
            found.append(
                Instances(
                    boxes=np.array(boxes, np.float32).reshape(-1, 4),
                    scores=np.array(scores, np.float32),
                    masks=masks,
                )
            )
        return found

    def check_words(self, words: Sequence[str]) -> None:
        """See ``Detector``; they are ignored."""

    def facts(self) -> Mapping[str, Any]:
        """Return what was loaded: model, weights, parameters, device."""
        parameters = list(self.network.parameters())
        return {
            'model': f'SAM of {self.config.model}',
            'weights': self.weights,
            'parameters': sum(p.numel() for p in parameters),
            'device': str(parameters[0].device),
        }


def _segment_anything() -> Any:
    """Return the package; raises ConfigError where it is not installed."""
    try:
        import segment_anything
    except ImportError as error:
        raise ConfigError(
            f'SAM needs the package segment-anything: pip install segment-anything ({error})'
        ) from error
    return segment_anything
