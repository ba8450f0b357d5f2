"""``--cluster`` and ``--gpus``: what is opened, what is refused, and what SLURM is asked for."""

from __future__ import annotations

import os
import time
from concurrent.futures import CancelledError
from contextlib import ExitStack, closing
from importlib.resources import files
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from wsikit.cli.running import gpus
from wsikit.config import RunConfig, load_config
from wsikit.errors import ConfigError
from wsikit.pipeline.workers import slurm as slurm_module
from wsikit.pipeline.workers.opening import chosen_gpus, open_workers
from wsikit.pipeline.workers.slurm import read_options, started


@pytest.mark.parametrize("name", ["threads", "local"])
def test_workers_of_this_machine_work_and_stop(name: str) -> None:
    with open_workers(name, slots=2) as workers:
        assert workers.slots == 2
        last = workers.submit(abs, -3)
        assert last.result(60) == 3
    if name == "local":
        with pytest.raises(CancelledError):
            workers.submit(abs, -3).result(5)


@pytest.mark.parametrize("name", ["Slurm", "tcp://host", "tcp:/host:8786", "host:8786", "udp://host:1", "", "threads "])
def test_an_unknown_cluster_lists_the_choices(name: str) -> None:
    with pytest.raises(ConfigError, match="local, threads, slurm") as caught, open_workers(name, slots=1):
        pass
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["local", "threads", "tcp://127.0.0.1:1"])
def test_options_of_slurm_are_for_slurm(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is for --cluster slurm"):
        open_workers(name, slots=1, options=tmp_path / "slurm.yaml").__enter__()


def test_gpus_by_index_are_of_this_machine_only() -> None:
    with pytest.raises(ConfigError, match="of this machine") as caught:
        open_workers("slurm", slots=1, gpus=(0, 1)).__enter__()
    assert "--gpus all" in caught.value.remedy


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvidia-smi that knows of three GPUs."""
    lines = "".join(f"GPU {i}: NVIDIA H100 80GB HBM3 (UUID: GPU-{i}a)\\n" for i in range(3))
    program(tmp_path / "nvidia-smi", f'[ "$*" = -L ] && printf "{lines}"')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.usefixtures("driver")
def test_all_gpus_are_those_that_this_process_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_gpus(()) == ()
    assert chosen_gpus("all") == (0, 1, 2)
    assert chosen_gpus((2, 0)) == (2, 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-2a,0")
    assert chosen_gpus("all") == (0, 1)


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("asked", [(3,), (-1,), (0, 0)])
def test_a_gpu_that_is_not_there_or_named_twice_is_refused(asked: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="sees 3 GPUs") as caught:
        chosen_gpus(asked)
    assert caught.value.code == "no_gpu"


@pytest.mark.parametrize("visible", ["", "-1"])
def test_a_process_that_sees_no_gpu_has_none(visible: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(ConfigError, match="sees no GPUs"):
        chosen_gpus("all")


def test_a_machine_without_a_driver_has_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(ConfigError, match="sees no GPUs"):
        chosen_gpus("all")


def test_the_template_of_slurm_is_what_a_job_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    template = tmp_path / "slurm.yaml"
    template.write_text(files("wsikit.configs").joinpath("slurm.yaml").read_text("utf-8"))
    options, wanted = read_options(template)
    assert wanted == {"jobs": 4}
    with closing(started(options | {"queue": "gpu", "account": "path01"}, gpus=True)) as cluster:
        script = cluster.job_script()
    for line in (
        "#SBATCH -p gpu", "#SBATCH -A path01", "#SBATCH --cpus-per-task=8", "#SBATCH --mem=15G", "#SBATCH -t 04:00:00",
        "#SBATCH --requeue",
    ):  # fmt: skip
        assert line in script.splitlines()
    command = script.splitlines()[-1]
    for part in ("--nthreads 1 ", "--nworkers 8 ", "--local-directory /tmp", "--resources GPU=1"):
        assert part in command


def test_what_a_site_has_configured_for_dask_holds_where_the_file_says_nothing() -> None:
    import dask.config

    site = {"cores": 4, "memory": "8GB", "queue": "pathology", "worker-extra-args": ["--lifetime", "55m"]}
    configured = {f"jobqueue.slurm.{key}": value for key, value in site.items()}
    with dask.config.set(configured), closing(started({})) as cluster:
        script = cluster.job_script()
    assert "#SBATCH -p pathology" in script
    assert "--lifetime 55m" in script


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- 1\n", "must hold a mapping"),
        ("jobs: 2\nworkers: 4\n", "give jobs or workers"),
        ("jobs: 0\n", "at least 1"),
        ("workers: many\n", "at least 1"),
        ("jobs: [", "cannot read"),
    ],
)
def test_options_that_are_none_are_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "slurm.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_options(tmp_path / "slurm.yaml")


@pytest.mark.parametrize("options", [{}, {"cores": 1}, {"cores": 1, "memory": "1GB", "kores": 2}])
def test_options_that_jobqueue_does_not_take_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="SLURM cannot be asked"):
        started(options)


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands of a SLURM whose queue is this machine: a job runs at once, and its number is its process group."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    # dask-jobqueue removes the script as soon as it is submitted
    program(
        folder / "sbatch",
        f'cp "$1" {tmp_path}/job.sh; setsid bash {tmp_path}/job.sh >>{tmp_path}/job.log 2>&1 & '
        f'echo "$!" >>{tmp_path}/jobs; echo "Submitted batch job $!"',
    )
    program(folder / "scancel", f'echo "$1" >>{tmp_path}/cancelled; exec bash -c "kill -9 -- -$1"')
    program(folder / "squeue", "echo RUNNING None")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def options_file(tmp_path: Path, **more: Any) -> Path:
    path = tmp_path / "slurm.yaml"
    path.write_text(yaml.safe_dump({"cores": 1, "memory": "2GB", "local_directory": str(tmp_path)} | more))
    return path


def test_workers_that_jobs_start_do_tasks_and_end_with_the_run(queue: Path, tmp_path: Path) -> None:
    options = options_file(tmp_path, workers=1)
    with open_workers("slurm", slots=1, options=options, probe=tmp_path / "out") as workers:
        assert workers.slots == 1
        assert workers.submit(abs, -3).result(60) == 3
    (job,) = (tmp_path / "jobs").read_text().split()
    assert job in (tmp_path / "cancelled").read_text().split()
    # what was killed takes a moment to end: its memory is freed first
    until = time.monotonic() + 20
    while running := [process for process in psutil.process_iter() if runs_in_group(process, int(job))]:
        assert time.monotonic() < until, running
        time.sleep(0.1)


def runs_in_group(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def test_what_sbatch_says_against_a_job_is_passed_on(queue: Path, tmp_path: Path) -> None:
    program(queue / "sbatch", 'echo "sbatch: error: invalid partition specified: gpuu" >&2; exit 1')
    with pytest.raises(ConfigError, match="invalid partition specified: gpuu") as caught, ExitStack() as stack:
        slurm_module.slurm_client(stack, options_file(tmp_path, queue="gpuu"))
    assert caught.value.code == "no_cluster"


def test_jobs_that_end_before_a_worker_came_are_no_reason_to_wait(
    queue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_module, "LOOK_SECONDS", 0.5)
    program(queue / "sbatch", 'echo "Submitted batch job 7"')
    program(queue / "scancel", "exit 0")
    program(queue / "squeue", 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    options = options_file(tmp_path, log_directory=str(tmp_path / "logs"))
    with pytest.raises(ConfigError, match="ended before a worker came") as caught, ExitStack() as stack:
        slurm_module.slurm_client(stack, options)
    assert str(tmp_path / "logs") in caught.value.remedy


def test_gpus_on_the_command_line_are_all_or_a_list_of_indices() -> None:
    assert load_config(RunConfig, flags={"gpus": gpus("all")}).gpus == "all"
    assert load_config(RunConfig, flags={"gpus": gpus("0, 2")}).gpus == (0, 2)
    assert load_config(RunConfig, flags={"gpus": gpus(None)}).gpus == ()
    with pytest.raises(ConfigError, match="gpus"):
        load_config(RunConfig, flags={"gpus": gpus("first")})
