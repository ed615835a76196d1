"""Detects objects with OpenCV and numpy alone, in the ONNX file of `export.py --include onnx --opset 12`.

    python client.py best.onnx picture.jpg 640

The number is the export's --imgsz. Prints `class x1 y1 x2 y2 score` a line, in pixels of the picture, the
most confident first.
"""

from __future__ import annotations

import sys

import cv2
import numpy as np

CONFIDENCE, OVERLAP = 0.25, 0.45
APART = 10000  # pixels between classes, beyond any box: only boxes of one class overlap


def detect(net: cv2.dnn.Net, picture: np.ndarray, side: int) -> np.ndarray:
    """(n, 6) float: x1, y1, x2, y2 in pixels, score, class of a picture, (H, W, 3) uint8 BGR."""
    size = np.array(picture.shape[1::-1])  # width, height
    scale = min(side / size)
    width, height = (max(round(length * scale), 1) for length in size)
    left, top = (side - width) // 2, (side - height) // 2  # an odd pixel goes to the right, or below
    canvas = np.full((side, side, 3), 114, np.uint8)
    canvas[top : top + height, left : left + width] = cv2.resize(picture, (width, height))
    net.setInput(cv2.dnn.blobFromImage(canvas, 1 / 255, swapRB=True))
    output = net.forward()  # (1, N, 5 + classes): centre, size, objectness, scores of the classes
    if output.ndim != 3:
        raise ValueError("it has no list of predictions; export without --raw and --nms")
    rows = output[0]
    scores = rows[:, 4:5] * rows[:, 5:]
    classes, best = scores.argmax(1), scores.max(1)
    corners = rows[:, :2] - rows[:, 2:4] / 2
    boxes = np.hstack((corners + APART * classes[:, None], rows[:, 2:4]))
    kept = np.array(cv2.dnn.NMSBoxes(boxes.tolist(), best.tolist(), CONFIDENCE, OVERLAP), int).reshape(-1)
    low, high = corners[kept], corners[kept] + rows[kept, 2:4]
    padding = (side - size * scale) / 2
    points = [np.clip((point - padding) / scale, 0, size) for point in (low, high)]
    return np.hstack((*points, best[kept, None], classes[kept, None]))


if __name__ == "__main__":
    if len(sys.argv) != 4 or not sys.argv[3].isdecimal():
        sys.exit("usage: client.py best.onnx picture.jpg 640")
    image = cv2.imread(sys.argv[2])
    if image is None:
        sys.exit(f"error: cannot read picture '{sys.argv[2]}'")
    try:
        found = detect(cv2.dnn.readNetFromONNX(sys.argv[1]), image, int(sys.argv[3]))
    except (cv2.error, ValueError) as error:
        reason = " ".join(str(getattr(error, "err", error)).split())  # in one line
        sys.exit(f"error: '{sys.argv[1]}' cannot run at {sys.argv[3]}: {reason}")
    for x1, y1, x2, y2, score, category in found:
        print(f"{category:.0f} {x1:.2f} {y1:.2f} {x2:.2f} {y2:.2f} {score:.4f}")
