"""`FitConfig` and `Settings`: choices that depend on the data, and the way through JSON."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pp_simve.data import DataShape, load_data
from pp_simve.errors import ConfigError
from pp_simve.inference.augmentations import augmentation_policy
from pp_simve.inference.data import training_source
from pp_simve.run.config import FitConfig, Settings

texts = st.text(min_size=1, max_size=20)
counts = st.integers(1, 10**6)
numbers = st.floats(1e-12, 1e12)
places = st.text("ab/._- ü", min_size=1, max_size=10).map(Path)


@st.composite
def configs(draw: st.DrawFn) -> FitConfig:
    maybe = {
        "image_size": counts | st.just("48x64"),
        **dict.fromkeys(
            ("latent_dim", "batch_size", "steps", "views", "accumulate", "log_every", "devices", "nodes"), counts
        ),
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
                "optimizer",
                "schedule",
                "probe",
                "init",
                *("background", "range", "layout"),
            ),
            texts,
        ),
        "resize": st.sampled_from(["auto", "squash", "crop", "pad"]),
        **dict.fromkeys(("lr", "epochs", "clip_norm", "checkpoint_minutes"), numbers),
        "ema": st.floats(0, 1, exclude_min=True, exclude_max=True),
        **dict.fromkeys(("out", "resume"), places),
    }
    always: dict[str, st.SearchStrategy[Any]] = {
        "data": texts,
        "method": texts.filter(lambda text: ":" not in text),  # others are functions of a user's own
        "evaluate": st.sampled_from(["quick", "none"]),
        **dict.fromkeys(("skip_bad", "trust_parts", "quiet"), st.booleans()),
        "seed": st.integers(0, 2**31),
        "data_root": places,
        "track": st.lists(texts, max_size=3).map(tuple),
        "device": st.sampled_from(["auto", "cpu", "cuda"]),
        "precision": st.sampled_from(["auto", "32", "bf16"]),
    }
    assert maybe.keys() | always.keys() == {entry.name for entry in dataclasses.fields(FitConfig)}
    values = {name: draw(st.none() | strategy) for name, strategy in maybe.items()}
    values |= {name: draw(strategy) for name, strategy in always.items()}
    if values["steps"] is not None:
        values["epochs"] = None
    return FitConfig(**values)


SHAPES = st.sampled_from([(1, 16, 16), (1, 64, 64), (3, 32, 32)]).map(DataShape)


@given(configs(), SHAPES)
def test_settings_survive_json_and_the_command_line(config: FitConfig, shape: DataShape) -> None:
    settings = config.resolve(shape)
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings
    assert settings.as_config().resolve(shape) == settings


@given(configs(), SHAPES)
def test_what_was_given_is_kept(config: FitConfig, shape: DataShape) -> None:
    settings = config.resolve(shape)
    for entry in dataclasses.fields(Settings):
        given_value = getattr(config, entry.name)
        assert getattr(settings, entry.name) is not None
        if given_value is not None:
            kept = given_value.absolute() if isinstance(given_value, Path) else given_value
            if entry.name == "init" and kept:
                kept = str(Path(kept).absolute())
            assert getattr(settings, entry.name) == kept
    assert (settings.epochs == 0) != (settings.steps == 0)


def test_defaults_typed_again_are_no_difference() -> None:
    stored = FitConfig().resolve(DataShape((1, 16, 16)))
    typed = dataclasses.replace(stored.as_config(), optimizer="adam", schedule="cosine", accumulate=1)
    assert stored.differences(typed) == []


MLP, RESIDUAL = {"encoder": "mlp", "decoder": "mlp"}, {"encoder": "residual", "decoder": "residual"}
SHORT = {"epochs": 10, "lr": 1e-3, "batch_size": 128}


@pytest.mark.parametrize(
    ("shape", "typed", "expected"),
    [
        (
            (1, 16, 16),
            {"data": "digits"},
            {
                **{"encoder": "mlp(hidden=[512, 256])", "decoder": "mlp(hidden=[256, 512])", "likelihood": "bernoulli"},
                **{"policy": "affine", "latent_dim": 32, "epochs": 150, "lr": 2e-3, "batch_size": 128, "views": 2},
            },
        ),
        ((1, 28, 28), {}, {**MLP, **SHORT, "likelihood": "bernoulli", "policy": "crop", "latent_dim": 32}),
        ((1, 28, 64), {}, RESIDUAL),
        ((3, 30, 64), {}, {"encoder": "residual", "decoder": "mlp"}),
        ((3, 12, 12), {}, {"decoder": "mlp"}),
        ((3, 32, 32), {}, {**RESIDUAL, "likelihood": "gaussian", "policy": "crop+colour", "latent_dim": 64}),
        ((3, 32, 32), {"encoder": "mlp(hidden=[9])"}, {"decoder": "mlp"}),
        ((1, 28, 28), {"encoder": "resnet18"}, {"decoder": "residual"}),
        ((1, 16, 16), {"steps": 5}, {"epochs": 0.0, "steps": 5}),
        ((1, 16, 16), {"method": "clip"}, {"modalities": "halves", "views": 1}),
        ((1, 16, 16), {"modalities": "halves"}, {"views": 1}),
        ((1, 16, 16), {}, {"modalities": "", "prior": "", "group": "", "image_size": 0, "probe": ""}),
    ],
)
def test_choices_by_the_data(shape: tuple[int, int, int], typed: dict[str, Any], expected: dict[str, Any]) -> None:
    settings = dataclasses.asdict(FitConfig(**{"data": "mnist"} | typed).resolve(DataShape(shape)))
    assert {name: settings[name] for name in expected} == expected


def test_the_default_policy_in_python_is_that_of_the_shell() -> None:
    digits = load_data("digits")
    names = [FitConfig(data=data).resolve(digits.shape).policy for data in ("digits", "mnist")]
    assert names == ["affine", "crop"]
    for images, name in zip((digits, digits.train.images), names, strict=True):
        source = training_source(images, None, 2)
        assert source.policy == augmentation_policy(name, digits.image_shape)
        assert torch.equal(source.images, digits.train.images)
        assert training_source(images, name, 2).policy == source.policy, "by name"


def test_clip_takes_attributes_where_there_are_any() -> None:
    assert FitConfig(method="clip").resolve(DataShape((3, 8, 8), attributes=5)).modalities == "attributes"


WHOLE = FitConfig().resolve(DataShape((1, 16, 16))).to_json()


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"temperature": 1, "alpha": 2}, "another version: alpha, temperature are not known"),
        ({"trust_parts": True}, "another version: trust_parts are not known"),
        ({"views": None, "lr": None}, "another version: lr, views are missing"),
        ({"views": 0}, "--views must be at least 1"),
        ({"batch_size": 0}, "--batch-size must be at least 1"),
        ({"lr": float("nan")}, "--lr must be a positive number, got nan"),
        ({"views": "two"}, "the setting views holds 'two', expected a whole number"),
        ({"views": 2.0}, "expected a whole number"),
        ({"views": True}, "expected a whole number"),
        ({"lr": "fast"}, "expected a number"),
        ({"skip_bad": 1}, "expected true or false"),
        ({"data": 3}, "expected a text"),
        ({"data_root": 3}, "the setting data_root holds '3', expected a path"),
        ({"prior": {"os": "system"}}, "expected the name of a part"),
        ({"track": "wandb"}, "expected a list of names of parts"),
        ({"track": [1]}, "expected a list of names of parts"),
        ({"schedule": 1}, "expected the name of a part"),
        ({"device": ["cpu"]}, "expected one of auto, cpu, cuda"),
    ],
)
def test_entries_that_cannot_be_read(entries: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        Settings.from_json(WHOLE | entries)


def test_settings_of_an_earlier_version_with_null_are_read() -> None:
    earlier = {name: (value or None) if value in ("", 0) and name != "seed" else value for name, value in WHOLE.items()}
    earlier |= {"out": "runs/x", "resume": None, "quiet": False, "skip_bad": False}
    assert Settings.from_json(earlier).to_json() == WHOLE


def test_differences_are_those_that_matter() -> None:
    settings = FitConfig().resolve(DataShape((1, 16, 16)))
    same = settings.as_config()
    other_places = dataclasses.replace(same, out=Path("a"), resume=Path("b"), data_root=Path("c"), quiet=True)
    assert settings.differences(other_places) == []
    assert settings.differences(dataclasses.replace(same, views=3)) == ["views is 2 there, 3 here"]
    assert settings.differences(dataclasses.replace(same, prior="flat")) == ["prior is not set there, 'flat' here"]
