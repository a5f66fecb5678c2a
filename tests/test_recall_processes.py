"""Processes that share the blocks of an evaluation each get the figures that one process gets."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from lrec.recall import Retrieval, evaluate


def make() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    code = generator.permutation(np.arange(800) // 5)
    data = generator.standard_normal((160, 32))[code] + 1.2 * generator.standard_normal((800, 32))
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


@pytest.mark.parametrize("count", [3])
def test_processes_share_the_work(tmp_path: Path, count: int):
    expected = [vars(some) | {"best_rank": some.best_rank.tolist()} for some in figures(None)]
    multiprocessing.spawn(work, (count, tmp_path), nprocs=count)
    for rank in range(count):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == expected
