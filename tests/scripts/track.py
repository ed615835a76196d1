"""Follow objects from frame to frame by overlap alone: the loop of many a tracker around a hub model.

python track.py REPOSITORY best.pt street.avi
"""

import sys

import cv2
import numpy as np
import torch

from models.common import AutoShape, DetectMultiBackend
from utils.augmentations import letterbox
from utils.general import non_max_suppression, scale_boxes, xywh2xyxy

_, weights, video = sys.argv[1:]
model = AutoShape(DetectMultiBackend(weights, device=torch.device("cpu")))
model.conf, model.iou, model.classes = 0.25, 0.45, [0, 1, 2]
capture = cv2.VideoCapture(video)
tracks, following = {}, 0
while True:
    ret, frame = capture.read()
    if not ret:
        break
    results = model(frame[..., ::-1], size=96)
    boxes = results.xyxy[0].cpu().numpy()[:10]
    for box in boxes:
        best, overlap = None, 0.3
        for key, other in tracks.items():
            low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:4], other[2:4])
            shared = np.prod(np.clip(high - low, 0, None))
            union = np.prod(box[2:4] - box[:2]) + np.prod(other[2:4] - other[:2]) - shared
            if shared / max(union, 1e-9) > overlap:
                best, overlap = key, shared / union
        if best is None:
            following += 1
            best = following
        tracks[best] = box[:4]
    # the same by hand must give the same
    im, ratio, pad = letterbox(frame, 96, stride=32, auto=True)
    im = np.ascontiguousarray(im.transpose((2, 0, 1))[::-1])
    pred = model.model(torch.from_numpy(im)[None].float() / 255)
    centres = pred.clone()
    assert torch.equal(xywh2xyxy(centres)[..., 4:], pred[..., 4:])
    det = non_max_suppression(pred, 0.25, 0.45, classes=[0, 1, 2], max_det=1000)[0]
    scale_boxes(im.shape[1:], det[:, :4], frame.shape)
    assert np.allclose(det.numpy()[:10], boxes, atol=1e-3)
capture.release()
print(f"{following} objects, {len(results.pandas().xywhn[0])} in the last frame")
