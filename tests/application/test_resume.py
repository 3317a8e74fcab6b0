"""Ctrl-C, full disks, and going on: a resumed run equals one that was never stopped."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pp_simve import evaluate
from pp_simve.run.files import read_json
from pp_simve.run.folder import RunFolder

from .command import SMALL, STEPS, interrupted_at, results, run, scores
from .conftest import Ended
from .data_fixtures import write_image

Refused = Callable[..., str]
WHOLE = ("metrics.jsonl", "model.safetensors")


def assert_equal_runs(one: Path, other: Path) -> None:
    for name in WHOLE:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert scores(one) == scores(other)


def edit_config(path: Path, **changes: object) -> None:
    """Changes entries of config.json; the settings themselves with a leading ``config_``."""
    entries = read_json(path / "config.json")
    for name, value in changes.items():
        place = entries["config"] if name.startswith("config_") else entries
        place[name.removeprefix("config_")] = value
    (path / "config.json").write_text(json.dumps(entries))


def disk_full_after(monkeypatch: pytest.MonkeyPatch, files: int) -> None:
    """As many files reach the disk, then it is full."""
    plain, written = os.fsync, 0

    def fsync(number: int) -> None:
        nonlocal written
        if written == files:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += 1
        plain(number)

    monkeypatch.setattr(os, "fsync", fsync)


def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_go_on(stopped: Ended) -> None:
    assert f"stopped at step 4 of {STEPS}" in stopped.out
    assert f"python -m pp_simve.fit --resume {stopped.path}" in stopped.out
    assert {path.name for path in stopped.path.iterdir()} == {"config.json", "metrics.jsonl", "checkpoint.pt"}
    assert [row["step"] for row in RunFolder(stopped.path).read_metrics()] == [1, 2, 3, 4]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_twice_stops_at_once_and_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted_at(monkeypatch, step=2, signals=[signal.SIGINT] * 2)
    assert run(*SMALL) == 130
    assert list(folder.iterdir()) == []
    assert "stopped" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_schedulers_signals_stop_with_a_checkpoint_however_many_follow(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    before = signal.getsignal(number)
    interrupted_at(monkeypatch, step=4, signals=[number, signal.SIGTERM, signal.SIGUSR1])
    assert run(*SMALL, "--out", "run") == 130
    assert "go on with\n  python -m pp_simve.fit --resume run" in capsys.readouterr().out
    assert RunFolder(folder / "run").checkpoint.load()["steps"] == 4
    assert signal.getsignal(number) is before


def test_ctrl_c_while_data_are_read_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pp_simve.commands.run_fit.load_data", lambda *args, **kwargs: signal.raise_signal(signal.SIGINT)
    )
    assert run(*SMALL) == 130
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("during", ["run_results", "run_figures", "embed_test"])
def test_ctrl_c_after_the_fit_names_the_commands_that_go_on(
    folder: Path,
    evaluated_quickly: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    during: str,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(f"pp_simve.report.outcome.{during}", lambda *_, **__: signal.raise_signal(signal.SIGINT))
        assert run(*SMALL, "--out", "run") == 130
    said = capsys.readouterr().err
    assert "the fit is finished" in said
    commands = re.findall(r"python -m pp_simve.(\w+) (.*?) +\(", said)
    assert commands == [("evaluate", "run"), ("fit", "--resume run")]
    assert (folder / "run" / "results.json").is_file() == (during != "run_results")
    monkeypatch.setattr("pp_simve.commands.run_evaluate.evaluate_run", lambda *_: [])
    assert evaluate.main(["run"]) == 0
    assert (folder / "run" / "report.html").is_file()
    assert run("--resume", "run") == 0
    assert (folder / "run" / "results.json").is_file()


@pytest.mark.parametrize("case", ["killed while writing", "no checkpoint", "stopped twice"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    stopped_run: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    repeated: tuple[str, ...] = ()
    if case == "killed while writing":  # metrics after the checkpoint are forgotten; repeated settings may agree
        with (stopped_run / "metrics.jsonl").open("a") as file:
            file.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')
        repeated = (*SMALL, "--quiet")
    elif case == "no checkpoint":  # the run starts over
        (stopped_run / "checkpoint.pt").unlink()
    else:
        with monkeypatch.context() as patched:
            interrupted_at(patched, step=7)
            assert run("--resume", str(stopped_run)) == 130
    torch.manual_seed(1234)  # whatever was drawn before must not matter
    assert run(*repeated, "--resume", str(stopped_run)) == 0
    assert_equal_runs(stopped_run, finished_run)


def test_resuming_a_finished_run_evaluates_it_again(finished_run: Path, folder: Path) -> None:
    path = Path(shutil.copytree(finished_run, folder / "copy"))
    (path / "results.json").unlink()
    assert run("--resume", str(path)) == 0
    assert_equal_runs(path, finished_run)
    # The time spent before counts, whatever this process added to it.
    spent = RunFolder(path).checkpoint.load()["seconds"]
    epochs = results(path)["epochs"]
    assert results(path)["seconds_per_epoch"] >= 0.9 * spent / epochs


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--lr", "0.5"), ("lr is 0.002 there, 0.5 here",)),
        (("--latent", "9"), ("latent_dim is 8 there, 9 here",)),
        (("--prior", "flat"), ("prior is not set there, 'flat' here",)),
        (("--seed", "3", "--views", "4"), ("seed is 0 there, 3 here", "views is 2 there, 4 here")),
        (("--steps", "20"), (f"steps is {STEPS} there, 20 here",)),
        (("--epochs", "5"), (f"steps is {STEPS} there, not set here", "epochs is not set there, 5.0 here")),
        (("--out", "elsewhere"), ("--resume goes on in its own folder", "leave out --out elsewhere")),
    ],
    ids=lambda value: " ".join(value),
)
def test_other_settings_are_refused(
    stopped_run: Path, refused: Refused, flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    message = refused("--resume", str(stopped_run), *flags)
    for expected in words:
        assert expected in message


def test_what_is_no_run_is_refused(folder: Path, refused: Refused) -> None:
    (folder / "empty").mkdir()
    for name in ("empty", "missing"):
        assert f"{name} is no run folder: it has no config.json" in refused("--resume", name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *((text, "config.json is damaged") for text in ("", '{"config": {', "[1, 2]", "\0\1")),
        ("{}", "config.json lacks config, data_fingerprint, data_shape"),
    ],
)
def test_a_damaged_config_is_refused(stopped_run: Path, refused: Refused, text: str, words: str) -> None:
    (stopped_run / "config.json").write_text(text)
    message = refused("--resume", str(stopped_run))
    assert words in message
    assert "damaged" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config_temperature": 0.1}, "settings of another version: temperature are not known to this one"),
        ({"config_views": "two"}, "the setting views holds 'two', expected a whole number"),
        ({"config_objective": "bootstrap"}, "--objective bootstrap is now called byol"),
        ({"config_group": "views(width=3)"}, "--group views is now called ntxent; write --group ntxent(width=3)"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(
    stopped_run: Path, refused: Refused, changes: dict[str, object], words: str
) -> None:
    edit_config(stopped_run, **changes)
    assert words in refused("--resume", str(stopped_run))


@pytest.mark.parametrize("damage", ["truncated", "garbage", "tensor", "empty"])
def test_a_damaged_checkpoint_is_refused(stopped_run: Path, refused: Refused, damage: str) -> None:
    checkpoint = stopped_run / "checkpoint.pt"
    content = checkpoint.read_bytes()
    if damage == "tensor":
        torch.save(torch.zeros(3), checkpoint)
    elif damage == "empty":
        torch.save({}, checkpoint)
    else:
        checkpoint.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"garbage" * 100)
    message = refused("--resume", str(stopped_run))
    assert "checkpoint.pt" in message
    assert "start a new" in message


def test_a_checkpoint_of_another_fit_is_refused(stopped_run: Path, refused: Refused) -> None:
    edit_config(stopped_run, config_latent_dim=9)
    assert "is of another fit" in refused("--resume", str(stopped_run))


def test_changed_images_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    for number in range(24):
        write_image(folder / "pictures" / ("a", "b")[number % 2] / f"{number}.png", number, mode="L", size=(16, 16))
    with monkeypatch.context() as patched:
        interrupted_at(patched, step=4)
        assert run(*SMALL, "--data", "folder:pictures", "--batch-size", "8", "--out", "run") == 130
    write_image(folder / "pictures" / "a" / "0.png", 99, mode="L", size=(16, 16))
    message = refused("--resume", "run")
    assert "pictures are not those run was started with" in message


def test_a_disk_full_at_the_start_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    disk_full_after(monkeypatch, files=0)
    message = refused(*SMALL, "--out", "a/b/run")
    assert "No space left on device" in message
    assert "a/b/run" in message
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("existing", [False, True])
def test_a_disk_full_at_the_first_checkpoint_leaves_what_was_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused, existing: bool
) -> None:
    if existing:
        (folder / "run").mkdir()
    disk_full_after(monkeypatch, files=1)
    message = refused(*SMALL, "--out", "run")
    assert "No space left on device" in message
    assert "nothing is left of run" in message


@pytest.mark.parametrize(
    ("files", "words"),
    [
        pytest.param(2, "nothing is lost up to the last checkpoint; go on with --resume run", id="weights"),
        pytest.param(4, "the fit is finished", id="figures"),
    ],
)
def test_a_disk_full_later_keeps_the_checkpoint(
    folder: Path,
    finished_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    files: int,
    words: str,
) -> None:
    with monkeypatch.context() as patched:
        disk_full_after(patched, files)
        assert run(*SMALL, "--out", "run") == 2
    message = capsys.readouterr().err
    assert "No space left on device" in message
    assert words in message
    assert not list((folder / "run").rglob(".*"))
    assert run("--resume", "run") == 0
    assert_equal_runs(folder / "run", finished_run)


def test_one_command_starts_resumes_and_is_finished(
    folder: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (*SMALL, "--resume", "auto", "--out", "run")
    with monkeypatch.context() as patched:
        interrupted_at(patched, step=4, signals=[signal.SIGUSR1])
        assert run(*command) == 130
    assert run(*command) == 0
    assert_equal_runs(folder / "run", finished_run)
    before = {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*")}
    capsys.readouterr()
    assert run(*command) == 0
    assert capsys.readouterr().out == "run is finished; nothing to do\n"
    assert {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*")} == before
    (folder / "run" / "report.html").unlink()  # as if it had been killed before
    assert run(*command) == 0
    assert (folder / "run" / "report.html").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "--resume auto resumes the run in --out, or starts it there; give --out FOLDER, too"),
        (("--out", "other"), "other exists and is not empty"),
        (("--out", "stopped", "--lr", "0.5"), "stopped was started with other settings: lr is 0.002 there, 0.5 here"),
    ],
)
def test_resume_auto_refuses_what_is_not_that_run(
    stopped_run: Path, folder: Path, refused: Refused, flags: tuple[str, ...], words: str
) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "thesis.tex").touch()
    assert words in refused(*SMALL, "--resume", "auto", *flags)


def test_logging_and_checkpoints_may_change_when_a_run_is_resumed(stopped_run: Path, finished_run: Path) -> None:
    assert run("--resume", str(stopped_run), "--log-every", "3", "--checkpoint-minutes", "0.001") == 0
    assert [row["step"] for row in RunFolder(stopped_run).read_metrics()] == [1, 2, 3, 4, 6, 9, 10]
    assert (stopped_run / "model.safetensors").read_bytes() == (finished_run / "model.safetensors").read_bytes()


def test_a_fit_starts_from_the_weights_of_another_run(
    finished_run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = RunFolder(finished_run).read_weights()
    shutil.copytree(finished_run, folder / "old")
    command = (*SMALL, "--init", "old", "--lr", "1e-12", "--prior", "gaussian(learn_style=True)", "--out", "new")
    with monkeypatch.context() as patched:
        interrupted_at(patched, step=2)
        assert run(*command) == 130
    printed = " ".join(capsys.readouterr().out.split())
    names = set(RunFolder(folder / "new").checkpoint.load()["objective"])
    common, new = names & set(old), names - set(old)
    assert f"{len(common)} of {len(names)} weights are those of" in printed
    assert new
    assert all(name in printed.partition("it has none for")[2] for name in new)
    shutil.rmtree(folder / "old")  # the checkpoint has the weights
    assert run("--resume", "new") == 0
    weights = RunFolder(folder / "new").read_weights()
    for name in common:
        torch.testing.assert_close(weights[name], old[name])


@pytest.mark.parametrize(
    ("init", "flags", "words"),
    [
        ("missing", (), "missing is no run folder: it has no config.json"),
        ("stopped", (), "stopped is not finished: it has no model.safetensors"),
        ("finished", ("--latent", "9", "--encoder", "mlp(hidden=[7])", "--decoder", "mlp(hidden=[7, 7])"), "--init"),
    ],
)
def test_weights_that_are_not_there_or_do_not_match_are_refused(
    stopped_run: Path, finished_run: Path, folder: Path, refused: Refused, init: str, flags: tuple[str, ...], words: str
) -> None:
    shutil.copytree(finished_run, folder / "finished")
    message = refused(*SMALL, *flags, "--init", init, "--out", "new")
    assert words in message
    assert init != "finished" or "has the name and shape of one of this program" in message
