"""Cut out what the hub's model finds, and a table of it.

python crop_plates.py REPOSITORY best.pt street.jpg
"""

import sys
from pathlib import Path

import cv2
import torch

from utils.general import xyxy2xywh
from utils.plots import save_one_box

repository, weights, *pictures = sys.argv[1:]
model = torch.hub.load(repository, "custom", path=weights, source="local", device="cpu", _verbose=False)
model.conf = 0.25
model.max_det = 5
results = model(pictures, size=96)
results.print()
print(repr(results))
print(sorted(model.model.names.values()) == sorted(model.names.values()))
crops = results.crop(save=True)
print(len(crops), sorted(crops[0]) if crops else [])
results.save()
table = results.pandas().xyxy[0]
table.to_csv("plates.csv", index=False)
image = cv2.imread(pictures[0])
for *xyxy, conf, cls in results.xyxy[0].tolist():
    plate = save_one_box(xyxy, image, file=Path("plates") / model.names[int(cls)] / "plate.jpg", BGR=True)
    assert plate.shape[2] == 3
    gn = torch.tensor(image.shape)[[1, 0, 1, 0]]
    xywh = (xyxy2xywh(torch.tensor(xyxy).view(1, 4)) / gn).view(-1).tolist()
    print(("%g " * 6).rstrip() % (cls, *xywh, conf))
raw = model(torch.zeros(1, 3, 96, 96))
print("raw", tuple(raw.shape))
try:
    results.show()
except ValueError as error:  # without a display
    print(f"{type(error).__name__}: {error}")
