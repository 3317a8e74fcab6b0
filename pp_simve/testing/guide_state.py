"""Checks of guides: what is saved, dtype, device and precision."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pp_simve.inference import Guide
from pp_simve.models import network_precision
from pp_simve.testing.checks import check, check_saved_and_loaded, seeded, skip
from pp_simve.testing.guide_base import GuideChecks, posterior_of
from pp_simve.testing.programs import LATENT, Pair, TinyEncoder, sample_sites, tiny_views, traced


class StateChecks(GuideChecks):
    """What a guide says depends on its parameters and buffers, and moves along with them."""

    def test_what_is_saved_is_all_there_is(self) -> None:
        """A guide made otherwise that loads the state represents and draws the same, bit for bit."""
        views = tiny_views(2)

        def train(pair: Pair) -> None:
            pair.train()
            optimizer = torch.optim.Adam(pair.parameters(), lr=1e-2)
            for _ in range(2):
                optimizer.zero_grad()
                with seeded():
                    self._loss(pair.model, pair.guide, views).backward()
                optimizer.step()

        def same(original: Pair, other: Pair) -> None:
            remedy = (
                "after loading the state of the first. Expected the same bits: what a guide knows must be parameters "
                "or buffers (register_buffer), and no plain tensor attributes"
            )
            first, second = (posterior_of(pair.guide, views).as_dict() for pair in (original, other))
            for name, value in first.items():
                check(torch.equal(value, second[name]), f"posterior(views).{name} of a second guide differs {remedy}")
            losses = []
            for pair in (original, other):
                with seeded():
                    losses.append(self._loss(pair.model, pair.guide, views))
            check(torch.equal(*losses), f"the ELBO of a second guide differs {remedy}")

        check_saved_and_loaded(lambda seed: Pair(*self._pair(seed)), train, same)

    def test_float32_stays_and_float64_is_kept(self) -> None:
        """The dtype of parameters and views is that of everything drawn and answered."""
        for dtype in (torch.float32, torch.float64):
            _, guide = self._pair(dtype=dtype)
            _check_all(guide, tiny_views(2, dtype), "dtype", dtype)

    def test_it_moves_to_the_gpu(self) -> None:
        """``guide.to("cuda")`` is all it takes."""
        if not torch.cuda.is_available():
            skip("there is no GPU")
        model, guide = self._pair()
        nn.ModuleList([model, guide]).to("cuda")
        views = tiny_views(2).to("cuda")
        _check_all(guide, views, "device", views.device)
        self._loss(model, guide, views).backward()

    def test_networks_run_in_low_precision_and_latents_do_not(self) -> None:
        """Under ``network_precision(bfloat16)``, as in a fit on hardware that has it."""
        with seeded():
            encoder, prior = TinyEncoder(), self.make_prior(LATENT)
            guide = self.make(encoder, prior).eval()
        seen: list[torch.dtype] = []
        encoder.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs.dtype))
        with network_precision(torch.bfloat16):
            _check_all(guide, tiny_views(2, torch.float32), "dtype", torch.float32)
        check(
            set(seen) == {torch.bfloat16},
            f"under network_precision(bfloat16) the encoder put out {seen or 'nothing'}. Expected bfloat16: call it "
            "by apply_network(encoder, views, event_dim=3), which runs it in the ambient precision and gives back the "
            "views' dtype",
        )


def _check_all(guide: Guide, views: Tensor, attribute: str, expected: object) -> None:
    """Everything that is drawn and answered has that dtype or device."""
    with seeded():
        sites = sample_sites(traced(guide, views))
        answered = guide.posterior(views).as_dict()
    values: dict[str, Tensor] = {f"site {name!r}": site["value"] for name, site in sites.items()}
    values |= {f"posterior(views).{name}": value for name, value in answered.items()}
    for name, value in values.items():
        check(
            getattr(value, attribute) == expected,
            f"{name} has {attribute} {getattr(value, attribute)}. Expected {expected}, that of views and parameters. "
            "Make new tensors like others (torch.zeros_like, x.new_ones), keep constants as buffers, and leave out "
            ".float() and .cpu()",
        )
        check(bool(torch.isfinite(value).all()), f"{name} is not finite for views of {views.dtype}")
