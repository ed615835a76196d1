"""--include web: what is in the folder, whose copy of ONNX Runtime Web it takes, and what it replaces."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from models.exporting import web
from models.exporting.formats import FORMATS
from models.exporting.place import free_place
from models.exporting.templates.web import serve
from tests.models.exporting.command import call, left, refusal, session
from utils.data.letterbox import BACKGROUND
from utils.detections import annotate
from utils.errors import UserError
from utils.nms import MAX_CANDIDATES
from utils.palette import class_color

pytest.importorskip("onnx")
CONTENTS = {name: f"// {name}".encode() for name in web.RUNTIME}
SMALL = ("--include", "web", "--imgsz", "64")


def pack(place: Path, contents: Mapping[str, bytes]) -> Path:
    """An archive as npm makes them, with a file in it that wants to go elsewhere."""
    with tarfile.open(place, "w:gz") as archive:
        for name, content in {"../evil.mjs": b"", **contents}.items():
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return place


@pytest.fixture
def package(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the npm package, whose files are the pinned ones."""
    pinned = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    monkeypatch.setattr(web, "RUNTIME", pinned)
    return pack(tmp_path_factory.mktemp("npm") / web.ARCHIVE, CONTENTS)


def test_the_folder(
    weights: Path, package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(package.parent)  # where it is found without a flag
    call(weights, *SMALL, "--conf-thres", "0.4")
    assert left(weights) == {"best_web"}
    folder = weights.with_name("best_web")
    files = {file.name for file in folder.iterdir()}
    assert files == {*web.PAGE, *web.RUNTIME, "page.json", "best.onnx"}
    assert all((folder / name).read_bytes() == content for name, content in CONTENTS.items())
    settings = json.loads((folder / "page.json").read_text(encoding="utf-8"))
    assert (settings["networks"], settings["conf_thres"], settings["max_det"]) == (["best.onnx"], 0.4, 1000)
    colours = [tuple(bytes.fromhex(colour[1:])[::-1]) for colour in settings["colours"]]
    assert colours == [class_color(index) for index in range(20)]
    assert class_color(20) == class_color(0)
    assert session(folder / "best.pt").get_inputs()[0].shape == [1, 3, 64, 64]
    printed = capsys.readouterr().out
    assert "largest difference to PyTorch" in printed and f"python {folder / 'serve.py'}" in printed


def test_an_unpacked_package(package: Path, tmp_path: Path) -> None:
    (tmp_path / "node_modules" / "dist").mkdir(parents=True)
    for name, content in CONTENTS.items():
        (tmp_path / "node_modules" / "dist" / name).write_bytes(content)
    web.copy_runtime(tmp_path / "node_modules", tmp_path)
    assert all((tmp_path / name).read_bytes() == content for name, content in CONTENTS.items())


def test_a_folder_is_replaced_only_while_nobody_put_anything_into_it(tmp_path: Path) -> None:
    folder = tmp_path / "best_web"
    folder.mkdir()
    weights, form = tmp_path / "best.pt", FORMATS["web"]
    with pytest.raises(UserError, match="best_web' is in the way"):  # empty, so not ours
        free_place(weights, form, int8=False)
    for name in (*web.PAGE, *web.RUNTIME, web.SETTINGS, "best.onnx"):
        (folder / name).touch()
    assert free_place(weights, form, int8=False) == folder
    (folder / "lighter.onnx").touch()
    with pytest.raises(UserError, match="best_web' is in the way"):
        free_place(weights, form, int8=False)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (
            (),
            "web needs your copy of onnxruntime-web 1.30.0 (33 MB, MIT licence): `npm pack onnxruntime",
        ),
        (("--web-runtime", "gone.tgz"), "--web-runtime gone.tgz: not found; it needs your copy"),
        (("--batch-size", "4"), "a page sees one picture a call; leave out --batch-size 4"),
        (("--half",), "--half is not for web"),
        (("--nms",), "--nms is not for web"),
    ],
)
def test_what_cannot_be_made(
    flags: tuple[str, ...],
    complaint: str,
    weights: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert complaint in refusal(capsys, "--weights", str(weights), *SMALL, *flags)
    assert left(weights) == set()


def test_the_flag_is_for_web_only(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--web-runtime is for --include web" in refusal(
        capsys, "--weights", str(weights), "--include", "onnx", "--web-runtime", "x.tgz"
    )


def test_another_package_is_refused(weights: Path, package: Path, tmp_path: Path) -> None:
    other = CONTENTS | {"ort.wasm.min.mjs": b"// another version"}
    fewer = {name: content for name, content in CONTENTS.items() if name != "ort.webgpu.min.mjs"}
    damaged = package.read_bytes()
    for place, complaint in (
        (
            pack(tmp_path / "other.tgz", other),
            "is not onnxruntime-web 1.30.0: its dist/ort.wasm.min.mjs is another",
        ),
        (pack(tmp_path / "fewer.tgz", fewer), "there is no dist/ort.webgpu.min.mjs"),
        (tmp_path / "cut.tgz", "is no npm package, or damaged"),
        (tmp_path / "text.tgz", "is no npm package, or damaged"),
        (tmp_path, "there is no dist/ort.wasm.min.mjs"),
    ):
        (tmp_path / "cut.tgz").write_bytes(damaged[: len(damaged) // 2])
        (tmp_path / "text.tgz").write_text("404", encoding="utf-8")
        with pytest.raises(UserError, match=re.escape(complaint)):
            web.copy_runtime(place, tmp_path)


def test_the_rules_have_the_numbers_of_python() -> None:
    text = (web.TEMPLATES / "rules.js").read_text(encoding="utf-8")
    numbers = {name: float(value) for name, value in re.findall(r"^const ([A-Z_]+) = ([\d.]+);", text, re.M)}
    assert numbers == {
        "BACKGROUND": BACKGROUND, "MAX_CANDIDATES": MAX_CANDIDATES, "LINE_SHARE": 0.003,
        "SMALLEST_TEXT": annotate.SMALLEST_TEXT, "TEXT_SHARE": annotate.TEXT_SHARE,
        "ASCENT": annotate.ASCENT, "DESCENT": annotate.DESCENT,
    }  # fmt: skip


def test_the_page_can_neither_run_nor_ask_for_anything_foreign() -> None:
    page = (web.TEMPLATES / "index.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert (rules["default-src"], rules["connect-src"]) == ("'none'", "'self'")
    assert rules["script-src"] == "'self' 'wasm-unsafe-eval'"
    for name in ("index.html", "page.css", "page.js", "network.js", "rules.js"):
        text = (web.TEMPLATES / name).read_text(encoding="utf-8")
        assert not re.search(
            r"https?://|innerHTML|outerHTML|insertAdjacentHTML|\beval\(|document\.write", text
        )
        assert not re.search(r"\s(style|on\w+)=", text) or name.endswith(".js")


@pytest.mark.parametrize("port", ["x", "99999", "-1"])
def test_the_server_says_in_one_line_that_a_port_cannot_be(
    port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["serve.py", port])
    with pytest.raises(SystemExit, match=rf"^port {port}: .*; give another one: python serve\.py 8001$"):
        serve.main()
