"""Posterior trees of many images: joined in memory, or written to a netCDF file some images at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5netcdf
import xarray as xr

from pp_simve.inference.sealing import check_file, seal_file

Groups = Mapping[str, xr.Dataset]
"""Datasets by group, for some images along the dimension ``image``; those without it come with the first part."""

FORMAT = "pp_simve posterior 2"
"""The file's attribute ``format``; the number grows when groups, names or dimensions change."""

SEALED = "checksum"
"""The file's attribute that it has a checksum; files of earlier versions have none."""

CHUNK_BYTES = 2**20
"""Size of an HDF5 chunk, which is read and checked as a whole. It holds all draws of one or more images."""

_PIXELS = ("prior_predictive", "posterior_predictive", "observed_data")


class PosteriorFileError(ValueError):
    """Posterior file that is missing, damaged or of another version."""


def joined(parts: Iterable[Groups], attributes: Mapping[str, Any]) -> xr.DataTree:
    """All parts as one tree in memory."""
    first, *others = parts
    how: dict[str, Any] = {"data_vars": "minimal", "coords": "minimal", "compat": "override", "join": "exact"}
    tree = xr.DataTree.from_dict(
        {
            group: xr.concat([dataset, *(part[group] for part in others)], "image", combine_attrs="no_conflicts", **how)
            if others and "image" in dataset.dims
            else dataset
            for group, dataset in first.items()
        }
    )
    tree.attrs = {"format": FORMAT, **attributes}
    return tree


def write(path: Path, parts: Iterable[Groups], attributes: Mapping[str, Any]) -> None:
    """All parts as one netCDF file, with one part in memory at a time; an older file is replaced.

    xarray writes the first part, with ``image`` as an unlimited dimension; the others, of no more images, are appended
    along it. Every chunk has a checksum, and so has the file, as HDF5 may not return from damaged metadata. The file
    has a temporary name beside ``path`` until it is complete.

    Raises:
        OSError: the disk is full, the folder is missing or not writable; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    iterator = iter(parts)
    try:
        temporary.touch()  # fail before the first part is computed
        tree = joined([next(iterator)], {**attributes, SEALED: "at the end of the file"})
        encoding = {f"/{name}": _encoding(name, group.to_dataset()) for name, group in tree.children.items()}
        unlimited = {f"/{name}": ["image"] for name, group in tree.children.items() if "image" in group.dims}
        tree.to_netcdf(temporary, engine="h5netcdf", encoding=encoding, unlimited_dims=unlimited)
        with h5netcdf.File(temporary, "a") as file:
            for part in iterator:
                for group, dataset in part.items():
                    _append(file.groups[group], dataset)
        seal_file(temporary)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def open_posterior(path: Path | str) -> xr.DataTree:
    """A tree that `posterior` wrote; values are read when they are used. Close it (``tree.close()``) when done.

    ``tree.isel(image=slice(100))`` reads those images only, after the whole file was compared with its checksum.

    Raises:
        PosteriorFileError: no such file, not a posterior of this version, or a damaged one.
    """
    path = Path(path)
    if not path.is_file():
        raise PosteriorFileError(f"there is no file {path}; posterior(..., to={str(path)!r}) writes one")
    try:
        sealed = check_file(path)
        tree = xr.open_datatree(path, engine="h5netcdf")
    except Exception as error:  # a damaged file can fail anywhere in the readers, with any type of error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PosteriorFileError(
            f"{path} cannot be read ({reason}): it is damaged or no netCDF file; write it again"
        ) from None
    found = tree.attrs.get("format")
    missing = [group for group in ("posterior", "observed_data", "constant_data") if group not in tree.children]
    cut = tree.attrs.pop(SEALED, None) is not None and not sealed
    if found is None:
        reason = "is a netCDF file, but not a posterior of pp_simve: it has no attribute format"
    elif found != FORMAT:
        reason = (
            f"is of another version: its format is {found!r}, this pp_simve reads {FORMAT!r}; write it again, or open "
            "it with xarray.open_datatree"
        )
    elif missing or cut:
        reason = f"lacks {', '.join(missing) or 'its checksum'}: it is damaged; write it again"
    else:
        return tree
    tree.close()
    raise PosteriorFileError(f"{path} {reason}")


def _encoding(group: str, dataset: xr.Dataset) -> dict[str, dict[str, Any]]:
    """Chunks of whole images, checksums, and compression of pixels."""
    encoding: dict[str, dict[str, Any]] = {}
    for name, values in dataset.variables.items():
        if not values.ndim or values.dtype.kind == "U":
            continue
        images = values.sizes.get("image", 1)
        while images > 1 and images * (values.nbytes // values.sizes["image"]) > CHUNK_BYTES:
            images = (images + 1) // 2
        chunks = tuple(images if dim == "image" else max(1, size) for dim, size in values.sizes.items())
        settings = {"chunksizes": chunks, "fletcher32": True, "_FillValue": None}
        if group in _PIXELS and name not in dataset.dims:
            settings |= {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        encoding[str(name)] = settings
    return encoding


def _append(group: Any, dataset: xr.Dataset) -> None:
    """Writes images behind those that a group has."""
    start = group.dimensions["image"].size
    group.resize_dimension("image", start + dataset.sizes["image"])
    for name, values in dataset.variables.items():
        if "image" in values.dims:
            where = tuple(slice(start, None) if dim == "image" else slice(None) for dim in values.dims)
            group.variables[str(name)][where] = values.to_numpy()
