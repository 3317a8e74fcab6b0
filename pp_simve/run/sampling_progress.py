"""Progress of NUTS: a live bar in a terminal, a line each tenth elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pp_simve.inference.mcmc import ProgressBar


@contextmanager
def sampling(console: Console, images: int, chains: int) -> Iterator[ProgressBar]:
    """The progress of some chains, one after the other, as a function that NUTS calls after each draw."""
    if not console.is_terminal:

        def line(chain: int, draw: int, total: int) -> None:
            done, of = chain * total + draw, chains * total
            if 10 * done // of > 10 * (done - 1) // of:
                console.print(f"NUTS: {done:,} of {of:,} draws", highlight=False)

        yield line
        return
    columns = (
        TextColumn("NUTS, {task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"{images} images, {chains} chains", total=1.0)

        def update(chain: int, draw: int, total: int) -> None:
            bar.update(task, completed=(chain + draw / total) / chains)

        yield update
