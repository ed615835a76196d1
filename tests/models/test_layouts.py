"""Every layout of the project: costs and keys as recorded, and it trains, fuses, batches and traces."""

from __future__ import annotations

import gzip
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.cfg import FOLDERS, load_cfg
from models.summary import layer_costs
from models.weights import load_model
from models.yolo import DetectionModel
from tests.layouts import DISTINCT, LAYOUTS, OFFICIAL, images, small
from tests.training_runs import ENVIRONMENT, ROOT
from utils.checkpoints.files import write_checkpoint
from utils.counting.measure import count_parameters

PUBLISHED = {  # BLOCKS.md: parameters with 80 classes, GFLOPs at 640 (2 x multiply-adds, convolutions only)
    "yolov5n": (1_872_157, 4.468),
    "yolov5s": (7_235_389, 16.434),
    "yolov5n-gsconv": (1_764_317, 4.332),
    "yolov5s-gsconv": (6_794_429, 15.872),
    "yolov5n-gsconv-all": (1_574_477, 3.898),
    "yolov5s-gsconv-all": (6_023_069, 14.062),
    "yolov5n-slimneck": (1_669_693, 4.145),
    "yolov5s-slimneck": (6_400_381, 15.079),
    "yolov5n-slimneckc": (1_578_293, 3.957),
    "yolov5s-slimneckc": (6_038_381, 14.336),
    "yolov5n-slimneck-paper": (1_834_581, 4.008),
    "yolov5s-slimneck-paper": (7_062_957, 14.544),
    "yolov5n-shufflenetv2": (1_396_925, 3.707),
    "yolov5s-shufflenetv2": (5_314_685, 13.325),
    "yolov5n-csppc": (1_480_445, 3.477),
    "yolov5s-csppc": (5_674_045, 12.469),
    "yolov5n-csppc-neck": (1_695_005, 4.108),
    "yolov5s-csppc-neck": (6_529_085, 14.992),
    "yolov5n-csppc-backbone": (1_657_597, 3.837),
    "yolov5s-csppc-backbone": (6_380_349, 13.910),
    "yolov5n-c3dual": (1_545_469, 3.639),
    "yolov5s-c3dual": (5_931_389, 13.117),
    "yolov5n-csphet": (1_756_253, 4.180),
    "yolov5s-csphet": (6_777_277, 15.280),
    "yolov5n-c3het": (1_643_101, 3.891),
    "yolov5s-c3het": (6_324_669, 14.127),
    "yolov5n-dsconv": (1_364_909, 3.436),
    "yolov5s-dsconv": (5_196_893, 12.272),
}
OWN = [name for name in DISTINCT if not (FOLDERS[1] / f"{name}.yaml").exists()]  # in models/, not models/hub/
README = (ROOT / "README.md").read_text(encoding="utf-8")
HUB = [name for name in DISTINCT if name not in OWN]
# what takes long runs for one of its kind by default: there are other heads with branches, other backbones
SIBLINGS = ("yolov5n-decoupled", "yolov5n-mobileone-backbone")
DEFAULT_AND_SLOW = [
    *(name for name in OWN if name not in SIBLINGS),
    *(pytest.param(name, marks=pytest.mark.slow) for name in (*SIBLINGS, *HUB)),
]


def on_meta(cfg: str) -> DetectionModel:
    """The model at full size without its memory: tensors have shapes and no data."""
    with torch.device("meta"):
        return DetectionModel(cfg)


def test_all_official_layouts_are_here() -> None:
    assert len(OFFICIAL) == 23
    assert set(OFFICIAL) <= set(LAYOUTS)


@pytest.mark.parametrize("name", OFFICIAL)
def test_rows_are_the_recorded_ones(golden: Path, name: str) -> None:
    recorded = json.loads((golden / "upstream_architectures.json").read_text(encoding="utf-8"))[name]
    assert load_cfg(name) == recorded


@pytest.mark.parametrize("name", OFFICIAL)
def test_recorded_parameters_and_strides(golden: Path, name: str) -> None:
    recorded = json.loads((golden / "upstream_models.json").read_text(encoding="utf-8"))[name]
    model = on_meta(name)
    assert count_parameters(model) == recorded["params"]
    assert model.measure_strides() == recorded["strides"]
    assert (model.head.nl, model.head.na) == (recorded["nl"], recorded["na"])
    assert len(model.model) == recorded["n_layers"]
    assert count_parameters(model.fuse()) == recorded["params_fused"]


def test_recorded_keys_and_shapes(golden: Path) -> None:
    with gzip.open(golden / "upstream_state_dict_shapes.json.gz", "rt", encoding="utf-8") as file:
        recorded: dict[str, dict[str, Any]] = json.load(file)
    for name, shapes in recorded.items():
        state = on_meta(name).state_dict()
        assert {key: list(tensor.shape) for key, tensor in state.items()} == shapes


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cost(name: str) -> None:
    model = on_meta(name)
    parameters, gflops = PUBLISHED[name]
    assert count_parameters(model) == parameters
    assert sum(cost.gflops for cost in layer_costs(model.model, model.layers, 3, 640)) == pytest.approx(
        gflops, abs=5e-4
    )


@pytest.mark.parametrize(
    "name", [*OWN, *(pytest.param(name, marks=pytest.mark.slow) for name in LAYOUTS if name not in OWN)]
)
def test_comments_tell_the_cost(name: str) -> None:
    text = next(
        folder / f"{name}.yaml" for folder in FOLDERS if (folder / f"{name}.yaml").exists()
    ).read_text(encoding="utf-8")
    told = re.search(r"^# ([\d,]+) parameters, ([\d.]+) GFLOPs at (\d+) \(80 classes\)\.$", text, flags=re.M)
    assert told, "say '# N parameters, N.NNN GFLOPs at SIZE (80 classes).' on top"
    model = on_meta(name)
    gflops = sum(cost.gflops for cost in layer_costs(model.model, model.layers, 3, int(told[3])))
    assert (told[1], told[2]) == (f"{count_parameters(model):,}", f"{gflops:.3f}")


def test_the_readme_lists_every_variant_with_its_cost() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| [^|]+ \| ([\d,]+) \| ([\d.]+)[^|]*\|", README, flags=re.M)
    assert {name for name, *_ in rows} == {name for name in OWN if re.match(r"yolov5n|v5lite", name)}
    for name, parameters, gflops in rows:
        assert f"# {parameters} parameters, {gflops} GFLOPs" in (FOLDERS[0] / f"{name}.yaml").read_text(
            encoding="utf-8"
        )


@pytest.mark.parametrize("name", [name for name in OWN if name.startswith("yolov5n-")])
@pytest.mark.parametrize("size", ["m", *(pytest.param(size, marks=pytest.mark.slow) for size in "lx")])
def test_larger_sizes_resolve_by_name(name: str, size: str) -> None:
    larger, small_one = (on_meta(name.replace("yolov5n", f"yolov5{letter}")) for letter in (size, "s"))
    assert count_parameters(larger) > count_parameters(small_one)


def test_a_fused_orepa_costs_what_yolov5_costs() -> None:
    plain, merged = (on_meta(name).fuse() for name in ("yolov5n", "yolov5n-orepa"))
    assert count_parameters(merged) == count_parameters(plain)
    costs = [layer_costs(model.model, model.layers, 3, 640) for model in (plain, merged)]
    assert [layer.gflops for layer in costs[0]] == [layer.gflops for layer in costs[1]]


@pytest.mark.parametrize("name", DISTINCT)
def test_every_parameter_learns(name: str) -> None:
    model = small(name)
    outputs = model(images(model, 2))
    assert isinstance(outputs, list)
    assert all(level.shape[:2] == (2, model.head.na) and level.shape[4] == 8 for level in outputs)
    torch.stack([level.square().mean() for level in outputs]).sum().backward()
    idle = [key for key, value in model.named_parameters() if value.grad is None]
    frozen = [key for key, value in model.named_parameters() if not value.requires_grad]
    assert idle == frozen
    assert not frozen or "-slimneck-paper" in name  # to count as its paper does, it owns unused convolutions


@pytest.mark.parametrize("name", DISTINCT)
@torch.no_grad()
def test_batching_and_fusing_keep_the_result(name: str) -> None:
    model = small(name).eval()
    x = images(model, 3)
    expected, logits = model(x)
    alone, _ = model(x[1:2])
    torch.testing.assert_close(alone, expected[1:2], rtol=1e-4, atol=1e-3)

    _, fused = model.fuse()(x)
    for one, other in zip(fused, logits):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    used = [part for key, part in model.named_modules() if not key.endswith("res.bn")]
    assert not any(isinstance(part, nn.BatchNorm2d) for part in used)


@pytest.mark.parametrize("name", DISTINCT)
@torch.no_grad()
def test_saving_and_loading_keep_the_result(name: str, tmp_path: Path) -> None:
    model = small(name).eval()
    content = {"model": model.state_dict(), "yaml": model.yaml, "names": model.names, "nc": model.nc}
    write_checkpoint(tmp_path / "a.pt", content)
    x = images(model, 1)
    assert torch.equal(load_model(tmp_path / "a.pt")(x)[0], model(x)[0])


SHAPES = ((1, 64, 64), (3, 64, 64), (2, 128, 192))


@pytest.mark.filterwarnings("ignore")  # tracing is deprecated, and torch's attention draws warnings
@pytest.mark.parametrize("name", DEFAULT_AND_SLOW)
@torch.no_grad()
def test_a_trace_serves_any_batch_and_size(name: str) -> None:
    model = small(name).eval().fuse()
    traced = torch.jit.trace(model, images(model, 1), strict=False, check_trace=False)
    for x in _pictures(model):
        torch.testing.assert_close(traced(x)[0], model(x)[0], rtol=1e-4, atol=1e-3)


@pytest.mark.filterwarnings("ignore")  # as above
@pytest.mark.parametrize("name", DEFAULT_AND_SLOW)
@torch.no_grad()
def test_onnx_runtime_serves_any_batch_and_size(name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    model = small(name).eval().fuse()
    file = io.BytesIO()
    axes = {"images": {0: "batch", 2: "height", 3: "width"}}
    torch.onnx.export(
        model,
        (images(model, 1),),
        file,
        dynamo=False,
        opset_version=17,
        input_names=["images"],
        output_names=["output0"],
        dynamic_axes=axes,
    )
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for x in _pictures(model):
        found = session.run(["output0"], {"images": x.numpy()})[0]
        torch.testing.assert_close(torch.from_numpy(found), model(x)[0], rtol=1e-4, atol=1e-3)


def _pictures(model: DetectionModel) -> Iterator[Tensor]:
    """Batches of several shapes that the model takes."""
    scale = max(1, model.multiple // 64)
    for batch, height, width in SHAPES:
        seed = torch.Generator().manual_seed(height)
        yield torch.rand(batch, 3, height * scale, width * scale, generator=seed)


@pytest.fixture(scope="module")
def parallel_steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What two processes say of a training step, for all layouts; one start serves all tests."""
    results = tmp_path_factory.mktemp("parallel") / "results.json"
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    command = [*launcher, "tests/one_step.py", str(results), *DISTINCT]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(results.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTINCT)
def test_two_processes_take_a_step(parallel_steps: dict[str, str], name: str) -> None:
    assert parallel_steps[name] == "ok"


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
@torch.no_grad()
def test_full_size_runs(name: str) -> None:
    model = DetectionModel(name).eval()
    decoded, _ = model(images(model, 1))
    assert decoded.isfinite().all()
