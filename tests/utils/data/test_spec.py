from pathlib import Path

import pytest

import utils.data.spec as spec_module
from tests.utils.data.formats.instances import yolo
from utils.data.spec import load_data_spec
from utils.errors import UserError
from utils.files import ROOT


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for split in ("train", "val", "extra"):
        (tmp_path / f"set/images/{split}").mkdir(parents=True)
    (tmp_path / "set/list.txt").write_text("./images/val/a.jpg\n", encoding="utf-8")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    file = folder / "data.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_of_several_places_the_first_is_taken(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = data / "here"
    for split in ("train", "val"):
        (here / f"set/images/{split}").mkdir(parents=True)
    file = write(data, "path: set\ntrain: images/train\nval: images/val\nnames: [cat]\n")
    monkeypatch.chdir(here)
    spec = load_data_spec(file)  # the working directory comes before the folder of the yaml
    assert [path.resolve() for path in spec.train] == [here / "set/images/train"]


@pytest.mark.parametrize(
    ("names", "together"), [("[cat, dog]", {0: "item"}), ("[cat]", {0: "cat"}), ("[a, b, c]", {0: "item"})]
)
def test_classes_may_be_taken_for_one(data: Path, names: str, together: dict[int, str]) -> None:
    spec = load_data_spec(write(data, f"path: set\ntrain: images/train\nval: images/val\nnames: {names}\n"))
    assert spec.classes(single_cls=True) == together
    assert spec.classes(single_cls=False) == spec.names
    assert spec.classes(single_cls=False) is not spec.names


def test_all_forms_of_a_split(data: Path) -> None:
    file = write(
        data,
        "path: set\ntrain: [images/train, images/extra]\nval: list.txt\nnames: {0: cat, 1: dog}\nnc: 2\n",
    )
    spec = load_data_spec(file)
    root = data / "set"
    assert spec.root == root
    assert spec.train == (root / "images/train", root / "images/extra")
    assert spec.val == (root / "list.txt",)
    assert spec.test == ()
    assert (spec.names, spec.nc) == ({0: "cat", 1: "dog"}, 2)


def test_names_as_list_may_be_numbers(data: Path) -> None:
    file = write(data, "path: set\ntrain: images/train\nval: images/val\nnames: [1, two, 3]\n")
    assert load_data_spec(file).names == {0: "1", 1: "two", 2: "3"}


def test_working_directory_comes_first(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = data / "elsewhere"
    (here / "set/images/train").mkdir(parents=True)
    (here / "set/images/val").mkdir()
    file = write(data, "path: set\ntrain: images/train\nval: images/val\nnames: [a]\n")
    assert load_data_spec(file).root == data / "set"
    monkeypatch.chdir(here)
    assert load_data_spec(file).root == here / "set"


def test_without_path_splits_lie_beside_the_yaml(data: Path) -> None:
    file = write(data, "train: set/images/train\nval: set/images/val\nnames: [a]\n")
    assert load_data_spec(file).train == (data / "set/images/train",)


@pytest.mark.parametrize("source", [".", "./images", "./images/"])
def test_a_dot_means_beside_the_yaml(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for place in ("set", "other"):
        yolo(tmp_path / place)
    file = write(tmp_path / "set", f"train: {source}\nval: {source}\nnames: [a, b]\n")
    monkeypatch.chdir(tmp_path / "other")
    with caplog.at_level("INFO"):
        assert [path.resolve() for path in load_data_spec(file).train] == [(file.parent / source).resolve()]
    assert caplog.messages == []
    for picture in (tmp_path / "set/images").iterdir():
        picture.unlink()
    with caplog.at_level("INFO"):
        assert load_data_spec(file).train[0].resolve() == (tmp_path / "other" / source).resolve()
    assert "is there too" in caplog.messages[0]


def test_of_two_places_the_other_is_told(
    data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = data / "here"
    (here / "set/images/train").mkdir(parents=True)
    file = write(data, "train: set/images/train\nval: set/images/val\nnames: [a]\n")
    monkeypatch.chdir(here)
    with caplog.at_level("INFO"):
        assert load_data_spec(file).train == (here / "set/images/train",)
    assert caplog.messages == [
        f"{file}: train: 'set/images/train' is taken from the working directory or the repository: "
        f"{here}/set/images/train; {data}/set/images/train is there too, and 'path: {data}' means it"
    ]
    caplog.clear()
    (here / "set").rename(here / "moved")
    (here / "set").symlink_to(data / "set")
    with caplog.at_level("INFO"):
        load_data_spec(file)
    assert caplog.messages == []


def test_only_needed_splits_must_exist(data: Path) -> None:
    file = write(data, "path: set\ntrain: nowhere\nval: images/val\ntest: neither\nnames: [a]\n")
    spec = load_data_spec(file, needed=("val",))
    assert spec.test == (data / "set/neither",)
    with pytest.raises(UserError, match="train: no such file or folder"):
        load_data_spec(file)
    assert load_data_spec(write(data, "names: [a]"), needed=()).train == ()


GOOD = "path: set\ntrain: images/train\nval: images/val\n"
BAD = {
    "nothing": ("", "expected a mapping"),
    "list": ("- a\n- b\n", "expected a mapping"),
    "syntax": ("names: [a\n", "not valid yaml"),
    "no names": (GOOD, "'names' must be"),
    "empty names": (GOOD + "names: []\n", "'names' must be"),
    "names of text": (GOOD + "names: cat\n", "'names' must be"),
    "missing class": (GOOD + "names: {0: a, 2: b}\n", "class 1 is missing"),
    "negative class": (GOOD + "names: {-1: a, 0: b}\n", "class 1 is missing"),
    "class of text": (GOOD + "names: {0: a, x: b}\n", "class number 'x'"),
    "class twice": (GOOD + "names: {0: a, 0: b}\n", "key 0 stands there twice"),
    "unquoted no": (GOOD + "names: [yes, no]\n", "quote it"),
    "nested name": (GOOD + "names: [a, [b]]\n", "class 1 is"),
    "cycle": (GOOD + "names: &n [a, *n]\n", "an alias refers to a value that contains it"),
    "cycle of keys": ("&a {? *a : 1}\n", "not valid yaml"),
    "cycle of paths": ("val: x\ntrain: &t [*t]\nnames: [a]\n", "an alias refers to a value that contains it"),
    "wrong nc": (GOOD + "names: [a]\nnc: 2\n", "nc is 2 but names has 1 class$"),
    "nc of text": (GOOD + "names: [a]\nnc: one\n", "nc is 'one'"),
    "no train": ("path: set\nval: images/val\nnames: [a]\n", "'train' is missing"),
    "no val": ("path: set\ntrain: images/train\nnames: [a]\n", "'val' is missing"),
    "empty train": ("path: set\ntrain: []\nval: images/val\nnames: [a]\n", "'train' is empty"),
    "number for a split": ("path: set\ntrain: 5\nval: images/val\nnames: [a]\n", "train: expected a path"),
    "path of list": ("path: [set]\ntrain: a\nval: b\nnames: [a]\n", "path: expected a folder"),
    "no such folder": ("path: nowhere\ntrain: a\nval: b\nnames: [a]\n", "train: no such file"),
    "download": (GOOD.replace("set", "x") + "names: [a]\ndownload: touch executed\n", "never executed"),
    "object": (GOOD + "names: !!python/object/apply:os.system [touch executed]\n", "not valid yaml"),
    "unknown generator": (GOOD + "names: [a]\ngenerator: letters\n", "unknown generator 'letters'"),
    "generator without path": ("train: a\nval: b\nnames: [a]\ngenerator: digits\n", "'path' is missing"),
    "binary": ("\x00\x01", "not valid yaml"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_yaml_is_one_clear_line(case: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, message = BAD[case]
    monkeypatch.chdir(data)
    with pytest.raises(UserError, match=message) as caught:
        load_data_spec(write(data, text))
    assert str(caught.value).startswith(str(data / "data.yaml"))
    assert "\n" not in str(caught.value)
    assert not (data / "executed").exists()


def test_unknown_yaml_proposes_names() -> None:
    with pytest.raises(UserError, match=r"did you mean .*digits\.yaml"):
        load_data_spec("digit.yaml")


def test_yaml_in_other_encoding(data: Path) -> None:
    file = data / "data.yaml"
    file.write_bytes("names: [größe]".encode("latin-1"))
    with pytest.raises(UserError, match="not valid yaml"):
        load_data_spec(file)


def test_every_yaml_of_the_repository_is_sound() -> None:
    files = sorted((ROOT / "data").glob("*.yaml"))
    assert files
    for file in files:
        spec = load_data_spec(file.name, needed=())
        assert spec.file == file
        assert spec.nc == len(set(spec.names.values()))
        assert spec.val


def test_generator_runs_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def generate(folder: Path) -> None:
        made.append(folder)
        for split in ("train", "val"):
            (folder / "images" / split).mkdir(parents=True)

    monkeypatch.setitem(spec_module.GENERATORS, "digits", generate)
    monkeypatch.setattr(spec_module, "ROOT", data)
    monkeypatch.chdir(data)
    text = "generator: digits\npath: datasets/digits\ntrain: images/train\nval: images/val\nnames: [a]\n"
    file = write(data, text)
    assert load_data_spec(file, needed=()).names == {0: "a"}
    assert not made
    for _ in range(2):
        spec = load_data_spec(file)
        assert spec.train == (data / "datasets/digits/images/train",)
    assert made == [data / "datasets/digits"]
    (data / "datasets/digits/images/val").rmdir()
    with pytest.raises(UserError, match="remove it to have it made again"):
        load_data_spec(file)
