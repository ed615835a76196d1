"""The ledger: verdicts by hand, changes that end with status 1, and claims that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

import benchmark
from benchmarks import recount as recounting
from benchmarks.ledger import Number, load_claims, parse_number
from models.registry import BLOCKS, Entry
from utils.errors import UserError
from utils.files import ROOT

CLAIMS = """
- id: yolov5n
  source: a table
  recount: {model: yolov5n.yaml}
  numbers:
    - {quantity: parameters, published: 1.9 M}
    - {quantity: GFLOPs, published: "4.5", convention: table}
    - {quantity: mAP50-95, published: "28.0"}
  why: its own table
- id: csppc
  source: a tutorial
  recount: {model: yolov5n-csppc.yaml, nc: 20, against: {model: yolov5n.yaml, nc: 20}}
  numbers:
    - {quantity: parameters change, published: -420 k}
  why: another form
- id: partial
  source: a paper
  recount: {block: PConv, args: [64, 4], map: [64, 20, 20],
            against: {block: nn.Conv2d, args: [64, 64, 3, 1, 1], map: [64, 20, 20]}}
  numbers:
    - {quantity: FLOPs ratio, published: "0.0625"}
  why: exact
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A file of claims, and a page that shows it."""
    published, page = tmp_path / "published.yaml", tmp_path / "docs" / "ledger.md"
    published.write_text(CLAIMS, encoding="utf-8")
    assert ledger(published, page) == 0 and page.is_file()
    return published, page


def ledger(published: Path, page: Path, *flags: str) -> int:
    """The exit status of the command."""
    try:
        benchmark.main(["ledger", "--published", str(published), "--page", str(page), *flags])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.parametrize(
    ("text", "value", "digit"),
    [
        ("7.2 M", 7.2e6, 1e5),
        ("-420 k", -420e3, 1e3),
        ("4.50", 4.5, 0.01),
        ("0.34 G", 3.4e8, 1e7),
        ("-54 %", -54, 1),
    ],
)
def test_published_numbers(text: str, value: float, digit: float) -> None:
    assert parse_number(text) == pytest.approx((value, digit))


@pytest.mark.parametrize("text", ["", "many", "7.2 T", "1.9M", "nan", "inf", "0"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(ValueError, match="is no number"):
        parse_number(text)


@pytest.mark.parametrize(
    ("published", "found", "verdict"),
    [
        ("7.2 M", 7_235_389, "matches"),  # rounds to 7.2
        ("7.2 M", 7_250_001, "close"),  # rounds to 7.3
        ("4.5", 4.45, "matches"),  # half a digit away
        ("-54 %", -54.6, "close"),  # rounds to -55, 1 % off
        ("-420 k", -391_712, "differs"),  # 28,288 of 420,000 is 6.7 %
        ("28.0", None, "not checked"),
    ],
)
def test_verdicts(published: str, found: float | None, verdict: str) -> None:
    assert Number("parameters", published, found=found).verdict == verdict


def test_all_is_well(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    before = files[1].read_text(encoding="utf-8")
    assert ledger(*files) == 0
    assert files[1].read_text(encoding="utf-8") == before
    out = capsys.readouterr().out
    assert "5 numbers in 3 claims: 3 matches, 0 close, 1 differs, 1 not checked" in out
    row = next(line for line in out.splitlines() if line.startswith("csppc"))
    assert row.split() == [
        *("csppc", "parameters", "change", "-420", "k", "-391,712", "+6.7%", "differs", "another", "form")
    ]
    assert "| csppc | parameters change | -420 k | -391,712 | +6.7% | differs |" in before
    assert "against yolov5n.yaml, nc 20" in before


@pytest.mark.parametrize(
    ("old", "new", "was", "now"),
    [
        # a claim that changes
        ("1.9 M", "1.8 M", "1.9 M | 1,872,157 | -1.5% | matches", "1.8 M | 1,872,157 | +4.0% | close"),
        ('"4.5"', '"4.6"', "(table) | 4.5 | 4.496 | -0.1% | matches", "4.6 | 4.496 | -2.3% | close"),
        ("[64, 4]", "[64, 8]", "0.0625 | 0.0625 | +0.0% | matches", "0.0625 | 0.0156 | -75.0% | differs"),
        # a class is 3 outputs of 64, 128 and 256 weights, with biases: 3 * 448 + 9 = 1,353
        ("nc: 20}}", "nc: 21}}", "-391,712 | +6.7% | differs", "-393,065 | +6.4% | differs"),
        # a number that nothing here can recount
        ('"28.0"', '"29.0"', "| yolov5n | mAP50-95 | 28.0 |", "| yolov5n | mAP50-95 | 29.0 |"),
        ("its own table", "a reason", "its own table", "a reason"),
    ],
)
def test_every_change_of_a_claim_is_named_until_the_page_is_updated(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str], old: str, new: str, was: str, now: str
) -> None:
    published, page = files
    published.write_text(CLAIMS.replace(old, new, 1), encoding="utf-8")
    before = page.read_text(encoding="utf-8")
    assert [ledger(published, page) for _ in range(2)] == [1, 1]  # the second run is no better
    said = capsys.readouterr().err.splitlines()
    assert any(line.startswith("ledger.md: - ") and was in line for line in said)
    assert any(line.startswith("ledger.md: + ") and now in line for line in said)
    assert page.read_text(encoding="utf-8") == before
    assert ledger(published, page, "--update") == 0 and now in page.read_text(encoding="utf-8")
    assert ledger(published, page) == 0


def test_a_page_with_another_number_is_no_record(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    page = files[1]
    right = page.read_text(encoding="utf-8")
    page.write_text(right.replace("1,872,157 | -1.5%", "1,872,158 | -1.5%"), encoding="utf-8")
    assert ledger(*files) == 1
    assert capsys.readouterr().err.splitlines() == [
        "ledger.md: - | yolov5n | parameters | 1.9 M | 1,872,158 | -1.5% | matches |",
        "ledger.md: + | yolov5n | parameters | 1.9 M | 1,872,157 | -1.5% | matches |",
        "ledger.md shows something else than comes out now; --update writes it anew",
    ]
    assert ledger(*files, "--update") == 0 and page.read_text(encoding="utf-8") == right


def test_a_claim_is_added_by_writing_it_down(files: tuple[Path, Path]) -> None:
    published, page = files
    published.write_text(
        CLAIMS + "- {id: new, source: a talk, why: a guess, recount: {model: yolov5n.yaml, nc: 20}, "
        "numbers: [{quantity: parameters, published: 1.8 M}]}\n",
        encoding="utf-8",
    )
    assert ledger(published, page, "--update") == 0
    # 60 classes less, 1,353 parameters each
    assert "| new | parameters | 1.8 M | 1,790,977 | -0.5% | matches |" in page.read_text(encoding="utf-8")


def test_a_changed_block_shows(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wider(nn.Conv2d):
        def __init__(self, dim: int, n_div: int = 4) -> None:
            super().__init__(dim, dim, kernel_size=1)

    for name in ("_built", "_cost"):  # which remember
        monkeypatch.setattr(recounting, name, getattr(recounting, name).__wrapped__)
    monkeypatch.setitem(BLOCKS, "PConv", Entry(Wider, BLOCKS["PConv"].rule))
    assert ledger(*files) == 1
    assert "+ | partial | FLOPs ratio | 0.0625 | 0.1111 |" in capsys.readouterr().err  # 1 of 9 weights


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("published: 1.9 M", "published: 1.9M", "published.yaml: yolov5n: '1.9M' is no number"),
        ("published: 1.9 M", "published: 1.9 M, ours: 1872157", "unknown key 'ours'; known are quantity"),
        ('published: "0.0625"', "value: 1", "partial: unknown key 'value'"),
        ("quantity: parameters, ", "", "yolov5n: has no 'quantity'"),
        ("convention: table", "convention: tables", "yolov5n: convention 'tables' is none of conv, bn"),
        ("source: a table", "sauce: a table", "yolov5n: unknown key 'sauce'"),
        ("  why: exact", "", "partial: has no 'why'"),
        ("id: csppc", "id: yolov5n", "the id 'yolov5n' stands there twice"),
        ("recount: {model: yolov5n.yaml}", "recount: {modell: yolov5n.yaml}", "needs exactly one of model"),
        ("recount: {model: yolov5n.yaml}", "recount: {model: yolov5q.yaml}", "yolov5q.yaml"),
        ("recount: {model: yolov5n.yaml}", "recount: {model: yolov5n.yaml, size: 3}", "unexpected keyword"),
        ("block: PConv", "block: PConf", "unknown block 'PConf'; did you mean 'PConv'"),
        ("block: PConv, args: [64, 4]", "block: PConv, args: [63, 4]", "multiple of 4, got 63"),
        ("quantity: FLOPs ratio", "quantity: speed", "cannot recount 'speed'; known are parameters"),
        (", against: {model: yolov5n.yaml, nc: 20}", "", "'parameters change' compares; recount needs"),
    ],
)
def test_claims_that_cannot_be_read(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    published = tmp_path / "published.yaml"
    assert old in CLAIMS
    published.write_text(CLAIMS.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError) as error:
        ledger(published, tmp_path / "ledger.md")
    assert complaint in str(error.value)
    assert not (tmp_path / "ledger.md").exists()


@pytest.mark.parametrize(
    ("text", "complaint"), [("{", "not valid yaml"), ("a: 1", "expected a list of claims")]
)
def test_files_that_are_no_ledger(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "published.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=complaint):
        load_claims(tmp_path / "published.yaml")
    with pytest.raises(UserError, match="no such file"):
        load_claims(tmp_path / "nowhere.yaml")


def test_every_claim_of_the_reference_is_taken_over(golden: Path) -> None:
    import json

    ours = " ".join(claim.id for claim in load_claims(ROOT / "published.yaml"))
    for claim in json.loads((golden.parent / "published.json").read_text(encoding="utf-8")):
        assert claim["id"] in ours


@pytest.mark.slow
def test_the_ledger_of_the_project_holds(tmp_path: Path) -> None:
    page = tmp_path / "ledger.md"
    page.write_text((ROOT / "docs" / "ledger.md").read_text(encoding="utf-8"), encoding="utf-8")
    assert ledger(ROOT / "published.yaml", page) == 0


def test_a_foreign_file_is_not_overwritten(files: tuple[Path, Path]) -> None:
    published, page = files
    page.write_text("my own words\n", encoding="utf-8")
    with pytest.raises(UserError, match="was not written by this command"):
        ledger(published, page)
    assert page.read_text(encoding="utf-8") == "my own words\n"
