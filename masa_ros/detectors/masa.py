# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A loaded MASA network: RGB image in, untracked instances out."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor

from masa_ros.detectors.masa_cases import make_case, tiles
from masa_ros.detectors.masa_options import DetectorConfig, chosen
from masa_ros.detectors.protocol import check_images
from masa_ros.errors import ConfigError
from masa_ros.models import checkpoints
from masa_ros.models.configs import ModelConfig
from masa_ros.models.devices import choose_device
from masa_ros.models.files import MODEL_FILES, fingerprint, locate
from masa_ros.models.heads import ProposalHead, clip_boxes, select_proposals
from masa_ros.models.masa_stages import masa_stages
from masa_ros.models.masks import Pasted, View, mask_nms
from masa_ros.models.network import MasaNetwork
from masa_ros.models.preprocess import fitted_to, normalise, padded_input
from masa_ros.models.staged import Staged, check_precision
from masa_ros.models.stages import Case, Run, Stage, joined, run_rows
from masa_ros.models.upload import to_device
from masa_ros.models.zoo import model_config
from masa_ros.types import Frame, Instances


class Encoded(NamedTuple):
    """What the network's image part made of one image.

    Attributes
    ----------
    tensors: outputs of the stage 'image' by name, see ``masa_ros.models.stages``.
    view: how the image lies in the network input.
    run: the stages that go on with them.

    """

    tensors: dict[str, Tensor]
    view: View
    run: Mapping[str, Run]


class Seen(NamedTuple):
    """What may be objects, in network pixels: boxes (N, 4), scores (N,), class logits (N, C)."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor

    def some(self, index: Tensor) -> Seen:
        """Return some of them."""
        return Seen(*(values[index] for values in self))


class MasaDetector(Staged):
    """Segment everything in single images. Holds no state between images.

    A ``Detector``, and ``masa_ros.engines.compilable.Compilable``; see ``Staged`` for the rest.

    Attributes
    ----------
    name: of the model.
    class_names: of the labels of what it finds.
    takes_words: where it knows classes, their names.

    """

    def __init__(
        self, model: ModelConfig, network: MasaNetwork, config: DetectorConfig, device: str
    ) -> None:
        self.model, self.name = model, model.name
        self.class_names = MappingProxyType(dict(enumerate(model.class_names)))
        self.takes_words = bool(model.class_names)
        self.config = config
        super().__init__(network, device, config.precision)
        self.weights = 'random'

    def stages_of(self, network: MasaNetwork) -> Mapping[str, Stage]:
        """See ``Staged``."""
        return masa_stages(network, self.model)

    @classmethod
    def load(cls, config: DetectorConfig) -> MasaDetector:
        """Build the network and read its weights.

        Raises
        ------
        ConfigError
            For an unknown model, an absent device, a precision the device does not have.
        WeightsError
            When the weights file is missing or does not fit.

        """
        model = model_config(config.model)
        device = choose_device(config.device)
        check_precision(config.precision, device)
        _check_size(model, config)
        path = Path(config.weights) if config.weights else model.shipped_weights
        if path is None and model.name not in MODEL_FILES:
            raise ConfigError(f'weights: there is no file of {model.name} to take; name one')
        path = path or locate(MODEL_FILES[model.name])
        network = MasaNetwork(model.network)
        checkpoints.load(network, path, model)
        detector = cls(model, network, config, str(device))
        detector.weights = f'{path.name} sha256:{fingerprint(path)[:12]}'
        return detector

    def facts(self) -> Mapping[str, Any]:
        """Return what was loaded: model, weights, parameters, device, precision."""
        return {
            'model': self.name,
            'weights': self.weights,
            'parameters': sum(p.numel() for p in self.network.parameters()),
            'device': self.device,
            'precision': self.precision,
        }

    @property
    def draws_only(self) -> bool:
        """Whether the network is SAM alone: it draws what it is shown, and finds nothing."""
        return self.network.proposals is None

    def configure(self, config: DetectorConfig) -> None:
        """Take new thresholds; model, weights, device and precision stay as they were loaded.

        Raises
        ------
        ConfigError
            For an input size that the model does not take; nothing has changed then.

        """
        _check_size(self.model, config)
        loaded = {name: getattr(self.config, name) for name in _LOADED}
        self.config = dataclasses.replace(config, **loaded)

    def __call__(self, image: NDArray[np.uint8], given: Instances | None = None) -> Instances:
        """Find instances in an (H, W, 3) uint8 RGB image, or describe those that are given.

        Raises
        ------
        ImageError
            When the array is not such an image.

        """
        encoded = self.encode([image])[0]
        return self.find(encoded) if given is None else self.describe(encoded, given)

    def detect(self, frames: Sequence[Frame], words: Sequence[str] = ()) -> list[Instances]:
        """Find instances in every frame, of the classes named by words if any; see ``Detector``.

        Raises
        ------
        ConfigError
            For a word that names no class, where the model knows classes.

        """
        found: list[Instances] = []
        for _, alike in itertools.groupby(frames, key=lambda frame: frame.image.shape):
            encoded = self.encode([frame.image for frame in alike])
            found += (self.find(each, words) for each in encoded)
        return found

    def check_words(self, words: Sequence[str]) -> None:
        """Raise ConfigError for one that names no class; see ``Detector``."""
        if self.takes_words:
            self._labels(words)

    def _labels(self, words: Sequence[str]) -> list[int]:
        names = self.model.class_names
        if words and not self.config.classes:
            raise ConfigError('words need classes, which are switched off: classes is false')
        unknown = [word for word in words if word not in names]
        if unknown:
            raise ConfigError(
                f"{self.name} has no class '{unknown[0]}'; it has: {', '.join(names)}"
            )
        return [names.index(word) for word in words]

    @torch.inference_mode()
    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[Encoded]:
        """Run the image part of the network on (H, W, 3) uint8 RGB images.

        Eagerly they are one batch; engines take one after the other.

        Raises
        ------
        ImageError
            When an array is not such an image, or the images have not all one size.

        """
        check_images(images)
        tensors, views = zip(*(self.preprocess(image) for image in images))
        return self.encode_tensor(joined(list(tensors)), views[0])

    def encode_tensor(self, tensor: Tensor, view: View) -> list[Encoded]:
        """Do the same with what ``preprocess`` made: (B, 3, H, W), all of one view."""
        return self._encode(tensor, view, self.runs((tensor.shape[2], tensor.shape[3])))

    def _encode(self, tensor: Tensor, view: View, run: Mapping[str, Run]) -> list[Encoded]:
        return [Encoded(tensors, view, run) for tensors in self.image_stage(tensor, run)]

    @torch.inference_mode()
    def find(self, encoded: Encoded, words: Sequence[str] = ()) -> Instances:
        """Return everything in the image, best score first; with words as ``detect``.

        SAM alone finds nothing.
        """
        if self.draws_only:
            return Instances.empty()
        seen = self.see(encoded)
        if words and self.takes_words:
            named = torch.tensor(self._labels(words), device=seen.boxes.device)
            seen = seen.some(torch.isin(self.labels_of(seen), named))
        seen = self.select(seen)
        found, masks = self._instances(encoded, seen), None
        pooled, embeddings = self.embed(encoded, seen.boxes)
        if self._draws_masks:
            pasted = self._masks(encoded, seen.boxes, pooled, found.boxes)
            masks = tuple(pasted.masks)
            share = chosen(self.model.mask_share, self.config.mask_share)
            iou = chosen(self.model.mask_iou, self.config.mask_iou)
            if min(share, iou) < 1:
                kept = mask_nms(pasted.covers, share, iou)
                found, embeddings = found[kept], embeddings[kept]
                masks = tuple(masks[i] for i in kept)
        return dataclasses.replace(found, embeddings=embeddings, masks=masks)

    @torch.inference_mode()
    def describe(self, encoded: Encoded, given: Instances) -> Instances:
        """Give embeddings and masks to detections of somebody else.

        They come back all and in their order, with masks where the model draws them and they had
        none ("detect and track anything", paper section 3.2.3).
        """
        boxes = self._scaled(given.boxes, encoded.view)
        pooled, embeddings = self.embed(encoded, boxes)
        masks = given.masks
        if masks is None and self._draws_masks:
            masks = tuple(self._masks(encoded, boxes, pooled, given.boxes).masks)
        return dataclasses.replace(given, embeddings=embeddings, masks=masks)

    @torch.inference_mode()
    def probe(self, encoded: Encoded, boxes: NDArray[np.float32]) -> Instances:
        """Return the object that is seen at each of the boxes (N, 4), in their order.

        The boxes, pixels of the image, take the place of proposals, so that an object which the
        proposals missed is found by whoever knows where to look. Where nothing is, the score is 0.
        """
        view = encoded.view
        there = self.look(encoded, clip_boxes(self._scaled(boxes, view), view.rows, view.columns))
        pooled, embeddings = self.embed(encoded, there.boxes)
        found, masks = self._instances(encoded, there), None
        if self._draws_masks:
            masks = tuple(self._masks(encoded, there.boxes, pooled, found.boxes).masks)
        return dataclasses.replace(found, embeddings=embeddings, masks=masks)

    def _scaled(self, boxes: NDArray[np.float32], view: View) -> Tensor:
        """Bring boxes (N, 4) from pixels of the image to network pixels."""
        scaled = torch.from_numpy(np.ascontiguousarray(boxes)) * _scale(view)
        return scaled.to(self.device)

    @property
    def _draws_masks(self) -> bool:
        return self.network.masks is not None and self.config.masks

    def _masks(
        self, encoded: Encoded, boxes: Tensor, pooled: Tensor | None, window: NDArray[np.float32]
    ) -> Pasted:
        """Masks of boxes in network pixels, which are ``window`` in the image."""
        (logits,) = self._per_box('masks', encoded, boxes, pooled)
        found: Pasted = self.network.masks.paste(logits, window, encoded.view)
        return found

    def _per_box(
        self, name: str, encoded: Encoded, boxes: Tensor, pooled: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Run a stage on any number of boxes."""
        rows = {'boxes': boxes} if pooled is None else {'boxes': boxes, 'pooled': pooled}
        tensors = {**encoded.tensors, **rows}
        return tuple(run_rows(self.stages[name], encoded.run[name], tensors).values())

    def _instances(self, encoded: Encoded, seen: Seen) -> Instances:
        """Instances without masks and embeddings from boxes in network pixels."""
        return Instances(
            boxes=(seen.boxes.cpu() / _scale(encoded.view)).numpy(),
            scores=seen.scores.cpu().numpy(),
            labels=self.labels_of(seen).int().cpu().numpy(),
        )

    def labels_of(self, seen: Seen) -> Tensor:
        """Return the labels (N,) of what is seen, -1 for none."""
        if not seen.classes.shape[1]:
            return torch.full_like(seen.scores, -1, dtype=torch.long)
        best, labels = seen.classes.max(1)
        limit = chosen(self.model.class_threshold, self.config.class_threshold)
        return torch.where((best.sigmoid() >= limit) & self.config.classes, labels, -1)

    def preprocess(self, image: NDArray[np.uint8]) -> tuple[Tensor, View]:
        """Resize to the network's input size, normalise, pad right and bottom with zeros.

        Returns
        -------
        (1, 3, H, W) network input, and how the image lies in it.

        """
        height, width = image.shape[:2]
        rows, columns = self._fitted(height, width)
        model = self.model
        padded = padded_input(
            image, (rows, columns), model.pad_multiple, model.antialias, self.device
        )
        return padded, View(height, width, rows, columns)

    def input_shape(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of the network input for images of this size."""
        rows, columns = self._fitted(height, width)
        step = self.model.pad_multiple
        return rows + -rows % step, columns + -columns % step

    def _fitted(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of the image in the network input."""
        return fitted_to(self.model, self.config.input_size, height, width)

    def see(self, encoded: Encoded) -> Seen:
        """Return what may be an object, inside the image, poor and double boxes among them.

        That is what the box head makes of the best proposals, or all candidates of one-stage
        proposals.
        """
        if isinstance(self.network.proposals, ProposalHead):
            return self.look(encoded, self.propose(encoded))
        tensors = encoded.tensors
        boxes = clip_boxes(tensors['candidates'][0], encoded.view.rows, encoded.view.columns)
        return Seen(boxes, tensors['logits'][0].sigmoid(), tensors['classes'][0])

    def look(self, encoded: Encoded, asked: Tensor) -> Seen:
        """Return what is seen at each of the boxes (N, 4) in network pixels; see ``probe``."""
        if self.network.boxes is not None:
            boxes, scores = self._per_box('boxes', encoded, asked)
            boxes = clip_boxes(boxes, encoded.view.rows, encoded.view.columns)
            return Seen(boxes, scores, boxes[:, :0])
        seen = self.see(encoded)
        overlap = torchvision.ops.box_iou(asked, seen.boxes)
        near, index = (overlap * seen.scores).max(1)
        there = seen.some(index)
        same = overlap.gather(1, index[:, None])[:, 0] >= _SAME_PLACE
        return there._replace(scores=torch.where(same & (near > 0), there.scores, 0))

    def _boxes_at(self, encoded: Encoded, asked: Tensor) -> Tensor:
        return self.look(encoded, asked).boxes

    def propose(self, encoded: Encoded) -> Tensor:
        """Return the best boxes (N, 4) of the proposals in network pixels."""
        model, view, tensors = self.model, encoded.view, encoded.tensors
        head = self.network.proposals
        if not isinstance(head, ProposalHead):
            return self.select(self.see(encoded)).boxes
        levels = [tensors[key] for key in self.levels]
        return select_proposals(
            tensors['candidates'][0],
            tensors['logits'][0],
            head.candidate_levels(levels, model.candidates),
            (view.rows, view.columns),
            model.proposal_nms_iou,
            model.proposals,
        )[0]

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the fused maps among ``Encoded.tensors``, finest first."""
        return tuple(f'level{i}' for i in range(self.model.network.levels))

    def select(self, seen: Seen) -> Seen:
        """Return what is seen without poor and double boxes, best score first."""
        model, config = self.model, self.config
        large = ((seen.boxes[:, 2:] - seen.boxes[:, :2]) >= model.min_side).all(1)
        limit = chosen(model.score_threshold, config.score_threshold)
        seen = seen.some(large & (seen.scores > limit))
        most = config.max_instances or model.max_instances
        overlap = chosen(model.nms_iou, config.nms_iou)
        return seen.some(torchvision.ops.nms(seen.boxes, seen.scores, overlap)[:most])

    def embed(self, encoded: Encoded, boxes: Tensor) -> tuple[Tensor | None, NDArray[np.float32]]:
        """Features (N, C, 7, 7) and embeddings (N, E) of boxes (N, 4) in network pixels.

        SAM alone has no features, and embeddings of no length.
        """
        if self.draws_only:
            return None, np.zeros((len(boxes), 0), np.float32)
        pooled, embeddings = self._per_box('embeddings', encoded, boxes)
        return pooled, np.asarray(embeddings.cpu().numpy())

    def loaded_in(self, precision: str) -> MasaDetector:
        """See ``Staged``."""
        return MasaDetector.load(dataclasses.replace(self.config, precision=precision))

    def case(self, image: NDArray[np.uint8]) -> Case:
        """Run all stages eagerly on an image; see ``Staged``."""
        view = View(*image.shape[:2], *image.shape[:2])
        tensor = normalise(to_device(image, self.device).permute(2, 0, 1)[None])
        (encoded,) = self._encode(tensor, view, self.eager)
        tensors = {'images': tensor, **encoded.tensors}
        if self.draws_only:
            return make_case(self.stages, encoded.run, view, tensors, tiles(view, _TILES))
        proposals = self.propose(encoded)
        boxes = functools.partial(self._boxes_at, encoded)
        return make_case(self.stages, encoded.run, view, tensors, proposals, boxes)


_SAME_PLACE = 0.3
"""Overlap (IoU) of what one-stage proposals see with where somebody asked them to look."""

_TILES = 4
"""Boxes a side that engines of SAM alone are compared of, for it has no proposals."""

_LOADED = ('model', 'weights', 'device', 'precision')
"""Options that are read when a network is loaded."""


def _check_size(model: ModelConfig, config: DetectorConfig) -> None:
    """Raise ConfigError for an input size that the model does not take."""
    if model.fixed_size and config.input_size not in (0, model.input_size):
        raise ConfigError(
            f'input_size is {config.input_size}; {model.name} takes only {model.input_size}'
        )


def _scale(view: View) -> Tensor:
    """Network pixels per image pixel, for boxes."""
    return torch.tensor([*view.scale, *view.scale], dtype=torch.float32)
