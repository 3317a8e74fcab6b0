"""Milliseconds of a gradient step by number of threads, on idle and on busy cores.

python benchmarks/threads.py --rounds 7

Each setting is a process, and they take turns. Busy: beside a process that spins on one core.
"""

import argparse
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import time

import torch
from steps import stepper

from pp_simve.inference.device import network_dtype
from pp_simve.models import network_precision
from pp_simve.run.environment import threads_for

SHAPES = {"digits": (1, 16, 16), "cifar10": (3, 32, 32)}
VIEWS = 256  # a step


def settings(data: str) -> dict[str, dict[str, str]]:
    """Variables of each setting."""
    chosen = threads_for(torch.get_num_threads(), VIEWS * math.prod(SHAPES[data]))
    return {
        "one thread": {"OMP_NUM_THREADS": "1"},
        "all threads (torch)": {},
        "all threads, passive": {"OMP_WAIT_POLICY": "PASSIVE"},
        "the commands": {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(chosen)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.7, help="of each setting a round, on idle cores")
    parser.add_argument("--worker", choices=SHAPES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker)
        return

    names = list(settings("digits"))
    print("| ms a step, median (min-max) of rounds | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for data in SHAPES:
        command = [sys.executable, __file__, "--worker", data]
        workers = [
            subprocess.Popen(
                command, env=os.environ | variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for variables in settings(data).values()
        ]
        steps = max(1, round(arguments.seconds / turn(workers[0], 5)))
        for load in ("idle", "busy"):
            spinner = multiprocessing.Process(target=spin, daemon=True)
            if load == "busy":
                spinner.start()
            rounds = [[turn(worker, steps) * 1e3 for worker in workers] for _ in range(arguments.rounds)]
            if load == "busy":
                spinner.kill()
            cells = [
                f"{statistics.median(one):.1f} ({min(one):.1f}-{max(one):.1f})" for one in zip(*rounds, strict=True)
            ]
            print(f"| {data}, {load} cores | " + " | ".join(cells) + " |", flush=True)
        for worker in workers:
            worker.communicate()


def turn(worker: subprocess.Popen[str], steps: int) -> float:
    """Seconds a step."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    print(steps, file=worker.stdin, flush=True)
    return float(worker.stdout.readline())


def work(data: str) -> None:
    """Takes as many steps as each line says, and prints the seconds of one."""
    images = torch.randint(0, 256, (512, *SHAPES[data]), dtype=torch.uint8)
    take = stepper(["--data", data], images)
    with network_precision(network_dtype("auto", torch.device("cpu"))):
        for line in sys.stdin:
            started = time.perf_counter()
            for _ in range(int(line)):
                take()
            print((time.perf_counter() - started) / int(line), flush=True)


def spin() -> None:
    while True:
        pass


if __name__ == "__main__":
    main()
