# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The training loop of the small propagation network: short recordings in, weights out."""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from masa_ros.models import nano_weights
from masa_ros.models.deva.network import ImageMaps
from masa_ros.models.devices import choose_device
from masa_ros.models.nano_propagation import NanoPropagation, NanoSizes
from masa_ros.models.preprocess import normalise
from masa_ros.training import loop
from masa_ros.training.figures import Figures
from masa_ros.training.propagation_losses import overlap, propagation_loss
from masa_ros.training.sequences import Sequences, Shown

_MEASURED = 40  # held-out recordings


@dataclasses.dataclass(frozen=True)
class PropagationConfig:
    """One training run, in one process.

    Attributes
    ----------
    output: folder for weights, checkpoint and metrics.
    weights: file to start from; '' for random weights. The backbone is always masa_nano's.
    steps: length of the run; the learning rate falls to zero over them.
    minutes: stop earlier when that much time has passed, 0 for no limit; as for ``train``.
    recordings: a step.
    frames, objects: of a recording; objects at most.
    learning_rate, weight_decay: of AdamW.
    warmup: steps over which the learning rate rises.
    clip: largest norm of the gradient.
    ema: decay of the averaged weights, which are the ones that are saved.
    device: 'auto', 'cpu', 'cuda'.
    workers: processes that make recordings.
    save_every: steps between two saves.
    evaluate_every: steps between two evaluations, 0 for none.
    seed: of the initial weights.
    resume: go on from the checkpoint in ``output``.

    """

    output: Path
    weights: str = ''
    steps: int = 6000
    minutes: float = 0.0
    recordings: int = 4
    frames: int = 4
    objects: int = 3
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    warmup: int = 100
    clip: float = 3.0
    ema: float = 0.998
    device: str = 'auto'
    workers: int = 1
    save_every: int = 200
    evaluate_every: int = 0
    seed: int = 0
    resume: bool = False


class _Numbered(Dataset[Shown]):
    """Recordings by running number, so that a resumed run goes on with new ones."""

    def __init__(self, sequences: Sequences, config: PropagationConfig, start: int) -> None:
        self.sequences, self.config = sequences, config
        self.start, self.count = start, config.steps * config.recordings - start

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Shown:
        return self.sequences.shown(self.start + index, self.config.frames, self.config.objects)


def _same(shown: list[Shown]) -> list[Shown]:
    return shown


def _seen(
    network: NanoPropagation, batch: Sequence[Shown], device: torch.device
) -> Iterator[tuple[ImageMaps, Shown]]:
    """Give what a network sees in recordings of one length, and them on its device."""
    images = torch.cat([shown.images for shown in batch])
    maps = network(normalise(images.to(device)))
    start = 0
    for shown in batch:
        end = start + len(shown.images)
        tensors = (shown.images.to(device), shown.masks.to(device), shown.first.to(device))
        yield ImageMaps(*(x[start:end] for x in maps)), Shown(*tensors, shown.kept)
        start = end


@torch.no_grad()
def measured(network: NanoPropagation, recordings: Sequence[Shown]) -> dict[str, float]:
    """Return the mean IoU of what is there, over frames and objects of recordings."""
    device = next(network.parameters()).device
    sums = [overlap(network, *each) for r in recordings for each in _seen(network, [r], device)]
    return {'iou': sum(total for total, _ in sums) / max(1, sum(count for _, count in sums))}


def train(
    config: PropagationConfig, sequences: Sequences, held_out: Sequences | None = None
) -> Path:
    """Train, writing weights, checkpoint, configuration and metrics to the output folder.

    Parameters
    ----------
    config: of the run.
    sequences: to learn from.
    held_out: what the averaged network is measured on, every ``config.evaluate_every`` steps.

    Returns
    -------
    Path of the weights.

    Raises
    ------
    ConfigError, WeightsError
        For a device that is not there, and weights or a checkpoint that cannot be read.

    """
    device = choose_device(config.device)
    torch.manual_seed(config.seed)
    network = NanoPropagation(NanoSizes())
    if config.weights:
        nano_weights.load(network, Path(config.weights))
    else:
        nano_weights.load_backbone(network)
    network.to(device).to(memory_format=torch.channels_last).backbone.requires_grad_(False)
    average = copy.deepcopy(network).requires_grad_(False)
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        [
            {'params': [p for p in learning if p.ndim > 1], 'weight_decay': config.weight_decay},
            {'params': [p for p in learning if p.ndim <= 1], 'weight_decay': 0.0},
        ]
    )
    config.output.mkdir(parents=True, exist_ok=True)
    checkpoint = config.output / 'checkpoint.safetensors'
    weights = config.output / 'nano_propagator.safetensors'
    networks = {'network': network, 'average': average}
    step, seconds = 0, 0.0
    if config.resume and checkpoint.is_file():
        step, seconds = loop.load(checkpoint, networks, optimiser)
    recordings = []
    if held_out is not None and config.evaluate_every:
        recordings = [held_out.shown(i, config.frames, config.objects) for i in range(_MEASURED)]
    described = dataclasses.asdict(config)  # names, not paths: the file travels
    described |= {'output': config.output.name, 'weights': Path(config.weights).name}
    figures = Figures(config.output, step)

    def save() -> None:
        loop.save(checkpoint, networks, optimiser, step, seconds)
        (config.output / 'config.json').write_text(json.dumps(described, indent=1) + '\n')
        metadata = {
            'model': 'nano_propagator',
            'steps': str(step),
            'images': str(step * config.recordings * config.frames),
            'minutes': f'{seconds / 60:.1f}',
            'config': json.dumps(described),
        }
        nano_weights.save(average, weights, metadata)

    try:
        begun = step, seconds
        for step, seconds, losses in _steps(config, networks, optimiser, sequences, *begun):
            figures.write('metrics', step, {'seconds': seconds, **losses})
            if recordings and step % config.evaluate_every == 0:
                figures.write('evaluation', step, measured(average, recordings))
            if step % config.save_every == 0:
                save()
    finally:
        figures.close()
    save()
    return weights


def _steps(
    config: PropagationConfig,
    networks: dict[str, NanoPropagation],
    optimiser: torch.optim.Optimizer,
    sequences: Sequences,
    step: int,
    seconds: float,
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Take the steps of a run; gives the number of each, the seconds so far and the losses."""
    network, average = networks['network'], networks['average']
    device = next(network.parameters()).device
    learning = [p for group in optimiser.param_groups for p in group['params']]
    loader = DataLoader(
        _Numbered(sequences, config, step * config.recordings),
        batch_size=config.recordings,
        num_workers=config.workers,
        collate_fn=_same,
        worker_init_fn=loop.alone,
        prefetch_factor=4 if config.workers else None,
    )
    begin = time.perf_counter() - seconds
    bar = tqdm(loader, total=config.steps, initial=step, unit='step', dynamic_ncols=True)
    for batch in bar:
        seconds = time.perf_counter() - begin
        progress = step / config.steps
        if config.minutes:
            progress = max(progress, seconds / 60 / config.minutes)
        if progress >= 1:
            break
        for group in optimiser.param_groups:
            group['lr'] = config.learning_rate * loop.rate(progress, step, config.warmup)
        losses: dict[str, Tensor] = {}
        with torch.autocast(device.type, torch.bfloat16):
            for maps, shown in _seen(network, batch, device):
                for name, value in propagation_loss(network, maps, shown).items():
                    losses[name] = losses.get(name, 0) + value / len(batch)
        optimiser.zero_grad(set_to_none=True)
        sum(losses.values(), start=torch.zeros((), device=device)).backward()
        norm = torch.nn.utils.clip_grad_norm_(learning, config.clip)
        if not bool(norm.isfinite()):
            raise FloatingPointError(f'step {step}: the gradient is not finite')
        optimiser.step()
        step += 1
        loop.average(average, network, config.ema, step)
        values = {name: float(value.detach()) for name, value in losses.items()}
        if step % 20 == 0:
            bar.set_postfix({name: f'{value:.2f}' for name, value in values.items()})
        yield step, seconds, values
