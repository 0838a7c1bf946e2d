"""`trtdist doctor` on a real cluster: green on one that is well, and each planted fault told by node and remedy."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import STATE, USER, Cluster
from tests.containers.places import refuse_or_skip
from tests.containers.small_images import small_root
from tests.end_to_end.slurm_user import ALLOCATION, EXAMPLE, SHARED, User
from tests.images import image_or_skip, linked, with_wheels

Finding = dict[str, str]
MINUTE_S = 60.0
HEAD, OTHER, WRONG_CLOCK = "node1", "node2", "node3"
ON = f"slurm.extra_sbatch=['--nodelist={HEAD},{OTHER}']"
THREE = ("--set", "slurm.nodes=3", "--set", f"slurm.extra_sbatch=['--nodelist={HEAD},{OTHER},{WRONG_CLOCK}']")


@pytest.fixture
def user(cluster: Cluster) -> User:
    return User(cluster)


def doctor(user: User, *words: object, code: int, host: str = "submit") -> list[Finding]:
    """What `doctor --nodes --json` finds, with this exit code, within a minute."""
    asked = user.words("doctor", EXAMPLE, *SHARED, *words, "--nodes", "--json")
    done = user.cluster.run(*asked, host=host, timeout=MINUTE_S)
    assert done.returncode == code, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["exit_code"] == code
    found: list[Finding] = told["findings"]
    return found


def within(image: Path) -> tuple[str, ...]:
    return ("--set", "container.runtime=charliecloud", "--set", f"container.image={image}")


def told(findings: list[Finding], level: str) -> set[tuple[str, str]]:
    """The codes of a level, each with its node."""
    return {(found["code"], found["node"]) for found in findings if found["level"] == level}


def what(findings: list[Finding], code: str, node: str = "") -> Finding:
    """The worst finding of a code about a node."""
    return next(found for found in findings if (found["code"], found["node"]) == (code, node))


def left(user: User) -> list[str]:
    """Jobs asked for in the user's folder, what is in the runs folder, and programs on nodes that were told of it."""
    query = ("squeue", "--me", "--noheader", "--name=trtdist-doctor", "--states=R,PD", "--format=%Z")
    # Tests that run beside this one ask for jobs as the same user.
    jobs = [place for place in user.cluster.output(*query).split() if place == str(user.cluster.folder)]
    files = [str(path) for path in user.runs.glob("*")] if user.runs.exists() else []
    programs = []
    for node in (HEAD, OTHER, WRONG_CLOCK):
        listed = user.cluster.output("ps", "-eo", "args", host=node).splitlines()
        programs += [line for line in listed if user.runs.parent.name in line]
    return jobs + files + programs


def test_a_cluster_that_is_well_is_green(user: User) -> None:
    done = user.trtdist("doctor", EXAMPLE, *SHARED, "--nodes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "error" not in done.stdout
    assert "2 ranks on the host met over 2 nodes" in done.stdout
    assert left(user) == []
    assert not user.runs.exists()


@pytest.fixture
def broken(own_cluster: Cluster) -> Iterator[User]:
    """A cluster whose second node has no charliecloud, sees no runs, has no way to the first, has a full disk for
    images, and something left in its shared memory; the clock of the third is wrong."""
    refuse_or_skip("charliecloud")
    user, admin = User(own_cluster), own_cluster.admin
    user.runs.mkdir()
    own_cluster.own(user.runs)
    head = admin("exec", HEAD, "hostname", "--ip-address").split()[0]
    with ExitStack() as mended:

        def plant(node: str, fault: str, cure: str) -> None:
            admin("exec", node, *fault.split())
            mended.callback(admin, "exec", node, *cure.split())

        plant(HEAD, "mkdir /tmp/one-node-alone", "rmdir /tmp/one-node-alone")
        plant(OTHER, f"mount --bind /dev/null {shutil.which('ch-run')}", f"umount {shutil.which('ch-run')}")
        plant(OTHER, f"mount -t tmpfs -o mode=1777 none {user.runs}", f"umount {user.runs}")
        plant(OTHER, "mkdir /tmp/full", "rmdir /tmp/full")
        plant(OTHER, "mount -t tmpfs -o size=64k none /tmp/full", "umount /tmp/full")
        plant(OTHER, f"ip route add blackhole {head}", f"ip route del blackhole {head}")
        plant(OTHER, "fallocate -l 2M /dev/shm/moe_left", "rm /dev/shm/moe_left")
        admin("exec", OTHER, "chown", USER, "/dev/shm/moe_left")
        admin("clock", WRONG_CLOCK, "30")
        mended.callback(admin, "clock", WRONG_CLOCK, "0")
        yield user


def test_what_is_wrong_with_one_node_is_told_at_once(broken: User) -> None:
    image = within(image_or_skip())
    mount = ("--set", "container.mounts=['/tmp/one-node-alone:/mnt']")
    found = doctor(broken, *THREE, *image, *mount, code=4)
    assert told(found, "error") == {
        ("runtime", OTHER),
        ("mount", OTHER),
        ("mount", WRONG_CLOCK),
        ("runs", OTHER),
        ("network.reach", OTHER),
        ("network.reach", HEAD),
    }
    assert found[0]["level"] == "error"
    assert what(found, "runtime", OTHER)["what"] == "has no ch-run on PATH"
    assert what(found, "mount", OTHER)["what"] == "has no /tmp/one-node-alone to mount"
    assert "cannot reach node node1 at " in what(found, "network.reach", OTHER)["what"]
    assert "moe_left" in what(found, "shm", OTHER)["what"]
    assert all(each["remedy"] for each in found if each["level"] != "ok")
    assert what(found, "clock", WRONG_CLOCK)["what"].startswith("has a clock 30.")
    # The ranks of the image have greeted each other on the node that has what they need.
    hello = [each for each in found if each["code"] == "mpi.hello"]
    assert [each["level"] for each in hello] == ["warning", "ok"], hello
    assert left(broken) == []


@pytest.mark.long
def test_an_image_that_cannot_be_unpacked_on_one_node(broken: User) -> None:
    """Enroot is on no node of the mini cluster, which is told as well."""
    squashfs = broken.cluster.folder / "image.sqsh"
    squashfs.write_bytes(b"hsqs" + bytes(36) + (1 << 20).to_bytes(8, "little") + bytes((1 << 20) - 48))
    broken.cluster.own(squashfs)
    image = ("--set", "container.runtime=enroot", "--set", f"container.image={squashfs}")
    done = broken.cluster.run("env", "ENROOT_DATA_PATH=/tmp/full/data", *broken.words(
        "doctor", EXAMPLE, *SHARED, *THREE, *image, "--nodes", "--json"))  # fmt: skip
    found = json.loads(done.stdout)["findings"]
    assert {("space", OTHER), ("runtime", HEAD), ("runtime", OTHER)} <= told(found, "error")
    assert ("space", HEAD) not in told(found, "error")
    assert "/tmp/full/data" in what(found, "space", OTHER)["what"]
    assert ("runtime.hook", HEAD) in told(found, "warning")


@pytest.mark.long
def test_inside_an_allocation_and_in_the_image(user: User) -> None:
    """The allocation stays. What slurm.setup prints and reads is in nobody's way."""
    refuse_or_skip("charliecloud")
    image = within(image_or_skip())
    setup = ("--set", "slurm.setup=['echo it is loaded; cat', 'export UCX_LOG=$HOME']")
    words = user.words("doctor", EXAMPLE, *SHARED, *image, *setup, "--nodes")
    done = user.cluster.run(*ALLOCATION, "bash", "-c", '"$@" && squeue --me --noheader', "bash", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sets UCX_LOG" in done.stdout
    assert "met over 2 nodes" in done.stdout and str(image_or_skip()) in done.stdout
    assert left(user) == []


@pytest.mark.long
@pytest.mark.parametrize("signal", ["INT", "TERM"])
def test_it_leaves_nothing_when_it_is_ended(user: User, signal: str) -> None:
    """In the midst of looking at nodes."""
    script = (
        "set -m\n"
        '"$@" 2>said & pid=$!\n'
        "until grep -q 'looking at' said; do sleep 0.05; done\n"
        f"kill -{signal} $pid; wait $pid; echo code $?"
    )
    words = user.words("doctor", EXAMPLE, *SHARED, "--nodes")
    done = user.cluster.output("bash", "-c", script, "bash", *words)
    assert done.endswith("code 130"), done + (user.cluster.folder / "said").read_text()
    assert "Traceback" not in (user.cluster.folder / "said").read_text()
    assert left(user) == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("step", "code", "what", "level"),
    [
        ("doctor", "node.answer", "was still running slurm.setup after 18 s", "error"),
        ("doctor-hello", "mpi.hello", "was still running slurm.setup after ", "warning"),
    ],
)
def test_what_hangs_on_one_node(user: User, step: str, code: str, what: str, level: str) -> None:
    """The other node is looked at all the same; of the greeting both are told, as far as each came."""
    hanging = f"[[ $SLURM_JOB_NAME.$SLURMD_NODENAME != {step}.{OTHER} ]] || sleep 600"
    setup = ("--set", f"slurm.setup=['{hanging}']", "--set", ON)
    found = doctor(user, *setup, code=1 if level == "error" else 0)
    late = next(each for each in found if (each["code"], each["node"]) == (code, OTHER))
    assert late["level"] == level and late["what"].startswith(what) and late["remedy"], late
    assert ("runs.seen", HEAD) in told(found, "ok")
    assert "warning" in {each["level"] for each in found if each["code"] == "mpi.hello" and each["node"] != OTHER}
    assert left(user) == []


@pytest.mark.long
@pytest.mark.parametrize("runtime", ["none", "charliecloud"])
def test_four_nodes_are_looked_at_within_twenty_seconds(user: User, runtime: str) -> None:
    inside = ()
    if runtime != "none":
        refuse_or_skip(runtime)
        inside = ("--set", f"container.runtime={runtime}", "--set", f"container.image={image_or_skip()}")
    began = time.monotonic()
    found = doctor(user, "--set", "slurm.nodes=4", *inside, code=0)
    took = time.monotonic() - began
    assert {node for _, node in told(found, "ok")} == {"", "node1", "node2", "node3", "node4"}
    assert took < 20


@pytest.mark.long
@pytest.mark.parametrize(
    ("left_out", "code", "words", "exit_code"),
    [
        ("python3*", "image.python", "it has no Python", 2),
        ("mpi4py*", "image.mpi", "(No module named 'mpi4py')", 2),
        ("mca_pmix_*", "mpi.hello", "by --mpi=pmix (PMIx ", 4),
    ],
    ids=["no Python", "no MPI", "no PMIx"],
)
def test_an_image_that_cannot_run_ranks(user: User, left_out: str, code: str, words: str, exit_code: int) -> None:
    refuse_or_skip("charliecloud")
    image = linked(image_or_skip(), user.cluster.folder / "image", left_out)
    found = doctor(user, *within(image), "--set", ON, code=exit_code)
    assert told(found, "error") == {(code, HEAD), (code, OTHER)}, found
    assert all(words in each["what"] and each["remedy"] for each in found[:2]), found
    assert left(user) == []


@pytest.mark.long
def test_an_image_with_another_pmix_than_slurm(user: User) -> None:
    """Releases that understand each other are no fault."""
    refuse_or_skip("charliecloud")
    image = linked(image_or_skip(), user.cluster.folder / "image", "mpi4py*", "libmpi.so*", "libpmix.so*", "openmpi")
    scratch = user.cluster.folder / "wheels"
    scratch.mkdir()
    with_wheels(image, scratch)
    hello = what(doctor(user, *within(image), code=0), "mpi.hello")
    assert re.search(
        r"met over 2 nodes: Open MPI v5\.\S+, by --mpi=pmix \(PMIx 4\.\S+ of Slurm and .*PMIx 5", hello["what"]
    )


@pytest.mark.long
def test_an_image_for_other_machines(user: User) -> None:
    image = small_root(user.cluster.folder / "image", machine="aarch64")
    found = doctor(user, *within(image), code=2)
    nodes = {node for code, node in told(found, "error") if code == "image.architecture"}
    assert len(nodes) == 2, found
    assert "is made for aarch64" in found[0]["what"]


def test_a_slurm_without_pmix(user: User) -> None:
    """Its plugins are those of the cluster, but for PMIx."""
    folder = user.cluster.folder
    config = (STATE / "slurm.conf").read_text()
    plugins = folder / "plugins"
    plugins.mkdir()
    shown = user.cluster.output("scontrol", "show", "config")
    (place,) = [Path(line.split("=")[1].strip()) for line in shown.splitlines() if line.startswith("PluginDir ")]
    for plugin in place.glob("*.so"):
        if "pmix" not in plugin.name:
            (plugins / plugin.name).symlink_to(plugin)
    (folder / "slurm.conf").write_text(f"{config}\nPluginDir={plugins}\n")
    done = user.cluster.run("env", f"SLURM_CONF={folder}/slurm.conf", *user.words("doctor", EXAMPLE))
    assert done.returncode == 4, done.stdout + done.stderr
    assert "this Slurm has no PMIx" in done.stdout.splitlines()[0]
