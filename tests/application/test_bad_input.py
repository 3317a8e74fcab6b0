"""Whatever is wrong on the command line: exit code 2, a message that helps, and nothing left behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision

from .command import SMALL, results, run, write_npz
from .data_fixtures import write_classes

Refused = Callable[..., str]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--data", "digit"), ("unknown data 'digit'; did you mean 'digits'?", "npz:FILE")),
        (("--data", "folder:missing"), ("missing does not exist", "folder of images")),
        (("--method", "python"), ("unknown method 'python'", "simve, vae")),
        (("--method", "simvae"), ("unknown method 'simvae'; did you mean 'simve'?", "simve, vae")),
        (("--prior", "gausian"), ("unknown prior 'gausian'; did you mean 'gaussian'?", "flat, mixture")),
        (("--prior", "[bold]x"), ("unknown prior '[bold]x'",)),  # which rich would take for markup
        (("--prior", "zzz"), ("unknown prior 'zzz'. Expected one of: gaussian", "your own package.module:Class")),
        (("--guide", "amortised"), ("unknown guide 'amortised'; did you mean 'amortized'?",)),
        (("--likelihood", "bernouli"), ("unknown likelihood 'bernouli'; did you mean 'bernoulli'?",)),
        (("--encoder", "resnet"), ("unknown encoder 'resnet'; did you mean 'resnet18'?",)),
        (("--encoder", "timm"), ("missing a required argument: 'name'", "options of timm: name, options")),
        (("--encoder", "timm(name='test_vt')"), ("--encoder timm(name='test_vt'): timm ", "did you mean test_vit")),
        (("--encoder", "timm(name='test_vit', patch=4)"), ("unexpected keyword argument 'patch'",)),
        (("--encoder", "timm(name='test_vit', patch_size=7)"), ("does not accept a batch of images", "(2, 1, 16, 16)")),
        (("--encoder", "timm(name='test_maxvit')"), ("does not accept a batch of images", "by zero")),
        (("--decoder", "mpl"), ("unknown decoder 'mpl'; did you mean 'mlp'?",)),
        (("--policy", "croop"), ("unknown policy 'croop'; did you mean 'crop'?", "affine, crop, crop+colour, paper")),
        (("--policy", "crop+colour"), ("--policy crop+colour: ", "needs RGB images", "use 'crop' instead")),
        (
            ("--prior", "gaussian(style_varience=0.3)"),
            ("unexpected keyword argument 'style_varience'", "options of gaussian: content_variance, style_variance"),
        ),
        (("--prior", "gaussian(style_variance=-1)"), ("--prior gaussian(style_variance=-1): ", "positive", "-1")),
        (("--likelihood", "gaussian(variance=0)"), ("variance must be positive and finite, got 0",)),
        (("--prior", "gaussian(style_variance=1e-45)"), ("style_variance must be at least 1e-08, ", "got 1e-45")),
        (("--method", "simclr", "--batch-size", "1"), ("needs batches of 2 images or more; got 1 (--batch-size)",)),
        (
            ("--method", "moco", "--objective", "moco(queue=0)", "--batch-size", "1"),
            ("without a queue needs batches of 2 images or more", "got 1 (--batch-size)"),
        ),
        (("--method", "moco", "--objective", "moco(queue=1e3)"), ("queue must be a whole number", "got 1000.0")),
        (("--encoder", "mlp(hidden=[-1])"), ("--encoder mlp(hidden=[-1]): ", "negative dimension -1")),
        (("--encoder", "mlp(hidden=3)"), ("--encoder mlp(hidden=3): ",)),
        (("--decoder", "residual(width=3", "--latent", "8"), ("cannot be read", "NAME(option=value, ...)")),
        (("--prior", "gaussian(0.3)"), ("'gaussian(0.3)' cannot be read", '"gaussian(style_variance=0.3)"')),
        (("--prior", "gaussian(style_variance=x)"), ("cannot be read",)),
        (("--prior", "gaussian(style_variance=0.3)(latent_dim=2)"), ("cannot be read",)),
        (("--prior", "gaussian(**{'style_variance': 1})"), ("cannot be read",)),
        (("--prior", "no_such_module:Prior"), ("No module named 'no_such_module'", "must be importable from")),
        (("--prior", ":Prior"), ("--prior ':Prior' cannot be read", "package.module:Class")),
        (("--prior", ".mine:Prior"), ("--prior '.mine:Prior' cannot be read", "package.module:Class")),
        (("--prior", "fractions:Fractoin"), ("unknown class in fractions 'Fractoin'; did you mean 'Fraction'?",)),
        (("--prior", "fractions:Fraction"), ("is not a class derived from pp_simve.models.priors.base.Prior",)),
        (("--prior", "os:path"), ("os:path is not a class derived from pp_simve.models.priors.base.Prior",)),
        (("--guide", "builtins:dict"), ("--guide builtins:dict: ", "pp_simve.inference.guides.base.Guide")),
        (("--batch-size", "5000"), ("batch_size is 5000, but there are only 1259 images", "at most 1259")),
        (("--objective", "bootstrap"), ("--objective bootstrap is now called byol",)),
        (("--track", "tensorbord"), ("unknown track 'tensorbord'; did you mean 'tensorboard'",)),
        (("--devices", "3"), ("batch_size 32 must be a multiple of devices (3)",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) and value[0].startswith("--") else "",
)
def test_wrong_names_and_values(
    refused: Refused, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    message = refused(*SMALL, *flags)
    assert message.startswith("error: ")
    assert capsys.readouterr().out == ""
    for expected in words:
        assert expected in message


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--views", "0"), "--views must be at least 1, got 0"),
        (("--batch-size", "0"), "--batch-size must be at least 1, got 0"),
        (("--steps", "0"), "--steps must be at least 1, got 0"),
        (("--latent", "-2"), "--latent-dim must be at least 1, got -2"),
        (("--devices", "0"), "--devices must be at least 1, got 0"),
        (("--image-size", "0"), "--image-size must be at least 1, got 0"),
        (("--epochs", "0"), "--epochs must be a positive number, got 0"),
        (("--epochs", "inf"), "--epochs must be a positive number, got inf"),
        (("--lr", "-1"), "--lr must be a positive number, got -1"),
        (("--lr", "nan"), "--lr must be a positive number, got nan"),
        (("--epochs", "2", "--steps", "3"), "give --epochs or --steps, not both"),
        ((*SMALL[:-6], "--epochs", "0.001"), "at least one step, got 0.001 epochs"),
        (("--latent", "many"), "invalid literal for int() with base 10: 'many'"),
        (("--clip-norm", "0"), "--clip-norm must be a positive number, got 0"),
        (("--accumulate", "0"), "--accumulate must be at least 1, got 0"),
        (("--ema", "1"), "--ema must be a number between 0 and 1, got 1"),
        (("--schedule", "cosin"), "unknown schedule 'cosin'; did you mean 'cosine'"),
        (("--schedule", "cosine(warmup=2)"), "warmup is a fraction of all steps in [0, 1), got 2"),
        (("--optimizer", "adagrad"), "unknown optimizer 'adagrad'"),
        (("--optimizer", "adamw(decay=1)"), "options of adamw: weight_decay, betas"),
        (("--optimizer", "lars(momentum=-1)"), "--optimizer lars(momentum=-1): Invalid momentum value: -1"),
        (("--optimizer", "sgd(momentum=-1)"), "--optimizer sgd(momentum=-1): Invalid momentum value: -1"),
        (("--colour", "red"), "--colour"),
        (("digits",), "digits"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_numbers_and_flags(refused: Refused, flags: tuple[str, ...], words: str) -> None:
    assert words in refused(*flags)


def test_an_out_folder_that_is_taken(folder: Path, refused: Refused) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "thesis.txt").write_text("three years of work")
    (folder / "file").write_text("no folder")
    message = refused(*SMALL, "--out", "run")
    assert "run exists and is not empty; choose another --out, or go on with --resume run" in message
    assert "file exists and is not empty" in refused(*SMALL, "--out", "file")
    assert "file/below" in refused(*SMALL, "--out", "file/below")


def test_cuda_where_there_is_none(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = refused(*SMALL, "--device", "cuda")
    assert "no CUDA device" in message
    assert "--device cpu" in message


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--data", "folder:pictures"), ("1 file of 12 cannot be decoded", "pictures/b/0003.png", "--skip-bad")),
        (("--data", "npz:broken.npz"), ("1 NaN or infinite values, the first at (image, channel, row, column) (3, ",)),
        (("--data", "npz:none.npz"), ("holds no images",)),
        (("--data", "npz:few.npz"), ("batch_size is 32, but there are only 28 images",)),
        (("--data", "npz:odd.npz", "--decoder", "residual"), ("--decoder residual: ", "15x15")),
        (
            ("--data", "mnist", "--data-root", "below/data"),
            ("its download failed", "Network is unreachable", "--data-root DIR"),
        ),
        (
            ("--data", "mnist", "--data-root", "few.npz/data"),
            ("cannot be downloaded there: the folder is not writable",),
        ),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--data") else "",
)
def test_data_that_cannot_be_used(
    folder: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """One case of each source: what else can be wrong is tested where the source is read."""

    def no_network(self: object) -> None:
        raise URLError("Network is unreachable")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", no_network)
    write_classes(folder / "pictures", {"a": 6, "b": 6})
    (folder / "pictures" / "b" / "0003.png").write_bytes(b"no picture")
    images = np.full((20, 8, 8), 0.5)
    images[3, 1, 2] = np.nan
    np.savez(folder / "broken.npz", images=images)
    write_npz(folder / "none.npz", (0, 16, 16), labelled=False)
    write_npz(folder / "few.npz")
    write_npz(folder / "odd.npz", (60, 15, 15))
    message = refused(*SMALL, *flags)
    for expected in words:
        assert expected in message


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ("--prior", "gaussian(learn_style=True)", "--lr", "30", "--schedule", "constant"),
            (" became ", " at step ", "lower the learning rate (--lr)", "no checkpoint was kept yet"),
        ),
        (("--lr", "1e20"), (" at step 2; lower the learning rate (--lr)",)),
    ],
)
def test_a_fit_that_diverges(refused: Refused, flags: tuple[str, ...], words: tuple[str, ...]) -> None:
    message = refused(*SMALL, *flags)
    for expected in words:
        assert expected in message


def test_a_fit_that_ends_in_garbage_says_so(
    folder: Path, evaluated_quickly: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*SMALL, "--lr", "10", "--schedule", "constant", "--out", "run") == 0
    (warning,) = results(folder / "run")["warnings"]
    assert re.match(r"the fit diverged: the loss rose from \d+\.\d to .*; lower --lr \(it was 10\)", warning)
    assert f"warning: {warning}" in capsys.readouterr().out
    assert f"<strong>Warning:</strong> {warning}" in (folder / "run" / "report.html").read_text()
    assert run(*SMALL, "--out", "fine") == 0
    assert results(folder / "fine")["warnings"] == []
    assert "warning" not in capsys.readouterr().out
