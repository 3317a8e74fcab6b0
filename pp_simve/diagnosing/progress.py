"""What a person watching NUTS sees: a live bar in a terminal, a line each tenth elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pp_simve.evaluation.posterior.reference import ProgressBar


@contextmanager
def sampling(console: Console, images: int, chains: int) -> Iterator[ProgressBar]:
    """Told of each draw of each chain of each image, in whatever order they come."""
    done = 0
    if console.is_terminal:
        columns = (
            TextColumn("NUTS, {task.fields[what]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:.0f} %"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            what = f"{images} images, {chains} chains each"
            task = bar.add_task("", total=1.0, what=what)

            def update(image: int, chain: int, draw: int, total: int) -> None:
                nonlocal done
                done += 1
                bar.update(task, completed=done / (images * chains * total))

            yield update
        return

    def line(image: int, chain: int, draw: int, total: int) -> None:
        nonlocal done
        done += 1
        of = images * chains * total
        if 10 * done // of > 10 * (done - 1) // of:
            console.print(f"NUTS: {done:,} of {of:,} draws", highlight=False)

    yield line
