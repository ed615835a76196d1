"""What a source of a data set is, and which pictures and labels it stands for.

A source is YOLO text unless its pictures have no label files of that kind and something else that is known
lies in its place. One annotation a picture (Pascal VOC, Labelme) is read only when it is needed; a file about
many pictures (COCO, CVAT, Label Studio, csv) has to be read to know which they are.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from utils.data.folders import list_images
from utils.data.formats import darknet
from utils.data.formats.coco import is_coco, read_coco
from utils.data.formats.cvat import ForVideo, read_cvat
from utils.data.formats.labelme import is_labelme, is_labelme_file, read_labelme
from utils.data.formats.labelstudio import is_labelstudio, read_labelstudio
from utils.data.formats.outline import Outline, keep, known
from utils.data.formats.places import RULES, annotation_path, find_pictures
from utils.data.formats.reading import read_json, read_xml
from utils.data.formats.record import Annotated, Annotations
from utils.data.formats.tables import TABLES, head_of, kind_of, read_boxes, side_files
from utils.data.formats.voc import is_voc, read_voc
from utils.data.images import IMAGE_SUFFIXES
from utils.data.labels import SEPARATORS, is_yolo, label_path
from utils.data.report import Fault, counted
from utils.errors import UserError
from utils.reading import read_lines

YOLO, VOC, LABELME = "YOLO text", "Pascal VOC xml", "Labelme json"
COCO, LABELSTUDIO, CVAT = "COCO json", "Label Studio json", "CVAT xml"
MANY = (COCO, LABELSTUDIO, CVAT, *TABLES)  # formats whose files are about many pictures
SUFFIXES = (".json", ".xml", ".csv", ".data")  # of files that may tell of many pictures
MOST_CANDIDATES = 3  # files of one such suffix in a folder that are opened to see what they are
LOOKED_AT = 50  # pictures of which an annotation is looked for
OPENED = 3  # annotations of single pictures that are opened to see what they are
PER_PICTURE: dict[
    str, tuple[str, Callable[[Path], bool], Callable[[Sequence[tuple[str, str]]], Annotations]]
] = {
    ".xml": (VOC, is_voc, read_voc),
    ".json": (LABELME, is_labelme_file, read_labelme),
}


@dataclass
class Source:
    """A source whose format is known."""

    path: Path
    kind: str
    images: list[str]
    labels: list[str]  # of each image, the file that tells of it
    stamp: str = ""  # the state of a file that was read to know the images, before it was read
    found_in: str = ""  # the folder of the pictures, where the file leaves that open
    outline: Outline | None = None  # of a file about many pictures
    read: Callable[[], Annotations] | None = None  # None: YOLO text

    @property
    def said(self) -> str:
        """One line for the console."""
        place = f", pictures in {self.found_in}" if self.found_in else ""
        return f"{self.path}: {self.kind}, {counted(len(self.images), 'picture')}{place}"

    def rows(self, names: Mapping[int, str]) -> tuple[list[str | Annotated | None], list[Fault]]:
        """For each image a label file of YOLO text or its annotations; None where these cannot be read.

        Raises:
            UserError: a file cannot be read.
        """
        if self.read is None:
            return list(self.labels), []
        found = self.read().numbered_as(names, str(self.path))
        by_path = {picture.path: picture for picture in found.pictures}
        return [by_path.get(image) for image in self.images], found.faults


def open_source(path: Path) -> Source:
    """Recognise a source: a folder, a list of pictures, a picture, or a file of annotations.

    Raises:
        UserError: it is not there, cannot be read, or could be several things.
        OSError: it cannot be read.
    """
    if path.suffix.lower() in SUFFIXES and path.is_file():
        source = _of_file(path)
        if source is None:
            raise UserError(f"{path}: {_unknown(path)}")
        return source
    images = list_images([path])
    if images and path.suffix.lower() == ".txt" and _suffix(images[0]) not in IMAGE_SUFFIXES:
        images = find_pictures(path, _listed(read_lines(path)))[0]
    labels = [label_path(image) for image in images]
    if any(map(os.path.exists, labels)):
        return Source(path, YOLO, images, labels)
    beside = [f"{os.path.splitext(image)[0]}.txt" for image in images]  # noqa: PTH122
    if any(map(is_yolo, _there(beside))):
        return Source(path, "YOLO text beside the pictures", images, beside)
    other = (_in_folder(path) if path.is_dir() else None) or _beside(path, images)
    if other is None and path.is_dir() and not images:
        other = _without_pictures(path)
    if other is None and any(map(partial(is_yolo, separators=SEPARATORS), _there(beside))):
        return Source(path, "YOLO text beside the pictures", images, beside)  # the scan tells what is wrong
    return other or Source(path, YOLO, images, labels)


def _listed(lines: Sequence[str]) -> list[str]:
    """The names in a list of VOC's `ImageSets`; in one of a single class a mark, 1, 0 or -1, follows each."""
    marked = [re.fullmatch(r"(.+?)\s+(-1|0|1)", line) for line in lines]
    if all(marked):
        return [found[1] for found in marked if found]
    return list(lines)


def key_of(sources: Sequence[Source], names: Mapping[int, str]) -> int | str:
    """What a scan depends on besides files: the number of classes; of other formats their names."""
    foreign = [source for source in sources if source.read is not None]
    if not foreign:
        return len(names)
    return json.dumps([list(names.values()), *([source.kind, source.stamp] for source in foreign)])


def names_of(sources: Sequence[Path]) -> dict[int, str]:
    """The classes of some sources by number: in the order of their formats, else sorted by name; empty when
    none of them names its classes, as YOLO text without a `classes.txt` does not.

    Raises:
        UserError: a file cannot be read.
        OSError: a file cannot be read.
    """
    found: dict[str, None] = {}
    ordered = True
    for path in sources:
        source = open_source(path)
        if source.kind.startswith(darknet.KIND):
            found.update(dict.fromkeys(darknet.names(path)))
        elif source.read is None:
            found.update(dict.fromkeys(_class_list(source)))
        else:
            if (outline := source.outline) is None:
                outline = Outline.of(source.kind, source.read())
            ordered &= outline.ordered
            found.update(dict.fromkeys(outline.classes))
    return dict(enumerate(found if ordered else sorted(found)))


def _class_list(source: Source) -> list[str]:
    """The lines of the `classes.txt` that labelling tools write beside YOLO text; empty without one."""
    folders = {Path(path).parent for path in (*source.labels[:1], *source.images[:1])}
    places = (folder / "classes.txt" for start in sorted(folders) for folder in (start, start.parent))
    return next((read_lines(place) for place in places if place.is_file()), [])


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()  # noqa: PTH122


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def _of_file(path: Path) -> Source | None:
    """What a file of annotations is; None when it is none that is known."""
    suffix = path.suffix.lower()
    if suffix == ".data":
        listed = darknet.list_of(path, "train")
        if listed is None:
            raise UserError(f"{path}: 'train' is missing; it names a list of pictures")
        source = open_source(listed)
        return dataclasses.replace(source, path=path, kind=f"{darknet.KIND}, {source.kind}")
    stamp = " ".join(map(_stamp, (path, *(side_files(path) if suffix == ".csv" else ()))))
    if (outline := known(path, stamp, MANY)) is not None:
        return _about_many(path, stamp, outline, partial(_read_again, path))
    content = _content(path)
    if isinstance(content, Path):
        return _of_pictures(path, [path], suffix)
    if content is None:
        return None
    outline = Outline.of(*content)
    keep(path, stamp, outline)
    return _about_many(path, stamp, outline, lambda: content)


def _content(path: Path) -> tuple[str, Annotations] | Path | None:
    """The format of a file about many pictures and what it says; the file itself when it is about one.

    None when it is nothing that is known.
    """
    suffix = path.suffix.lower()
    if suffix == ".csv":
        kind = kind_of(head_of(path))
        return (kind, read_boxes(path, kind)) if kind else None
    if suffix == ".xml":
        root = read_xml(path)
        if root.tag == "annotations" and any(
            root.find(tag) is not None for tag in ("image", "meta", "track")
        ):
            return CVAT, read_cvat(path, root)
        return path if root.tag == "annotation" else None
    content = read_json(path)
    if is_coco(content):
        return COCO, read_coco(path, content)
    if is_labelstudio(content):
        return LABELSTUDIO, read_labelstudio(path, content)
    return path if is_labelme(content) else None


def _read_again(path: Path) -> tuple[str, Annotations]:
    """What a file says that was known by its outline."""
    content = _content(path)
    if not isinstance(content, tuple):
        raise UserError(f"{path}: it was changed while it was read; start again")
    return content


def _unknown(path: Path) -> str:
    known = {
        ".json": "COCO's, Label Studio's or Labelme's JSON",
        ".xml": "CVAT's or Pascal VOC's XML",
        ".csv": "a table of boxes (path,x1,y1,x2,y2,class; or a head with filename, class, xmin, …)",
    }
    return f"expected {known.get(path.suffix.lower(), 'annotations')}, found something else"


def _about_many(
    path: Path, stamp: str, outline: Outline, content: Callable[[], tuple[str, Annotations]]
) -> Source:
    """A file about many pictures, once these are found; `content` is asked for when their boxes are."""
    paths, folder = find_pictures(path, outline.pictures)
    images = list(dict.fromkeys(paths))

    @functools.cache
    def read() -> Annotations:
        return _placed(path, dict(zip(outline.pictures, paths)), content()[1])

    return Source(
        path=path,
        kind=outline.kind,
        images=images,
        labels=[str(path)] * len(images),
        stamp=stamp,
        found_in=folder,
        outline=outline,
        read=read,
    )


def _placed(path: Path, places: Mapping[str, str], found: Annotations) -> Annotations:
    """What a file says, with the paths of its pictures in place of their names."""
    seen: dict[str, Annotated] = {}
    faults = list(found.faults)
    for picture in found.pictures:
        place = places.get(picture.path, picture.path)
        if place in seen:
            detail = f"'{picture.path}' and another name both are {place}"
            faults.append(Fault("picture twice", 0, detail, str(path)))
            continue
        seen[place] = dataclasses.replace(picture, path=place)
    return dataclasses.replace(found, pictures=list(seen.values()), faults=faults)


def _in_folder(folder: Path) -> Source | None:
    """The one file in a folder of pictures that tells of them, as Roboflow's `_annotations.coco.json`."""
    found = []
    for suffix in (".json", ".xml", ".csv"):
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() == suffix)
        for file in files if len(files) <= MOST_CANDIDATES else []:
            try:
                source = _of_file(file)
            except ForVideo:
                raise  # that its boxes are left out would be found out late
            except (UserError, OSError):
                continue
            if source is not None and source.kind not in (VOC, LABELME):
                found.append(source)
    if len(found) > 1:
        files_ = " and ".join(f"{source.path.name} ({source.kind})" for source in found)
        raise UserError(f"{folder} has {files_}; name the one that is meant in the data yaml")
    return found[0] if found else None


def _there(files: Sequence[str]) -> list[Path]:
    """Some of these files that are there, to see what they are: a single one may be broken."""
    return [Path(file) for file in files[:LOOKED_AT] if file and os.path.isfile(file)][:OPENED]  # noqa: PTH113


def _beside(path: Path, images: list[str]) -> Source | None:
    """Pictures with an annotation each."""
    for suffix, (kind, is_one, read) in PER_PICTURE.items():
        for rule in RULES[suffix]:
            files = [annotation_path(image, suffix, rule) for image in images[:LOOKED_AT]]
            if any(is_one(file) for file in _there(files)):
                labels = [annotation_path(image, suffix, rule) for image in images]
                pairs = list(zip(images, labels))
                return Source(path, kind, images, labels, read=partial(read, pairs))
    return None


def _without_pictures(folder: Path) -> Source | None:
    """A folder of annotations whose pictures lie elsewhere."""
    for suffix, (_, is_one, _) in PER_PICTURE.items():
        files = sorted(folder.rglob(f"*{suffix}"))
        if any(is_one(file) for file in files[:OPENED]):
            return _of_pictures(folder, files, suffix)
    return None


def _of_pictures(path: Path, files: Sequence[Path], suffix: str) -> Source:
    """Annotations of one picture each, which has the same name."""
    kind, _, read = PER_PICTURE[suffix]
    images, folder = find_pictures(files[0], [file.stem for file in files])
    labels = [str(file) for file in files]
    pairs = list(zip(images, labels))
    return Source(path, kind, images, labels, found_in=folder, read=partial(read, pairs))
