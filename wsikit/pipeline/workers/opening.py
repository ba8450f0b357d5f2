"""``--cluster`` and ``--gpus``: where the tasks of a run are done."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from wsikit.errors import ConfigError
from wsikit.pipeline.workers import Workers

CHOICES = "local, threads, slurm, or the address of a dask scheduler, tcp://host:8786"
ADDRESS = re.compile(r"(?:tcp|tls)://.+:\d+", re.DOTALL)


@contextmanager
def open_workers(
    cluster: str,
    *,
    slots: int,
    gpus: Literal["all"] | Sequence[int] = (),
    memory: int | None = None,
    options: Path | None = None,
    probe: Path | None = None,
) -> Iterator[Workers]:
    """Workers of a kind; they are stopped when the block ends.

    Args:
        cluster: "local", "threads", "slurm" or the address of a dask scheduler.
        slots: how many tasks run at once; those of a cluster are as many as its workers have threads.
        gpus: "all", or indices of GPUs of this machine. Workers of a cluster know their own: there it may be "all",
            and means that they must have some.
        memory: most resident bytes of a process that does tasks; None is no limit. Threads have none.
        options: YAML file of what SLURM is asked for.
        probe: a folder that workers on other machines must be able to write to.

    Raises:
        ConfigError: there is no such cluster, it cannot be reached, its workers are not fit or lack the GPUs asked for.
        OutputError: ``probe`` cannot be written to.
    """
    remote = cluster == "slurm" or ADDRESS.fullmatch(cluster) is not None
    if not remote and cluster not in {"local", "threads"}:
        raise ConfigError(f"there is no cluster {cluster!r}; the choices are: {CHOICES}", code="no_cluster")
    if options is not None and cluster != "slurm":
        raise ConfigError(f"{options} is for --cluster slurm: {cluster} takes no options")
    if remote and gpus and gpus != "all":
        raise ConfigError(
            f"gpus={list(gpus)} are GPUs of this machine, and tasks go to {cluster}",
            remedy="give --gpus all and start its workers with `--resources GPU=1`, one for each GPU",
        )
    with ExitStack() as stack:
        if remote:
            workers = _on_cluster(stack, cluster, memory, options, probe, gpus=bool(gpus))
        else:
            workers = _on_this_machine(stack, cluster, slots, chosen_gpus(gpus), memory)
        stack.callback(workers.stop)
        yield workers


def _on_this_machine(stack: ExitStack, cluster: str, slots: int, gpus: tuple[int, ...], memory: int | None) -> Workers:
    if cluster == "threads":
        from wsikit.pipeline.workers.threads import ThreadWorkers

        threads = ThreadWorkers(slots)
        # what still runs must not write into the folders of a later run
        stack.callback(threads.join)
        return threads
    from wsikit.pipeline.workers.children import ChildWorkers

    return ChildWorkers(slots, gpus=gpus, memory=memory)


def _on_cluster(
    stack: ExitStack, cluster: str, memory: int | None, options: Path | None, probe: Path | None, *, gpus: bool
) -> Workers:
    from wsikit.pipeline.workers.cluster import DaskWorkers, connected, probed
    from wsikit.pipeline.workers.slurm import slurm_client

    needs = stack.enter_context(probed(probe))
    client, planned = slurm_client(stack, options, gpus=gpus) if cluster == "slurm" else (connected(cluster), 1)
    stack.callback(client.close)
    return DaskWorkers(client, needs=needs, memory=memory, planned=planned, gpus=gpus)


def chosen_gpus(gpus: Literal["all"] | Sequence[int]) -> tuple[int, ...]:
    """Indices among the GPUs that this process sees (``CUDA_VISIBLE_DEVICES`` narrows them down).

    CUDA itself is not asked: a process that has initialised it holds memory on every GPU.

    Raises:
        ConfigError: a GPU is not there or is named twice, or there is none at all.
    """
    if not gpus:
        return ()
    count = visible_gpus()
    chosen = tuple(range(count)) if gpus == "all" else tuple(gpus)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(count)):
        asked = gpus if gpus == "all" else ",".join(map(str, gpus))
        raise ConfigError(
            f"--gpus {asked}: this process sees {count or 'no'} GPUs, which are counted from 0",
            code="no_gpu",
            remedy="name each once, or leave --gpus out and let --device choose; `nvidia-smi -L` lists them",
        )
    return chosen


def visible_gpus() -> int:
    """How many GPUs this process sees: those of ``CUDA_VISIBLE_DEVICES`` where it is set, else those of the driver."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return len([name for name in allowed.split(",") if name.strip() not in {"", "-1"}])
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listed.splitlines())
