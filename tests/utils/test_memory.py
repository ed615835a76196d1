"""The memory that can be taken, in made folders: `proc` and `sys` of machines and containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.memory import available_memory

MB = 1 << 20
NO_LIMIT = 9223372036854771712  # what version 1 says when there is none


def machine(root: Path, membership: str, mounts: str, free: int = 1000) -> Path:
    """A root with so many free megabytes, the groups of the process, and what is mounted."""
    write(root / "proc/meminfo", f"MemTotal: 99999999 kB\nMemFree: 1 kB\nMemAvailable: {free * 1024} kB\n")
    write(root / "proc/self/cgroup", membership)
    write(root / "proc/self/mountinfo", "22 1 0:5 / /proc rw - proc proc rw\nnonsense\n" + mounts)
    return root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def v1(folder: Path, limit: int, used: int, idle: int = 0) -> None:
    write(folder / "memory.limit_in_bytes", f"{limit}\n")
    write(folder / "memory.usage_in_bytes", f"{used * MB}\n")
    write(folder / "memory.stat", f"cache 5\ninactive_file 1\ntotal_inactive_file {idle * MB}\n")


def v2(folder: Path, limit: str, used: int, idle: int = 0, high: str = "max") -> None:
    write(folder / "memory.max", f"{limit}\n")
    write(folder / "memory.high", f"{high}\n")
    write(folder / "memory.current", f"{used * MB}\n")
    write(folder / "memory.stat", f"anon 5\ninactive_file {idle * MB}\n")


V2 = "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "30 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    "32 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)


def test_the_machine_alone(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None  # neither Linux nor anything else that says so
    assert available_memory(machine(tmp_path, "", "", free=700)) == 700 * MB


@pytest.mark.parametrize(
    ("limit", "used", "idle", "high", "expected"),
    [
        ("max", 400, 0, "max", 1000),  # no limit: what the machine has
        (str(500 * MB), 200, 0, "max", 300),
        (str(500 * MB), 450, 100, "max", 150),  # 100 of the 450 are cached files that nobody uses
        (str(500 * MB), 700, 0, "max", 0),  # lowered below what is in use: nothing, not less
        ("max", 200, 0, str(300 * MB), 100),  # above this, processes are slowed down
        (str(5000 * MB), 0, 0, "max", 1000),  # more than the machine has
    ],
)
def test_version_two(limit: str, used: int, idle: int, high: str, expected: int, tmp_path: Path) -> None:
    machine(tmp_path, "0::/system.slice/job\n", V2)
    v2(tmp_path / "sys/fs/cgroup/system.slice/job", limit, used, idle, high)
    assert available_memory(tmp_path) == expected * MB


def test_the_tightest_group_on_the_way_counts(tmp_path: Path) -> None:
    machine(tmp_path, "0::/a/b/c\n", V2)
    top = tmp_path / "sys/fs/cgroup"
    v2(top / "a/b/c", "max", 10)
    v2(top / "a/b", str(600 * MB), 200)  # leaves 400
    v2(top / "a", str(900 * MB), 650)  # leaves 250, as others in it take their part
    write(top / "memory.stat", "inactive_file 7\n")  # the root group has no limit and no use
    v2(top / "a/x", str(MB), 0)  # not on the way
    assert available_memory(tmp_path) == 250 * MB


@pytest.mark.parametrize(("limit", "expected"), [(NO_LIMIT, 1000), (800 * MB, 400)])
def test_version_one(limit: int, expected: int, tmp_path: Path) -> None:
    machine(tmp_path, "9:name=systemd:/x\n4:cpu,memory:/docker/1\n0::/\n", V1)
    v1(tmp_path / "sys/fs/cgroup/memory/docker/1", limit, 500, 100)
    v1(tmp_path / "sys/fs/cgroup/memory", NO_LIMIT, 800)
    v1(tmp_path / "sys/fs/cgroup/cpu/docker/1", 1, 0)  # that of another controller is not looked at
    assert available_memory(tmp_path) == expected * MB


@pytest.mark.parametrize(
    ("membership", "mount"),
    [
        ("4:memory:/docker/1\n", "32 31 0:32 /docker/1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"),
        ("4:memory:/docker/2\n", "32 31 0:32 /docker/1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"),
        ("4:memory:/../2\n", "32 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"),
        ("4:memory:/gone\n", "32 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"),
    ],
)
def test_the_mount_point_of_a_container_is_its_own_folder(
    membership: str, mount: str, tmp_path: Path
) -> None:
    """What a process is told may be a path outside of the container."""
    machine(tmp_path, membership, mount)
    v1(tmp_path / "sys/fs/cgroup/memory", 300 * MB, 100)
    v1(tmp_path / "sys/fs/cgroup", MB, 0)  # above what is mounted: no group
    v1(tmp_path / "sys/fs/2", MB, 0)
    assert available_memory(tmp_path) == 200 * MB


def test_mounted_elsewhere(tmp_path: Path) -> None:
    machine(tmp_path, "0::/job\n", r"31 23 0:28 / /my\040groups rw - cgroup2 none rw" + "\n")
    v2(tmp_path / "my groups/job", str(20 * MB), 5)
    assert available_memory(tmp_path) == 15 * MB


def test_damaged_files_say_nothing(tmp_path: Path) -> None:
    machine(tmp_path, "0::/job\nnonsense\n:::\n", V2)
    v2(tmp_path / "sys/fs/cgroup/job", "lots", 5)
    write(tmp_path / "sys/fs/cgroup/memory.max", str(MB))  # without memory.current
    assert available_memory(tmp_path) == 1000 * MB
    write(tmp_path / "proc/meminfo", "MemAvailable: much\n")
    assert available_memory(tmp_path) is None


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="looks at /proc")
def test_this_machine_says_something() -> None:
    free = available_memory()
    assert free is not None
    assert 0 < free < 1 << 50
