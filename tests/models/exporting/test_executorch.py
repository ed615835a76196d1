"""ExecuTorch: what is written, what runs, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.exporting import executorch
from models.exporting.job import Job
from models.runtimes.opening import load_backend
from tests.models.exporting.jobs import SIZE, expectation, make_job, shares
from tests.models.exporting.weights import NAMES
from utils.errors import UserError

pytest.importorskip("executorch")
pytestmark = pytest.mark.slow  # lowering a network takes a minute


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = make_job(tmp_path_factory.mktemp("executorch") / "best.pte", batch=2)
    executorch.export(job)
    return job


def test_predictions_equal_pytorch(job: Job) -> None:
    assert [file.name for file in job.target.parent.iterdir()] == ["best.pte"]
    backend = load_backend(job.target, threads=1)
    assert (backend.names, backend.stride, backend.shape, backend.batch) == (NAMES, 32, SIZE, 2)
    expected = expectation(job)
    last = job.image.contiguous(memory_format=torch.channels_last)
    three = torch.cat((last, job.image[:1]))  # one more than a call takes
    assert max(shares(backend(three), torch.cat((expected, expected[:1])))) < 1e-4


def test_threads(job: Job) -> None:
    from executorch.extension.pybindings.portable_lib import _threadpool_get_thread_count

    for threads in (2, 1):
        load_backend(job.target, threads=threads)
        assert _threadpool_get_thread_count() == threads


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_damaged_file_is_a_users_error(job: Job, tmp_path: Path, share: float) -> None:
    path, content = tmp_path / "best.pte", job.target.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"best\.pte' is not an ExecuTorch file") as caught:
        load_backend(path)
    assert "\n" not in str(caught.value)


def test_a_release_for_another_torch_is_named(job: Job) -> None:
    message = executorch._unfit(ImportError("cannot import name 'x'\nfrom torch"))
    assert f"does not work with torch {torch.__version__}" in message and "1.5.1 for torch 2.14" in message
    assert "\n" not in message
