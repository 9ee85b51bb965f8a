# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The training loop: scenes in, weights out.

The same on one CPU, one GPU, or in several processes that torchrun starts: see ``parallel``.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from masa_ros.errors import ConfigError, MasaError
from masa_ros.models import checkpoints
from masa_ros.models.configs import NetworkConfig, SamConfig
from masa_ros.models.devices import choose_device
from masa_ros.models.network import MasaNetwork
from masa_ros.models.preprocess import normalise
from masa_ros.models.zoo import model_config
from masa_ros.training import loop, parallel
from masa_ros.training.data import Scenes
from masa_ros.training.discriminants import Discriminants
from masa_ros.training.figures import Figures
from masa_ros.training.losses import objective, seen_objects
from masa_ros.training.targets import LossConfig, Target
from masa_ros.training.views import Known, ViewPair

Evaluate = Callable[[MasaNetwork], dict[str, float]]
"""Figures of the averaged network, by name."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes
    ----------
    model: name in the zoo.
    output: folder for weights, checkpoint and metrics.
    weights: file to start from; '' for random weights.
    anew: parts of the network that begin with random weights, whatever is in that file.
    closed_form: nothing learns step by step; the embeddings, anew, are discriminants of what is
        in all scenes, see ``discriminants``.
    tutor: model and file of a network whose embeddings are imitated, '' for none.
    steps: length of the run; the learning rate falls to zero over them.
    minutes: stop earlier when that much time has passed, 0 for no limit. The learning rate then
        follows the time instead of the steps.
    pairs: scenes per step over all processes; each gives two views.
    learning_rate, weight_decay: of AdamW.
    warmup: steps over which the learning rate rises.
    clip: largest norm of the gradient.
    ema: decay of the averaged weights, which are the ones that are saved.
    freeze: parts of the network that keep their weights: any of 'backbone', 'masks', 'pyramid',
        'fusion', 'proposals', 'proposals.known', 'boxes', 'appearance', 'embed', or a part of one.
        None: backbone and masks of SAM, as in the paper; backbone and the known part of one-stage
        proposals.
    gentle: parts that learn at a tenth of the rate. With one-stage proposals that start from
        ``weights`` the network also learns to go on naming what these name
        (``dense_losses.keep_loss``).
    heads_after: share of the run after which only the embedding head learns, 1: never. The
        released SAM models were finished so.
    device: 'auto', 'cpu', 'cuda'.
    precision: 'auto', 'bf16' or 'fp32'; auto: bf16.
    workers: processes that make scenes.
    save_every: steps between two saves.
    evaluate_every: steps between two evaluations, 0 for none.
    seed: of the initial weights.
    resume: go on from the checkpoint in ``output``.

    """

    model: str
    output: Path
    weights: str = ''
    anew: tuple[str, ...] = ()
    closed_form: bool = False
    tutor: tuple[str, str] = ('', '')
    steps: int = 4000
    minutes: float = 0.0
    pairs: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    warmup: int = 100
    clip: float = 10.0
    ema: float = 0.998
    freeze: tuple[str, ...] | None = None
    gentle: tuple[str, ...] = ()
    heads_after: float = 1.0
    device: str = 'auto'
    precision: str = 'auto'
    workers: int = 1
    save_every: int = 200
    evaluate_every: int = 0
    seed: int = 0
    resume: bool = False
    losses: LossConfig = dataclasses.field(default_factory=LossConfig)


class Drawn(NamedTuple):
    """A pair of views, the number of its scene, and photographs newly left out, with reasons."""

    number: int
    pair: ViewPair
    left_out: Mapping[str, str] = MappingProxyType({})


class _Endless(Dataset[Drawn | MasaError]):
    """Pairs by running number, so that a resumed run goes on with new ones.

    Process k of n takes numbers k, n + k, ... of every batch. Errors are given, not raised: a
    worker process would put its traceback into their texts.
    """

    def __init__(self, scenes: Scenes, start: int, count: int, pairs: int) -> None:
        self.scenes, self.start, self.count = scenes, start, count
        self.pairs = pairs  # of this process
        self.rank, self.processes = parallel.rank(), parallel.processes()
        self.told: set[str] = set()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Drawn | MasaError:
        step, place = divmod(index, self.pairs)
        number = self.start + (step * self.processes + self.rank) * self.pairs + place
        try:
            pair = self.scenes.pair(number)
        except MasaError as error:
            return error
        new = {name: why for name, why in self.scenes.left_out.items() if name not in self.told}
        self.told |= new.keys()
        return Drawn(number, pair, new)


def to_batch(drawn: Sequence[Drawn]) -> tuple[Tensor, list[Target]]:
    """First views of all scenes, then their second views, as ``losses.objective`` takes them."""
    images = torch.cat([torch.stack([d.pair.images[view] for d in drawn]) for view in (0, 1)])
    targets = [_target(d.pair, view, 2 * d.number + view) for view in (0, 1) for d in drawn]
    return images, targets


def _target(pair: ViewPair, view: int, number: int) -> Target:
    """Return what is known of one view."""
    boxes, kinds = pair.boxes[view], pair.kinds[view]
    sure = kinds != Known.DOUBTFUL
    return Target(
        boxes[sure],
        pair.masks[view][sure],
        pair.ids[view][sure],
        pair.ignore[view],
        kinds[sure] == Known.MASK,
        boxes[~sure],
        number,
        pair.generated,
    )


def _same(drawn: list[Drawn | MasaError]) -> list[Drawn | MasaError]:
    return drawn


_GENTLE = 0.1  # of the learning rate
_EMBEDDINGS = ('appearance', 'embed')


def _frozen(config: TrainConfig, network: NetworkConfig) -> tuple[str, ...]:
    """Name the parts that do not learn."""
    if config.freeze is not None:
        return config.freeze
    if isinstance(network.backbone, SamConfig):
        return ('backbone', 'masks')
    return ('backbone', 'proposals.known') if network.dense is not None else ()


def _tutor(config: TrainConfig, network: MasaNetwork, device: torch.device) -> MasaNetwork | None:
    """Load the network whose embeddings are imitated."""
    name, file = config.tutor
    if not name:
        return None
    model = model_config(name)
    theirs, ours = model.network.embedding, network.config.embedding
    if theirs != ours:
        raise ConfigError(f'tutor: {name} has embeddings of {theirs} numbers, not of {ours}')
    tutor = MasaNetwork(model.network)
    checkpoints.load(tutor, Path(file), model)
    return tutor.requires_grad_(False).to(device).to(memory_format=torch.channels_last).eval()


class _State:
    """What a run goes on with: networks, optimiser, how far it is."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        model = model_config(config.model)
        self._model = model.name
        if not model.network.levels:
            raise ConfigError(f'model: {model.name} has nothing that is trained here')
        self.network = MasaNetwork(model.network)
        anew = config.anew
        self.discriminants: Discriminants | None = None
        if config.closed_form:
            if config.resume or not config.weights or parallel.processes() > 1:
                text = 'closed_form: from weights, in one process, and not to be resumed'
                raise ConfigError(text)
            self.discriminants = Discriminants(self.network)
            anew = (*anew, *_EMBEDDINGS)
        for name in anew:
            self._part('anew', name)
        if config.weights:
            checkpoints.load(self.network, Path(config.weights), model, anew)
        self.network.to(device).to(memory_format=torch.channels_last)
        self.network.train(not config.closed_form)
        self.average = MasaNetwork(model.network).to(device).eval()
        self.average.load_state_dict(self.network.state_dict())
        if parallel.processes() > 1:
            parallel.share_batch_norm(self.network)
        self.frozen = _frozen(config, model.network)
        for name in self.frozen:
            self._part('freeze', name).requires_grad_(False).eval()
        gentle = {
            parameter
            for name in config.gentle
            for parameter in self._part('gentle', name).parameters()
        }
        learning = [p for p in self.network.parameters() if p.requires_grad]
        alike: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for parameter in learning:
            alike.setdefault((parameter in gentle, parameter.ndim <= 1), []).append(parameter)
        self.optimiser = torch.optim.AdamW(
            {
                'params': parameters,
                'weight_decay': 0.0 if vectors else config.weight_decay,
                'share': _GENTLE if slow else 1.0,
            }
            for (slow, vectors), parameters in sorted(alike.items(), key=lambda item: item[0])
        )
        self.guide: MasaNetwork | None = None  # what gentle parts were before
        if config.weights and model.network.dense is not None and not gentle.isdisjoint(learning):
            self.guide = copy.deepcopy(self.average).requires_grad_(False)
        self.tutor = _tutor(config, self.network, device)
        self.learning = learning
        self.step, self.seconds = 0, 0.0
        self.left_out: dict[str, str] = {}  # photographs, and why

    def _part(self, option: str, name: str) -> nn.Module:
        try:
            return self.network.get_submodule(name)
        except AttributeError:
            text = f"{option}: {self._model} has no part '{name}'"
            raise ConfigError(text) from None

    def only_embedding(self) -> None:
        """Let nothing but the embedding head learn from now on."""
        for name, part in self.network.named_children():
            if name != 'embed':
                part.requires_grad_(False).eval()

    def learn(self, losses: Mapping[str, Tensor], clip: float, ema: float) -> None:
        """Change the weights by the gradient of the sum of the losses, and their average."""
        self.optimiser.zero_grad(set_to_none=True)
        sum(losses.values(), start=torch.zeros(())).backward()
        parallel.add_gradients(self.learning)
        norm = torch.nn.utils.clip_grad_norm_(self.learning, clip)
        if not bool(norm.isfinite()):
            raise FloatingPointError(f'step {self.step}: the gradient is not finite')
        self.optimiser.step()
        loop.average(self.average, self.network, ema, self.step + 1)

    def finish(self) -> None:
        """Do what can be done at the end of a run alone."""
        if self.discriminants is not None:
            self.discriminants.finish()
            self.average.load_state_dict(self.network.state_dict())

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        networks = {'network': self.network, 'average': self.average}
        loop.save(path, networks, self.optimiser, self.step, self.seconds)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint; raises WeightsError when it is none of this run."""
        networks = {'network': self.network, 'average': self.average}
        self.step, self.seconds = loop.load(path, networks, self.optimiser)


def train(
    config: TrainConfig,
    scenes: Scenes,
    evaluate: Evaluate | None = None,
    log: Callable[[str], None] = print,
) -> Path:
    """Train, writing weights, checkpoint, configuration and metrics to the output folder.

    Parameters
    ----------
    config: of the run.
    scenes: to learn from.
    evaluate: measures the network every ``config.evaluate_every`` steps.
    log: takes a line about photographs that were left out.

    Returns
    -------
    Path of the weights.

    Raises
    ------
    ConfigError, WeightsError
        For options that do not fit, and weights or a checkpoint that cannot be read.
    SourceError
        When there is nothing to learn from.

    """
    with parallel.started(str(choose_device(config.device))) as name:
        return _train(config, scenes, evaluate, torch.device(name), log)


def _train(
    config: TrainConfig,
    scenes: Scenes,
    evaluate: Evaluate | None,
    device: torch.device,
    log: Callable[[str], None],
) -> Path:
    if config.pairs % parallel.processes():
        raise ConfigError(
            f'{config.pairs} scenes a step cannot be shared by {parallel.processes()} processes'
        )
    if config.precision not in ('auto', 'bf16', 'fp32'):
        raise ConfigError(f"precision is '{config.precision}'; it must be auto, bf16 or fp32")
    state = _State(config, device)
    config.output.mkdir(parents=True, exist_ok=True)
    checkpoint = config.output / 'checkpoint.safetensors'
    weights = config.output / f'{config.model}.safetensors'
    if config.resume and checkpoint.is_file():
        state.load(checkpoint)
    # Names, not paths: the file travels.
    described = dataclasses.asdict(config)
    described |= {'output': config.output.name, 'weights': Path(config.weights).name}
    described['tutor'] = [config.tutor[0], Path(config.tutor[1]).name]
    main = parallel.rank() == 0

    def due(every: int) -> bool:
        # In closed form there is nothing to keep or to measure before the end.
        return not config.closed_form and every > 0 and state.step % every == 0

    def save() -> None:
        if not main:
            return
        if not config.closed_form:
            state.save(checkpoint)
        (config.output / 'config.json').write_text(json.dumps(described, indent=1) + '\n')
        metadata = {
            'model': config.model,
            'steps': str(state.step),
            'images': str(2 * state.step * config.pairs),
            'minutes': f'{state.seconds / 60:.1f}',
            'config': json.dumps(described),
        }
        checkpoints.save(state.average, weights, metadata)

    with contextlib.ExitStack() as stack:
        metrics = None
        if main:
            metrics = Figures(config.output, state.step)
            stack.callback(metrics.close)
        for values in _steps(config, state, scenes, device):
            if metrics is not None:
                metrics.write('metrics', state.step, {'seconds': state.seconds, **values})
                if evaluate is not None and due(config.evaluate_every):
                    metrics.write('evaluation', state.step, evaluate(state.average))
            if due(config.save_every):
                save()
        if metrics is not None and evaluate is not None and config.closed_form:
            metrics.write('evaluation', state.step, evaluate(state.average))
    save()
    left_out = parallel.union(state.left_out)
    if left_out and main:
        examples = '; '.join(f'{name}: {why}' for name, why in list(left_out.items())[:10])
        log(f'photographs left out: {len(left_out)} ({examples})')
    return weights


def _steps(
    config: TrainConfig, state: _State, scenes: Scenes, device: torch.device
) -> Iterator[dict[str, float]]:
    """Take the steps of a run; gives the losses of each."""
    pairs = config.pairs // parallel.processes()
    first = state.step
    loader = DataLoader(
        _Endless(scenes, first * config.pairs, (config.steps - first) * pairs, pairs),
        batch_size=pairs,
        num_workers=config.workers,
        collate_fn=_same,
        worker_init_fn=loop.alone,
        prefetch_factor=4 if config.workers else None,
    )
    main = parallel.rank() == 0
    bar = tqdm(
        loader,
        total=config.steps,
        initial=first,
        unit='step',
        dynamic_ncols=True,
        disable=not main,
    )
    begin = time.perf_counter() - state.seconds
    half = torch.autocast(device.type, torch.bfloat16, enabled=config.precision != 'fp32')
    late = False
    for given in bar:
        drawn = []
        for item in given:
            if isinstance(item, MasaError):
                raise item
            drawn.append(item)
            state.left_out |= item.left_out
        state.seconds = time.perf_counter() - begin
        progress = state.step / config.steps
        if config.minutes:  # all processes must agree on the time
            elapsed = parallel.total(state.seconds, device) / parallel.processes()
            progress = max(progress, elapsed / 60 / config.minutes)
        if progress >= 1:
            break
        if progress >= config.heads_after and not late:
            late = True
            state.only_embedding()
        rate = loop.rate(progress, state.step, config.warmup)
        for group in state.optimiser.param_groups:
            group['lr'] = config.learning_rate * rate * group['share']
        images, targets = to_batch(drawn)
        targets = [target.to(device) for target in targets]
        inputs = normalise(images.to(device, non_blocking=True))
        if state.discriminants is None:
            with half:
                losses = objective(
                    state.network, inputs, targets, config.losses, state.guide, state.tutor
                )
            state.learn(losses, config.clip, config.ema)
            parts = {n: parallel.total(float(x.detach()), device) for n, x in losses.items()}
            values = {'total': sum(parts.values()), **parts}
        else:
            with half:
                looks = seen_objects(state.network, inputs, targets, config.losses)
            values = {'objects': state.discriminants.add(looks, progress)}
        state.step += 1
        if state.step % 20 == 0:
            name, value = next(iter(values.items()))
            bar.set_postfix({name: f'{value:.2f}'})
        yield values
    state.finish()
