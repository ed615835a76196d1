"""One process of a study: it trains what nobody else has, until all is done, and writes the page."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch

from benchmarks.latency import compare
from benchmarks.networks import check_packages, describe_machine
from benchmarks.outcome import facts_of, measured, record, scores_of, seconds_of
from benchmarks.runs import NO_BUDGET, Abandoned, Diverged, Run, carry_out, check_budget
from benchmarks.study.candidates import Stage, Task, candidates_of, rungs_of, stages
from benchmarks.study.page import TEMPLATE, Findings, write_everything
from benchmarks.study.pairs import read_results
from benchmarks.train_config import Config, network_of, prepare
from models.transfer import inherit
from models.yolo import DetectionModel
from training.config import TrainConfig
from training.setup import hyperparameters
from training.study import Job, Study, Taken, unusual
from utils.console import LOGGER, setup_console
from utils.data.report import counted
from utils.data.spec import load_data_spec
from utils.device import select_device
from utils.errors import Incomplete, UserError
from utils.evaluation.metrics import fitness
from utils.hyperparameters import Hyperparameters
from utils.interrupt import StopRequest

POLL = 3.0  # seconds between two looks at what others have done
TIMING = "milliseconds"  # the job of the one who times the networks
ROUNDS = 60


def run(config: Config) -> None:
    """Take part in a study until it is done.

    Raises:
        UserError: something the flags name is unusable, the study was begun with other settings, or a
            training failed here for a reason that is not its own.
        Incomplete: some candidates could not be trained.
        SystemExit: Ctrl-C or SIGTERM came; the training under way can be continued, here or elsewhere.
    """
    setup_console()
    worker = Worker(config)
    with worker.study, StopRequest() as stop:
        worker.work(stop)


class Worker:
    """This process and what it knows of the study."""

    def __init__(self, config: Config) -> None:
        self.config = config
        some = TrainConfig(hyp=config.hyp, label_smoothing=config.label_smoothing)
        self.hyp: Hyperparameters = hyperparameters(some)
        self.candidates = candidates_of(
            config.variants, config.iou, config.insert, self.hyp.iou, config.singly
        )
        self.seeds = list(dict.fromkeys(config.seeds))
        self.rungs = rungs_of(config.rungs, config.epochs, len(self.seeds))
        networks = list(dict.fromkeys((one.cfg, one.insert) for one in self.candidates))
        if config.milliseconds:
            check_packages([config.milliseconds])
        self.weights, self.index, self.notes = prepare(config, networks, TEMPLATE)
        config.folder.mkdir(parents=True, exist_ok=True)
        address = config.study or str(config.folder / "study.journal")
        instead = "take another --name"
        try:
            self.study = Study(
                address, f"train {config.name}", self.settings(), config.folder, instead=instead
            )
        except UserError:
            with suppress(OSError):  # it holds something
                config.folder.rmdir()
            raise

    def settings(self) -> dict[str, Any]:
        """What all who take part have in common, as they say it.

        Where files lie may differ. What is as usual is left out, so that a flag that is new does not part us.
        """
        task = Task(self.candidates[0], self.seeds[0], self.config.epochs)
        own = {*NO_BUDGET, "cfg", "iou", "insert", "seed", "data", "weights", "teacher"}
        budget = {name: value for name, value in unusual(self.told(task)).items() if name not in own}
        return {
            "candidates": [str(one) for one in self.candidates],
            "--seeds": self.seeds,
            "--rungs": list(self.config.rungs),
            "--keep": list(self.config.keep),
            "--milliseconds": self.config.milliseconds,
            "initial weights": checksum(self.weights),
            "validation images": len(self.index),
            "labels of them": len(self.index.boxes),
            **{f"--{name.replace('_', '-')}": value for name, value in budget.items()},
            **{f"hyper-parameter {name}": value for name, value in unusual(self.hyp).items()},
        }

    def told(self, task: Task) -> TrainConfig:
        """What train.py is told."""
        one = task.candidate
        pause = task.epochs if task.epochs < self.config.epochs else 0
        told = self.config.train_config(self.place(task), one.cfg)
        return dataclasses.replace(told, iou=one.iou, insert=one.insert, pause=pause)

    def place(self, task: Task) -> Run:
        name = f"{task.candidate.slug}-seed{task.seed}"
        return Run(str(task.candidate), task.seed, self.config.folder / name)

    def plan(self, results: Mapping[str, Any] | None = None) -> list[Stage]:
        if results is None:
            results = self.study.results()
        read_results(results, self.study)  # others may have written them
        return stages(
            self.candidates,
            self.rungs,
            self.seeds,
            self.config.keep,
            results,
            self.study.failures(),
        )

    def work(self, stop: StopRequest) -> None:
        waiting = False
        while True:
            pause(0, stop)
            results, failures = self.study.results(), self.study.failures()
            plan = self.plan(results)
            tasks = {task.name: task for task in plan[-1].tasks}
            names = [name for name in tasks if name not in results and name not in failures]
            timed = not self.config.milliseconds or TIMING in results or TIMING in failures
            if not names and not timed:
                names = [TIMING]
            if not names:
                break
            job = self.study.claim(names)
            if job is None:
                if not waiting:
                    LOGGER.info(f"{counted(len(names), 'training')} under way elsewhere; waiting")
                waiting = True
                pause(POLL, stop)
                continue
            waiting = False
            total = sum(len(stage.tasks) for stage in plan)
            done = f"[{total - len(names) + 1}/{total}, rung {len(plan)} of {len(self.rungs)}]"
            if job.name == TIMING:
                self.time(job)
            else:
                LOGGER.info(f"{done} {tasks[job.name].name}")
                self.train(job, tasks[job.name], stop)
            self.write()
        self.write()
        self.conclude()

    def train(self, job: Job, task: Task, stop: StopRequest) -> None:
        """Do a job, and write down what came of it."""
        run_ = self.place(task)
        with self.study.working(job) as lost:
            try:
                if run_.finished or run_.started:
                    told = self.told(task)
                    check_budget(run_, told, hyperparameters(told))
                if not run_.finished:
                    carry_out(run_, self.told(task), stop, lost)
                self.report(job, task, run_)
            except (Abandoned, Taken):
                LOGGER.warning(f"{task.name} was given to another process, as this one did not answer")
            except Diverged as error:
                LOGGER.warning(f"{error}; the study goes on without this candidate")
                self.study.end(job, "failed", str(error))
            except SystemExit:
                self.study.end(job, "stopped", "")
                raise
            except BaseException as error:
                self.study.end(job, "lost", " ".join(str(error).split())[:300] or type(error).__name__)
                raise

    def report(self, job: Job, task: Task, run_: Run) -> None:
        device, config = select_device(self.config.device), self.config
        if task.epochs < config.epochs and not run_.finished:
            facts = measured(run_, config.imgsz, self.weights, device)
        else:
            if not run_.finished:
                record(run_, config.imgsz, self.weights, device)
            facts = facts_of(run_)
            if facts["transferred"] != facts["transferred"]:
                facts["transferred"] = None
        scores = scores_of(run_)[: task.epochs]
        curve = [fitness(*row) for row in scores]
        result = {"scores": scores, "seconds": seconds_of(run_)[: task.epochs], "facts": facts}
        self.study.done(job, max(curve), result, curve)

    def time(self, job: Job) -> None:
        """Time every network that is still there, in turns."""
        config, spec = self.config, load_data_spec(self.config.data)
        networks: dict[str, DetectionModel] = {}
        for one in self.plan()[-1].field:
            if one.network in networks:
                continue
            torch.manual_seed(0)
            model = network_of(one.cfg, one.insert, spec.nc)
            if self.weights is not None:
                inherit(model, self.weights)
            networks[one.network] = model
        with self.study.working(job):
            try:
                LOGGER.info(f"timing {counted(len(networks), 'network')} in {config.milliseconds}")
                timings = compare(config.milliseconds, networks, config.imgsz, ROUNDS)
                machine = describe_machine([config.milliseconds])
            except BaseException as error:
                self.study.end(job, "lost", " ".join(str(error).split())[:300])
                raise
        found = {timing.variant: list(timing.milliseconds) for timing in timings}
        self.study.done(job, 0.0, {"machine": machine["processor"], "networks": found})

    def write(self) -> None:
        results = self.study.results()
        findings = Findings(
            self.config, self.candidates, self.rungs, self.seeds, self.plan(results),
            read_results(results, self.study), results.get(TIMING), self.index, self.notes,
        )  # fmt: skip
        write_everything(findings)

    def conclude(self) -> None:
        plan, config = self.plan(), self.config
        work = sum(len(stage.tasks) for stage in plan)
        LOGGER.info(
            f"{work} trainings of {len(self.candidates)} candidates on {config.data} at {config.imgsz} px"
        )
        LOGGER.info(f"{config.page}: the page; {config.folder}: everything else")
        if failed := {one: why for stage in plan for one, why in stage.failed.items()}:
            one, why = next(iter(failed.items()))
            raise Incomplete(
                f"{len(failed)} of {len(self.candidates)} could not be trained, such as {one}: {why}"
            )
        if missing := self.index.report.shortfall():
            raise Incomplete(f"val: {missing}; the page is about the others")


def pause(seconds: float, stop: StopRequest) -> None:
    """Wait.

    Raises:
        SystemExit: a stop was requested.
    """
    end = time.monotonic() + seconds
    while True:
        if stop.requested:
            LOGGER.info("stopped; the same command goes on")
            raise SystemExit(stop.exit_status)
        if time.monotonic() >= end:
            return
        time.sleep(0.1)


def checksum(weights: DetectionModel | None) -> str:
    """By which machines see that they begin with the same weights."""
    if weights is None:
        return "none"
    digest = hashlib.sha256()
    for value in weights.state_dict().values():
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
