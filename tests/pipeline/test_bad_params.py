"""params.yaml, wrong in every way: each key, the file as a whole, and at random."""

import copy
import math
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import tiny_pipeline as tiny
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_sets import write

from lrec import params, schema

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)
# The whole file: content, or a change of the sound one; what the line says.
FILES: dict[str, tuple[bytes | tuple[str, str], str]] = {
    "empty": (b"", "found NoneType, expected a mapping"),
    "comments only": (b"# nothing\n", "found NoneType, expected a mapping"),
    "a list": (b"- 1\n", "found list, expected a mapping"),
    "a word": (b"hello", "found str, expected a mapping"),
    "two documents": (b"a: 1\n---\nb: 2\n", "not readable as YAML: expected a single document"),
    "tabs": (("train:\n  recipe", "train:\n\trecipe"), "not readable as YAML: .*'\\\\t'"),
    "unclosed": (("datasets:", "x: [1,\ndatasets:"), "not readable as YAML"),
    "utf-16": (b"\xff\xfed\0a\0t\0a\0", "not readable as YAML: 'utf-8' codec"),
    "latin-1": (b"data_root: d\xe9j\xe0\n", "not readable as YAML: 'utf-8' codec"),
    "binary": (bytes(range(256)), "not readable as YAML"),
    "a NUL": (b"data_root: a\0b\n", "not readable as YAML: unacceptable character"),
    "an escape sequence": (b"\x1b[31mred: 1\n", "not readable as YAML: unacceptable character"),
    "key twice": (("data_root: raw", "data_root: raw\ndata_root: other"), "line \\d+: key 'data_root' given twice"),
    "billion laughs": (LAUGHS.encode(), "found more than 10,000 entries after expanding aliases"),
    "laughs in a key": (("data_root: raw", LAUGHS.rstrip() + "\ndata_root: *j"), "found more than 10,000 entries"),
    "inside itself": (b"a: &a [*a]\n", "found more than 10,000 entries"),
    "mapping inside itself": (b"&a a: *a\n", "params.yaml: "),
    "unknown alias": (b"a: *b\n", "not readable as YAML: .*undefined alias"),
    "nested lists": (b"a: " + b"[" * 2000, "not readable as YAML"),
    "nested mappings": (b"{a: " * 2000, "not readable as YAML"),
    "huge": (b"# " + b"x" * 2**18, "found 262,146 bytes, expected at most 262,144"),
    "many keys": (b"".join(b"k%d: 1\n" % n for n in range(3000)), "params.yaml: k\\d+: unknown key"),
    "too many keys": (b"".join(b"%d: 1\n" % n for n in range(6000)), "found more than 10,000 entries"),
    "digits": (b"a: " + b"9" * 5000 + b"\n", "not readable as YAML: Exceeds the limit"),
    "no date": (b"a: 2026-13-45\n", "not readable as YAML: month must be in"),
    "python object": (b"a: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
    "python name": (b"a: !!python/name:os.system\n", "could not determine a constructor"),
    "unknown tag": (b"a: !thing 1\n", "could not determine a constructor"),
    "list as key": (b"? [1, 2]\n: 3\n", "not readable as YAML: .*unhashable key"),
    "number as key": (("data_root: raw", "data_root: raw\n7: 8"), "params.yaml: 7"),
    "null as key": (("data_root: raw", "data_root: raw\n~: 8"), "params.yaml: None"),
    "merge of a number": (("data_root: raw", "data_root: raw\n<<: 3"), "not readable as YAML"),
    "long unknown key": (("data_root: raw", f"data_root: raw\n? {'k' * 3000}\n: 1"), "unknown key"),
    "bidi in a key": (("data_root: raw", 'data_root: raw\n"a\\u202eb": 1'), "unknown key"),
}
SECTIONS = ("meta_classes", "train", "embed", "evaluate", "machine", "variants.tiny")
KEYS = [
    *("datasets", "backbones", "data_root", "allow_partial"),
    *(f"{section}" for section in ("meta_classes", "train", "embed", "evaluate", "machine", "variants")),
    *("meta_classes.seed", "meta_classes.load_ids", "variants.tiny"),
    *(f"train.{name}" for name in schema.Train.model_fields),
    *(f"embed.{name}" for name in schema.Embed.model_fields),
    *(f"machine.{name}" for name in schema.Machine.model_fields),
    *(f"evaluate.{name}" for name in schema.Evaluate.model_fields),
    *(f"variants.tiny.{name}" for name in schema.Variant.model_fields),
]
OUT_OF_RANGE: dict[str, list[Any]] = {
    "datasets": [[], ["nope"], ["tiny", "tiny"], ["../tiny"], ["tiny\n"], [""], [["tiny"]]],
    "backbones": [[], ["vgg"], ["resnet18", "resnet18"], ["resnet18/../x"], [None]],
    "meta_classes.seed": [-1, 2**63, 10**40, 0.5],
    "train.weights": [7],
    "train.share": ["layer9", ""],
    "train.batch_size": [0, 1, -10, 10**30, 2.0],
    "train.accumulate": [0],
    "train.learning_rate": [0, -1, math.inf, math.nan],
    "train.schedule": ["linear"],
    "train.milestones": [[0], [1], [math.nan], "0.5", [["0.5"]]],
    "train.gamma": [0, math.inf],
    "train.warmup_epochs": [-1, math.inf],
    "train.weight_decay": [-0.1, math.inf],
    "train.label_smoothing": [1, -0.1],
    "train.random_crop": [0, 1.1, math.nan],
    "train.seed": [-1, 2**63],
    "train.precision": ["float64"],
    "train.loss": ["hinge", ""],
    "train.parallel": ["both"],
    "train.validation_share": [1, -0.1],
    "train.patience": [0],
    "embed.kind": ["pixels"],
    "embed.dtype": ["int8"],
    "embed.batch_size": [0],
    "embed.audit_images": [3],
    "machine.workers": [-1, 10**6, 10**9],
    "machine.decode_workers": [-1, 10**9],
    "machine.processes": [0, 10**6, "all", 2.0],
    "machine.branches_at_once": [0],
    "machine.checkpoint_minutes": [0, math.nan],
    "evaluate.audit_tolerance": [0, math.inf, math.nan],
    "evaluate.analysis_images": [-1, 10**12],
    "evaluate.subsets": [0, 10**9],
    "evaluate.pca_dimensions": [[0], [1.5], 16],
    "variants": [{}, {"a b": {}}, {"../x": {}}, {"x\n": {}}],
    "variants.tiny.layout": ["cars"],
    "variants.tiny.folder": [None, ""],
    "variants.tiny.crop": ["centre"],
    "variants.tiny.image_size": [0, 31, 10**6, 10**30],
    "variants.tiny.normalize": ["cifar", {"mean": [0, 0, 0]}, {"mean": [0, 0, 0], "std": [1, 1, 0]}],
    "variants.tiny.ensemble_size": [0, 10**6],
    "variants.tiny.meta_class_size": [1, 10**9],
    "variants.tiny.epochs": [-1, 10**9],
    "variants.tiny.recall_at": [[], [0], [2, 1], [1, 1], [10**30], [1.0]],
    "variants.tiny.train": [{"batch_size": 1}, {"seed": None}, {"epochs": 3}, {"learning_rate": math.nan}, None],
}
VALUES = [(name, value) for name, values in OUT_OF_RANGE.items() for value in values]


@pytest.fixture
def folder(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny.write_settings(tmp_path, tiny.settings(root))
    return tmp_path


def changed(root: Path, name: str, value: Any = None, remove: bool = False) -> dict:
    """Return the settings with one key changed; a path is as train.seed."""
    whole = copy.deepcopy(tiny.settings(root))
    *parents, last = name.split(".")
    place = whole
    for part in parents:
        place = place[part]
    if remove:
        del place[last]
    else:
        place[last] = value
    return whole


def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    line = tiny.refused(tiny.STAGES["meta_classes"], capsys, folder)
    assert line.startswith("params.yaml: ")
    return line


@pytest.mark.parametrize("name", FILES)
def test_file(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    content, message = FILES[name]
    if isinstance(content, tuple):
        text = (folder / "params.yaml").read_text(encoding="utf-8")
        assert content[0] in text
        content = text.replace(*content, 1).encode()
    tiny.replace(folder / "params.yaml", content)
    line = refused(folder, capsys)
    assert re.search(message, line), line


@pytest.mark.parametrize(
    "content", [None, "", "class,branch_0,branch_1\n", "class,branch_0,branch_1\nant,0,x\n", "a\0b"]
)
def test_reused_meta_classes(folder: Path, root: Path, capsys: pytest.CaptureFixture[str], content: str | None) -> None:
    """A file of the user's own, which no line tells them to delete."""
    tiny.write_settings(folder, changed(root, "meta_classes.load_ids", "mine/ids.csv"))
    index = "".join(f"{n},{n}.png,{name},{n},{'test' if n > 2 else 'train'}\n" for n, name in enumerate("abcd"))
    write(folder / "data/processed/tiny/index.csv", f"row,path,class,label,split\n{index}")
    if content is not None:
        write(folder / "mine/ids.csv", content)
    line = tiny.refused(tiny.STAGES["meta_classes"], capsys, folder)
    assert line.startswith("mine/ids.csv: ")
    assert line.endswith("; correct it, or name another file")


def test_aliases_take_no_memory(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Written out, they would be 9^10 entries."""
    tiny.replace(folder / "params.yaml", LAUGHS.encode())
    tracemalloc.start()
    refused(folder, capsys)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


@pytest.mark.parametrize("name", KEYS)
def test_missing_key(folder: Path, root: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    tiny.write_settings(folder, changed(root, name, remove=True))
    assert f"{name}: missing" in refused(folder, capsys) or name == "variants.tiny"


@pytest.mark.parametrize("name", KEYS)
def test_wrong_type(folder: Path, root: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """A mapping of nothing known is no key's value; with the value itself in a list, none is either."""
    for value in ({"unknown": [None]}, [{"unknown": 1}]):
        tiny.write_settings(folder, changed(root, name, value))
        line = refused(folder, capsys)
        assert f"params.yaml: {name}" in line, line


@pytest.mark.parametrize("section", SECTIONS)
def test_unknown_key(folder: Path, root: Path, capsys: pytest.CaptureFixture[str], section: str) -> None:
    tiny.write_settings(folder, changed(root, f"{section}.sede", 1))
    assert f"{section}.sede: unknown key; " in refused(folder, capsys)


@pytest.mark.parametrize(("name", "value"), VALUES, ids=[f"{name}={value!r:.20}" for name, value in VALUES])
def test_out_of_range(folder: Path, root: Path, capsys: pytest.CaptureFixture[str], name: str, value: Any) -> None:
    tiny.write_settings(folder, changed(root, name, value))
    line = refused(folder, capsys)
    assert name.split(".")[-1] in line or "unknown variant" in line, line


@pytest.mark.parametrize(
    "name", ["a byte order mark", "line ends of Windows", "an anchor", "a merge", "no final line end"]
)
def test_sound(folder: Path, root: Path, name: str) -> None:
    text = (folder / "params.yaml").read_text(encoding="utf-8")
    content = {
        "a byte order mark": b"\xef\xbb\xbf" + text.encode(),
        "line ends of Windows": text.replace("\n", "\r\n").encode(),
        "an anchor": text.replace("data_root: raw", "data_root: &r raw").replace("folder: tiny", "folder: *r").encode(),
        "a merge": text.replace("    train:\n", "    train:\n      <<: {flip: true}\n").encode(),
        "no final line end": text.rstrip().encode(),
    }[name]
    tiny.replace(folder / "params.yaml", content)
    assert params.load().datasets == ["tiny"]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(KEYS), value=JUNK)
def test_any_value(tmp_path: Path, root: Path, name: str, value: Any) -> None:
    """A value of any kind is taken, or refused in one line; what is taken can be written and read again."""
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(changed(root, name, value)), encoding="utf-8")
    try:
        found = params.load(path)
    except ValueError as error:
        line = str(error)
        assert line.startswith("params.yaml: ") or line.startswith(f"{path}: ")
        assert len(line) < 1000
    else:
        assert params.Params.model_validate(found.model_dump()) == found


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage(tmp_path: Path, root: Path, data: st.DataObject) -> None:
    """Bytes put in and taken out anywhere."""
    content = yaml.safe_dump(tiny.settings(root), sort_keys=False).encode()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(start + 60, len(content))))
    inserted = data.draw(
        st.binary(max_size=12) | st.text(alphabet="&*![]{}:,-?|>%@`'\"#\n\t 0a", max_size=12).map(str.encode)
    )
    path = tmp_path / "params.yaml"
    path.write_bytes(content[:start] + inserted + content[end:])
    try:
        line = f"params.yaml: {params.load(path).datasets}"
    except ValueError as error:
        line = str(error)
    assert "params.yaml: " in line
