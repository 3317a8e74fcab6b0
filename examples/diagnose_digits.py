"""Which posteriors of digits to trust: fit, check, refine, and sort the images. About two minutes on two cores."""

import argparse

# --8<-- [start:imports]
import torch

from pp_simve.data import load_data
from pp_simve.evaluation import for_arviz, posterior, summary
from pp_simve.evaluation.posterior import refine, weigh, weighted_moments
from pp_simve.evaluation.posterior.arviz_versions import arviz
from pp_simve.inference import MLPEncoder, StructuredGuide, WarmupCosine, draw, fit
from pp_simve.inference.augmentations import augmentation_policy, draw_views
from pp_simve.models import Bernoulli, GaussianPrior, MLPDecoder, SimVE

# --8<-- [end:imports]

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=150)
parser.add_argument("--images", type=int, default=64)
parser.add_argument("--draws", type=int, default=500)
parser.add_argument("--steps", type=int, default=200, help="of refinement")
arguments = parser.parse_args()

# --8<-- [start:fit]
# A fit, as in digits.py.
digits = load_data("digits")
torch.manual_seed(0)
prior = GaussianPrior(latent_dim=32, style_variance=0.15)
model = SimVE(prior, Bernoulli(MLPDecoder(32, digits.image_shape, hidden=(256, 512))))
guide = StructuredGuide(MLPEncoder(digits.image_shape, hidden=(512, 256)), prior)
policy = augmentation_policy("affine", digits.image_shape)
fit(model, guide, digits.train.images, policy=policy, epochs=arguments.epochs, lr=2e-3, schedule=WarmupCosine(), seed=0)
# --8<-- [end:fit]

# --8<-- [start:views]
# Two views of some unseen images; all that follows is about their posteriors.
images = digits.test.images[: arguments.images]
views, _ = draw_views(policy, images, 2, generator=torch.Generator().manual_seed(1))
# --8<-- [end:views]

# --8<-- [start:before]
# Before: PSIS k̂ of each image, and the gap of the bound.
before = weigh(draw(model, guide, views, arguments.draws, seed=0).log_weight)
print(f"the encoder:            {before.share_above:.0%} of images above k̂ = {before.threshold:.2f}", end=", ")
print("the bound {:.2f} ± {:.2f} nats low".format(*before.mean_gap))
# --8<-- [end:before]

# --8<-- [start:after]
# After: each image's variational parameters improved by themselves, the model as it is.
refined = refine(model, guide, views, steps=arguments.steps, seed=0)
drawn = draw(model, refined, views, arguments.draws, seed=0)
after = weigh(drawn.log_weight)
print(f"refined:                {after.share_above:.0%} of images above k̂ = {after.threshold:.2f}", end=", ")
print("the bound {:.2f} ± {:.2f} nats low".format(*after.mean_gap))
# --8<-- [end:after]

# --8<-- [start:trusted]
# Images whose posteriors can be trusted; weights correct what is left.
trusted = after.khat <= after.threshold
moments = weighted_moments(drawn.content, after.log_weight)
print(f"\ntrust the content of {int(trusted.sum())} of {len(images)} images; not of", end=" ")
print((~trusted).nonzero().flatten().tolist()[:20] or "none")
print("image  class  k̂ before  k̂ after  |content|  its sd")
for image in after.khat.argsort()[[0, 1, 2, -3, -2, -1]].tolist():
    content, sd = moments.mean[image].norm(), moments.sd[image].norm()
    digit = int(digits.test.labels[image])
    mark = "" if trusted[image] else "  not to be trusted"
    print(f"{image:5}  {digit:5}  {before.khat[image]:8.2f}  {after.khat[image]:7.2f}", end="  ")
    print(f"{content:9.2f}  {sd:6.2f}{mark}")
# --8<-- [end:trusted]

# The same posterior for ArviZ, with whatever else it can do.
tree = posterior((model, refined), views, draws=arguments.draws, labels=digits.test.labels[: arguments.images])
print("\n", summary(tree.isel(image=[0], latent=slice(4)), ["content"]).round(2), sep="")
arviz().plot_forest(for_arviz(tree.isel(image=slice(3), latent=slice(4))), var_names=["content"])
