"""`FitConfig`: what depends on the data, and its way through JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pp_simve.data import DataShape
from pp_simve.errors import ConfigError
from pp_simve.run.config import FitConfig

texts = st.text(max_size=20)
counts = st.integers(1, 10**6)
numbers = st.floats(1e-12, 1e12)
places = st.text("ab/._- ü", min_size=1, max_size=10).map(Path)


@st.composite
def configs(draw: st.DrawFn) -> FitConfig:
    maybe = {
        **dict.fromkeys(("image_size", "latent_dim", "batch_size", "steps", "views"), counts),
        **dict.fromkeys(
            (
                "modalities",
                "prior",
                "guide",
                "objective",
                "likelihood",
                "group",
                "encoder",
                "decoder",
                "policy",
                "probe",
            ),
            texts,
        ),
        **dict.fromkeys(("lr", "epochs"), numbers),
        **dict.fromkeys(("out", "resume"), places),
    }
    always: dict[str, st.SearchStrategy[Any]] = {
        **dict.fromkeys(("data", "method"), texts),
        "devices": counts,
        **dict.fromkeys(("skip_bad", "trust_parts", "quiet"), st.booleans()),
        "seed": st.integers(0, 2**31),
        "data_root": places,
        "track": st.lists(texts, max_size=3).map(tuple),
        "schedule": st.sampled_from(["cosine", "constant"]),
        "device": st.sampled_from(["auto", "cpu", "cuda"]),
        "precision": st.sampled_from(["auto", "32", "bf16"]),
    }
    assert maybe.keys() | always.keys() == {entry.name for entry in dataclasses.fields(FitConfig)}
    values = {name: draw(st.none() | strategy) for name, strategy in maybe.items()}
    values |= {name: draw(strategy) for name, strategy in always.items()}
    if values["steps"] is not None:
        values["epochs"] = None
    return FitConfig(**values)


@given(configs())
def test_json_and_back(config: FitConfig) -> None:
    read = FitConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert read == dataclasses.replace(config, trust_parts=False)


@given(configs(), st.sampled_from([(1, 16, 16), (1, 64, 64), (3, 32, 32)]))
def test_what_was_given_is_kept(config: FitConfig, shape: tuple[int, int, int]) -> None:
    chosen = config.chosen_for(DataShape(shape))
    for entry in dataclasses.fields(config):
        given_value = getattr(config, entry.name)
        if given_value is not None:
            assert getattr(chosen, entry.name) == given_value
    assert chosen.chosen_for(DataShape(shape)) == chosen
    assert (chosen.epochs is None) != (chosen.steps is None)


def chosen(data: str, shape: tuple[int, int, int], **given: Any) -> dict[str, Any]:
    return dataclasses.asdict(FitConfig(data=data, **given).chosen_for(DataShape(shape)))


def test_choices_for_digits() -> None:
    entries = chosen("digits", (1, 16, 16))
    assert entries["encoder"] == "mlp(hidden=[512, 256])"
    assert entries["decoder"] == "mlp(hidden=[256, 512])"
    assert (entries["likelihood"], entries["policy"], entries["latent_dim"]) == ("bernoulli", "affine", 32)
    assert (entries["epochs"], entries["lr"], entries["batch_size"]) == (150, 2e-3, 128)


def test_choices_for_grey_images() -> None:
    entries = chosen("mnist", (1, 28, 28))
    assert (entries["encoder"], entries["decoder"]) == ("mlp", "mlp")
    assert (entries["likelihood"], entries["policy"], entries["latent_dim"]) == ("bernoulli", "crop", 32)
    assert (entries["epochs"], entries["lr"], entries["batch_size"]) == (10, 1e-3, 128)
    large = chosen("folder:x", (1, 28, 64))
    assert (large["encoder"], large["decoder"]) == ("residual", "residual")


def test_choices_for_colour_images() -> None:
    entries = chosen("cifar10", (3, 32, 32))
    assert (entries["encoder"], entries["decoder"]) == ("residual", "residual")
    assert (entries["likelihood"], entries["policy"], entries["latent_dim"]) == ("gaussian", "crop+colour", 64)


def test_the_decoder_follows_the_encoder() -> None:
    assert chosen("cifar10", (3, 32, 32), encoder="mlp(hidden=[9])")["decoder"] == "mlp"
    assert chosen("mnist", (1, 28, 28), encoder="resnet18")["decoder"] == "residual"


def test_steps_replace_epochs() -> None:
    assert chosen("digits", (1, 16, 16), steps=5)["epochs"] is None


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"temperature": 1, "alpha": 2}, "another version: alpha, temperature are not known"),
        ({"trust_parts": True}, "another version: trust_parts are not known"),
        ({"views": 0}, "--views must be at least 1"),
        ({"views": "two"}, "wrong type"),
        ({"data_root": 3}, "wrong type"),
    ],
)
def test_entries_that_cannot_be_read(entries: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        FitConfig.from_json(entries)
