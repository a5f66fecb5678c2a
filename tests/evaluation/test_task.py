"""Retrieval tasks: drawing classes, choosing columns, and the nearest items, against plain twins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrec.evaluation import class_recall, compression, ensemble_size, nearest, result
from lrec.evaluation.task import Task

AXES = np.eye(4, dtype=np.float32)


def scattered(seed: int, queries: int, items: int | None, width: int = 6, classes: int = 4) -> Task:
    generator = np.random.default_rng(seed)

    def side(count: int) -> tuple[np.ndarray, np.ndarray]:
        return generator.normal(size=(count, width)).astype(np.float32), generator.integers(0, classes, count)

    return Task(*side(queries), *(side(items) if items else (None, None)))


def test_a_sample_is_of_whole_classes():
    task = scattered(0, 100, 50, classes=10)
    some = task.sample(60)
    kept = np.unique(some.query_labels)
    assert 2 <= len(kept) < 10
    assert len(some.query) + len(some.gallery) <= 60
    for part, labels, all_labels in (
        (some.query, some.query_labels, task.query_labels),
        (some.gallery, some.gallery_labels, task.gallery_labels),
    ):
        assert len(part) == len(labels) == np.isin(all_labels, kept).sum()
    np.testing.assert_array_equal(some.query, task.query[np.isin(task.query_labels, kept)])
    whole = task.sample(150)
    np.testing.assert_array_equal(whole.query, task.query)
    np.testing.assert_array_equal(whole.gallery, task.gallery)
    assert len(np.unique(scattered(1, 100, None).sample(1).query_labels)) == 2


@pytest.mark.parametrize("seed", range(8))
def test_a_sample_has_queries_and_leaves_out_what_does_not_fit(seed: int):
    """Classes of 4 images, four of them with queries, beside two large ones that are in the gallery alone."""
    labels = np.repeat(np.arange(4), 2)
    others = np.concatenate([labels, np.full(15, 4), np.full(90, 5)])
    task = Task(np.zeros((8, 2), np.float32), labels, np.zeros((len(others), 2), np.float32), others)
    some = task.sample(31, seed)
    assert len(np.unique(some.query_labels)) == 4
    assert len(some.query) + len(some.gallery) == 31
    assert len(np.unique(task.sample(5, seed).query_labels)) == 2


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.booleans(), st.booleans(), st.integers(1, 5))
def test_nearest_equals_a_plain_loop(seed: int, queries: int, with_gallery: bool, others_only: bool, block: int):
    task = scattered(seed, queries, 7 if with_gallery else None)
    gallery = task.gallery if with_gallery else task.query
    labels = task.gallery_labels if with_gallery else task.query_labels
    expected = []
    for i, query in enumerate(task.query):
        allowed = [
            j
            for j in range(len(gallery))
            if (with_gallery or i != j) and not (others_only and labels[j] == task.query_labels[i])
        ]
        expected.append(max(allowed, key=lambda j: query @ gallery[j], default=-1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "_BLOCK", block)
        assert nearest.nearest(task, others_only=others_only).tolist() == expected


def test_smaller_ensembles_are_columns():
    """Two branches of two columns: the first tells the classes apart, the second is the same for all."""
    branch = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    task = Task(np.hstack([branch, np.ones_like(branch)]), np.array([5, 5, 9, 9]))
    found = ensemble_size.evaluate(task, 2, 3)
    assert found["members"].tolist() == ["0", "1", "0 1"]
    assert found["recall_at_1"].tolist() == [100, 0, 100]
    curve = ensemble_size.curve(found)
    assert curve["subsets"].tolist() == [2, 1]
    assert curve["recall_at_1"].tolist() == [50, 100]
    assert curve["recall_at_1_spread"].tolist() == [50, 0]


def test_sets_of_branches_are_different_and_of_the_right_size():
    task = scattered(0, 12, None, width=16)
    found = ensemble_size.evaluate(task, 8, 4)
    assert found.groupby("branches").size().to_dict() == {1: 8, 2: 4, 4: 4, 8: 1}
    assert not found["members"].duplicated().any()
    assert [len(set(members.split())) for members in found["members"]] == found["branches"].tolist()
    assert found.iloc[-1]["recall_at_1"] == pytest.approx(100 * task.evaluate([1]).recall[1], abs=1e-4)
    assert ensemble_size.evaluate(task, 8, 4).equals(found)


def test_agreement_by_hand():
    """Three branches of one query; the gallery's classes are 0, 1, 1, 2."""
    gallery, labels = AXES, np.array([0, 1, 1, 2])

    def agreement(*choices: int) -> float:
        query = np.concatenate([AXES[choice] for choice in choices])[None]
        side = np.hstack([gallery] * len(choices))
        return ensemble_size.agreement(Task(query, np.array([0]), side, labels), len(choices))

    assert agreement(0, 0, 0) == 1
    assert agreement(1, 2, 1) == 1
    assert agreement(0, 1, 2) == pytest.approx(1 / 3)
    assert agreement(0, 1, 3) == 0
    assert agreement(0, 3, 0, 3) == pytest.approx(2 / 6)
    assert agreement(2) == 1


def test_formats_by_hand():
    train = np.array([[0.5, -0.25], [-0.5, 0.75]], np.float32)
    found = {each.name: each for each in compression.formats(train, [2])}
    assert {name: each.size for name, each in found.items()} == {"float32": 8, "float16": 4, "int8": 2, "binary": 1}
    some = np.array([[0.1, 0.2], [0.9, 0.3]], np.float32)
    assert found["int8"].restored(some).tolist() == [[17, 34], [127, 51]]
    assert found["binary"].restored(some).tolist() == [[1, -1], [1, 1]]
    np.testing.assert_array_equal(found["float16"].restored(some), some.astype(np.float16))


def test_whitening_gives_every_direction_the_same_variance():
    train = np.random.default_rng(0).normal(size=(4000, 4)).astype(np.float32) * np.array([8, 4, 2, 1], np.float32)
    formats = {each.name: each for each in compression.formats(train, [2, 4, 9])}
    assert [name for name in formats if "pca" in name] == ["pca 2", "pca 2 whitened"]
    plain, whitened = (formats[name].restored(train) for name in ("pca 2", "pca 2 whitened"))
    np.testing.assert_allclose(np.linalg.norm(whitened, axis=1), 1, rtol=1e-5)
    assert np.var(plain[:, 0]) / np.var(plain[:, 1]) > 1.5
    assert np.var(whitened[:, 0]) / np.var(whitened[:, 1]) == pytest.approx(1, abs=0.05)
    assert formats["pca 2"].size == formats["pca 2 whitened"].size == 8


def test_compression_keeps_what_is_far_apart():
    task = Task(np.repeat(AXES[:2], 3, axis=0), np.repeat([0, 1], 3))
    rows = compression.compare(task, np.vstack([AXES, -AXES]), [1])
    assert {row["code"]: row["recall_at_1"] for row in rows}["int8"] == 100
    assert [row["bytes"] for row in rows] == [16, 8, 4, 1, 4, 4]


def test_recall_of_classes():
    names = {3: "finch", 7: "crow", 8: "owl"}
    table = class_recall.per_class(np.array([1, 2, 0, 1, 9]), np.array([7, 7, 3, 3, 8]), names, [1, 2])
    assert table.values.tolist() == [[3, "finch", 2, 50, 50], [7, "crow", 2, 50, 100], [8, "owl", 1, 0, 0]]
    found = class_recall.extremes(table)
    assert found == {"worst_classes": [["owl", 0.0]], "best_classes": [["finch", 50.0]]}


def test_confusions_by_hand():
    """Query 0 finds its class; 1 and 2 find class 8 first; 3, of class 9, finds class 7."""
    gallery = np.eye(3, dtype=np.float32)
    query = np.array([[1, 0.5, 0], [0, 1, 0], [0.5, 1, 0], [1, 0.5, 0.1]], np.float32)
    task = Task(query, np.array([7, 7, 7, 9]), gallery, np.array([7, 8, 9]))
    best_rank = task.evaluate([1]).best_rank
    assert best_rank.tolist() == [1, 3, 2, 3]
    table = class_recall.confusions(task, best_rank, {7: "a", 8: "b", 9: "c"})
    assert table.values.tolist() == [["a", "b", 2, 66.67], ["c", "a", 1, 100.0]]
    nobody = class_recall.confusions(task, np.ones(4, int), {7: "a", 8: "b", 9: "c"})
    assert nobody.empty
    assert list(nobody) == ["class", "returned", "queries", "share"]


def test_the_row_of_the_whole_ensemble_is_that_of_its_retrieval():
    task = scattered(0, 12, None)
    sets = ensemble_size.whole(task.evaluate([2]), 3)
    everything, all_sets = result.analyse(task, task.query, 3, analysis_images=100, subsets=2, pca_dimensions=[2])
    assert sets["branches"].tolist() == [3]
    assert sets["recall_at_1"].tolist() == all_sets["recall_at_1"].tolist()[-1:]
    assert sets["map_at_r"].tolist() == all_sets["map_at_r"].tolist()[-1:]
    assert everything["images"] == 12
    assert [row["code"] for row in everything["compression"]][-1] == "pca 2 whitened"


def test_reduced_embeddings_are_not_divided_among_branches():
    task = scattered(0, 30, None, width=5)
    options = {"analysis_images": 100, "subsets": 2, "pca_dimensions": [2]}
    found, sets = result.analyse(task, task.query, 3, **options, reduced=True)
    assert list(found) == ["images", "classes", "compression"]
    assert [row["code"] for row in found["compression"]] == ["float32", "float16", "int8", "binary"]
    assert sets[["branches", "members"]].values.tolist() == [[3, "all"]]
