# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Any detector of the library transformers, by its name on the hub or from a folder.

Networks that take words (OWLv2, Grounding DINO, ...), networks of fixed classes (RT-DETR, D-FINE,
RF-DETR, ...), with masks where the network makes them.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor

from masa_ros import options
from masa_ros.detectors.protocol import check_images
from masa_ros.detectors.words import Labels, separated, wanted
from masa_ros.errors import ConfigError
from masa_ros.masks import crop
from masa_ros.models.devices import choose_device
from masa_ros.models.hub import from_hub, library, tokenizer_from_hub
from masa_ros.options import option
from masa_ros.types import Frame, Instances

_PURPOSE = 'the detector transformers'
_CAPTIONS = ('grounding-dino', 'mm-grounding-dino')  # kinds that read all words as one text
_MOST_WORDS = 256  # every frame compares them all


@dataclasses.dataclass(frozen=True)
class TransformersConfig:
    """Options of a detector of transformers; raises ConfigError naming one that is wrong."""

    model: str = option(
        'IDEA-Research/grounding-dino-base',
        'name of a detector on the Hugging Face hub, or the folder that one was saved in',
    )
    words: str = option(
        '',
        "what is to be found, with full stops between: 'person . red car'; for methods that "
        'have no words of their own. Networks of fixed classes: some of these; empty: all',
    )
    score_threshold: float = option(0.3, 'detections below this score are dropped', 0, 1)
    nms_iou: float = option(
        0.7, 'of two boxes that overlap more the better one stays, whatever they are called', 0, 1
    )
    max_instances: int = option(100, 'at most that many detections', 1, 1000)

    def __post_init__(self) -> None:
        """Check every value by itself."""
        options.check(self)


class TransformersDetector(abc.ABC):
    """A detector of transformers; see ``Detector``.

    Parameters
    ----------
    network: of transformers.
    processor: of transformers, which brings images to the network and its answers back.
    config: see there.
    device: where it runs.

    Attributes
    ----------
    class_names: of the labels of what it finds.

    """

    takes_words = True
    class_names: Mapping[int, str]

    def __init__(
        self, network: Any, processor: Any, config: TransformersConfig, device: str
    ) -> None:
        self.network = network.float().eval().to(device)
        self.processor, self.config, self.device = processor, config, device

    @staticmethod
    def load(config: TransformersConfig, device: str) -> TransformersDetector:
        """Make the network that a name or a folder holds.

        Raises
        ------
        ConfigError
            When the device, or the package transformers, is not there, or it is no detector.
        WeightsError
            When it cannot be loaded.

        """
        kinds = library(_PURPOSE)
        where = str(choose_device(device))
        chosen = from_hub(kinds.AutoConfig, config.model, 'model')
        kind, model = _kind(kinds, chosen, config.model)
        if kind in (_Captioned, _Worded):
            tokenizer_from_hub(kinds.AutoTokenizer, config.model)  # an error of its own
            processor = from_hub(kinds.AutoProcessor, config.model, 'processor')
        else:
            processor = from_hub(kinds.AutoImageProcessor, config.model, 'image processor')
        return kind(from_hub(model, config.model, 'model'), processor, config, where)

    @torch.inference_mode()
    def detect(self, frames: Sequence[Frame], words: Sequence[str] = ()) -> list[Instances]:
        """Find objects, one frame after the other; see ``Detector``.

        Raises
        ------
        ConfigError
            When words are missing, too many or too long, or no class of the network.

        """
        found = []
        for frame in frames:
            check_images([frame.image])
            found.append(self._best(self.look(frame, words)))
        return found

    @abc.abstractmethod
    def check_words(self, words: Sequence[str]) -> None:
        """Raise ConfigError for words that the network cannot read; see ``Detector``."""

    @abc.abstractmethod
    def look(self, frame: Frame, words: Sequence[str]) -> Instances:
        """Return everything over the threshold in a frame."""

    def _best(self, found: Instances) -> Instances:
        boxes, scores = torch.from_numpy(found.boxes), torch.from_numpy(found.scores)
        kept = torchvision.ops.nms(boxes, scores, self.config.nms_iou).numpy()
        return found[kept[: self.config.max_instances]]

    def facts(self) -> Mapping[str, Any]:
        """Return what was loaded: model, kind of network, parameters, device."""
        return {
            'model': self.config.model,
            'network': type(self.network).__name__,
            'parameters': sum(p.numel() for p in self.network.parameters()),
            'device': self.device,
        }

    def _read(self, frame: Frame, **words: Any) -> Any:
        """Return what the network reads of an image, and of words."""
        image = np.ascontiguousarray(frame.image)
        return self.processor(images=image, return_tensors='pt', **words).to(self.device)


class _Worded(TransformersDetector):
    """Reads each word by itself: OWL-ViT, OWLv2, OmDet-Turbo."""

    def __init__(
        self, network: Any, processor: Any, config: TransformersConfig, device: str
    ) -> None:
        super().__init__(network, processor, config, device)
        self._labels = Labels()
        self.class_names = self._labels.names

    def check_words(self, words: Sequence[str]) -> None:
        names = self._wanted(words)
        self._check_length(self.processor.tokenizer(names, padding=True), names)

    def _wanted(self, words: Sequence[str]) -> list[str]:
        names = wanted(words, self.config.words)
        if len(names) > _MOST_WORDS:
            raise ConfigError(f'words: {len(names)} are too many, {_MOST_WORDS} are allowed')
        return names

    def look(self, frame: Frame, words: Sequence[str]) -> Instances:
        names = self._wanted(words)
        labels = dict(zip(names, self._labels.of(names)))
        inputs = self._read(frame, text=[names])
        self._check_length(inputs, names)
        answer = self.processor.post_process_grounded_object_detection(
            self.network(**inputs),
            threshold=self.config.score_threshold,
            target_sizes=[frame.shape],
            text_labels=[names],
        )[0]
        return _instances(answer, [labels[name] for name in answer['text_labels']])

    def _check_length(self, inputs: Any, names: Sequence[str]) -> None:
        text = getattr(self.network.config, 'text_config', None)
        limit = getattr(text, 'max_position_embeddings', None)
        longest = np.shape(inputs.get('input_ids', [()]))[-1]
        if limit is not None and longest > limit:
            name = max(names, key=len)
            raise ConfigError(f"words: '{name[:40]} ...' is longer than {limit} tokens")


class _Captioned(_Worded):
    """Reads all words as one text: Grounding DINO, MM-Grounding-DINO.

    The library returns pieces of the text; here the scores are those of the words, each the mean
    of its tokens as in the network's original code.
    """

    def __init__(
        self, network: Any, processor: Any, config: TransformersConfig, device: str
    ) -> None:
        super().__init__(network, processor, config, device)
        from masa_ros.models.grounding_text import Tokenizer

        self._tokenizer = Tokenizer(lambda text: processor.tokenizer(text).encodings[0])

    def check_words(self, words: Sequence[str]) -> None:
        self._captions(wanted(words, self.config.words))

    def _captions(self, names: Sequence[str]) -> Any:
        from masa_ros.detectors.grounding_dino import MOST_PASSES

        return self._tokenizer.captions(names, MOST_PASSES)

    def look(self, frame: Frame, words: Sequence[str]) -> Instances:
        from masa_ros.detectors.grounding_dino import label_scores

        names = wanted(words, self.config.words)
        labels = self._labels.of(names)
        image = self.processor.image_processor(
            images=np.ascontiguousarray(frame.image), return_tensors='pt'
        ).to(self.device)
        parts = []
        for tokens, part in self._captions(names):
            ids = torch.tensor([tokens.ids], device=self.device)
            answer = self.network(
                **image,
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                token_type_ids=torch.zeros_like(ids),
            )
            scores, best = label_scores(answer.logits[0], tokens.labels).max(1)
            kept = scores > self.config.score_threshold
            boxes = _corners(answer.pred_boxes[0][kept], frame.shape)
            which = [labels[part[i]] for i in best[kept].tolist()]
            parts.append(_instances({'boxes': boxes, 'scores': scores[kept]}, which))
        return Instances.concatenate(parts)


class _Closed(TransformersDetector):
    """Knows the classes that it was trained on: RT-DETR, D-FINE, RF-DETR, DETR and others."""

    def __init__(
        self, network: Any, processor: Any, config: TransformersConfig, device: str
    ) -> None:
        super().__init__(network, processor, config, device)
        names = {int(i): str(name) for i, name in network.config.id2label.items()}
        self.class_names = MappingProxyType(names)

    def check_words(self, words: Sequence[str]) -> None:
        self._asked(words)

    def look(self, frame: Frame, words: Sequence[str]) -> Instances:
        asked = self._asked(words)
        found = self.answer(self.network(**self._read(frame)), frame)
        return found[np.isin(found.labels, asked)] if asked else found

    def answer(self, made: Any, frame: Frame) -> Instances:
        """Return what the network says of a frame."""
        answer = self.processor.post_process_object_detection(
            made, threshold=self.config.score_threshold, target_sizes=[frame.shape]
        )[0]
        return _instances(answer, answer['labels'].tolist())

    def _asked(self, words: Sequence[str]) -> list[int]:
        names = list(words) or separated(self.config.words)
        numbers = {name: i for i, name in self.class_names.items()}
        unknown = [name for name in names if name not in numbers]
        if unknown:
            raise ConfigError(
                f"{self.config.model} has no class '{unknown[0]}'; it has: "
                + ', '.join(list(numbers)[:100])
            )
        return [numbers[name] for name in names]


class _Segmenting(_Closed):
    """Makes masks, of which the boxes follow: RF-DETR-Seg, Mask2Former, MaskFormer."""

    def answer(self, made: Any, frame: Frame) -> Instances:
        answer = self.processor.post_process_instance_segmentation(
            made,
            threshold=self.config.score_threshold,
            target_sizes=[frame.shape],
            return_binary_maps=True,
        )[0]
        segments = answer['segments_info']
        if not segments:
            return Instances.empty()
        maps = answer['segmentation'].cpu().numpy().reshape(-1, *frame.shape) > 0
        masks = [crop(whole) for whole in maps]
        kept = [i for i, mask in enumerate(masks) if mask.width]
        return Instances(
            boxes=np.array([masks[i].box for i in kept], np.float32).reshape(-1, 4),
            scores=np.array([segments[i]['score'] for i in kept], np.float32),
            labels=np.array([segments[i]['label_id'] for i in kept], np.int32),
            masks=tuple(masks[i] for i in kept),
        )


def _kind(kinds: Any, chosen: Any, name: str) -> tuple[type[TransformersDetector], Any]:
    """Return which class of ours, and which of the library, a configuration belongs to."""
    auto = kinds.models.auto.modeling_auto
    made = next(iter(chosen.architectures or ()), '')
    for listed, model in (
        (auto.MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING_NAMES, 'AutoModelForInstanceSegmentation'),
        (auto.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES, 'AutoModelForUniversalSegmentation'),
    ):
        if made and made == listed.get(chosen.model_type):
            return _Segmenting, getattr(kinds, model)
    if chosen.model_type in auto.MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES:
        kind = _Captioned if chosen.model_type in _CAPTIONS else _Worded
        return kind, kinds.AutoModelForZeroShotObjectDetection
    if chosen.model_type in auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES:
        return _Closed, kinds.AutoModelForObjectDetection
    raise ConfigError(f'{name} is no detector: it holds {made or chosen.model_type}')


def _instances(answer: Mapping[str, Tensor], labels: Sequence[int]) -> Instances:
    return Instances(
        boxes=_array(answer['boxes']).reshape(-1, 4),
        scores=_array(answer['scores']),
        labels=np.array(labels, np.int32),
    )


def _array(values: Tensor) -> NDArray[np.float32]:
    return np.asarray(values.float().cpu().numpy())


def _corners(boxes: Tensor, shape: tuple[int, int]) -> Tensor:
    """Boxes (N, 4) cx cy w h as shares of an image of (height, width) to xyxy pixels."""
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    scale = boxes.new_tensor([shape[1], shape[0]] * 2)
    return torch.cat((centre - half, centre + half), 1) * scale
