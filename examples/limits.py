"""How SimVE becomes InfoNCE: as the guide's scale goes to 0, and as the group's weight alpha grows. A few seconds."""

import argparse
import math
from collections.abc import Callable

# --8<-- [start:imports]
import torch
from matplotlib import pyplot
from torch import Tensor, nn

from pp_simve.data import load_data
from pp_simve.inference import ELBO, AmortizedGuide, DeltaGuide, Guide, MLPEncoder
from pp_simve.inference.augmentations import augmentation_policy, draw_views
from pp_simve.models import Bernoulli, FlatPrior, GaussianPrior, InfoNCE, MLPDecoder, SimVE

# --8<-- [end:imports]

LATENT = 16
parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--draws", type=int, default=20, help="of the guide, averaged")
parser.add_argument("--figure", help="write a picture there")
arguments = parser.parse_args()

# --8<-- [start:setup]
digits = load_data("digits")
torch.manual_seed(0)
encoder = MLPEncoder(digits.image_shape, hidden=(128,)).double()
decoder = MLPDecoder(LATENT, digits.image_shape, hidden=(128,)).double()
policy = augmentation_policy("affine", digits.image_shape)
views, _ = draw_views(policy, digits.train.images[:128], 2, generator=torch.Generator().manual_seed(0))
views = views.double()
group = InfoNCE(temperature=0.2)
# --8<-- [end:setup]


# --8<-- [start:functions]
def same_means(guide: Guide, of: DeltaGuide) -> Guide:
    """The guide with the other's map from features to z."""
    with torch.no_grad():
        guide.double().recognition.encoder_head.head.weight[:LATENT] = of.encoder_head.head.weight
        guide.recognition.encoder_head.head.bias[:LATENT] = of.encoder_head.head.bias
    return guide


def measured(objective: nn.Module, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Loss, and its gradient with respect to the encoder."""
    torch.manual_seed(seed)
    loss = objective.double()(views)["loss"]
    gradients = torch.autograd.grad(loss, list(encoder.parameters()))
    return loss.detach(), torch.cat([gradient.flatten() for gradient in gradients])


# --8<-- [end:functions]


# --8<-- [start:infonce]
flat, gaussian = FlatPrior(LATENT), GaussianPrior(LATENT)
delta = DeltaGuide(encoder, flat).double()
infonce, its_gradient = measured(ELBO(SimVE(flat, group=group), delta, beta=0.0))
# --8<-- [end:infonce]


# --8<-- [start:scale]
def against_scale(scale: float) -> tuple[float, float]:
    """Distance of the contrastive program with a noisy guide."""
    guide = same_means(AmortizedGuide(encoder, flat, scale=scale), delta)
    found = [measured(ELBO(SimVE(flat, group=group), guide, beta=0.0), seed) for seed in range(arguments.draws)]
    losses = torch.stack([(loss - infonce).abs() for loss, _ in found])
    gradients = torch.stack([(gradient - its_gradient).norm() for _, gradient in found])
    return float(losses.mean() / infonce), float(gradients.mean() / its_gradient.norm())


# --8<-- [end:scale]


# --8<-- [start:alpha]
def against_alpha(alpha: float) -> tuple[float, float]:
    """Distance of the bridge, pixels and all, divided by alpha; the guide's scale is 1 / alpha."""
    guide = same_means(AmortizedGuide(encoder, gaussian, scale=1 / alpha), delta)
    loss, gradient = measured(ELBO(SimVE(gaussian, Bernoulli(decoder), group), guide, alpha=alpha))
    return float((loss / alpha - infonce).abs() / infonce), float(
        (gradient / alpha - its_gradient).norm() / its_gradient.norm()
    )


# --8<-- [end:alpha]


def shown(name: str, values: list[float], distance: Callable[[float], tuple[float, float]], axes: pyplot.Axes) -> None:
    """Prints and draws both distances, with the slope between the last two decades."""
    found = [distance(value) for value in values]
    for label, line in zip(("loss", "gradient"), zip(*found, strict=True), strict=True):
        slope = math.log10(line[-1] / line[-2]) / math.log10(values[-1] / values[-2])
        print(f"{label:8} against {name}: " + "  ".join(f"{v:g}: {d:.1e}" for v, d in zip(values, line, strict=True)))
        print(f"{'':8} slope {slope:+.2f}")
        axes.loglog(values, line, marker="o", label=f"{label}, slope {slope:+.2f}")
    axes.set(xlabel=name, ylabel="relative distance to InfoNCE")
    axes.legend()


print(f"InfoNCE: {float(infonce):.3f} nats an image, for telling by content which views belong together")
figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
shown("scale of the guide", [10.0, 1.0, 0.1, 0.01, 0.001], against_scale, left)
shown("alpha", [1e1, 1e2, 1e3, 1e4, 1e5, 1e6], against_alpha, right)
if arguments.figure:
    figure.savefig(arguments.figure, dpi=120)
