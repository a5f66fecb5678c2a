"""Processes that share the blocks of an evaluation each get the figures that one process gets."""

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from lrec.metrics import sieve
from lrec.metrics.recall import Retrieval, evaluate


def make(classes: int = 160) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    code = generator.permutation(np.arange(5 * classes) // 5)
    data = generator.standard_normal((classes, 32))[code] + 1.2 * generator.standard_normal((5 * classes, 32))
    data[::9] = data[0]
    return (data / np.linalg.norm(data, axis=1, keepdims=True)).astype(np.float32), code


def figures(group: distributed.ProcessGroup | None) -> list[Retrieval]:
    query, code = make()
    alone = evaluate(query, code, [1, 10], memory_bytes=300_000, group=group)
    apart = evaluate(query[:300], code[:300], [1, 10], query[300:], code[300:], memory_bytes=300_000, group=group)
    return [alone, apart]


def work(rank: int, count: int, folder: Path) -> None:
    """Run one of the processes and leave its figures in a file."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count)
    try:
        found = figures(distributed.group.WORLD)
        plain = [vars(some) | {"best_rank": some.best_rank.tolist()} for some in found]
        torch.save(plain, folder / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()


def work_unlike(rank: int, count: int, folder: Path) -> None:
    """As `work`, with another number of threads, another memory and other instructions in each process."""
    torch.set_num_threads(1 + rank)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count)
    try:
        query, code = make(900)
        with mock.patch.object(sieve, "supported", return_value=bool(rank)):
            found = evaluate(query, code, [1], memory_bytes=(1 + rank) * 100_000_000, group=distributed.group.WORLD)
        torch.save(found.best_rank.tolist(), folder / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()


def test_unlike_machines_cut_the_same_blocks(tmp_path: Path):
    query, code = make(900)
    expected = evaluate(query, code, [1]).best_rank.tolist()
    multiprocessing.spawn(work_unlike, (2, tmp_path), nprocs=2)
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == expected


@pytest.mark.parametrize("count", [3])
def test_processes_share_the_work(tmp_path: Path, count: int):
    expected = [vars(some) | {"best_rank": some.best_rank.tolist()} for some in figures(None)]
    multiprocessing.spawn(work, (count, tmp_path), nprocs=count)
    for rank in range(count):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == expected
