"""Which file systems outlive the process, told from the kernel's list of mounts and the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from samvad.sessions.journal_place import survives

MOUNTS = r"""
22 1 254:0 / / rw,relatime - {root} /dev/vda rw
23 22 0:23 / /dev/shm rw,relatime - tmpfs tmpfs rw
24 22 0:24 / /data rw,relatime - ext4 /dev/vdb rw
25 24 0:25 / /data/in\040memory rw,relatime shared:1 - ramfs none rw
26 22 0:26 / /nfs rw - nfs4 server:/share rw
27 22 0:27 / /bucket rw - fuse.gcsfuse bucket rw
28 22 0:28 / /over rw - ext4 /dev/vdc rw
29 28 0:29 / /over rw - tmpfs none rw
"""


@pytest.mark.parametrize(
    ("path", "root", "cloud_run", "survival", "word"),
    [
        ("/srv/journal", "ext4", False, True, ""),
        ("/srv/journal", "overlay", False, True, "volume"),
        ("/dev/shm/journal", "ext4", False, False, "tmpfs at /dev/shm"),
        ("/dev/shmem", "ext4", False, True, ""),
        ("/data/journal", "overlay", False, True, ""),
        ("/data/in memory/journal", "ext4", False, False, "ramfs at /data/in memory"),
        ("/over/journal", "ext4", False, False, "tmpfs"),
        ("/nfs/journal", "overlay", True, True, "no locks"),
        ("/nfs/journal", "overlay", False, True, ""),
        ("/bucket/journal", "overlay", False, False, "Cloud Storage"),
        ("/srv/journal", "overlay", True, False, "Cloud Run"),
        ("/data/journal", "ext4", True, False, "Cloud Run"),
    ],
)
def test_survival(path: str, root: str, cloud_run: bool, survival: bool, word: str) -> None:
    """The mount that a path is under decides; on Cloud Run only NFS stays."""
    environ = {"K_SERVICE": "samvad"} if cloud_run else {}
    found = survives(Path(path), environ=environ, mounts=MOUNTS.format(root=root))
    assert found.survives == survival
    assert word in found.reason and bool(word) == bool(found.reason)


def test_this_machine(tmp_path: Path) -> None:
    """The real list of mounts is understood; an unknown system is taken to survive."""
    if Path("/dev/shm").exists() and "tmpfs /dev/shm" in Path("/proc/mounts").read_text():
        assert not survives(Path("/dev/shm/journal"), environ={}).survives
    assert survives(tmp_path, environ={}, mounts="").survives
