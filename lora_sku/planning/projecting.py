"""The stages that a recipe may ask for: subspace before training; project and sweep after it."""

from collections.abc import Iterable
from dataclasses import replace

import torch

from lora_sku.discriminants import discriminant_bytes
from lora_sku.kronecker import kronecker_bytes
from lora_sku.planning.layers import Tokens, count_layers
from lora_sku.planning.passes import (
    Moment,
    Pass,
    mask_bytes,
    scoring_moments,
    training_moments,
    without_gradient,
)
from lora_sku.planning.plan import (
    Line,
    Setup,
    StagePlan,
    adapted_layers,
    at_peak,
    weights_held,
    workspace_of,
)
from lora_sku.planning.shapes import ModelShape
from lora_sku.projection import GROUP_BYTES, solver_bytes


def plan_projection(
    shape: ModelShape, setup: Setup, load: Tokens, *, positions: int, mus: int
) -> StagePlan:
    """Sampling what adapted layers read, and solving layer by layer for every mu.

    Args:
        shape: The model.
        setup: How it is held.
        load: Texts at once.
        positions: Drawn of each set.
        mus: How many A are made of each.
    """
    _, sizes = adapted_layers(shape, setup)
    features = sum(w.in_features for w in shape.adapted(setup.targets, setup.layers))
    copies = sum(sizes) + mus * features * setup.rank
    widest = max(w.in_features for w in shape.adapted(setup.targets, setup.layers))
    solver = solver_bytes(widest, positions, positions)
    return _plan_sampling("project", shape, setup, load, positions, copies=copies, solver=solver)


def plan_subspace(
    shape: ModelShape, setup: Setup, load: Tokens, *, positions: int, stretches: int
) -> StagePlan:
    """Sampling what adapted layers read, and finding each one's directions.

    The iterated block and its responses are small beside what the projector makes.

    Args:
        shape: The model.
        setup: How it is held.
        load: Texts at once.
        positions: Drawn of each set for selective directions; 0 if there are none.
        stretches: Positions drawn of all sets for discriminants; 0 if there are none.
    """
    widest = max(w.in_features for w in shape.adapted(setup.targets, setup.layers))
    ways = [
        _plan_sampling("subspace", shape, setup, load, drawn // 2, copies=0, solver=solver)
        for drawn, solver in (
            (2 * positions, solver_bytes(widest, positions, positions)),
            (stretches, discriminant_bytes(widest, stretches)),
        )
        if drawn
    ]
    return max(ways, key=lambda way: way.total)


def plan_natural_step(
    shape: ModelShape, setup: Setup, passes: Iterable[Pass], *, positions: int, copies: int
) -> StagePlan:
    """Stage 1 in one step: passes without an optimizer, then the curvature of each layer.

    Args:
        shape: The model.
        setup: How it is held.
        passes: As pairs go through the model.
        positions: Token positions whose gradients are kept.
        copies: How many times the numbers of every B are held in the machine's memory.
    """
    layer_setup, sizes = adapted_layers(shape, setup)
    adapted = shape.adapted(setup.targets, setup.layers)
    features = [linear.out_features for linear in adapted]
    itemsize, on_cpu = setup.dtype.itemsize, setup.device == "cpu"
    samples = positions * sum(f * itemsize + setup.rank * 4 for f in features)
    one = positions * (max(features) * itemsize + setup.rank * 4)
    kept = max(one, min(GROUP_BYTES, samples)) * on_cpu
    trained = [
        replace(moment, activations=moment.activations + kept)
        for work in passes
        for moment in training_moments(shape, layer_setup, work, checkpointing=setup.checkpointing)
    ]
    solver = max(kronecker_bytes(f, positions) for f in features)
    solving = Moment("dividing by the curvature", kept + (0 if on_cpu else one), solver)
    b_bytes = sum(sizes[1::2]) * setup.adapter_dtype.itemsize
    held = [
        *weights_held(shape, setup, sizes),
        Line("gradients", b_bytes),
        Line("adapter copies", copies * b_bytes * on_cpu),
    ]
    return at_peak("acquire", held, [*trained, solving], workspace_of(shape, setup), setup.device)


def _plan_sampling(
    stage: str,
    shape: ModelShape,
    setup: Setup,
    load: Tokens,
    positions: int,
    *,
    copies: int,
    solver: int,
) -> StagePlan:
    """A stage that samples inputs and solves with them.

    ``copies``: numbers of copied factors; ``solver``: bytes it needs for the widest input.

    The samples and the copies of the factors lie in the machine's memory: on CUDA they are no part
    of the plan, but one sample at a time is on the card to be solved with.
    """
    layer_setup, sizes = adapted_layers(shape, setup)
    adapted = shape.adapted(setup.targets, setup.layers)
    itemsize = setup.dtype.itemsize
    widest = max(linear.in_features for linear in adapted)
    one = 2 * positions * widest * itemsize
    on_cpu = setup.device == "cpu"
    features = sum(linear.in_features for linear in adapted)
    # Layers that share an input share its sample, so this is an upper bound.
    samples = max(one, min(GROUP_BYTES, 2 * positions * features * itemsize))
    with torch.no_grad():
        layers = count_layers(shape, without_gradient(layer_setup), load)
    reading = mask_bytes(shape, load) + max(layer.forward_peak for layer in layers)
    moments = (
        Moment("reading inputs", samples if on_cpu else 0, layer=reading),
        Moment("solving", samples if on_cpu else one, solver),
    )
    copied = copies * setup.adapter_dtype.itemsize
    held = [*weights_held(shape, setup, sizes), Line("adapter copies", copied * on_cpu)]
    return at_peak(stage, held, moments, workspace_of(shape, setup), setup.device)


def plan_sweep(shape: ModelShape, setup: Setup, scoring: Pass) -> StagePlan:
    """Scoring the validation split again and again; theta_o's states are in the machine's memory.

    They are small (hidden size x 2 bytes an answer token) and not counted: how many there are, the
    data alone know.
    """
    layer_setup, sizes = adapted_layers(shape, setup)
    moments = scoring_moments(shape, layer_setup, scoring)
    held = weights_held(shape, setup, sizes)
    return at_peak("sweep", held, moments, workspace_of(shape, setup), setup.device)
