"""How many objects of each class cross the middle of a video: as people write it around YOLOv5's detect.py.

python count_in_video.py --weights best.pt --source street.mp4
"""

import argparse
from collections import Counter
from pathlib import Path

import torch

from models.common import DetectMultiBackend
from utils.dataloaders import LoadImages
from utils.general import (
    LOGGER,
    Profile,
    check_img_size,
    colorstr,
    cv2,
    increment_path,
    non_max_suppression,
    print_args,
    scale_boxes,
)
from utils.plots import Annotator, colors
from utils.torch_utils import select_device, smart_inference_mode


@smart_inference_mode()
def run(weights, source, imgsz, conf_thres, device, project):
    save_dir = increment_path(Path(project) / "exp", exist_ok=False)
    (save_dir / "labels").mkdir(parents=True, exist_ok=True)
    model = DetectMultiBackend(weights, device=select_device(device), dnn=False, data=None, fp16=False)
    stride, names, pt = model.stride, model.names, model.pt
    imgsz = check_img_size(imgsz, s=stride)
    dataset = LoadImages(source, img_size=imgsz, stride=stride, auto=pt, vid_stride=1)
    model.warmup(imgsz=(1, 3, *imgsz))
    totals, writer = Counter(), None
    dt = Profile(), Profile(), Profile()
    for path, im, im0s, vid_cap, s in dataset:
        with dt[0]:
            im = torch.from_numpy(im).to(model.device)
            im = im.half() if model.fp16 else im.float()
            im /= 255
            if len(im.shape) == 3:
                im = im[None]
        with dt[1]:
            pred = model(im, augment=False, visualize=False)
        with dt[2]:
            pred = non_max_suppression(pred, conf_thres, 0.45, None, False, max_det=50)
        for det in pred:
            im0 = im0s.copy()
            s += "%gx%g " % im.shape[2:]
            annotator = Annotator(im0, line_width=2, example=str(names))
            if len(det):
                det[:, :4] = scale_boxes(im.shape[2:], det[:, :4], im0.shape).round()
                for c in det[:, 5].unique():
                    count = (det[:, 5] == c).sum()
                    s += f"{count} {names[int(c)]}{'s' * (count > 1)}, "
                    totals[names[int(c)]] += int(count)
                for *xyxy, conf, cls in reversed(det):
                    annotator.box_label(xyxy, f"{names[int(cls)]} {conf:.2f}", color=colors(int(cls), True))
            im0 = annotator.result()
            if writer is None:
                fps, w, h = vid_cap.get(cv2.CAP_PROP_FPS), im0.shape[1], im0.shape[0]
                assert w == int(vid_cap.get(cv2.CAP_PROP_FRAME_WIDTH))
                target = str((save_dir / Path(path).name).with_suffix(".avi"))
                writer = cv2.VideoWriter(target, cv2.VideoWriter_fourcc(*"MJPG"), fps, (w, h))
            writer.write(im0)
        LOGGER.info(f"{s}{dt[1].dt * 1e3:.1f}ms")
    writer.release()
    LOGGER.info(f"{dataset.frame} of {dataset.frames} frames, {dataset.mode}, {dict(totals)}")
    LOGGER.info(f"Results saved to {colorstr('bold', str(save_dir))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", default="best.pt")
    parser.add_argument("--source", required=True)
    parser.add_argument("--imgsz", nargs="+", type=int, default=[640])
    parser.add_argument("--conf-thres", type=float, default=0.25)
    parser.add_argument("--device", default="")
    parser.add_argument("--project", default="runs/count")
    opt = parser.parse_args()
    opt.imgsz *= 2 if len(opt.imgsz) == 1 else 1
    print_args(vars(opt))
    run(**vars(opt))
