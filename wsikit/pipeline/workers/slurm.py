"""Dask workers that SLURM starts, with dask-jobqueue: jobs of a script each, which are sent again when they end."""

from __future__ import annotations

import logging
import math
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from distributed import Client

from wsikit.errors import ConfigError

log = logging.getLogger(__name__)

LOST_WORKER_TIMEOUT = "60s"
"""How long a worker that is lost may take to come back before its job is cancelled and another is sent: one whose
process died is started again by its nanny within seconds."""
LOOK_SECONDS = 5
"""Between two looks at the queue while no worker has come yet."""
OWN = {"jobs", "workers"}
"""Options that are not of ``dask_jobqueue.SLURMCluster``."""


def slurm_client(stack: ExitStack, file: Path | None, *, gpus: bool = False) -> tuple[Client, int]:
    """(client of a cluster with its first worker there, how many tasks it will run at once).

    Args:
        stack: cancels the jobs when it is closed.
        file: see ``read_options``.
        gpus: start workers with the resource GPU.

    Raises:
        ConfigError: dask-jobqueue or SLURM is not there, SLURM refuses the jobs or they end before a worker comes.
    """
    import dask.config

    options, wanted = read_options(file)
    stack.enter_context(dask.config.set({"distributed.deploy.lost-worker-timeout": LOST_WORKER_TIMEOUT}))
    cluster = stack.enter_context(started(options, gpus=gpus))
    job = cluster._dummy_job
    jobs = wanted.get("jobs") or math.ceil(wanted.get("workers", 1) / job.worker_processes)
    _submit(cluster, jobs)
    client = stack.enter_context(Client(cluster, set_as_default=False))
    _wait(client, cluster)
    # a job that ends at its wall clock is not the last one of its place
    cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)
    return client, jobs * job.worker_processes * job.worker_process_threads


def _submit(cluster: Any, jobs: int) -> None:
    """As ``cluster.scale(jobs)``, which however tells nobody what SLURM says against it."""
    for _ in range(jobs):
        cluster.worker_spec.update(cluster.new_worker_spec())
    try:
        cluster.sync(cluster._correct_state)
    except (OSError, RuntimeError, ValueError) as error:
        cluster._created.clear()  # closing it would trip over those that were not made
        raise ConfigError(
            f"SLURM did not take the job: {' '.join(str(error).split())}",
            code="no_cluster",
            remedy="mend the options of the cluster (--cluster-options), and run this where `sbatch` works",
        ) from error


def read_options(file: Path | None) -> tuple[dict[str, Any], dict[str, int]]:
    """(options of ``SLURMCluster``, how many jobs or workers) from a YAML file, as configs/slurm.yaml shows them.

    Without a file they are those of dask's own configuration (jobqueue.slurm), which fills in what a file leaves out.
    """
    if file is None:
        return {}, {}
    try:
        options = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the options of the cluster, {file}: {error}") from error
    if not isinstance(options, dict):
        raise ConfigError(f"{file} must hold a mapping of options at the top, got a {type(options).__name__}")
    wanted = {key: options.pop(key) for key in sorted(OWN & set(options))}
    if len(wanted) > 1 or not all(isinstance(count, int) and count > 0 for count in wanted.values()):
        raise ConfigError(f"{file}: give jobs or workers, a number of at least 1, got {wanted}")
    return options, wanted


def started(options: dict[str, Any], *, gpus: bool = False) -> Any:
    """A ``SLURMCluster`` that has a scheduler in this process and no workers yet."""
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError as error:
        raise ConfigError(
            "--cluster slurm needs dask-jobqueue", code="no_cluster", remedy="pip install 'wsikit[slurm]'"
        ) from error
    # a process for each core: dask's own choice of a few processes with several threads suits no run
    options = ({"processes": options["cores"]} if "cores" in options else {}) | options
    # a free port: dask's own may be taken, by another run on the same login node
    options["scheduler_options"] = {"dashboard_address": ":0"} | (options.get("scheduler_options") or {})
    if gpus:
        options["worker_extra_args"] = [*options.get("worker_extra_args", []), "--resources", "GPU=1"]
    try:
        return SLURMCluster(silence_logs=logging.CRITICAL, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"SLURM cannot be asked for workers: {error}",
            remedy="see `wsikit config init slurm` and docs/cluster.md for the options",
        ) from error


def _wait(client: Client, cluster: Any) -> None:
    """For the first worker, however long the queue is."""
    said = False
    while True:
        try:
            client.wait_for_workers(1, timeout=LOOK_SECONDS)
            return
        except TimeoutError:
            states = _states([job.job_id for job in cluster.workers.values()])
        if not states:
            raise ConfigError(
                f"all {len(cluster.workers)} jobs ended before a worker came",
                code="no_cluster",
                remedy=f"their output says why; it is in {cluster._dummy_job.log_directory or 'slurm-JOB.out'}",
            )
        if not said and all(state.startswith("PENDING") for state in states):
            said = True
            log.warning("SLURM has started no worker yet: %s", "; ".join(sorted(set(states))))


def _states(jobs: list[str]) -> list[str]:
    """State and reason of those of some jobs that have not ended."""
    command = ["squeue", "--noheader", "--format=%T %r", f"--jobs={','.join(jobs)}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()
