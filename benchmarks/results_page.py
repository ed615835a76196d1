"""The page that a comparison is written on: commands, budget, table, and what can be said about the spread.

Everything on it follows from the finished runs and the flags, so that the same runs give the same page.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.comparison import CONFIDENCE, Comparison, Score, Spread, Variant
from benchmarks.outcome import REFERENCE_SIZE

MARK = (
    "<!-- Written by `benchmark.py train`, which replaces it; own words belong into the file of --notes. -->"
)
NONE = "–"
WIDTH = 100  # columns of a command


@dataclass(frozen=True)
class Setting:
    """What the runs have in common, in words.

    Attributes:
        data: name of the data set.
        budget: one sentence.
        commands: what reproduces the runs, in words of the shell.
        imgsz: training size in pixels.
        images, labels: of the validation split.
    """

    data: str
    budget: str
    commands: tuple[tuple[str, ...], ...]
    imgsz: int
    images: int
    labels: int


def page(setting: Setting, comparison: Comparison, plot: str, notes: str = "") -> str:
    """The whole page as Markdown; `plot` is the file name of the picture, `notes` are added word for word."""
    parts = [
        MARK,
        f"# {_counted(len(comparison.variants), 'variant')} on {setting.data}",
        "```\n" + "\n".join(map(shell, setting.commands)) + "\n```",
        f"{setting.budget} {versions(comparison)}",
        table(comparison, setting.imgsz),
        legend(comparison),
        f"![mAP50-95 against GFLOPs, numbered as in the table]({plot})",
        "## What the numbers say, and what not",
        *remarks(setting, comparison),
        *([notes.strip("\n")] if notes.strip() else []),
    ]
    return "\n\n".join(parts) + "\n"


def shell(words: Sequence[str]) -> str:
    """A command as one types it, continued on the next line where it is long, if possible before a flag."""
    lines: list[str] = []
    for word in map(shlex.quote, words):
        room = WIDTH - (30 if word.startswith("--") else 0)  # for what belongs to the flag
        if lines and len(lines[-1]) + len(word) < room:
            lines[-1] += f" {word}"
        else:
            lines.append(f"    {word}" if lines else word)
    return " \\\n".join(lines)


def commands_for(comparison: Comparison, flags: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The calls of `benchmark.py train` that lead to these runs: one for the variants of each set of seeds.

    The baseline is the first variant of the last call.
    """
    groups: dict[tuple[int, ...], list[Variant]] = {}
    ordered = [
        comparison.baseline,
        *sorted(
            (v for v in comparison.variants if v != comparison.baseline), key=lambda variant: variant.name
        ),
    ]
    for variant in ordered:
        groups.setdefault(variant.seeds, []).append(variant)
    first, *others = groups.items()  # that of the baseline goes last
    return tuple(
        (
            *("python", "benchmark.py", "train", "--variants", *(bare(v.runs[0].cfg) for v in members)),
            *("--seeds", *map(str, seeds), *flags),
        )
        for seeds, members in (*others, first)
    )


def bare(path: str) -> str:
    """A path as it was typed; of an absolute one, which says where someone keeps files, only the name."""
    absolute = path.startswith(("/", "~", "\\")) or path[1:2] == ":"
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2] if absolute else path


def versions(comparison: Comparison) -> str:
    """What the runs were computed with; several when not all were with the same."""
    found = {
        f"PyTorch {f.torch} on {f.device}" + (f" with {f.threads} threads" if f.device == "cpu" else "")
        for variant in comparison.variants
        for f in (run.facts for run in variant.runs)
    }
    return f"{' and '.join(sorted(found))}."


def table(comparison: Comparison, imgsz: int) -> str:
    """One row a variant, by falling mAP50-95; the best of a column is bold."""
    heads = ["#", "variant", "seeds", "mAP50-95", "mAP50", "difference", "parameters", f"GFLOPs at {imgsz}"]
    if imgsz != REFERENCE_SIZE:
        heads.append(f"GFLOPs at {REFERENCE_SIZE}")
    rows = [
        _row(rank, variant, comparison, imgsz) for rank, variant in enumerate(comparison.variants, start=1)
    ]
    lines = [[*heads, "taken over", "s/epoch"], ["---:", ":---", *["---:"] * len(heads)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(rank: int, variant: Variant, comparison: Comparison, imgsz: int) -> list[str]:
    def marked(value: Callable[[Variant], float], best: Callable[..., float], text: str) -> str:
        return f"**{text}**" if value(variant) == best(map(value, comparison.variants)) else text

    facts = variant.facts
    name = f"{variant.name} (baseline)" if variant == comparison.baseline else variant.name
    operations = marked(lambda v: v.facts.gflops, min, f"{facts.gflops:.3f}")
    return [
        str(rank),
        name,
        str(len(variant.runs)),
        marked(lambda v: v.map50_95.mean, max, _score(variant.map50_95)),
        marked(lambda v: v.map50.mean, max, _score(variant.map50)),
        _difference(variant, comparison),
        marked(lambda v: v.facts.parameters, min, f"{facts.parameters:,}"),
        operations,
        *(
            [marked(lambda v: v.facts.gflops_640, min, f"{facts.gflops_640:.3f}")]
            if imgsz != REFERENCE_SIZE
            else []
        ),
        NONE if facts.transferred is None else f"{facts.transferred:.1%}",
        NONE if variant.seconds is None else f"{variant.seconds:.1f}",
    ]


def _score(score: Score) -> str:
    return f"{score.mean:.3f} ± {NONE if score.sd is None else f'{score.sd:.3f}'}"


def _difference(variant: Variant, comparison: Comparison) -> str:
    if variant == comparison.baseline:
        return NONE
    difference = comparison.difference(variant)
    spread = comparison.spread
    return f"{difference:+.3f}" + (f" ({difference / spread.sd:+.1f} sd)" if spread and spread.sd else "")


def legend(comparison: Comparison) -> str:
    """How the columns are to be read."""
    units = ", in brackets in units of the pooled sd of the seeds" if comparison.spread else ""
    return (
        f"mAP: mean ± sample standard deviation over the seeds ({NONE} with one seed) on the validation "
        "split, at the best epoch of each run (fitness 0.1 mAP50 + 0.9 mAP50-95). difference: of mAP50-95 to "
        f"{comparison.baseline.name}{units}. parameters: with the classes of this data set. GFLOPs: 2 x "
        "multiply-adds of convolutions and matrix products of the fused network for one square image. taken "
        "over: share of the parameters that came from the initial weights, by name and shape. s/epoch: "
        "median over all epochs, validation included, as measured; other work on the machine disturbs it. "
        "Bold: best of the column."
    )


def remarks(setting: Setting, comparison: Comparison) -> list[str]:
    """Paragraphs of facts about the spread and about what the comparison cannot show."""
    return [
        _about_the_spread(comparison),
        f"The scores come from the {setting.images:,} images of the validation split with "
        f"{setting.labels:,} labels. The best epoch was chosen on the same images, which makes every score "
        "somewhat too high; images that took no part in a choice were not looked at. The sd is that of the "
        "seeds (new weights, order, augmentation); that of another split of the images is not in it.",
        "All variants had the same budget and the same hyper-parameters, none its own. A variant that takes "
        "over less of the initial weights has more to learn in that time, so that its score mixes "
        "architecture and start. Nothing follows for COCO, for longer training or for other sizes.",
    ]


def _about_the_spread(comparison: Comparison) -> str:
    """What the seeds show, and what lies beyond it."""
    spread, repeated = comparison.spread, comparison.repeated
    if spread is None:
        return (
            "Every variant has one seed. The spread over seeds is unknown, so no difference in the table can "
            "be told from chance."
        )
    ordered = sorted(repeated, key=lambda variant: variant.map50_95.sd or 0.0)
    low, high = ordered[0], ordered[-1]
    count = f"{len(repeated)} of {len(comparison.variants)} variants have several seeds"
    if len(repeated) == 1:
        observed = f"{count} ({low.name}); the sd of its mAP50-95 is {low.map50_95.sd:.4f}"
    else:
        observed = (
            f"{count}; the sd of their mAP50-95 runs from {low.map50_95.sd:.4f} ({low.name}) to "
            f"{high.map50_95.sd:.4f} ({high.name}), pooled {spread.sd:.4f}"
        )
    return (
        f"{observed}, with {_counted(spread.freedom, 'degree')} of freedom. If all "
        "variants spread alike, chance alone makes two runs differ by more than "
        f"{spread.limit(1, 1):.4f} one time in twenty (Student's t). {_beyond(comparison, spread)}"
    ).rstrip()


def _beyond(comparison: Comparison, spread: Spread) -> str:
    """Which variants differ from the baseline by more than chance explains at `CONFIDENCE`."""
    others = [variant for variant in comparison.variants if variant != comparison.baseline]
    if not others:
        return ""
    above: list[str] = []
    below: list[str] = []
    within: list[str] = []
    for variant in others:
        difference = comparison.difference(variant)
        limit = spread.limit(len(variant.runs), len(comparison.baseline.runs))
        group = within if abs(difference) <= limit else above if difference > 0 else below
        group.append(variant.name)
    seeds = {len(variant.runs) for variant in others}
    baseline = comparison.baseline
    limits = " and ".join(
        f"{spread.limit(n, len(baseline.runs)):.4f} ({_counted(n, 'seed')})" for n in sorted(seeds)
    )
    parts = [
        f"{verb} {baseline.name}: {', '.join(names) or 'none'}"
        for verb, names in (("Above", above), ("Below", below), ("Not told apart from", within))
    ]
    text = (
        f"Compared with {baseline.name} ({_counted(len(baseline.runs), 'seed')}), a mean counts as different "
        f"beyond {limits}. {'. '.join(parts)}."
    )
    if len(others) == 1:
        return text
    wrong = len(others) * (1 - CONFIDENCE)
    return (
        f"{text} Of {len(others)} equal variants, about {wrong:.2g} would be called different all the same."
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("s" if count > 1 else "")
