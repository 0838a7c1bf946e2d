"""The image that tests of containers use: what it claims to have really works in it."""

from __future__ import annotations

import subprocess

from tests.images import image_or_skip

PROGRAM = """
import numpy
from mpi4py import MPI
assert numpy.array([[2, 3]]) @ numpy.array([4, 5]) == [23]
print(MPI.COMM_WORLD.allreduce(20 + MPI.COMM_WORLD.rank), MPI.Get_library_version().split(',')[0])
"""


INTO = 'mount -t tmpfs tmpfs "$1/tmp" && exec chroot "$1" python3 -c "$2"'


def test_python_numpy_and_mpi_work_in_the_image() -> None:
    apart = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-euc", INTO, "into"]
    environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
    argv = [*apart, str(image_or_skip()), PROGRAM]
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("20 Open MPI v4."), done.stdout
