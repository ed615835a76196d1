"""Somebody else's detector, in miniature: classes of YOLOv5's names, written from their public descriptions.

`write(folder)` puts them where a file of YOLOv5 looks for them. They have no constructors of their own: what
their `forward` needs must stand in the file.
"""

from __future__ import annotations

from pathlib import Path

COMMON = """
import torch
from torch import nn

class Conv(nn.Module):
    def forward(self, x):
        return self.act(self.bn(self.conv(x)))

class DWConv(Conv): pass
class DWConvTranspose2d(nn.ConvTranspose2d): pass

class Bottleneck(nn.Module):
    def forward(self, x):
        y = self.cv2(self.cv1(x))
        return y + x if self.add else y

class CrossConv(Bottleneck): pass

class C3(nn.Module):
    def forward(self, x):
        left, right = self.m(self.cv1(x)), self.cv2(x)
        return self.cv3(torch.cat([left, right], 1))

class C3x(C3): pass
class C3TR(C3): pass
class C3SPP(C3): pass
class C3Ghost(C3): pass

class BottleneckCSP(nn.Module):
    def forward(self, x):
        left, right = self.cv3(self.m(self.cv1(x))), self.cv2(x)
        return self.cv4(self.act(self.bn(torch.cat([left, right], 1))))

class SPP(nn.Module):
    def forward(self, x):
        y = self.cv1(x)
        return self.cv2(torch.cat([y] + [pool(y) for pool in self.m], 1))

class SPPF(nn.Module):
    def forward(self, x):
        a = self.cv1(x)
        b = self.m(a)
        c = self.m(b)
        return self.cv2(torch.cat([a, b, c, self.m(c)], 1))

class Focus(nn.Module):
    def forward(self, x):
        even, odd = x[:, :, 0::2], x[:, :, 1::2]
        return self.conv(torch.cat([even[..., 0::2], odd[..., 0::2], even[..., 1::2], odd[..., 1::2]], 1))

class GhostConv(nn.Module):
    def forward(self, x):
        dense = self.cv1(x)
        return torch.cat([dense, self.cv2(dense)], 1)

class GhostBottleneck(nn.Module):
    def forward(self, x):
        return self.shortcut(x) + self.conv(x)

class TransformerLayer(nn.Module):
    def forward(self, x):
        x = x + self.ma(self.q(x), self.k(x), self.v(x))[0]
        return x + self.fc2(self.fc1(x))

class TransformerBlock(nn.Module):
    def forward(self, x):
        if self.conv is not None:
            x = self.conv(x)
        batch, _, height, width = x.shape
        tokens = x.flatten(2).permute(2, 0, 1)
        tokens = self.tr(tokens + self.linear(tokens))
        return tokens.permute(1, 2, 0).reshape(batch, self.c2, height, width)

class Contract(nn.Module):
    def forward(self, x):
        g = self.gain
        return torch.cat([x[:, :, i::g, j::g] for i in range(g) for j in range(g)], 1)

class Expand(nn.Module):
    def forward(self, x):
        g = self.gain
        batch, channels, height, width = x.shape
        x = x.view(batch, g, g, -1, height, width).permute(0, 3, 4, 1, 5, 2)
        return x.reshape(batch, -1, height * g, width * g)

class Concat(nn.Module):
    def forward(self, x):
        return torch.cat(x, self.d)
"""

EXPERIMENTAL = """
import torch
from torch import nn

class MixConv2d(nn.Module):
    def forward(self, x):
        return self.act(self.bn(torch.cat([conv(x) for conv in self.m], 1)))
"""

YOLO = """
import torch
from torch import nn

class Detect(nn.Module):
    def forward(self, maps):
        rows = []
        for level in range(self.nl):
            batch, _, height, width = maps[level].shape
            y = self.m[level](maps[level]).view(batch, self.na, self.no, height, width).sigmoid()
            y = y.permute(0, 1, 3, 4, 2)
            across, down = torch.arange(width).float(), torch.arange(height).float()
            cell = torch.stack([across.expand(height, width), down[:, None].expand(height, width)], 2)
            xy = (2 * y[..., :2] - 0.5 + cell) * self.stride[level]
            wh = (2 * y[..., 2:4]) ** 2 * self.anchor_grid[level]
            pixels = self.anchors[level] * self.stride[level]
            assert torch.allclose(self.anchor_grid[level][0, :, 0, 0], pixels)
            rows.append(torch.cat([xy, wh, y[..., 4:]], 4).view(batch, -1, self.no))
        assert len(self.grid) == self.nl and self.inplace
        return torch.cat(rows, 1)

class Model(nn.Module):
    def forward(self, x):
        kept = []
        for layer in self.model:
            if isinstance(layer.f, int):
                x = x if layer.f == -1 else kept[layer.f]
            else:
                x = [x if index == -1 else kept[index] for index in layer.f]
            x = layer(x)
            kept.append(x if layer.i in self.save else None)
        return x
"""

# opens every file beside it as YOLOv5's loader does, whose classes are found by their names alone
RUN = """
import sys
from pathlib import Path
import torch

torch.set_grad_enabled(False)
for file in sorted(Path(sys.argv[1]).glob("*_yolov5.pt")):
    content = torch.load(file, map_location="cpu", weights_only=False)
    model = (content.get("ema") or content["model"]).float().eval()
    assert model.stride.tolist() == model.model[-1].stride.tolist() and len(model.names) == model.nc
    for layer in model.model:
        assert layer.np == sum(parameter.numel() for parameter in layer.parameters())
    images = torch.load(file.with_suffix(".images"))
    torch.save(model(images), file.with_suffix(".output"))
"""


def write(folder: Path) -> Path:
    """Write the package `models` and the script into a folder; returns the script."""
    package = folder / "models"
    package.mkdir()
    for name, text in (
        ("__init__", ""), ("common", COMMON), ("experimental", EXPERIMENTAL), ("yolo", YOLO),
    ):  # fmt: skip
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    script = folder / "run.py"
    script.write_text(RUN, encoding="utf-8")
    return script
