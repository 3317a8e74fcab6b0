"""Files from elsewhere are read without running anything in them: run folders, data and caches.

An audit hook records every attempt to start a program, to unpickle a function that could, to import a module that a
file names, or to write outside the temporary folders.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from pp_simve import compare, diagnose, embed, evaluate, fit
from pp_simve.data import DataError, load_data
from pp_simve.errors import ConfigError
from pp_simve.evaluation.posterior.storage import PosteriorFileError, open_posterior
from pp_simve.inference.checkpoint import CheckpointError
from pp_simve.report import write_report
from pp_simve.run.config import FitConfig, ReadingOptions
from pp_simve.run.files import read_json
from pp_simve.run.folder import RunFolder, load_fitted, load_run
from pp_simve.run.trust import NAMING_PARTS

from .command import SMALL, write_npz

MARKER = "module_of_somebody_else"
STARTS = frozenset(
    ["os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.startfile", "pty.spawn"]
)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

Guarded = Callable[..., tuple[int, str]]
Refuses = Callable[..., str]

_recorded: list[str] | None = None


def _forbidden(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "subprocess.Popen":
        # The package asks git for the commit of its own source, joblib asks the system how many cores there are.
        return next(iter(arguments[1]), None) not in ("git", "lscpu", "sysctl")
    if event == "exec":  # of a module's code; "import" is not told of importlib.import_module
        return Path(str(getattr(arguments[0], "co_filename", ""))).stem == MARKER
    if event == "pickle.find_class":
        return arguments[0] in ("os", "posix", "subprocess")
    if event == "open":
        path, _, flags = arguments
        if not isinstance(path, str | bytes) or not isinstance(flags, int) or not flags & WRITES:
            return False
        place = Path(os.fsdecode(path)).resolve()
        return place != Path(os.devnull) and Path(tempfile.gettempdir()).resolve() not in place.parents
    return event in STARTS


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _recorded is not None and _forbidden(event, arguments):
        _recorded.append(f"{event} {arguments[:2]}")
        raise PermissionError(f"{event} in a file that was only to be read")


@pytest.fixture(scope="session", autouse=True)
def _hook_installed() -> None:
    """The hook cannot be removed: there is one, which does nothing while nothing is recorded."""
    sys.addaudithook(_hook)


@contextmanager
def recorded() -> Iterator[list[str]]:
    """What is done within it that must not be; it is prevented, too."""
    global _recorded
    _recorded = found = []
    try:
        yield found
    finally:
        _recorded = None


@contextmanager
def nothing_recorded(error: type[Exception] | None = None, match: str | None = None) -> Iterator[None]:
    """Nothing is done within that must not be; it raises that error, where given."""
    with recorded() as found, pytest.raises(error, match=match) if error else nullcontext():
        yield
    assert found == []
    assert not Path("PWNED").exists()


@pytest.fixture
def guarded(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Guarded:
    """Calls a command's `main` under the hook; its exit code and its errors, on one line. Nothing may be recorded."""
    (folder / f"{MARKER}.py").write_text("class Prior: pass\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.invalidate_caches()

    def call(main: Callable[[list[str]], int], *arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        with nothing_recorded():
            code = main([str(argument) for argument in arguments])
        assert MARKER not in sys.modules
        return code, " ".join(capsys.readouterr().err.split())

    return call


@pytest.fixture
def refuses(guarded: Guarded) -> Refuses:
    """Calls a command that must end with code 2 and these words; the whole message."""

    def call(words: str, *command: Any) -> str:
        code, message = guarded(*command)
        assert code == 2
        assert words in message
        return message

    return call


@pytest.fixture
def fitted(finished_run: Path, folder: Path) -> Path:
    """The finished run: a copy of one's own."""
    return Path(shutil.copytree(finished_run, folder / "run"))


class Hostile:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch PWNED",)


def pickled() -> bytes:
    return pickle.dumps({"steps": Hostile(), "images": Hostile()})


def test_the_hook_sees_what_it_is_to_see(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / f"{MARKER}.py").touch()
    monkeypatch.syspath_prepend(str(folder))
    acts: list[Callable[[], object]] = [
        lambda: os.system("touch PWNED"),
        lambda: subprocess.run(["touch", "PWNED"], check=True),
        lambda: os.posix_spawn("/usr/bin/touch", ["touch", "PWNED"], {}),
        lambda: os.execv("/usr/bin/touch", ["touch", "PWNED"]),
        lambda: importlib.import_module(MARKER),
        lambda: pickle.loads(pickled()),
        lambda: Path("/somewhere-else").write_text("x"),
        lambda: os.open("/somewhere-else", os.O_WRONLY | os.O_CREAT),
    ]
    for act in acts:
        with recorded() as found, pytest.raises(PermissionError):
            act()
        assert len(found) == 1
        sys.modules.pop(MARKER, None)
    with nothing_recorded():
        (folder / "here").write_text("x")
        json.loads(Path("here").read_text().replace("x", "1"))
    assert not (folder / "PWNED").exists()


# Settings.

TEXTS = {
    "a function": "os:system(command='touch PWNED')",
    "a class": "subprocess:Popen(args='touch PWNED', shell=True)",
    "without brackets": "os:fork",
    "nested": "known(option=os:system(command='touch PWNED; exit 1'))",
    "deeply nested": "known(first=1, option=flat(latent=subprocess:Popen(args=['touch', 'PWNED'])))",
    "a module of theirs": f"{MARKER}:Prior",
    "a module of theirs, nested": f"known(option={MARKER}:Prior(latent_dim=4))",
    "in disguise": "known(option=os._module_of_.system(command='touch PWNED'))",
}
KNOWN = {
    "method": "simve",
    "prior": "block",
    "guide": "structured",
    "objective": "elbo",
    "likelihood": "bernoulli",
    "group": "ntxent",
    "encoder": "mlp",
    "decoder": "mlp",
    "modalities": "halves",
    "policy": "affine",
    "optimizer": "adam",
    "schedule": "cosine",
    "track": "tensorboard",
}


def name_in_settings(path: Path, setting: str, text: str) -> None:
    """Puts a text for a setting into config.json of a run."""
    entries = read_json(path / "config.json")
    entries["config"][setting] = [text] if setting == "track" else text
    (path / "config.json").write_text(json.dumps(entries))


def test_every_setting_that_may_name_a_class_is_asked_about() -> None:
    texts = {name for name, kind in get_type_hints(FitConfig).items() if kind in (str | None, tuple[str, ...])}
    others = {"probe", "init", *ReadingOptions.__annotations__}
    assert (texts | {"method"}) - others == set(NAMING_PARTS) == set(KNOWN)


@pytest.mark.parametrize(
    ("setting", "kind"), [*((setting, "nested") for setting in KNOWN), *(("prior", kind) for kind in TEXTS)]
)
def test_parts_of_a_stored_run_are_not_imported(
    refuses: Refuses, fitted: Path, stopped_run: Path, setting: str, kind: str
) -> None:
    text = re.sub(r"\bknown\b", KNOWN[setting], TEXTS[kind])
    names = ("os:system", "os:fork", "subprocess:Popen", f"{MARKER}:Prior")
    name = "os:system" if kind == "in disguise" else next(name for name in names if name in text)
    for path in (fitted, stopped_run):
        name_in_settings(path, setting, text)
    words = (
        f"names classes that would be imported: {name}. Importing a module runs its code; if you trust these, add --t"
    )
    for command in (
        (evaluate.main, fitted),
        (diagnose.main, fitted),
        (fit.main, "--resume", stopped_run),
        (embed.main, fitted, "--out", "f.npz"),
    ):
        refuses(words, *command)
    for read in (
        lambda: load_run(fitted),
        lambda: RunFolder(fitted).read_config(),
        lambda: load_fitted(RunFolder(fitted), torch.device("cpu"), load_nothing),
    ):
        with nothing_recorded(ConfigError, "would be imported"):
            read()


def load_nothing(*settings: object) -> Any:
    pytest.fail("loaded data")


def test_all_that_a_run_would_import_is_named_once(refuses: Refuses, fitted: Path) -> None:
    name_in_settings(fitted, "prior", f"a:B(c=d.e:F(), g={MARKER}:H(i=a:B()))")
    name_in_settings(fitted, "guide", "d.e:F(x='y:Z()')")
    refuses(f"would be imported: a:B, d.e:F, {MARKER}:H. Importing", evaluate.main, fitted)


@pytest.mark.parametrize("kind", ["a function", "a class", "without brackets", "deeply nested", "in disguise"])
def test_even_trusted_only_parts_are_called(refuses: Refuses, fitted: Path, kind: str) -> None:
    name_in_settings(fitted, "prior", TEXTS[kind].replace("known", "block"))
    for main in (evaluate.main, diagnose.main):
        refuses("is not a class derived from", main, fitted, "--trust-parts")


def test_a_file_cannot_say_that_it_is_trusted(refuses: Refuses, stopped_run: Path) -> None:
    entries = read_json(stopped_run / "config.json")
    entries["config"] |= {"trust_parts": True, "prior": f"{MARKER}:Prior"}
    (stopped_run / "config.json").write_text(json.dumps(entries))
    refuses("trust_parts are not known", fit.main, "--resume", stopped_run)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"os": "system"}, "expected the name of a part"),
        (["os:system"], "expected the name of a part"),
        ("os:system(", "cannot be read"),
        ("os:system(command='x').y(", "cannot be read"),
        ("block(" * 10_000, "cannot be read"),
        ("\x1b[2Jos:system", "cannot be read"),
        ("os:\nsystem", "cannot be read"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_settings_that_cannot_be_read_are_refused(refuses: Refuses, fitted: Path, value: Any, words: str) -> None:
    name_in_settings(fitted, "prior", value)
    assert "\x1b[2J" not in refuses(words, evaluate.main, fitted)


def test_a_comparison_trusts_what_was_typed_and_no_more(
    guarded: Guarded,
    refuses: Refuses,
    stopped_run: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commands: list[Sequence[str]] = []

    def carry_out(given: Mapping[str, Sequence[str]], *others: object) -> tuple[bool, list[str]]:
        commands.extend(given.values())
        return False, []

    monkeypatch.setattr("pp_simve.commands.run_compare.carry_out", carry_out)
    (folder / "out").mkdir()
    stored = Path(shutil.move(stopped_run, folder / "out" / "simve-0"))
    command = (compare.main, "--methods", "simve", "--seeds", "1", "--out", "out", *SMALL)
    name_in_settings(stored, "track", f"{MARKER}:Prior")
    refuses(f"would be imported: {MARKER}:Prior.", *command)
    assert commands == []
    assert guarded(*command, f"--track={MARKER}:Prior")[0] == 0
    assert guarded(*command, "--trust-parts")[0] == 0
    assert [given[-1] for given in commands] == ["--trust-parts"] * 2
    name_in_settings(stored, "track", "tensorboard")
    assert guarded(*command)[0] == 0
    assert "--trust-parts" not in commands[-1]


# Files of a run.


def torch_file(payload: object) -> bytes:
    """What torch.save writes, its pickle exchanged for that of a payload."""
    whole = io.BytesIO()
    torch.save({"steps": 1}, whole)
    changed = io.BytesIO()
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(changed, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, pickle.dumps(payload) if entry.endswith("data.pkl") else old.read(entry))
    return changed.getvalue()


@pytest.mark.parametrize("content", [pickled(), torch_file(Hostile()), torch_file({"steps": Hostile()})])
def test_a_checkpoint(refuses: Refuses, stopped_run: Path, content: bytes) -> None:
    (stopped_run / "checkpoint.pt").write_bytes(content)
    refuses("checkpoint.pt cannot be read as a checkpoint", fit.main, "--resume", stopped_run)
    with nothing_recorded(CheckpointError):
        RunFolder(stopped_run).checkpoint.load()


@pytest.mark.parametrize("content", [pickled(), torch_file(Hostile())])
def test_weights(refuses: Refuses, fitted: Path, content: bytes) -> None:
    (fitted / "model.safetensors").write_bytes(content)
    for main in (evaluate.main, diagnose.main):
        refuses("model.safetensors cannot be loaded", main, fitted)


@pytest.mark.parametrize(
    "name", ["config.json", "results.json", "evaluation.json", "diagnostics.json", "map.safetensors"]
)
@pytest.mark.parametrize("content", [pickled(), b'__import__("os").system("touch PWNED") #}'], ids=["pickle", "code"])
def test_what_a_report_is_made_of(fitted: Path, name: str, content: bytes) -> None:
    (fitted / name).write_bytes(content)
    with nothing_recorded(ConfigError, re.escape(name)):
        write_report(RunFolder(fitted))
    if name == "config.json":
        return
    (fitted / name).unlink()
    (fitted / "metrics.jsonl").write_bytes(content)
    with nothing_recorded():
        write_report(RunFolder(fitted))


EVIL = "</script></style><img src=x onerror=alert(1)>\"'><script>alert(2)</script>"


def test_words_of_a_run_are_words_of_its_report(guarded: Guarded, fitted: Path) -> None:
    def evil(value: Any) -> Any:
        """The same with every text replaced, and one more entry of such a name in every mapping."""
        if isinstance(value, dict):
            numbers = all(isinstance(entry, int | float) for entry in value.values())
            more = {} if "metric" in value else {EVIL: 0.5 if numbers else EVIL}  # a score record has fixed entries
            return {key: evil(entry) for key, entry in value.items()} | more
        if isinstance(value, list):
            return [evil(entry) for entry in value]
        return EVIL if isinstance(value, str) else value

    plain = write_report(RunFolder(fitted)).read_text()
    results = read_json(fitted / "results.json")
    (fitted / "results.json").write_text(json.dumps(evil(results)))
    settings = read_json(fitted / "config.json")
    words = {"version": EVIL, "commit": EVIL, "torch": EVIL, "data_fingerprint": EVIL}
    (fitted / "config.json").write_text(json.dumps(settings | words | {"config": evil(settings["config"])}))
    (fitted / "metrics.jsonl").write_text(json.dumps({"step": 1, EVIL: 0.5}) + "\n")
    checks = {
        **dict.fromkeys(("name", "title", "how", "blind", "unit"), EVIL),
        **{"value": 1.0, "alarm": True, "rows": {"columns": [EVIL], "rows": [[EVIL]]}},
    }
    (fitted / "diagnostics.json").write_text(json.dumps({"checks": [checks], "notes": [EVIL], "settings": {EVIL: 1}}))
    error = {"error": EVIL}
    evaluation = {
        "knows": {name: {"class": {"linear": error}, "views": {}} for name in ("backbone", "z", EVIL)},
        "generation": {"reconstruction": {"skipped": EVIL}, EVIL: error},
        "information": {"z": {"infonce": error}},
        **{"data": EVIL, "headline": {EVIL: 1.0}},
    }
    (fitted / "evaluation.json").write_text(json.dumps(evaluation))
    with nothing_recorded():
        text = write_report(RunFolder(fitted)).read_text()
    assert "&lt;img src=x" in text
    assert "<img src=x" not in text
    assert "<script>alert(2)" not in text
    for tag in ("<script", "</script", "</style"):
        assert text.count(tag) == plain.count(tag)


def test_evaluating_and_diagnosing_run_nothing_either(guarded: Guarded, fitted: Path) -> None:
    for name in ("posterior.nc", "checkpoint.pt"):
        (fitted / name).write_bytes(pickled())
    few = ("--images", 8, "--draws", 20, "--simulations", 20)
    assert guarded(diagnose.main, fitted, "--device", "cpu", *few, "--quiet") == (0, "")
    assert guarded(evaluate.main, fitted, "--device", "cpu", "--rows", 200, "--restarts", 1, "--quiet") == (0, "")
    open_posterior(fitted / "posterior.nc").close()


def test_a_posterior(folder: Path) -> None:
    (folder / "posterior.nc").write_bytes(pickled())
    with nothing_recorded(PosteriorFileError, "cannot be read"):
        open_posterior(folder / "posterior.nc")


# Data.

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n(%pipe%touch PWNED) (w) file\nshowpage\n%%EOF\n"


def write_pictures(path: Path) -> None:
    """A folder of two classes, eight images each."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 16, 16), dtype=np.uint8)
    for label, images in zip("ab", pixels, strict=True):
        (path / label).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(path / label / f"{number}.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "ppm", "tga"])
def test_postscript_that_is_called_an_image(
    refuses: Refuses, folder: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # whether there is a Ghostscript is asked once
    write_pictures(folder / "pictures")
    (folder / "pictures" / "a" / f"evil.{suffix}").write_bytes(POSTSCRIPT)
    message = refuses("cannot be decoded", fit.main, *SMALL, "--data", "folder:pictures", "--out", "out")
    assert f"evil.{suffix}" in message


def test_postscript_that_is_called_a_figure(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    (fitted / "figures" / "swaps.png").write_bytes(POSTSCRIPT)
    with nothing_recorded(ConfigError, "cannot identify image file"):
        write_report(RunFolder(fitted))


def test_the_formats_that_are_read_are_those_of_the_extensions(folder: Path) -> None:
    (folder / "pictures" / "a").mkdir(parents=True)
    for suffix in ("bmp", "gif", "jpg", "jp2", "png", "ppm", "tif", "webp", "tga", "avif"):
        mode = "L" if suffix in ("gif", "tif") else "RGB"
        Image.new(mode, (16, 16), "white").save(folder / "pictures" / "a" / f"a.{suffix}")
    shutil.copytree(folder / "pictures" / "a", folder / "pictures" / "b")
    with nothing_recorded():
        assert len(load_data("folder:pictures", cache=folder / "cache").train) > 0


def test_an_npz_file(refuses: Refuses, folder: Path) -> None:
    write_npz(folder / "a.npz", labelled=False, labels=np.array([Hostile()] * 40, dtype=object))
    refuses("holds Python objects", fit.main, *SMALL, "--data", "npz:a.npz", "--out", "out")
    (folder / "a.npz").write_bytes(pickled())
    refuses("is not an npz file", fit.main, *SMALL, "--data", "npz:a.npz", "--out", "out")


def test_official_files(folder: Path) -> None:
    """CIFAR-10 is published as pickles, which are opened only where they are those that were published."""
    (folder / "cifar-10-batches-py").mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
        (folder / "cifar-10-batches-py" / name).write_bytes(pickled())
    with nothing_recorded(DataError, "damaged"):
        load_data("cifar10", folder)


def test_a_cache_of_decoded_images(folder: Path) -> None:
    write_pictures(folder / "pictures")
    before = load_data("folder:pictures", cache=folder / "cache")
    (cached,) = (folder / "cache").iterdir()
    cached.write_bytes(pickled())
    with nothing_recorded():
        after = load_data("folder:pictures", cache=folder / "cache")
    assert any("cache rebuilt" in note for note in after.notes)
    assert torch.equal(after.train.images, before.train.images)
