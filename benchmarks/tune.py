"""Which of equal forms are fastest here, site by site, in the runtimes that people deploy.

    python benchmark.py tune --cfg yolov5n-csphet yolov5n-c3dual --runtimes onnx openvino
    python benchmark.py tune --cfg yolov5n-csphet yolov5n-c3dual --table     # into data/forms/cpu.yaml

What was timed on this machine before is not timed again. `data/forms/cpu.yaml` decides where nobody measures:
with `--table` its entries for these runtimes and this kind of CPU are completed by what is found.
"""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from benchmarks.networks import ModelsConfig, check_packages, models_of
from benchmarks.pages import console_table
from models.folding.forms import KINDS
from models.runtimes.machine import Machine
from models.tuning.findings import TABLE, table, tune_here
from models.tuning.tune import BUDGET, TUNED, Findings
from utils.console import LOGGER, setup_console
from utils.files import write_text
from utils.flags import at_least, flag, one_of

HEAD = """\
# Which of equal forms of a folded network is fastest, by runtime and kind of CPU, as it was measured: what
# `export.py` takes without `--tune`. A site that is not here takes the form of its nearest, or the rule's.
# models/folding/forms.py says what the names mean. ARM has not been measured; there the rules hold, as nearly
# everywhere with AVX2. Written by
# `python benchmark.py tune --table --cfg yolov5n yolov5n-gsconv yolov5n-gsconv-all yolov5n-slimneck`
# `yolov5n-slimneck-paper yolov5n-slimneckc yolov5n-shufflenetv2 yolov5n-csppc yolov5n-c3dual yolov5n-c3het`
# `yolov5n-csphet yolov5n-dsconv yolov5n-fasternet-backbone yolov5n-lcnet-backbone`
# `yolov5n-mobilenetv3-backbone yolov5n-expand yolov5s-csphet yolov5s-c3dual`
"""


@dataclass(frozen=True)
class Config(ModelsConfig):
    """Time equal forms of networks."""

    runtimes: tuple[str, ...] = flag(("onnx", "openvino"), f"some of {', '.join(TUNED)}", rule=one_of(TUNED))
    seconds: float = flag(BUDGET, "longest time for a network in a runtime", rule=at_least(1))
    table: bool = flag(False, "write what is found into data/forms/cpu.yaml")


def run(config: Config) -> None:
    """Print for each runtime what the forms of each site take; usual is the form of the rule.

    Raises:
        UserError: unknown models, a side that is no multiple of a stride, or a missing package.
    """
    setup_console()
    runtimes = list(dict.fromkeys(config.runtimes))
    check_packages(runtimes)
    models, size = models_of(config), (config.imgsz, config.imgsz)
    for runtime in runtimes:
        machine = Machine.here(runtime, config.threads)
        found: Findings = {}
        for name, model in models.items():
            LOGGER.info(name)
            tuning = tune_here(model, runtime, size, config.threads, budget=config.seconds)
            found |= {site: one for site, one in tuning.findings.items() if not one.wide}
        print(f"\n{machine}\n{console_table(rows(found), 'lll')}")
        if config.table:
            write_table(machine, found)


def rows(found: Findings) -> list[tuple[str, ...]]:
    """A row for each site: the form that is best, and the time of each over that of the first."""
    shown = []
    for site in sorted(found, key=lambda site: (list(KINDS).index(site.kind), str(site))):
        each = (f"{name} {m:.2f} ({low:.2f}-{up:.2f})" for name, (low, m, up) in found[site].ratios.items())
        shown.append((str(site), found[site].form, ", ".join(each)))
    return [("site", "form", "time over that of the first (quartiles)"), *shown]


def write_table(machine: Machine, found: Findings) -> None:
    """Complete the entry of `data/forms/cpu.yaml` for a runtime and kind of CPU."""
    key = (machine.runtime, machine.instructions)
    entries = {(entry["runtime"], entry["instructions"]): entry for entry in table()}
    entry = entries.setdefault(
        key, {"runtime": machine.runtime, "instructions": machine.instructions, "machine": "", "forms": {}}
    )
    entry["machine"] = str(machine)
    forms = entry["forms"] | {str(site): one.form for site, one in found.items()}
    entry["forms"] = {text: forms[text] for text in sorted(forms)}
    content = yaml.safe_dump([entries[name] for name in sorted(entries)], sort_keys=False, width=200)
    write_text(TABLE, HEAD + content)
    table.cache_clear()
    LOGGER.info(f"{len(forms)} sites of {machine.runtime} on {machine.instructions} in {TABLE}")
