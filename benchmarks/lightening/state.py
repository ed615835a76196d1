"""A search of `lighten.py` at one moment, and the file from which one that was killed goes on.

`search.json` in the run folder has the settings, the times that are measured and the fits that are done.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from models.weights import find_weights, load_model
from training.lightening.config import LightenConfig
from training.lightening.material import settled
from training.resume import saved_hyp, with_saved
from training.run_folder import RunFolder
from training.teacher import save_teacher
from utils.device import select_device
from utils.errors import UserError
from utils.files import safe_name, write_text
from utils.hyperparameters import Hyperparameters
from utils.reading import read_bytes

STATE, WRITTEN = "search.json", b'"written_by": "lighten.py"'
MOST_BYTES = 16 << 20  # of it
SHORT, FULL = "short", "full"  # kinds of fits, and their folders


@dataclass
class Fit:
    """What a fit came to.

    Attributes:
        start, fitted, end: agreement as it was taken over, after least squares, and of its best weights.
        failed: why it came to nothing.
    """

    steps: int = 0
    seconds: float = 0.0
    start: float = 0.0
    end: float = 0.0
    failed: str = ""
    fitted: float | None = None


@dataclass
class Search:
    """A search at one moment; all of it is in `search.json`.

    Attributes:
        ceiling: agreement of the teacher with rounded weights, once it is measured.
        fingerprint: of the pictures.
        timings: milliseconds and ratio of what is timed, by name.
        fits: by kind and name.
    """

    run: RunFolder
    config: LightenConfig
    hyp: Hyperparameters
    ceiling: float | None = None
    fingerprint: str = ""
    timings: dict[str, dict[str, Any]] = field(default_factory=dict)
    fits: dict[str, dict[str, Fit]] = field(default_factory=lambda: {SHORT: {}, FULL: {}})

    KEPT: ClassVar = ("ceiling", "fingerprint", "timings")

    @property
    def teacher(self) -> Path:
        return self.run.teacher

    def save(self) -> None:
        content = {
            "written_by": "lighten.py",  # `WRITTEN`
            "settings": asdict(self.config),
            "hyp": asdict(self.hyp),
            **{name: getattr(self, name) for name in self.KEPT},
            "fits": {
                kind: {name: asdict(fit) for name, fit in some.items()} for kind, some in self.fits.items()
            },
        }
        write_text(self.run.root / STATE, json.dumps(content, indent=1) + "\n")

    def run_of(self, kind: str, name: str) -> RunFolder:
        """The folder of a fit."""
        return RunFolder(self.run.root / kind / safe_name(name))

    @property
    def spent(self) -> float:
        """Seconds that fits have taken."""
        return sum(fit.seconds for some in self.fits.values() for fit in some.values())


def to_continue(config: LightenConfig) -> Path | None:
    """The state of the search that --resume means; None where it means the run of one student."""
    if config.resume is not True:
        return search_above(Path(str(config.resume)))
    project = Path(config.project)
    found = [path for path in project.rglob("last.pt") if path.is_file()]
    found += [path for path in project.rglob(STATE) if path.is_file() and WRITTEN in path.read_bytes()[:200]]
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    return search_above(newest) if newest else None


def search_above(path: Path) -> Path | None:
    """The state of the search that a file belongs to; None when it belongs to none."""
    path = path.absolute()
    if path.name == STATE:
        return path
    # RUN/short/NAME/weights/last.pt; a search has no RUN/weights/last.pt of its own, but who knows
    folders = [*path.parents[3:4], *([] if path.is_file() else path.parents[1:2])]
    return next((folder / STATE for folder in folders if (folder / STATE).is_file()), None)


def continued(config: LightenConfig, path: Path) -> Search:
    """The search whose state is in a file.

    Raises:
        UserError: the file is damaged, or a flag contradicts its settings.
    """
    try:
        content = json.loads(read_bytes(path, MOST_BYTES))
        settings, hyp = content["settings"], content["hyp"]
        kept = {name: content[name] for name in Search.KEPT}
        fits = {
            kind: {name: Fit(**fit) for name, fit in content["fits"][kind].items()} for kind in (SHORT, FULL)
        }
        for timing in kept["timings"].values():
            [[float(value) for value in timing[name]] for name in ("milliseconds", "ratio")]
        if not isinstance(settings, dict):
            raise TypeError("its settings")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not what a search of lighten.py writes ({error}); start anew") from error
    runtime = settings.get("runtime")
    config = with_saved(config, settings, path)
    if config.runtime != runtime:
        raise UserError(f"{path}: the search measures in {runtime}; leave --runtime out, or start anew")
    return Search(RunFolder(path.parent), config, saved_hyp(hyp), **kept, fits=fits)


def begun(config: LightenConfig, hyp: Hyperparameters) -> Search:
    """A new search in a folder of its own, with its teacher."""
    weights = find_weights(config.weights)
    load_model(weights)  # refused before a folder is made
    config = replace(settled(config, weights, select_device(config.device)), resume=False)
    if config.exist_ok and (earlier := Path(config.project) / config.name / STATE).is_file():
        raise UserError(f"{earlier} is of an earlier search; go on with --resume, or give another --name")
    search = Search(RunFolder.create(config.project, config.name, config.exist_ok), config, hyp)
    save_teacher(weights, search.teacher)
    return search
