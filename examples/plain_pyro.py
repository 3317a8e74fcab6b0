"""The pair is plain Pyro: the same model and guide under ``pyro.infer.SVI`` with ``Trace_ELBO``, sites and all."""

import argparse

import pyro
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.optim import Adam

from pp_simve.data import load_data
from pp_simve.inference import AmortizedGuide, MLPEncoder
from pp_simve.inference.augmentations import augmentation_policy, draw_views
from pp_simve.models import Bernoulli, GaussianPrior, MLPDecoder, SimVE

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=200)
arguments = parser.parse_args()

digits = load_data("digits")
pyro.set_rng_seed(0)
pyro.clear_param_store()
prior = GaussianPrior(16)
model = SimVE(prior, Bernoulli(MLPDecoder(16, digits.image_shape, hidden=(256,))))
guide = AmortizedGuide(MLPEncoder(digits.image_shape, hidden=(256,)), prior)

policy = augmentation_policy("affine", digits.image_shape)
generator = torch.Generator().manual_seed(0)
svi = SVI(model, guide, Adam({"lr": 1e-3}), Trace_ELBO())
for step in range(1, arguments.steps + 1):
    batch = digits.train.images[torch.randint(len(digits.train), (128,), generator=generator)]
    views, _ = draw_views(policy, batch, 2, generator=generator)
    loss = svi.step(views)
    if step == 1 or step % 50 == 0:
        print(f"step {step:4d}  loss per image {loss / 128:.1f}")

# Draws from the guide by Pyro's own means: sites `content` (one an image) and `style` (one a view).
views, _ = draw_views(policy, digits.test.images[:5], 2, generator=generator)
draws = Predictive(guide, num_samples=10)(views)
print({name: tuple(value.shape) for name, value in draws.items() if name in ("content", "style")})
