"""Runs on the Hugging Face Hub: pushed with a model card of their own numbers, downloaded without running anything."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pp_simve.errors import ConfigError, optional_module
from pp_simve.run.config import HUB, Settings
from pp_simve.run.files import read_json, write_json
from pp_simve.run.trust import own_parts_of

FILES = ("config.json", "model.safetensors", "results.json")
"""What is shared of a run: no images, checkpoints, figures or pages, which may show images."""


def run_path(name: Path | str) -> Path:
    """The folder of a run; of ``hub:OWNER/NAME`` or ``hub:OWNER/NAME@REVISION`` downloaded where it is missing.

    Only `FILES` are downloaded: texts, numbers and tensors.

    Raises:
        ConfigError: huggingface_hub is not installed, the name is no such, or the run is not there.
    """
    name = str(name)
    if not name.startswith(HUB):
        return Path(name)
    hub = optional_module("huggingface_hub", "hub", name)
    repository, _, revision = name.removeprefix(HUB).partition("@")
    try:
        return Path(hub.snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES)))
    except (OSError, ValueError) as error:  # the hub's errors are of these
        problem = str(error).partition("\n")[0]
        raise ConfigError(f"{name} cannot be downloaded ({problem}); expected hub:OWNER/NAME") from error


def push_run(path: Path, repository: str, *, private: bool = False, token: str | None = None) -> str:
    """Uploads a finished run, with a model card, and returns its name for `load_run`.

    Paths of this machine are left out: of data and initial run only the name of the folder or file is kept.

    Args:
        path: of the run folder.
        repository: ``OWNER/NAME``, made where it does not exist.
        private: whether a new repository is.
        token: of the hub; by default that of ``hf auth login``.

    Raises:
        ConfigError: huggingface_hub is not installed, the run is damaged or not finished, or the upload failed.
    """
    hub = optional_module("huggingface_hub", "hub", "push_to_hub")
    entries, results = read_json(path / "config.json"), read_json(path / "results.json")
    kind, colon, place = str(entries["config"]["data"]).partition(":")
    names = {"data": f"{kind}{colon}{Path(place).name}", "init": Path(entries["config"].get("init", "")).name}
    entries["config"] |= {**names, "data_root": "data"}
    with TemporaryDirectory() as folder:
        for file in FILES:
            shutil.copy(path / file, folder)
        write_json(Path(folder, "config.json"), entries)
        Path(folder, "README.md").write_text(model_card(repository, entries, results), "utf-8")
        api = hub.HfApi(token=token)
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message="A run of pp_simve")
        except (OSError, ValueError) as error:
            problem = str(error).partition("\n")[0]
            raise ConfigError(
                f"{path} could not be uploaded to {repository} ({problem}); expected OWNER/NAME"
            ) from error
    return HUB + repository


def model_card(repository: str, entries: dict[str, Any], results: dict[str, Any]) -> str:
    """The model card of a run: what it is, its scores on test images, and how to use it."""
    settings = Settings.from_json(entries["config"])
    content, style = results["content"], results["style"]
    rows = {
        f"class, linear probe of {content['representation']} (accuracy)": content.get("linear"),
        f"class, k-NN of {content['representation']} (accuracy)": content.get("knn"),
        "view parameters, ridge regression from z (mean R²)": style.get("mean_r2"),
        "epochs": results.get("epochs"),
        "parameters": results.get("parameters"),
        "random seed": results.get("seed"),
    }
    table = "\n".join(f"| {name} | {_number(value)} |" for name, value in rows.items())
    parts = own_parts_of(settings)
    trusted = ", trust_parts=True" if parts else ""
    needs = (
        f"\nIt needs {', '.join(f'`{part}`' for part in parts)}, which `trust_parts=True` imports.\n" if parts else ""
    )
    shape = "×".join(map(str, entries["data_shape"]["image"]))
    return f"""---
library_name: pp_simve
tags: [self-supervised-learning, image-feature-extraction, pyro]
---
# {repository}

`{settings.method}` fitted to `{settings.data}`, images of {shape} (channel×height×width), by pp_simve
{entries.get("version")}.

| on test images | |
|---|---|
{table}

```python
from pp_simve import load_run

run = load_run("{HUB}{repository}"{trusted})
content = run.embed(images)["content"]  # uint8, or float in [0, 1], (image, channel, height, width)
```
{needs}"""


def _number(value: object) -> str:
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) and value % 1 else f"{value:,.0f}"
