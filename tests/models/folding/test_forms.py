"""Equal forms: each means the same, looks as its name says, and is chosen by site."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from models.blocks.hetero import HetConv
from models.blocks.partial import PConv
from models.blocks.pool import SPPF
from models.deploy import deploy
from models.folding.checked import KEPT, fold
from models.folding.forms import KINDS, Chooser, Site, as_measured, by_rule
from models.yolo import DetectionModel
from tests.models.folding.test_rules import Net

SITE = Site("groups", 16, 32, (3, 5), 2, 4, (80, 160))


def always(kind: str, form: str) -> Chooser:
    """One form for all sites of a kind, where they have it."""

    def choose(site: Site, forms: Sequence[str]) -> str:
        return form if site.kind == kind and form in forms else by_rule(site, forms)

    return choose


def two_entries() -> Net:
    """Two convolutions of one map."""
    return Net(
        lambda n, x: n.c(torch.cat((n.a(x).relu(), n.b(x).relu()), 1)),
        a=nn.Conv2d(16, 16, 1),
        b=nn.Conv2d(16, 24, 1),
        c=nn.Conv2d(40, 8, 1),
    )


def two_halves() -> Net:
    """A convolution whose output is read in two slices."""

    def flow(n: Net, x: Tensor) -> Tensor:
        y = n.a(x).relu()
        return torch.cat((n.b(y[:, :16]), n.c(y[:, 16:])), 1)

    return Net(flow, a=nn.Conv2d(16, 32, 1), b=nn.Conv2d(16, 16, 3), c=nn.Conv2d(16, 16, 3))


def enlarged() -> nn.Module:
    """A map that is enlarged for a 1x1 convolution."""
    return nn.Sequential(nn.Conv2d(16, 16, 3), nn.Upsample(scale_factor=2), nn.Conv2d(16, 8, 1))


def layers(kind: type, groups: int | None = None) -> Callable[[nn.Module], int]:
    """How many layers of a kind there are, of convolutions those in so many groups."""
    return lambda net: sum(
        isinstance(part, kind) and groups in (None, getattr(part, "groups", None)) for part in net.modules()
    )


def first_kernel(net: nn.Module) -> int:
    return max(part.kernel_size for part in net.modules() if isinstance(part, nn.MaxPool2d))


def out_of_first(net: nn.Module) -> int:
    return next(part.out_channels for part in net.modules() if isinstance(part, nn.Conv2d))


def ends_enlarged(net: nn.Module) -> int:
    last = [node for node in net.graph.nodes if node.op == "call_module"][-1]
    return isinstance(net.get_submodule(last.target), nn.Upsample)


# kind, network, its channels, form by rule and what tells it, another form and what tells that
CASES = [
    ("groups", HetConv(32, 32, p=4), 32, ("4", layers(nn.Conv2d, 4), 1), ("2", layers(nn.Conv2d, 2), 1)),
    ("groups", HetConv(32, 32, p=4), 32, ("4", layers(nn.Conv2d), 2), ("1", layers(nn.Conv2d), 1)),
    (
        "depthwise",
        nn.Sequential(nn.Conv2d(16, 16, 5, groups=16)),
        16,
        ("depthwise", layers(nn.Conv2d, 16), 1),
        ("dense", layers(nn.Conv2d, 1), 1),
    ),
    ("sum", two_entries(), 16, ("sum", layers(nn.Conv2d), 4), ("one", layers(nn.Conv2d), 3)),
    ("entries", two_entries(), 16, ("apart", out_of_first, 16), ("one", out_of_first, 40)),
    ("slices", two_halves(), 16, ("apart", out_of_first, 16), ("cut", out_of_first, 32)),
    ("pools", SPPF(32, 32), 32, ("chain", first_kernel, 5), ("beside", first_kernel, 13)),
    ("partial", PConv(16), 16, ("apart", out_of_first, 4), ("one", out_of_first, 16)),
    ("upsample", enlarged(), 16, ("before", ends_enlarged, 1), ("after", ends_enlarged, 0)),
]


@pytest.mark.parametrize(("kind", "net", "channels", "usual", "other"), CASES)
def test_a_form_is_what_its_name_says(
    kind: str,
    net: nn.Module,
    channels: int,
    usual: tuple[str, Callable[[nn.Module], int], int],
    other: tuple[str, Callable[[nn.Module], int], int],
) -> None:
    torch.manual_seed(0)
    net = net.double().eval()
    x = torch.randn(2, channels, 20, 24, dtype=torch.float64)
    for form, tells, expected in (usual, other):
        folded = fold(net, (1, channels, 16, 16), always(kind, form))
        assert KEPT not in folded.rules
        forms = next(forms for site, forms in folded.sites.items() if site.kind == kind)
        assert forms[0] == usual[0]
        assert form in forms
        assert tells(folded.network) == expected
        torch.testing.assert_close(folded.network(x), net(x), rtol=1e-9, atol=1e-9)


def test_every_kind_is_tried() -> None:
    assert {case[0] for case in CASES} == set(KINDS)


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
@pytest.mark.parametrize(
    "variant",
    ["", "-csphet", "-csppc", "-slimneck", "-c3dual", "-fasternet-backbone", "-shufflenetv2", "-dsconv"],
)
def test_a_network_in_any_forms_means_the_same(variant: str, seed: int) -> None:
    torch.manual_seed(seed)
    model = DetectionModel(f"yolov5n{variant}.yaml").eval()
    draw = random.Random(seed)
    drawn: dict[Site, str] = {}

    def choose(site: Site, forms: Sequence[str]) -> str:
        return drawn.setdefault(site, draw.choice(forms))

    image = torch.rand(2, 3, 64, 96)
    deployed = deploy(model, (64, 96), choose=choose)
    assert KEPT not in deployed.rules
    assert set(deployed.sites) <= set(drawn)
    with torch.inference_mode():
        expected, found = model(image)[0], deployed(image)[0]
    assert float((expected - found).abs().max()) < 1e-5 * float(expected.abs().max())


def test_sites_know_the_size_that_the_network_will_see() -> None:
    model = DetectionModel("yolov5n-csphet.yaml").eval()
    sides = {site.side for site in deploy(model, (320, 640)).sites if site.kind == "groups"}
    assert sides == {(80, 160), (40, 80), (20, 40), (10, 20)}
    assert {site.side for site in deploy(model).sites if site.kind == "groups"} == {
        (160, 160), (80, 80), (40, 40), (20, 20),
    }  # fmt: skip


def test_a_site_is_a_text() -> None:
    assert str(SITE) == "groups 16>32 k3x5/2 n4 @80x160"
    assert Site.parse(str(SITE)) == SITE


@pytest.mark.parametrize("text", ["", "groups", "nothing 16>32 k3x5/2 n4 @80x160", f"{SITE} ", f"{SITE}0x"])
def test_another_text_is_no_site(text: str) -> None:
    with pytest.raises(ValueError, match="names no place of a folded network"):
        Site.parse(text)


def test_what_was_not_measured_or_is_no_form_is_as_before() -> None:
    choose = as_measured({SITE: "2"}, always("groups", "1"))
    assert choose(SITE, ("4", "2", "1")) == "2"
    assert choose(SITE, ("4", "1")) == "1"
    assert choose(Site("groups", 8, 8, (3, 3), 1, 2, (8, 8)), ("2", "1")) == "1"
    assert as_measured({})(SITE, ("4", "2")) == "4"
