"""A page that runs the network in a browser: a folder with the ONNX, the page, and ONNX Runtime Web.

ONNX Runtime Web's files are not ours and not small: they come from the user's own copy of its npm package,
and are taken only when they are those of the version that is pinned here. The page asks no other machine for
anything.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import shutil
import tarfile
import zlib
from pathlib import Path
from typing import Any

from models.exporting import onnx
from models.exporting.config import ExportConfig
from models.exporting.job import Job
from utils.data.channels import COLOUR
from utils.errors import UserError
from utils.files import write_text
from utils.palette import class_color

SUFFIX = "_web"
TEMPLATES = Path(__file__).with_name("templates") / "web"
LICENCE = "LICENSE-onnxruntime-web.txt"
PAGE = ("index.html", "page.css", "page.js", "network.js", "rules.js", "serve.py", LICENCE)
SETTINGS = "page.json"
COLOURS = 20  # of the palette, which repeats after them
MOST_DETECTIONS = 1000  # as of detect.py
CHANNELS = (1, COLOUR)  # that a picture has in a browser

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
ARCHIVE = f"{PACKAGE}-{VERSION}.tgz"  # as `npm pack` calls it
GET = f"`npm pack {PACKAGE}@{VERSION}`"
LARGEST = 1 << 26  # bytes of a file of it
GPU = "ort-wasm-simd-threaded.asyncify"  # what waits for the graphics card
# SHA-256 of those of its files that the page loads: without WebGPU the first three, with it the others
RUNTIME = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    "ort.webgpu.min.mjs": "3dffff71811bc13a3a3d9591c57ca5ee5735b8f5f3eaf789510b02bb040ae3a0",
    f"{GPU}.mjs": "3d1c85995364bb643302fc6fd877a0c3ba5ae72401815e0f24828a53d9191e28",
    f"{GPU}.wasm": "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da",
}


def check(config: ExportConfig) -> None:
    """Raise a UserError before the work when no page can be made of it."""
    if config.batch_size > 1:
        raise UserError(f"web: a page sees one picture a call; leave out --batch-size {config.batch_size}")
    runtime_place(config.web_runtime)


def export(job: Job) -> None:
    """Write the folder.

    Raises:
        UserError: no copy of ONNX Runtime Web, or another one; pictures of four channels.
    """
    channels = job.image.shape[1]
    if channels not in CHANNELS:
        raise UserError(f"pictures in a browser have no fourth channel; the network takes {channels}")
    folder = job.target
    folder.mkdir()
    copy_runtime(runtime_place(job.config.web_runtime), folder)
    for name in PAGE:
        shutil.copyfile(TEMPLATES / name, folder / name)
    network = network_of(folder)
    onnx.export(dataclasses.replace(job, target=network))
    write_text(folder / SETTINGS, json.dumps(_settings(job, network.name), ensure_ascii=False, indent=1))


def network_of(folder: Path) -> Path:
    """The ONNX file in the folder of a page."""
    return folder / f"{folder.name.removesuffix(SUFFIX)}.onnx"


def is_written_here(folder: Path) -> bool:
    """Whether `export` made a folder, and nobody put anything into it since: another may replace it."""
    files = {file.name for file in folder.iterdir() if file.is_file() and not file.is_symlink()}
    own = {*PAGE, *RUNTIME, SETTINGS, network_of(folder).name}
    return SETTINGS in files and len(files) == len(list(folder.iterdir())) and files <= own


def _settings(job: Job, network: str) -> dict[str, Any]:
    """What the page reads first; the rest it reads from the ONNX file itself, as from any that is dropped."""
    blue_first = [class_color(index) for index in range(COLOURS)]
    return {
        "title": f"{network.removesuffix('.onnx')}: {job.metadata['variant']}",
        "networks": [network],
        "colours": [f"#{red:02x}{green:02x}{blue:02x}" for blue, green, red in blue_first],
        "conf_thres": job.config.conf_thres,
        "iou_thres": job.config.iou_thres,
        "max_det": MOST_DETECTIONS,
    }


# ---- ONNX Runtime Web ----


def runtime_place(given: str) -> Path:
    """The user's copy of the npm package: its archive, or a folder that it was unpacked or installed to.

    Raises:
        UserError: there is none.
    """
    place = Path(given or ARCHIVE)
    if place.exists():
        return place
    where = f"--web-runtime {given}: not found; it" if given else "web"
    how = "give that file" if given else "here, or say where it is with --web-runtime"
    raise UserError(f"{where} needs your copy of {PACKAGE} {VERSION} (33 MB, MIT licence): {GET}, {how}")


def copy_runtime(place: Path, folder: Path) -> None:
    """Write the files that the page loads, each checked.

    Raises:
        UserError: it lacks a file, or has a different one.
    """
    found = _from_folder(place) if place.is_dir() else _from_archive(place)
    for name, expected in RUNTIME.items():
        if name not in found or hashlib.sha256(found[name]).hexdigest() != expected:
            what = f"its dist/{name} is another" if name in found else f"there is no dist/{name}"
            raise UserError(f"'{place}' is not {PACKAGE} {VERSION}: {what}; get that one: {GET}")
        (folder / name).write_bytes(found[name])


def _from_folder(place: Path) -> dict[str, bytes]:
    """The contents of the files in `dist/` by their names, those that there are."""
    found = {}
    for name in RUNTIME:
        file = place / "dist" / name
        if file.is_file():
            with file.open("rb") as handle:
                found[name] = handle.read(LARGEST)
    return found


def _from_archive(place: Path) -> dict[str, bytes]:
    """The same from the file that npm packs; nothing else of it is unpacked."""
    found = {}
    try:
        with tarfile.open(place, "r:gz") as archive:
            for member in archive:
                name = member.name.removeprefix("package/dist/")
                source = archive.extractfile(member) if name in RUNTIME and member.isfile() else None
                if source:
                    found[name] = source.read(LARGEST)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"'{place}' is no npm package, or damaged; get it anew: {GET}") from error
    return found
