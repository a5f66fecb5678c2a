"""A batch divided among threads gives what it gives whole, and leaves torch's threads as they were."""

import threading
from collections.abc import Iterator

import pytest
import torch

from lrec.compute import threads


@pytest.fixture(autouse=True)
def _three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 10])
def test_the_order_stays(size: int):
    batch = torch.arange(2.0 * size).reshape(size, 2)
    with threads.by_image(lambda part: part * 2, "cpu") as forward:
        assert torch.equal(forward(batch), batch * 2)


def test_each_part_has_a_thread_of_its_own():
    seen = []
    ready = threading.Barrier(3, timeout=30)

    def forward(part: torch.Tensor) -> torch.Tensor:
        ready.wait()
        seen.append((threading.current_thread(), len(part), torch.get_num_threads()))
        return part

    with threads.by_image(forward, "cpu") as divided:
        divided(torch.zeros(8, 1))
    assert len({thread for thread, _, _ in seen}) == 3
    assert sorted(length for _, length, _ in seen) == [2, 3, 3]
    assert {count for _, _, count in seen} == {1}
    assert torch.get_num_threads() == 3


def test_few_images_use_all_threads_on_each_operation():
    def forward(part: torch.Tensor) -> torch.Tensor:
        assert threading.current_thread() is threading.main_thread()
        return part.new_full((len(part), 1), torch.get_num_threads())

    with threads.by_image(forward, "cpu") as divided:
        assert divided(torch.zeros(2, 1)).tolist() == [[3.0], [3.0]]


def test_an_error_in_a_part_comes_out_and_the_threads_are_given_back():
    def forward(part: torch.Tensor) -> torch.Tensor:
        raise ValueError("this image")

    with pytest.raises(ValueError, match="this image"), threads.by_image(forward, "cpu") as divided:
        divided(torch.zeros(6, 1))
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_item_is_taken_once(workers: int):
    taken, threads_used = [], set()

    def work(items: Iterator[int]) -> None:
        threads_used.add((threading.current_thread(), torch.get_num_threads()))
        taken.extend(items)

    threads.distribute(work, range(500), workers)
    assert sorted(taken) == list(range(500))
    assert {count for _, count in threads_used} == {3 // workers}
    assert torch.get_num_threads() == 3


def test_after_an_error_nobody_takes_another_item():
    taken = []
    failed = threading.Event()

    def work(items: Iterator[int]) -> None:
        for item in items:
            taken.append(item)
            if item == 1:
                failed.set()
                raise ValueError("block 1")
            failed.wait(30)

    with pytest.raises(ValueError, match="block 1"):
        threads.distribute(work, range(10_000), 2)
    assert len(taken) < 100


def test_a_gpu_takes_the_batch_whole():
    def forward(part: torch.Tensor) -> torch.Tensor:
        return part

    with threads.by_image(forward, "meta") as whole:
        assert whole is forward
