"""Two guides of digits compared with the posterior by NUTS, before and after refinement."""

import argparse
import sys

import torch

from pp_simve.data import load_data
from pp_simve.evaluation.posterior import distance_to_reference, nuts_reference, refine, weigh
from pp_simve.inference import AmortizedGuide, MLPEncoder, StructuredGuide, WarmupCosine, draw, fit
from pp_simve.inference.augmentations import augmentation_policy, draw_views
from pp_simve.models import Bernoulli, GaussianPrior, MLPDecoder, SimVE

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=150)
parser.add_argument("--images", type=int, default=5, help="how many test images; NUTS takes some ten seconds for each")
parser.add_argument("--draws", type=int, default=150, help="of each of four chains")
parser.add_argument("--warmup", type=int, default=100, help="draws of each chain that are thrown away")
parser.add_argument("--steps", type=int, default=200, help="of refinement")
arguments = parser.parse_args()

digits = load_data("digits")
policy = augmentation_policy("affine", digits.image_shape)
images = digits.test.images[: arguments.images]
views, _ = draw_views(policy, images, 2, generator=torch.Generator().manual_seed(1))


def show(chain: int, draw: int, total: int) -> None:
    """Called after each draw of NUTS."""
    if draw % 10 == 0 or draw == total:
        print(f"\rchain {chain}: {draw} / {total}  ", end="", file=sys.stderr)


for kind in (AmortizedGuide, StructuredGuide):
    torch.manual_seed(0)
    prior = GaussianPrior(latent_dim=32)
    model = SimVE(prior, Bernoulli(MLPDecoder(32, digits.image_shape, hidden=(256, 512))))
    guide = kind(MLPEncoder(digits.image_shape, hidden=(512, 256)), prior)
    fit(
        model,
        guide,
        digits.train.images,
        policy=policy,
        epochs=arguments.epochs,
        lr=2e-3,
        schedule=WarmupCosine(),
        seed=0,
    )

    # The guide only whitens the coordinates of the sampler; the target is the exact posterior.
    reference = nuts_reference(
        model, views, guide=guide, draws=arguments.draws, warmup=arguments.warmup, seed=0, progress=show
    )
    print(
        f"\n{kind.__name__}\nNUTS: {int(reference.converged.sum())} of {len(images)} images converged, "
        f"R-hat at most {reference.rhat.max():.3f}, at least {reference.ess.min():.0f} effective draws, "
        f"{int(reference.diverging.sum())} divergences, {reference.leapfrogs.mean():.0f} gradients a draw, "
        f"{reference.seconds:.0f} s"
    )
    refined = refine(model, guide, views, steps=arguments.steps, seed=0)
    print("          ELBO  k-hat  content: shift / sd     ratio of sds  classified")
    for name, q in {"guide": guide, "refined": refined}.items():
        drawn = draw(model, q, views, 1000, seed=1)
        weights, distance = weigh(drawn.log_weight), distance_to_reference(reference, drawn)
        far = distance.summary()
        print(
            f"{name:8}{weights.elbo.mean():7.1f}  {weights.khat.median():5.2f}  {far['content_shift']:19.2f}  "
            f"{far['content_spread']:15.2f}  {far['accuracy']:10.0%}"
        )
