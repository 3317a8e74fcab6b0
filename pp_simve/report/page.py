"""The page of a run: what lies in its folder, put into one template."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from pp_simve.errors import ConfigError
from pp_simve.evaluation.posterior.check import FIGURES as OF_CHECKS
from pp_simve.inference.tools import write_whole
from pp_simve.report import score_tables, words
from pp_simve.report.embedding import Embedding
from pp_simve.run import numbers
from pp_simve.run.files import read_json
from pp_simve.run.folder import RunFolder

MAP = "map.safetensors"
"""What the page draws its map from, so that it can be written again without the fitted program and its data."""
FIGURE_BYTES = 150_000
"""Of one figure; larger ones lose colors and pixels."""
FOLDER = Path(__file__).parent


def write_report(folder: RunFolder, embedding: Embedding | None = None) -> Path:
    """Writes report.html of a run from the files in its folder; what is missing is left out or marked as missing.

    Commands that change a file of the folder (results.json, evaluation.json, transfer.json, diagnostics.json, figures)
    call it again without an embedding: the map stays as it is.

    Args:
        folder: has a config.json at least.
        embedding: what to draw a map of, see `embed_test`; None takes that of the last time.

    Returns:
        The file.

    Raises:
        ConfigError: no run folder, or a file in it is damaged.
        OSError: the page cannot be written.
    """
    if embedding is not None:
        embedding.write(folder.path / MAP)
    found = _read(folder)
    html = page(**found, history=folder.read_metrics())
    path = folder.path / "report.html"
    # A path of the data may hold bytes that are not UTF-8.
    write_whole(path, html.encode(errors="backslashreplace"))
    return path


def check_report(folder: RunFolder, written: str) -> None:
    """Fails before the work where the report of a run could not be written after it.

    Args:
        folder: of the run.
        written: the file that the work replaces, which may be damaged.

    Raises:
        ConfigError: a file of the run is damaged.
        OSError: a file cannot be read.
    """
    page(**_read(folder, written))


def _read(folder: RunFolder, replaced: str = "") -> dict[str, Any]:
    """What `page` shows of a run folder, without its metrics, and without a file that is to be replaced."""
    files = [folder.path / f"{name}.json" for name in ("results", "evaluation", "transfer", "diagnostics")]
    entries = {path.stem: read_json(path) for path in files if path.exists() and path.name != replaced}
    kept = folder.path / MAP
    unused = OF_CHECKS if replaced == "diagnostics.json" else "/"
    pictures = [path for path in sorted((folder.path / "figures").glob("*.png")) if not path.stem.startswith(unused)]
    return {
        "settings": read_json(folder.path / "config.json"),
        "figures": {path.stem: path.read_bytes() for path in pictures},
        "embedding": Embedding.read(kept) if kept.exists() else None,
        **entries,
    }


def page(
    settings: Mapping[str, Any],
    results: Mapping[str, Any] | None = None,
    history: Sequence[Mapping[str, float]] = (),
    figures: Mapping[str, bytes] | None = None,
    embedding: Embedding | None = None,
    evaluation: Mapping[str, Any] | None = None,
    diagnostics: Mapping[str, Any] | None = None,
    transfer: Mapping[str, Any] | None = None,
) -> str:
    """The whole page as HTML. All text is escaped, and scripts that are not the page's own are refused by its policy.

    Args:
        settings: the entries of config.json.
        results: those of results.json; None where the run was not evaluated.
        history: those of metrics.jsonl, a mapping per step.
        figures: PNG files by name.
        embedding: what to draw a map of.
        evaluation: those of evaluation.json; None where the run was not evaluated in full.
        diagnostics: those of diagnostics.json; None where the posterior was not checked.
        transfer: those of transfer.json; None where the run was not evaluated on other data.
    """
    from pp_simve.report import plots

    found = score_tables.read_records(evaluation, "evaluation.json") or []
    quick = score_tables.read_records(results, "results.json")
    full = {record.task for record in found}
    found += [record for record in quick or [] if record.task not in full]
    on = (transfer or {}).get("on", {})
    others = {name: score_tables.read_records(of, "transfer.json") or [] for name, of in on.items()}
    drawn = plots.map_of(embedding) if embedding is not None else None
    curves = plots.curves_of(history)
    items = {} if drawn is None else {"map-plot": drawn.item}
    items |= {f"curve-{place}": curve.item for place, curve in enumerate(curves) if curve.item}
    # The curves show the loss already.
    shown = {name: file for name, file in (figures or {}).items() if not (name == "loss" and curves)}
    order = [*(name for name in words.FIGURES if name in shown), *(name for name in shown if name not in words.FIGURES)]
    addresses = {name: _address(name, shown[name]) for name in order}
    of_checks = {name: file for name, file in addresses.items() if name.startswith(OF_CHECKS)}
    checks, other_figures = _checks(diagnostics, of_checks)
    library, script = plots.library(), (FOLDER / "report.js").read_text()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # Bokeh defines before it refers
    return environment.get_template("report.html.j2").render(
        numbers=numbers,
        words=words,
        settings=settings,
        config=settings.get("config", {}),
        results=results,
        tiles=score_tables.tiles(results or {}, found),
        tasks=score_tables.by_task(found, others),
        unscored=(results or {}).get("scored") == "",  # --evaluate none
        without_records=found == [] and (results is not None or evaluation is not None),
        map=drawn,
        embedded=embedding is not None,
        curves=curves,
        pictures={name: file for name, file in addresses.items() if name not in of_checks},
        checks=checks,
        other_figures=other_figures,
        diagnostics=diagnostics,
        costs=_costs(results or {}),
        flags=_flags,
        items=items,
        style=(FOLDER / "report.css").read_text(),
        library=library,
        script=script,
        # A hash per script: text that got into the page in spite of escaping would not run.
        hashes=[_hash(text) for text in (library, script)],
    )


def _checks(
    diagnostics: Mapping[str, Any] | None, figures: Mapping[str, str]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The checks with their figures, addresses by name, and the numbers of their tables as text; and other figures.

    Raises:
        ConfigError: diagnostics.json is damaged.
    """
    try:
        checks = [_check(check) for check in (diagnostics or {}).get("checks", [])]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged("diagnostics.json", error) from error
    left = dict(figures)
    for check in checks:
        name = f"{OF_CHECKS}{check['name']}"
        check["figures"] = {key: left.pop(key) for key in list(left) if key == name or key.startswith(f"{name}-")}
    return checks, left


def _check(check: Mapping[str, Any]) -> dict[str, Any]:
    table = check.get("rows") or {"columns": [], "rows": []}
    if any(len(row) != len(table["columns"]) for row in table["rows"]):
        raise ValueError(f"a row of {check['name']} has not the length of the columns")
    if table.get("measures"):
        texts = [numbers.aligned(row) for row in table["rows"]]
    else:
        columns = [numbers.aligned(column) for column in zip(*table["rows"], strict=True)]
        texts = [list(row) for row in zip(*columns, strict=True)]
    return {
        **{key: check[key] for key in ("name", "title", "value", "alarm", "how")},
        "unit": check.get("unit"),
        "limitations": check.get("limitations", check.get("blind", "not stated")),
        "columns": table["columns"],
        "rows": [list(zip(row, shown, strict=True)) for row, shown in zip(table["rows"], texts, strict=True)],
    }


def _costs(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Names, hints and values; unknown entries are shown by their own name."""
    known = [
        (name, hint, f"{numbers.plain(results[key])} {unit}".strip())
        for key, (name, unit, hint) in words.COSTS.items()
        if key in results
    ]
    rest = {key: value for key, value in results.items() if key not in words.COSTS and key not in words.SHOWN}
    return known + [(key, "as in results.json", json.dumps(value)) for key, value in rest.items()]


def _flags(values: Mapping[str, Any], hints: Mapping[str, str] | None = None) -> list[tuple[str, str, str]]:
    """Settings by the names of their flags, with what they are, and their values."""
    return [
        (f"--{name.replace('_', '-')}", (hints or {}).get(name, ""), "not set" if value is None else str(value))
        for name, value in values.items()
    ]


def _damaged(file: Path | str, error: Exception) -> ConfigError:
    return ConfigError(f"{file} is damaged ({error}); delete it, or run the command again that wrote it")


def _address(name: str, picture: bytes, limit: int = FIGURE_BYTES) -> str:
    """A PNG file as an address that holds it: of at most ``limit`` bytes, by 256 colors, then by fewer pixels.

    Raises:
        ConfigError: it is no PNG file, or a damaged one.
    """
    try:
        image = Image.open(io.BytesIO(picture), formats=("PNG",)).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _damaged(f"figures/{name}.png", error) from error
    while len(picture) > limit and min(image.size) > 1:
        file = io.BytesIO()
        image.quantize(256).save(file, format="PNG", optimize=True)
        picture = file.getvalue()
        image = image.resize((max(1, image.width * 4 // 5), max(1, image.height * 4 // 5)), Image.Resampling.LANCZOS)
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def _hash(script: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
