"""Modalities from the command line: halves of digits, photographs and their attributes, user-defined."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pp_simve.data import DataError, DataShape, Split
from pp_simve.data.modalities import Attributes, Halves
from pp_simve.evaluation import score, select
from pp_simve.models import Bernoulli, Gaussian, InfoNCE
from pp_simve.run.config import FitConfig
from pp_simve.run.folder import load_run
from pp_simve.run.methods import Program, build
from pp_simve.run.viewing import Viewing

from .command import SMALL, interrupted_at, records, results, run, scores, write_npz
from .data_fixtures import write_celeba

GREY, COLOUR = DataShape((1, 9, 8), images=40), DataShape((3, 8, 8), images=40, attributes=5)
NARROW: dict[str, Any] = {"encoder": "mlp(hidden=[16])", "decoder": "mlp(hidden=[16])", "latent_dim": 6}


def built(shape: DataShape, **settings: Any) -> Program:
    return build(FitConfig(**(NARROW | settings)).resolve(shape), shape)


def some(shape: DataShape, images: int = 4) -> Split:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (images, *shape.image), generator=generator, dtype=torch.uint8)
    attributes = torch.rand(images, shape.attributes, generator=generator) > 0.5 if shape.attributes else None
    return Split(pixels, None, attributes)


def test_halves_put_together_are_the_image() -> None:
    split = some(GREY)
    halves = Halves().images(split)
    assert {kind: tuple(part.shape) for kind, part in halves.items()} == {"upper": (4, 1, 4, 8), "lower": (4, 1, 5, 8)}
    assert torch.equal(torch.cat(list(halves.values()), -2), split.images)
    assert Halves().shapes(GREY) == {"upper": (1, 4, 8), "lower": (1, 5, 8)}
    with pytest.raises(DataError, match="images 1 pixel high have no halves"):
        Halves().shapes(DataShape((1, 1, 8)))


def test_attributes_are_pixels_black_or_white() -> None:
    split = some(COLOUR)
    kinds = Attributes().images(split)
    assert torch.equal(kinds["image"], split.images)
    assert kinds["attributes"].shape == (4, 5, 1, 1)
    assert split.attributes is not None
    assert torch.equal(kinds["attributes"][:, :, 0, 0], split.attributes * torch.tensor(255, dtype=torch.uint8))
    assert Attributes().shapes(COLOUR) == {"image": (3, 8, 8), "attributes": (5, 1, 1)}
    with pytest.raises(DataError, match="these images have no attributes"):
        Attributes().shapes(GREY)


def test_clip_is_the_group_among_images_of_two_modalities() -> None:
    for shape, modalities in ((GREY, ["upper", "lower"]), (COLOUR, ["image", "attributes"])):
        program = built(shape, method="clip")
        assert program.model.likelihood is None
        assert isinstance(program.model.group, InfoNCE)
        assert list(program.guide.encoder_head.modalities) == modalities


def test_pictures_and_vectors_have_likelihoods_of_their_own() -> None:
    program = built(COLOUR, modalities="attributes")
    assert isinstance(program.model.likelihood_of("image"), Gaussian)
    assert isinstance(program.model.likelihood_of("attributes"), Bernoulli)
    drawn = program.model.generate(3, views=1, modality="attributes")
    assert drawn.shape == (1, 3, 5, 1, 1)


def test_vectors_are_seen_as_they_are_and_pictures_by_the_policy() -> None:
    config = FitConfig(modalities="attributes", policy="crop").resolve(COLOUR)
    assert config.views == 1
    viewing = Viewing.of(config, COLOUR)
    assert isinstance(viewing.policy, dict)
    assert viewing.policy["attributes"].names == ()
    assert "crop_top" in viewing.policy["image"].names
    split = some(COLOUR)
    source = viewing.source(split)
    views = source.draw(torch.tensor([2, 0]), torch.Generator().manual_seed(0))
    assert isinstance(views, dict)
    assert split.attributes is not None
    assert torch.equal(views["attributes"][0, :, :, 0, 0], split.attributes[[2, 0]].float())
    assert views["image"].shape == (1, 2, 3, 8, 8)


@pytest.mark.parametrize("flags", [("--method", "clip"), ("--modalities", "halves"), ("--method", "bridge")])
def test_halves_of_digits_from_the_command_line(
    flags: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "bridge" in flags:
        flags = (*flags, "--modalities", "halves", "--guide", "amortized(projection=[8])")
    assert run(*SMALL, *flags, "--out", "run") == 0
    found = results(folder / "run")
    scores = records(folder / "run")
    assert found["modalities"] == ["upper", "lower"]
    assert {one.representation for one in select(scores, modality="upper")} == {"backbone", "z", "content", "pixels"}
    for task in ("retrieval", "zero_shot"):
        assert {one.target for one in select(scores, task=task)} == {"upper to lower", "lower to upper"}
    assert found["content"]["representation"] == "content of all modalities"
    assert 0 <= found["content"]["linear"] == score(scores, task="together", probe="linear") <= 1
    pictures = {path.stem for path in (folder / "run" / "figures").iterdir()}
    drawn = {"upper-from-each-modality", "lower-from-each-modality"}
    assert pictures == ({"loss"} if "clip" in flags else {"loss", *drawn})
    assert (found["bound"] is None) == ("clip" in flags)
    shown = capsys.readouterr().out
    assert "from upper alone" in shown
    assert "recall@5" in shown
    program = load_run(folder / "run")
    upper = torch.zeros(2, 1, 8, 16, dtype=torch.uint8)
    assert program.guide.embed_batches({"upper": upper}).content.shape == (2, 8 if "bridge" not in flags else 4)


def test_a_stopped_fit_of_kinds_goes_on_as_if_it_had_not_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = (*SMALL, "--method", "clip", "--quiet")
    assert run(*flags, "--out", "whole") == 0
    with monkeypatch.context() as patched:
        interrupted_at(patched, step=4)
        assert run(*flags, "--out", "stopped") == 130
    assert run("--resume", "stopped", "--quiet") == 0
    assert scores(folder / "stopped") == scores(folder / "whole")


def test_photographs_and_their_attributes_from_the_command_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PP_SIMVE_CACHE", str(folder / "cache"))
    write_celeba(folder / "data", 24, size=(20, 20))
    flags = ("--data", "celeba", "--image-size", "8", "--batch-size", "8", "--modalities", "attributes")
    assert run(*SMALL, *flags, "--out", "run") == 0
    found = results(folder / "run")
    scores = records(folder / "run")
    assert {one.target for one in select(scores, task="retrieval")} == {"image to attributes", "attributes to image"}
    assert score(scores, modality="attributes", task="view") is None
    assert score(scores, modality="image", task="view", target="mean") is not None
    assert {path.stem for path in (folder / "run" / "figures").iterdir()} == {"loss", "image-from-each-modality"}
    json.dumps(found, allow_nan=False)
    assert "not applicable: the augmentation policy has no parameters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--modalities", "quarters"), "unknown modalities 'quarters'; did you mean"),
        (("--modalities", "thirds"), "Expected one of: halves, attributes"),
        (("--modalities", "attributes"), "these images have no attributes"),
        (("--modalities", "halves", "--method", "cr-vae"), "needs images of one modality"),
        (("--modalities", "halves", "--guide", "flow"), "FlowGuide takes views of one modality"),
        (
            ("--modalities", "pp_simve.models:FlatPrior(latent_dim=2)"),
            "not a class derived from pp_simve.data.modalities.Modalities",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_is_said(flags: tuple[str, ...], words: str, refused: Callable[..., str]) -> None:
    assert words in refused(*SMALL, *flags, "--out", "run")


def test_own_modalities_of_images_without_labels_are_only_retrieved(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "my_modalities.py").write_text(
        "from pp_simve.data.modalities import Modalities\n"
        "class Corners(Modalities):\n"
        "    def __init__(self, size=4):\n"
        "        self.size = size\n"
        "    def images(self, split):\n"
        "        size = self.size\n"
        "        return {'first': split.images[..., :size, :size], 'last': split.images[..., -size:, -size:]}\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    write_npz(folder / "noise.npz", labelled=False)
    flags = ("--method", "clip", "--modalities", "my_modalities:Corners(size=6)", "--out", "run", "--quiet")
    assert run(*SMALL, *flags, "--batch-size", "8", "--data", "npz:noise.npz") == 0
    assert results(folder / "run")["modalities"] == ["first", "last"]
    scores = records(folder / "run")
    assert score(scores, task="retrieval", metric="recall@5") is not None
    for task in ("zero_shot", "together"):
        assert {one.note for one in select(scores, task=task)} == {
            "not applicable: no labels in train, validation, test"
        }
