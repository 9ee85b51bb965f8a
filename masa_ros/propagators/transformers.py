# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""SAM 2.1, EdgeTAM and SAM 3's tracker of the library transformers, with a bounded memory.

Ravi et al., "SAM 2: Segment Anything in Images and Videos" (2024). The library tracks in a session
that keeps every frame and every output. Here a session lives for one frame only: it is made of
what the network looks at, and that alone is remembered.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from masa_ros import options
from masa_ros.errors import ConfigError
from masa_ros.models.devices import choose_device
from masa_ros.models.hub import from_hub, library
from masa_ros.options import option
from masa_ros.propagators.loaded import Loaded
from masa_ros.propagators.protocol import check_masks
from masa_ros.types import Frame

_KINDS = {
    'sam2_video': 'Sam2Video',
    'edgetam_video': 'EdgeTamVideo',
    'sam3_tracker_video': 'Sam3TrackerVideo',
    'sam3_video': 'Sam3TrackerVideo',  # the published file, which holds a detector too
}
"""What the classes of the library begin with, by the type of model in a configuration."""
_PROMPTED, _FOLLOWED = 'cond_frame_outputs', 'non_cond_frame_outputs'  # as the library has them


@dataclasses.dataclass(frozen=True)
class TransformersPropagatorConfig:
    """Options of propagators of transformers; raises ConfigError naming one that is wrong.

    None has a name that the detectors of that library have: both begin with ``transformers.``.
    """

    weights: str = option(
        'facebook/sam2.1-hiera-tiny',
        'what carries masks on: name of SAM 2.1, EdgeTAM or SAM 3 on the Hugging Face hub, or the '
        'folder that one was saved in',
    )
    max_prompted: int = option(
        4,
        'frames with a mask that somebody is certain of by which an object is known: the last '
        'one, the first one, then the newest',
        1,
        1000,
        live=True,
    )

    def __post_init__(self) -> None:
        """Check every value by itself."""
        options.check(self)


class TransformersPropagator(Loaded):
    """Carries masks on; see ``Propagator``.

    Parameters
    ----------
    network: of transformers.
    processor: of transformers, which brings images to the network.
    session: class of transformers, see there.
    config: see there.
    device: where it runs.

    """

    config: TransformersPropagatorConfig

    def __init__(
        self,
        network: Any,
        processor: Any,
        session: Any,
        config: TransformersPropagatorConfig,
        device: str,
    ) -> None:
        self.model = type(network).__name__
        self.network = network.float().eval().to(device).to(memory_format=torch.channels_last)
        self.config, self.device, self.weights = config, device, config.weights
        self._processor, self._session = processor, session

    @classmethod
    def load(cls, config: TransformersPropagatorConfig, device: str) -> TransformersPropagator:
        """Make the network that a name or a folder holds.

        Raises
        ------
        ConfigError
            When the device, or the package transformers, is not there, or it carries no masks on.
        WeightsError
            When it cannot be loaded.

        """
        kinds, name = library('the propagator transformers'), config.weights
        where = str(choose_device(device))
        chosen = from_hub(kinds.AutoConfig, name, 'model')
        if chosen.model_type not in _KINDS:
            made = next(iter(chosen.architectures or ()), chosen.model_type)
            raise ConfigError(f'{name} carries no masks on: it holds {made}')
        kind = _KINDS[chosen.model_type]
        processor = from_hub(kinds.AutoImageProcessor, name, 'image processor')
        network = from_hub(getattr(kinds, f'{kind}Model'), name, 'model')
        session = getattr(kinds, f'{kind}InferenceSession')
        return cls(network, processor, session, config, where)

    @torch.inference_mode()
    def encode(self, frames: Sequence[Frame]) -> list[Encoded]:
        """Run the image encoder on frames of one size; see ``Propagator``."""
        if not frames:
            return []
        images = [np.ascontiguousarray(frame.image) for frame in frames]
        pixels = self._processor(
            images=images,
            input_data_format='channels_last',
            return_tensors='pt',
            device=self.device,
        )['pixel_values'].to(self.device)
        seen = self.network.get_image_features(pixels, return_dict=True)
        height, width = frames[0].shape

        def of(i: int, maps: Sequence[Tensor]) -> list[Tensor]:
            """Return the maps (positions, 1, channels) of one image; some are alike for all."""
            return [x[:, i : i + 1] if x.shape[1] == len(frames) else x for x in maps]

        return [
            Encoded(
                height, width, of(i, seen.fpn_hidden_states), of(i, seen.fpn_position_encoding)
            )
            for i in range(len(frames))
        ]

    def session(self) -> Any:
        """Return an empty session of the library."""
        return self._session(
            inference_device=self.device,
            inference_state_device=self.device,
            video_storage_device=self.device,
            dtype=torch.float32,
        )

    def memory(self) -> TransformersMemory:
        """Begin to remember; see ``Propagator``."""
        return TransformersMemory(self)


class Encoded(NamedTuple):
    """What the network sees in a frame without knowing any object.

    Attributes
    ----------
    height, width: of the frame, pixels; the network sees it as a square.
    features, positions: (h * w, 1, channels) of every level.

    """

    height: int
    width: int
    features: list[Tensor]
    positions: list[Tensor]


class Seen(NamedTuple):
    """What is remembered of one object in one frame.

    Attributes
    ----------
    pointer: (1, channels) the object in short.
    features: of the frame and the mask in it; None where the network asks for the pointer only.
    prompted: whether somebody was certain of the mask.

    """

    pointer: Tensor
    features: Tensor | None
    prompted: bool = False


class Look(NamedTuple):
    """What the network finds in a frame: logits (N, 1, h, w) of its objects, and what to keep."""

    logits: Tensor
    seen: dict[int, Seen]


class _Reading(NamedTuple):
    encoded: Encoded
    look: Look


class TransformersMemory:
    """SAM 2's memory (section 4): frames with prompts, and those just before.

    Every object is known by itself, as in the library. A mask that somebody is certain of, and the
    first one of an object, are prompts; other masks that are handed in are taken for what is seen.

    Bounded: of an object up to ``max_prompted`` frames with prompts, the features of the
    ``num_maskmem`` - 1 frames before and the pointers of ``max_object_pointers_in_encoder`` - 1
    (6 and 15 of all published models). With no more prompts than that the network sees exactly
    what it sees in the library's session. A prompt for which there is no room any more counts as a
    frame like others.

    The network sees every frame as a square of one size, so that frames may change theirs.

    Parameters
    ----------
    propagator: whose network and options are used.

    Attributes
    ----------
    known: by the id of each object: what is remembered of it, by the number of the frame.

    """

    def __init__(self, propagator: TransformersPropagator) -> None:
        self._propagator = propagator
        self.known: dict[int, dict[int, Seen]] = {}
        self._next = 0  # number of the frame that is read, or remembered, next
        self._positions: Tensor | None = None  # of features, alike in all frames
        self._reading: _Reading | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """Of the objects, in the order of their masks."""
        return tuple(self.known)

    @torch.inference_mode()
    def read(self, encoded: Encoded) -> Tensor:
        """Find the objects again; see ``Memory``.

        In a pixel the background has the logit 0, as an object alone is there where its own is
        above; of several the highest counts. So is the probability of one its sigmoid.
        """
        size = encoded.height, encoded.width
        ground = encoded.features[-1].new_zeros((1, *size))
        if not self.known:
            self._reading = _Reading(encoded, Look(ground[:, None], {}))
            return ground + 1
        look = self.look(encoded)
        self._reading = _Reading(encoded, look)
        logits = F.interpolate(look.logits, size, mode='bilinear', align_corners=False)
        return torch.cat((ground, logits[:, 0])).softmax(0)

    @torch.inference_mode()
    def remember(
        self,
        encoded: Encoded,
        ids: Sequence[int],
        masks: Tensor | None = None,
        certain: bool = False,
    ) -> None:
        """Take what is true of a frame; see ``Memory``.

        In every pixel the most probable object counts alone, of equals the first. An object that
        is not there is never a prompt, but for the first mask.

        Raises
        ------
        ValueError
            When ids and masks do not fit each other or the frame.

        """
        look = self._read(encoded, ids) if masks is None else self._shown(encoded, ids, masks)
        there = dict[int, bool]()
        if certain:
            there = dict(zip(look.seen, (look.logits > 0).flatten(1).any(1).tolist()))
        known = {}
        for each in ids:
            before = self.known.get(each, {})
            seen = look.seen[each]._replace(prompted=not before or there.get(each, False))
            known[each] = self._limited({**before, self._next: seen})
        # Last, so that nothing is half known where memory runs out on the way.
        self.known, self._next, self._reading = known, self._next + 1, None

    def _read(self, encoded: Encoded, ids: Sequence[int]) -> Look:
        reading = self._reading
        if reading is None or reading.encoded is not encoded:
            raise ValueError('no masks of a frame that was not read last')
        if unknown := [each for each in ids if each not in reading.look.seen]:
            raise ValueError(f'no masks of the objects {unknown}, which were not read')
        return reading.look

    def _shown(self, encoded: Encoded, ids: Sequence[int], masks: Tensor) -> Look:
        check_masks(masks, ids, encoded.height, encoded.width)
        if not ids:
            return Look(masks[:0, None], {})
        labels = masks.to(self._propagator.device).argmax(0)
        values = torch.arange(1, 1 + len(ids), device=labels.device)
        hard = (labels == values[:, None, None])[:, None].float()
        side = self._propagator.network.image_size
        # As the library's processor does it.
        hard = F.interpolate(hard, (side, side), mode='bilinear', antialias=True)
        return self.look(encoded, dict(zip(ids, (hard >= 0.5).float())))

    @torch.inference_mode()
    def look(self, encoded: Encoded, masks: Mapping[int, Tensor] | None = None) -> Look:
        """Run the network on a frame; nothing is remembered.

        Parameters
        ----------
        encoded: the frame.
        masks: (1, S, S) of 0 and 1 in the network's input, by ids: of objects that are shown;
            None: the known ones are looked for.

        """
        session, now = self._propagator.session(), self._next
        for each in self.known if masks is None else masks:
            place = session.obj_id_to_idx(each)
            if masks is None:
                session.output_dict_per_obj[place] = self._outputs(each)
            else:
                session.add_mask_inputs(place, now, masks[each][None])
        session.obj_with_new_inputs = list(masks or ())
        session.cache.cache_vision_features(
            now, {'vision_feats': encoded.features, 'vision_pos_embeds': encoded.positions}
        )
        # That there is a frame tells that it is a stream; as its features are there, it may be
        # empty.
        made = self._propagator.network(
            inference_session=session, frame_idx=now, frame=encoded.features[0].new_empty(0)
        )
        key = _FOLLOWED if masks is None else _PROMPTED
        seen = {}
        for place, each in enumerate(made.object_ids):
            own = session.output_dict_per_obj[place][key][now]
            if self._positions is None:
                self._positions = own['maskmem_pos_enc'].clone()
            # Copies: these are views of what all objects have together.
            pointer, features = own['object_pointer'].clone(), own['maskmem_features'].clone()
            seen[each] = Seen(pointer, features)
        return Look(made.pred_masks, seen)

    def _outputs(self, each: int) -> dict[str, dict[int, dict[str, Any]]]:
        """Return what is known of an object as the library's session has it."""
        outputs: dict[str, dict[int, dict[str, Any]]] = {_PROMPTED: {}, _FOLLOWED: {}}
        for index, seen in self.known[each].items():
            outputs[_PROMPTED if seen.prompted else _FOLLOWED][index] = {
                'object_pointer': seen.pointer,
                'maskmem_features': seen.features,
                'maskmem_pos_enc': self._positions,
            }
        return outputs

    def _limited(self, seen: Mapping[int, Seen]) -> dict[int, Seen]:
        """Return of an object what the network looks at in the frame after this one."""
        network = self._propagator.network
        prompted = [index for index, each in seen.items() if each.prompted]
        order = dict.fromkeys((*prompted[-1:], *prompted[:1], *prompted[-2:0:-1]))
        stay = set(list(order)[: self._propagator.config.max_prompted])
        limits = network.num_maskmem, network.config.max_object_pointers_in_encoder
        kept = {}
        for index, each in seen.items():
            age = self._next + 1 - index
            if index in stay:
                kept[index] = each
            elif age < max(limits):
                features = each.features if age < limits[0] else None
                kept[index] = Seen(each.pointer, features)
        return kept

    def drop(self, ids: Sequence[int]) -> None:
        """Forget some objects; see ``Memory``."""
        self.known = {each: seen for each, seen in self.known.items() if each not in ids}

    def forget(self) -> None:
        """Forget everything; see ``Memory``."""
        self.known, self._next = {}, 0
        self._positions = self._reading = None

    def figures(self) -> Mapping[str, Any]:
        """Return how large it is: the frames whose features the best known object has, bytes."""
        every = [each for seen in self.known.values() for each in seen.values()]
        held = [x for each in every for x in each[:2] if x is not None]
        held += [self._positions] if self._positions is not None else []
        frames = (
            sum(each.features is not None for each in seen.values())
            for seen in self.known.values()
        )
        return {
            'memory_frames': max(frames, default=0),
            'memory_bytes': sum(x.nbytes for x in held),
        }
