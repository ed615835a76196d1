"""Write a trained network in the formats of other runtimes, each compared with PyTorch before it is kept.

python export.py --weights best.pt --include onnx openvino        # best.onnx, best_openvino_model/
python export.py --weights best.pt --include onnx --dynamic       # any batch, any multiples of the stride
python export.py --weights best.pt --include onnx --nms --topk-all 300
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from utils.interrupt import quiet_until_watched

if __name__ == "__main__":
    quiet_until_watched()

from models.exporting.config import ExportConfig
from models.exporting.hints import hints
from models.exporting.run import export
from models.weights import find_weights
from utils.console import LOGGER, setup_console
from utils.device import select_device
from utils.errors import Incomplete, UserError, run_command
from utils.flags import parse_flags


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with these arguments, or with those of the process."""
    config = parse_flags(ExportConfig, argv, about=__doc__)
    setup_console()
    if config.verbose:
        LOGGER.setLevel(logging.DEBUG)
    if config.inplace:
        LOGGER.info("--inplace changes nothing: the head writes nothing in place")
    if select_device(config.device).type != "cpu":
        LOGGER.info(f"--device {config.device}: files are made on the CPU; they run on any device")
    weights = find_weights(config.weights[0] if config.weights else "")
    artefacts, failed = export(weights, config)
    LOGGER.info(hints(artefacts, config, weights))
    count, height, width = len(artefacts), config.imgsz[0], config.imgsz[-1]
    LOGGER.info(f"{count} of {count + len(failed)} formats of {weights} for {height}x{width} px images")
    if failed:
        raise (Incomplete if artefacts else UserError)(f"not written: {'; '.join(map(str, failed))}")


if __name__ == "__main__":
    run_command(main)
