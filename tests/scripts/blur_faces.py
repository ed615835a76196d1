"""Blur what a network finds, in the older style: attempt_load, utils.datasets, scale_coords, plot_one_box.

python blur_faces.py faces.pt pictures/ blurred/
"""

import sys
from pathlib import Path

import cv2
import torch

from models.experimental import attempt_load
from utils.datasets import LoadImages
from utils.general import check_img_size, non_max_suppression, scale_coords, set_logging
from utils.plots import plot_one_box
from utils.torch_utils import select_device, time_synchronized

weights, source, target = sys.argv[1:]
set_logging()
device = select_device("cpu")
half = device.type != "cpu"
model = attempt_load(weights, map_location=device)
stride = int(model.stride.max())
imgsz = check_img_size(100, s=stride)
if half:
    model.half()
names = model.module.names if hasattr(model, "module") else model.names
Path(target).mkdir()
blurred = 0
for path, img, im0s, _, _ in LoadImages(source, img_size=imgsz, stride=stride):
    t1 = time_synchronized()
    img = torch.from_numpy(img).to(device)
    img = img.half() if half else img.float()
    img /= 255.0
    if img.ndimension() == 3:
        img = img.unsqueeze(0)
    with torch.no_grad():
        pred = model(img, augment=False)[0]
    pred = non_max_suppression(pred, 0.25, 0.45, classes=[0, 1], agnostic=True)
    for det in pred:
        det[:, :4] = scale_coords(img.shape[2:], det[:, :4], im0s.shape).round()
        for *xyxy, conf, cls in det[:3]:
            x1, y1, x2, y2 = (int(value) for value in xyxy)
            if x2 > x1 and y2 > y1:
                im0s[y1:y2, x1:x2] = cv2.GaussianBlur(im0s[y1:y2, x1:x2], (31, 31), 0)
                blurred += 1
            plot_one_box(
                xyxy, im0s, label=f"{names[int(cls)]} {conf:.1f}", color=(0, 255, 0), line_thickness=1
            )
    cv2.imwrite(str(Path(target) / Path(path).name), im0s)
    print(f"{path}: done ({time_synchronized() - t1:.3f}s)")
print(f"{blurred} blurred at {imgsz} px")
