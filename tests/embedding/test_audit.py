"""The audit catches whatever ties an embedding to its batch, and passes an honest network."""

import numpy as np
import pytest
import torch
from torch import nn

from lrec.data import store
from lrec.data.batches import Images
from lrec.embedding import audit, batch_norm, extract
from lrec.embedding.extract import Options
from lrec.model.ensemble import Ensemble

OPTIONS = Options(batch_size=10)


def measured(network: Ensemble, packed: store.Store, dtype: type = np.float32, images: int = 15) -> dict:
    rows = packed.rows("test")
    stored = np.empty((len(rows), network.width()), dtype)
    tested = Images(packed.images, rows, **store.IMAGENET)
    extract.extract(network, tested, stored, OPTIONS)
    again = extract.again(network, tested, OPTIONS)
    return audit.measure(again, stored, rows, packed.labels(rows), images=images, batch_size=10)


def ensemble() -> Ensemble:
    return batch_norm.fold(Ensemble("resnet18", 2, 5))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_our_extraction_passes(tiny_store: store.Store, dtype: type):
    found = measured(ensemble(), tiny_store, dtype)
    assert found["images"] == 15
    audit.require(found, 1e-5, "here")


def test_a_random_weight_per_forward_pass_is_caught(tiny_store: store.Store):
    network = ensemble()
    generator = torch.Generator().manual_seed(0)
    for branch in network.branches:
        branch.register_forward_pre_hook(lambda _, inputs: inputs[0] * torch.rand(1, generator=generator))
    found = measured(network, tiny_store)
    assert min(found[name] for name in ("alone", "shuffled", "sorted")) > 1e-3
    with pytest.raises(ValueError, match=r"^here: embedded \w+, the same images differ by .* at most 0\.0001"):
        audit.require(found, 1e-4, "here")


def test_batch_statistics_are_caught(tiny_store: store.Store):
    class Centred(nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values - values.mean(0, keepdim=True)

    network = ensemble()
    network.stem.append(Centred())
    found = measured(network, tiny_store)
    with pytest.raises(ValueError, match=r"here: embedded \w+, the same images differ"):
        audit.require(found, 1e-4, "here")
    assert found["sorted"] > 1e-4


def test_each_difference_is_that_of_its_own_arrangement():
    """Embeddings that are right but for one arrangement, told by batch size and order."""
    rows, labels = np.arange(40), np.arange(40)[::-1] // 10
    stored = np.linspace(0, 1, 40, dtype=np.float32)[:, None]

    def again(asked: np.ndarray, batch_size: int) -> np.ndarray:
        is_sorted = batch_size > 1 and (np.diff(labels[asked]) >= 0).all()
        error = {True: 0.25, False: 0.125}[is_sorted] if batch_size > 1 else 0.0
        return stored[asked] + np.float32(error)

    found = audit.measure(again, stored, rows, labels, images=100, batch_size=100)
    assert found["images"] == 40
    assert found["alone"] == 0
    assert found["shuffled"] == pytest.approx(0.125, abs=0.01)
    assert found["sorted"] == found["largest"] == pytest.approx(0.25, abs=0.01)


def test_what_is_not_a_number_never_passes():
    stored = np.full((8, 1), np.nan, np.float32)
    found = audit.measure(lambda rows, _: stored[rows], stored, np.arange(8), np.zeros(8), images=8, batch_size=2)
    with pytest.raises(ValueError, match="differ by inf"):
        audit.require(found, 1e-4, "here")
