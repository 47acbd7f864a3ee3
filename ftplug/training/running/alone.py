"""A process that trains alone though several were asked for: said once, with the way out.

Nothing else says it: each trains a model of its own on all the data, or only one was started.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping

from ftplug.context import logger

# What launchers say a process is one of, in the order in which accelerate asks: torchrun's own, and
# those of Open MPI, Intel MPI and MVAPICH.
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_ON_CPUS = "on CPUs pass use_cpu=True (--use_cpu)"
_TORCHRUN = f"start it with torchrun --nproc_per_node N, and {_ON_CPUS}"


def warn_if_alone(world_size: int) -> None:
    """Warn, once, where this Trainer's one process is not all that was asked for."""
    if world_size == 1 and (said := trap(os.environ)):
        _warn(said)


@functools.cache
def _warn(said: str) -> None:
    logger.warning("%s", said)


def trap(environment: Mapping[str, str]) -> str | None:
    """Return what is wrong where ``environment`` is that of a process that trains by itself.

    An allocation is no request: in an sbatch script SLURM_NTASKS may be any number.
    """
    name = next((name for name in _SIZES if name in environment), None)
    if name is not None and number(environment, name) > 1:
        asked = f"{name} is {environment[name]}, but this process trains alone"
        if "LOCAL_RANK" in environment:
            return f"{asked}, as do the others, since no GPU is found: {_ON_CPUS}"
        return f"{asked}: transformers looks for LOCAL_RANK, which is not set: {_TORCHRUN}"
    if name is None:
        for name in ("PET_NNODES", "PET_NPROC_PER_NODE"):
            if (asked_for := number(environment, name)) > 1:
                return (
                    f"{name} is {asked_for}, which torchrun reads, but this process was started "
                    "without it and trains alone: start it with torchrun"
                )
        if _accelerate_was_asked(environment):
            return (
                "accelerate launch was asked for several processes and started this one alone, as "
                f"it does without several GPUs or --mpirun_hostfile: {_TORCHRUN}"
            )
    # A step of srun's, not the allocation; its shells (--pty) hold several tasks and run in one.
    tasks = number(environment, "SLURM_STEP_NUM_TASKS")
    if tasks > 1 and "SLURM_PTY_PORT" not in environment:
        return (
            f"srun started this process as one of {tasks}, and each trains alone: to train "
            "together let srun start one torchrun a node (--rdzv-backend c10d --rdzv-endpoint …)"
        )
    return None


def number(environment: Mapping[str, str], name: str) -> int:
    """Return a variable's whole number; 1 where it is not set, or says anything else."""
    value = environment.get(name, "")
    return int(value) if value.isdecimal() else 1


def _accelerate_was_asked(environment: Mapping[str, str]) -> bool:
    """Whether accelerate, which told this process where others are, started no others.

    It names an address for several processes alone; one that it was itself given says nothing.
    """
    import psutil

    if not {"ACCELERATE_DYNAMO_BACKEND", "MASTER_ADDR"} <= environment.keys():
        return False
    try:
        return "MASTER_ADDR" not in psutil.Process(os.getppid()).environ()
    except psutil.Error:
        return False
