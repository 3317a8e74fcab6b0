"""What every objective must do: finite numbers, no read-back, bit-exact resume, copies, and clear refusals."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor, nn

from pp_simve.inference import (
    BYOL,
    ELBO,
    IWAE,
    AmortizedGuide,
    AnalyticELBO,
    BarlowTwins,
    CheckpointFile,
    ConsistencyELBO,
    DecoderFreeELBO,
    DeltaGuide,
    DenoisingELBO,
    GaussianEntropy,
    InstanceDiscrimination,
    KernelEntropy,
    MoCo,
    ProgramError,
    Run,
    SwAV,
    VICRegEntropy,
    WarmupCosine,
    fit,
)
from pp_simve.models import (
    Bernoulli,
    EmpiricalPrior,
    FlatPrior,
    GaussianPrior,
    InfoNCE,
    MixturePrior,
    NTXent,
    Prior,
    SimVE,
    StudentTPrior,
    network_precision,
)

from .programs import (
    LATENT,
    PIXELS,
    SHAPE,
    SmoothEncoder,
    assert_no_reads,
    draw_views,
    make_loop,
    make_pair,
    small_images,
    stop_after,
)

IMAGES = 16  # instance discrimination has a prototype for each
FLOAT = torch.float32


def of_pair(make: Callable[..., nn.Module], **options: Any) -> nn.Module:
    """An objective of the small pair of amortized guide and decoder."""
    pair = make_pair("gaussian learned", dtype=FLOAT)
    return make(pair.model, pair.guide, **options)


def of_z(
    make: Callable[..., nn.Module], prior: Prior | None = None, *, unit_norm: bool = False, **options: Any
) -> nn.Module:
    """An objective on z alone, of a delta guide."""
    prior = FlatPrior(LATENT) if prior is None else prior
    return make(SimVE(prior), DeltaGuide(SmoothEncoder(), prior, unit_norm=unit_norm), **options)


def of_group(group: NTXent | InfoNCE) -> nn.Module:
    """A contrastive loss: the program without pixels, a delta guide."""
    prior = FlatPrior(LATENT)
    return ELBO(SimVE(prior, group=group), DeltaGuide(SmoothEncoder(), prior), beta=0)


def moco(group: NTXent | InfoNCE | None = None, **options: Any) -> nn.Module:
    prior = FlatPrior(LATENT)
    return MoCo(SimVE(prior, group=group), DeltaGuide(SmoothEncoder(), prior), **{"queue": 20, **options})


def mixture(style_variance: float = 0.1, *, learned: bool = True) -> MixturePrior:
    count = 7 if learned else IMAGES
    return MixturePrior(LATENT, count, style_variance=style_variance, unit_norm=True, learn_prototypes=learned)


OF_PIXELS: dict[str, Callable[[], nn.Module]] = {
    "ELBO": lambda: of_pair(ELBO),
    "ELBO of particles": lambda: of_pair(ELBO, particles=3, beta=2.0),
    "IWAE": lambda: of_pair(IWAE, samples=3),
    "analytic ELBO": lambda: of_pair(AnalyticELBO),
    "CR-VAE": lambda: of_pair(ConsistencyELBO),
    "AAVAE": lambda: of_pair(DenoisingELBO, beta=1.0),
}
OF_Z: dict[str, Callable[[float], nn.Module]] = {
    "SimCLR": lambda temperature: of_group(NTXent(temperature)),
    "InfoNCE": lambda temperature: of_group(InfoNCE(temperature)),
    "kernel entropy": lambda temperature: of_z(DecoderFreeELBO, entropy=KernelEntropy(temperature, chunk=5)),
    "Gaussian entropy": lambda _: of_z(DecoderFreeELBO, entropy=GaussianEntropy()),
    "VICReg": lambda _: of_z(DecoderFreeELBO, entropy=VICRegEntropy()),
    "MoCo": lambda temperature: moco(InfoNCE(temperature, projection=[5])),
    "Barlow Twins": lambda _: of_z(BarlowTwins),
    "SimSiam": lambda _: of_z(BYOL, hidden=(7, 4)),
    "BYOL": lambda _: of_z(BYOL, hidden=(7,), momentum=0.9),
    "SwAV": lambda temperature: of_z(SwAV, mixture(temperature), unit_norm=True),
    "instance discrimination": lambda temperature: of_z(
        InstanceDiscrimination, mixture(temperature, learned=False), unit_norm=True
    ),
}
ALL: dict[str, Callable[[], nn.Module]] = OF_PIXELS | {
    name: (lambda make=make: make(0.1)) for name, make in OF_Z.items()
}
PRECISIONS = pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=["float32", "networks in bfloat16"])


def call(objective: Any, views: Tensor) -> dict[str, Tensor]:
    """The terms, from the same random numbers each time; the images are the first of the data."""
    pyro.set_rng_seed(3)
    index = [torch.arange(views.shape[1])] if getattr(objective, "indexed", False) else []
    terms: dict[str, Tensor] = objective(views, *index)
    return terms


def trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


# Terms.


# Under validation every site's density is computed beforehand: an objective must pick its own, not what it finds.
@pytest.mark.parametrize("name", ALL)
def test_validation_changes_no_term(name: str) -> None:
    objective, views, found = ALL[name]().eval(), draw_views(3, FLOAT), []
    for validated in (False, True):
        with pyro.validation_enabled(validated):
            found.append(call(objective, views))
    assert found[0].keys() == found[1].keys()
    for term, value in found[0].items():
        assert torch.equal(found[1][term], value), term


@pytest.mark.parametrize("name", ALL)
def test_networks_run_in_low_precision_and_terms_in_full(name: str) -> None:
    objective, views = ALL[name]().eval(), draw_views(2, FLOAT)
    full = call(objective, views)
    with network_precision(torch.bfloat16):
        low = call(objective, views)
    assert {value.dtype for value in low.values()} == {FLOAT}
    assert not torch.equal(low["loss"], full["loss"])
    torch.testing.assert_close(low["loss"], full["loss"], rtol=0.1, atol=0.1)


EXTREME: dict[str, Callable[[Tensor], Tensor]] = {
    "as they are": lambda views: views,
    "two images": lambda views: views[:, :2],
    "one image": lambda views: views[:, :1],
    "every image twice": lambda views: views.repeat(1, 2, 1, 1, 1),
    "all the same": torch.zeros_like,
    "embeddings of zero": lambda views: views,
    "all parameters zero": lambda views: views,
    "equal prototypes": lambda views: views,
}


MIXTURES = ("SwAV", "instance discrimination")
CASES = [
    (name, temperature, batch)
    for name in OF_Z
    for temperature in ([1e-4, 0.01] if name in MIXTURES else [0.01])
    for batch in EXTREME
    if name in MIXTURES or batch not in ("one image", "equal prototypes")
]


@PRECISIONS
@pytest.mark.parametrize(("name", "temperature", "batch"), CASES)
def test_extreme_batches_have_finite_losses_and_gradients(
    name: str, temperature: float, batch: str, precision: torch.dtype | None
) -> None:
    objective: Any = OF_Z[name](temperature).train()
    with torch.no_grad():
        if batch == "embeddings of zero":
            for parameter in objective.guide.encoder_head.head.parameters():
                parameter.zero_()
        elif batch == "all parameters zero":
            for parameter in objective.guide.parameters():
                parameter.zero_()
        elif batch == "equal prototypes":
            objective.model.prior.points[:] = objective.model.prior.points[0].clone()
    with network_precision(precision):
        loss = call(objective, EXTREME[batch](draw_views(2, FLOAT)))["loss"]
    assert loss.dtype == FLOAT
    assert torch.isfinite(loss)
    for gradient in torch.autograd.grad(loss, trained(objective), allow_unused=True):
        assert gradient is None or torch.isfinite(gradient).all()
    assert all(torch.isfinite(value).all() for value in objective.state_dict().values())


# Copies.


@pytest.mark.parametrize("how", ["state dict", "deepcopy", "pickle"])
@pytest.mark.parametrize("name", ALL)
def test_a_copy_goes_on_as_the_original_does(name: str, how: str) -> None:
    """Over steps that move parameters, banks and targets."""

    def steps(objective: nn.Module) -> list[Tensor]:
        losses, generator = [], torch.Generator().manual_seed(2)
        for _ in range(3):
            loss = call(objective, torch.rand(2, 6, *SHAPE, generator=generator, dtype=torch.float64))["loss"]
            for parameter, slope in zip(trained(objective), torch.autograd.grad(loss, trained(objective)), strict=True):
                parameter.data.add_(slope, alpha=-0.01)
            losses.append(loss.detach())
        return losses

    original = ALL[name]().double()
    steps(original)
    if how == "state dict":
        file = io.BytesIO()
        torch.save(original.state_dict(), file)
        file.seek(0)
        other = ALL[name]().double()
        other.load_state_dict(torch.load(file, weights_only=True))
    else:
        other = copy.deepcopy(original) if how == "deepcopy" else pickle.loads(pickle.dumps(original))
    # Not to the bit: sums of a few numbers are vectorised by where in memory they lie.
    torch.testing.assert_close(steps(other), steps(original), rtol=1e-10, atol=1e-10)
    after = [list(objective.state_dict().values()) for objective in (other, original)]
    torch.testing.assert_close(*after, rtol=1e-10, atol=1e-10)


# In a fit.


@PRECISIONS
@pytest.mark.parametrize("name", ALL)
def test_a_training_step_reads_nothing_back(name: str, precision: torch.dtype | None) -> None:
    with network_precision(precision):
        loop = make_loop(ALL[name](), small_images(IMAGES), "crop")
        # Without norms nothing depends on where z is, so that its bias may stay.
        assert_no_reads(loop, may_stay=[*parameters_without_gradient(loop.objective)])


def parameters_without_gradient(objective: nn.Module) -> list[nn.Parameter]:
    """Of a head whose z is centered afterwards, and of scales that nothing uses."""
    return [parameter for name, parameter in objective.named_parameters() if name.endswith("encoder_head.head.bias")]


def resumable(name: str, checkpoint: CheckpointFile | None, **settings: Any) -> Run:
    """Everything is built anew, as in a new process. An epoch has four steps."""
    pyro.set_rng_seed(0)
    objective: Any = ALL[name]()
    inner = getattr(objective, "elbo", objective)
    common: dict[str, Any] = {"batch_size": 4, "steps": 6, "lr": 1e-2, "schedule": WarmupCosine(0.2), "fetch_every": 4}
    return fit(
        inner.model,
        inner.guide,
        small_images(IMAGES),
        objective=objective,
        checkpoint=checkpoint,
        device="cpu",
        precision="32",
        seed=3,
        **(common | settings),
    )


@pytest.mark.parametrize("name", ALL)
def test_a_resumed_fit_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    checkpoint = CheckpointFile(tmp_path / "checkpoint.pt")
    stopped = resumable(name, checkpoint, should_stop=stop_after(3))
    assert stopped.steps == 3
    resumed, whole = resumable(name, checkpoint), resumable(name, None)
    assert resumed.history == whole.history[3:]
    expected = whole.objective.state_dict()
    for entry, value in resumed.objective.state_dict().items():
        assert torch.equal(value, expected[entry]), entry


@pytest.mark.parametrize(
    ("name", "by"),
    [("SimCLR", 0.3), ("VICReg", 3.0), ("Barlow Twins", 0.2), ("SimSiam", 1.0), ("BYOL", 1.0), ("SwAV", 0.2)],
)
def test_a_short_fit_lowers_the_loss(name: str, by: float) -> None:
    losses = [row["loss"] for row in resumable(name, None, steps=40, lr=3e-2, batch_size=8).history]
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - by


@pytest.mark.parametrize(
    "make",
    [
        lambda: GaussianPrior(LATENT, 1.5, 0.4, learn_content=True, learn_style=True),
        lambda: MixturePrior(LATENT, 3),
        lambda: EmpiricalPrior(LATENT, memory=4),
        lambda: EmpiricalPrior(LATENT, memory=None),
    ],
    ids=["gaussian", "mixture", "memory", "batch"],
)
def test_byols_copy_of_a_guide_that_draws_z_is_a_guide_under_any_prior(make: Callable[[], Prior]) -> None:
    prior = make()
    objective = BYOL(SimVE(prior), AmortizedGuide(SmoothEncoder(), prior), momentum=0.9)
    with pyro.validation_enabled(True):
        for _ in range(2):
            objective(draw_views(2, FLOAT))["loss"].backward()
    copy.deepcopy(objective.state_dict())


# What is refused.


def observing(what: str) -> SimVE:
    """A model of pixels or groups, under a prior that suits every objective on z."""
    decoder = nn.Sequential(nn.Linear(LATENT, PIXELS), nn.Unflatten(-1, SHAPE))
    prior = mixture(learned=False)
    return SimVE(prior, Bernoulli(decoder)) if what == "pixels" else SimVE(prior, group=InfoNCE())


@pytest.mark.parametrize("what", ["pixels", "groups"])
@pytest.mark.parametrize("make", [BYOL, BarlowTwins, DecoderFreeELBO, SwAV, InstanceDiscrimination])
def test_a_model_that_observes_something_is_refused(make: Callable[..., nn.Module], what: str) -> None:
    model = observing(what)
    with pytest.raises(ValueError, match="z alone, so it needs a model that observes nothing"):
        make(model, DeltaGuide(SmoothEncoder(), model.prior))


@pytest.mark.parametrize("name", [name for name in OF_Z if name != "instance discrimination"])
def test_a_single_view_is_refused_and_changes_nothing(name: str) -> None:
    objective = OF_Z[name](0.1)
    before = copy.deepcopy(objective.state_dict())
    for validated in (True, False):
        with (
            pyro.validation_enabled(validated),
            pytest.raises((ProgramError, ValueError), match="needs 2 views or more; got 1"),
        ):
            call(objective, draw_views(1, FLOAT))
    assert all(torch.equal(value, before[entry]) for entry, value in objective.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Barlow Twins", "correlations over the batch need 2 images in it at least; got 1"),
        ("VICReg", "need 2 images in it at least; got 1"),
    ],
)
def test_a_single_image_is_refused(name: str, message: str, training: bool) -> None:
    with pytest.raises(ProgramError, match=message):
        call(OF_Z[name](0.1).train(training), draw_views(2, FLOAT)[:, :1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: of_pair(ELBO, beta=-0.1), "beta must not be negative, got -0.1"),
        (lambda: of_pair(ELBO, alpha=-1), "alpha must not be negative, got -1"),
        (lambda: of_pair(ELBO, particles=0), "particles must be at least 1, got 0"),
        (lambda: of_pair(IWAE, samples=0), "samples must be at least 1, got 0"),
        (lambda: of_pair(AnalyticELBO, beta=-1.0), "beta must not be negative"),
        (lambda: of_pair(AnalyticELBO, free_bits=-0.1), "free_bits must not be negative, got -0.1"),
        (lambda: of_pair(ConsistencyELBO, weight=-0.1), r"weight must not be negative, got -0\.1"),
        (lambda: of_z(DecoderFreeELBO, weight=-1.0), "weight must not be negative, got -1"),
        (lambda: of_z(DecoderFreeELBO, entropy=nn.Linear(3, 1)), "entropy must be an EntropyEstimate .*, got Linear"),
        (
            lambda: DecoderFreeELBO(SimVE(StudentTPrior(LATENT)), nn.Identity()),
            "which StudentTPrior does not have",
        ),
        *(
            (lambda value=value: of_z(BarlowTwins, redundancy=value), f"must be finite and not negative, got {value}")
            for value in (-0.1, math.inf, math.nan)
        ),
        *(
            (lambda value=value: of_z(BYOL, momentum=value), rf"must be in \[0, 1\), the share .* got {value}")
            for value in (-0.1, 1.0, 1.5, math.inf, math.nan)
        ),
        (moco, r"MoCo needs a model of groups without pixels: SimVE\(prior, group=InfoNCE\(\)\)"),
        (lambda: MoCo(observing("pixels"), nn.Identity()), "MoCo needs a model of groups without pixels"),
        (lambda: moco(InfoNCE(), queue=-1), "queue must be a whole number of keys, or 0 for none, got -1"),
        (lambda: moco(InfoNCE(), momentum=1.0), r"must be in \[0, 1\), the share .* got 1.0"),
        (lambda: of_z(BYOL, hidden=(8, 0)), r"hidden is a list of the predictor's widths, .* got \[8, 0\]"),
        *(
            (lambda value=value: of_z(SwAV, mixture(), sharpness=value), f"must be positive and finite, got {value}")
            for value in (0.0, -1.0, math.inf, math.nan)
        ),
        (lambda: of_z(SwAV, mixture(), iterations=0), "iterations must be at least 1, got 0"),
        (lambda: of_z(SwAV), "must be a MixturePrior, which has prototypes, got FlatPrior"),
        (lambda: of_z(InstanceDiscrimination), "must be a MixturePrior, which has prototypes, got FlatPrior"),
        *(
            (
                lambda value=value: of_z(InstanceDiscrimination, mixture(learned=False), momentum=value),
                rf"momentum must be in \[0, 1\), got {value}",
            )
            for value in (-0.1, 1.0, math.nan)
        ),
        (lambda: of_z(InstanceDiscrimination, mixture()), "build the mixture with learn_prototypes=False"),
    ],
)
def test_arguments_out_of_range_are_refused(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_instance_discrimination_needs_the_index() -> None:
    objective: Any = ALL["instance discrimination"]()
    assert objective.indexed
    with pytest.raises(ProgramError, match="needs the images' places in the data: pass index"):
        objective(draw_views(2, FLOAT))
