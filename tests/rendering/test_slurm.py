"""The files of a run through Slurm: where tasks go, what reaches them, what they refuse. Run by the real bash."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.planning.topologies import section, topologies, topology
from tests.rendering.runs import RenderedRun
from trtdist.planning import PlanError, Target, plan
from trtdist.rendering import RenderError, job_options, limit_seconds, render_slurm
from trtdist.rendering.containers import needed_by_srun
from trtdist.rundir import RunDir
from trtdist.topology import Topology

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)
LINE = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=40)
# In place of srun: writes down what it was started with, then starts the task as every process of the step.
_SRUN = """\
#!/usr/bin/env python3
import json, os, sys
hosts = os.environ.get("SLURM_HOSTFILE")
seen = {"argv": sys.argv[1:], "environ": dict(os.environ), "hosts": open(hosts).read().split() if hosts else []}
json.dump(seen, open(os.environ["SEEN_BY_SRUN"], "w"))
"""


class SlurmRun(RenderedRun):
    """The same for Slurm; nodes are called n0, n1, ..."""

    def __post_init__(self) -> None:
        self.run = RunDir(self.path)
        self.plan = plan(self.topology, Target.SLURM)
        for name, text in render_slurm(self.plan, self.topology).items():
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_text(text)
        self.run.logs.mkdir()
        self.place_witness()
        nodes = range(self.plan.allocation.nodes)
        self.resolve(
            TRTDIST_NODES=" ".join(f"n{node}" for node in nodes),
            TRTDIST_ADDRESSES=" ".join(f"10.0.0.{node}" for node in nodes),
            TRTDIST_CLOCKS=" ".join(f"{node}.500" for node in nodes),
            TRTDIST_MPI_TYPE="pmix_v4",
            TRTDIST_STAMP="now",
        )
        srun = self.path / "bin" / "srun"
        srun.parent.mkdir()
        srun.write_text(_SRUN)
        srun.chmod(0o755)

    def launched(self, step: str, **environ: str) -> dict[str, Any]:
        """What srun is started with by a launch line."""
        seen = self.path / "srun.json"
        path = f"{self.path / 'bin'}:/usr/bin:/bin"
        script = self.run.scripts / f"{self.plan.step(step).stem}.srun.sh"
        done = self.bash(script, PATH=path, SLURM_JOB_ID="7", SEEN_BY_SRUN=str(seen), **environ)
        assert (done.returncode, done.stderr) == (0, "")
        found: dict[str, Any] = json.loads(seen.read_text())
        return found

    def on_node(self, step: str, rank: int, node: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run one task of a step as slurmd would."""
        script = self.run.scripts / f"{self.plan.step(step).stem}.task.sh"
        here = {"SLURM_PROCID": str(rank), "SLURMD_NODENAME": node, "TRTDIST_STAMP": "now"}
        return self.bash(script, **{**here, **environ})


def made(folder: Path, given: Topology) -> SlurmRun:
    return SlurmRun(folder / "run", given, folder / "local")


@pytest.fixture
def two_nodes(tmp_path: Path) -> SlurmRun:
    servers = {"context_servers": section(2, 2), "generation_servers": section(2, 2)}
    return made(tmp_path, topology(engine="reference", slurm={"gpus_per_node": 4}, **servers))


@pytest.fixture
def uneven(tmp_path: Path) -> SlurmRun:
    servers = {"context_servers": section(2, 3), "generation_servers": section(2)}
    return made(tmp_path, topology(engine="reference", slurm={"gpus_per_node": 4}, **servers))


def option(argv: list[str], name: str) -> str | None:
    found = [word.partition("=")[2] for word in argv if word.split("=")[0] == f"--{name}"]
    assert len(found) < 2
    return found[0] if found else None


def test_even_steps_name_their_nodes_and_fill_them(two_nodes: SlurmRun) -> None:
    seen = two_nodes.launched("workers")
    argv = seen["argv"]
    assert [option(argv, name) for name in ("nodes", "ntasks", "ntasks-per-node")] == ["2", "8", "4"]
    assert (option(argv, "nodelist"), option(argv, "distribution")) == ("n0,n1", "block")
    assert (option(argv, "mpi"), option(argv, "cpu-bind"), option(argv, "kill-on-bad-exit")) == ("pmix_v4", "none", "1")
    assert "--overlap" in argv
    assert "SLURM_HOSTFILE" not in seen["environ"]


def test_uneven_steps_name_the_node_of_each_task(uneven: SlurmRun) -> None:
    seen = uneven.launched("workers")
    assert seen["hosts"] == ["n0", "n0", "n0", "n1", "n1", "n1", "n0", "n1"]
    argv = seen["argv"]
    assert [option(argv, name) for name in ("nodes", "ntasks", "distribution")] == ["2", "8", "arbitrary"]
    # Slurm refuses a list of nodes beside that file.
    assert option(argv, "nodelist") is None and option(argv, "ntasks-per-node") is None


def test_srun_is_told_of_all_mounts_at_once(tmp_path: Path) -> None:
    container = {"runtime": "pyxis", "image": "/i.sqsh", "mounts": ["/a:/b:ro", "/c:/d"], "also": ["router"]}
    run = made(tmp_path, topology(engine="reference", container=container))
    own = [f"{run.path}:{run.path}", f"{run.path}/site:{run.path}/site:ro", f"{run.local}:{run.local}"]
    for step in run.plan.steps:
        mounts = option(run.launched(step.name)["argv"], "container-mounts")
        inside = step.kind == "workers" or step.name == "router"
        assert mounts == (",".join([*own, "/a:/b:ro", "/c:/d"]) if inside else None)


def test_each_node_is_asked_for_what_srun_needs() -> None:
    container = {"runtime": "pyxis", "image": "/i.sqsh", "mounts": ["/a:/b:ro", "/c:/d"]}
    needed = {"TRTDIST_SRUN_IMAGE": "/i.sqsh", "TRTDIST_SRUN_MOUNTS": "/a:/c"}
    assert needed_by_srun(topology(container=container)) == needed
    assert needed_by_srun(topology(container={"runtime": "pyxis", "image": "nvcr.io/a:1"})) == {}
    assert needed_by_srun(topology(container={**container, "runtime": "enroot"})) == {}


# What hands the GPUs of a node to a container: words on a launch line, and what an enroot hook reads there.
BY_HOOK = ["NVIDIA_VISIBLE_DEVICES=all"]
GPU_WORDS = {
    "pyxis": (BY_HOOK, ["--container-env=NVIDIA_VISIBLE_DEVICES"]),
    "enroot": (BY_HOOK, ["--variable=NVIDIA_VISIBLE_DEVICES", "--gpus"]),
    "apptainer": ([], ["--gpus"]),
    "singularity": ([], ["--gpus"]),
    "charliecloud": ([], ["--gpus"]),
}


@pytest.mark.parametrize("runtime", GPU_WORDS)
def test_containers_get_gpus_where_the_engine_has_them(runtime: str) -> None:
    exported, words = GPU_WORDS[runtime]

    def rendered(engine: str, **env: str) -> str:
        given = topology(engine=engine, container={"runtime": runtime, "image": "/i", "env": env})
        files = render_slurm(plan(given, Target.SLURM), given)
        return "\n".join(text for name, text in files.items() if "ctx.0" in name or "workers" in name)

    with_gpus = rendered("tensorrt_llm")
    assert all(f"export {each}" in with_gpus for each in exported)
    assert all(word in with_gpus for word in words), with_gpus
    without = rendered("reference")
    assert not any(word in without for word in (*exported, *words))
    # The topology has the last word on which GPUs the hook brings.
    chosen = rendered("tensorrt_llm", NVIDIA_VISIBLE_DEVICES="0,1")
    assert not exported or ("export NVIDIA_VISIBLE_DEVICES=0,1" in chosen and f"export {exported[0]}" not in chosen)


@pytest.mark.parametrize("step", ["nats", "etcd", "router", "canary"])
def test_programs_run_on_the_head_node_alone(two_nodes: SlurmRun, step: str) -> None:
    argv = two_nodes.launched(step)["argv"]
    assert [option(argv, name) for name in ("nodes", "ntasks", "nodelist", "mpi")] == ["1", "1", "n0", "none"]
    assert option(argv, "job-name") == step


@settings(max_examples=30, deadline=None)
@given(topologies())
def test_each_task_gets_the_node_of_the_plan(given: Topology) -> None:
    """By Slurm's rules: block distribution fills the nodes of the list in order, a host file names them."""
    try:
        planned = plan(given, Target.SLURM)
    except PlanError:
        assume(False)
    files = render_slurm(planned, given)
    for step in planned.steps:
        text = files[f"scripts/{step.stem}.srun.sh"]
        if "--distribution=arbitrary" in text:
            listed = next(line for line in text.splitlines() if line.startswith("for TRTDIST_INDEX"))
            assert [int(word) for word in listed.split(" in ")[1].rstrip("; do").split()] == list(step.nodes)
            continue
        nodes = sorted(set(step.nodes))
        each = len(step.nodes) // len(nodes)
        assert list(step.nodes) == [node for node in nodes for _ in range(each)]
        if step.kind == "workers":
            assert f"--nodes={len(nodes)} --ntasks={step.tasks}" in text
            assert f"--ntasks-per-node={each} " in text


def test_what_an_outer_step_left_does_not_count(two_nodes: SlurmRun) -> None:
    outer = {
        "SLURM_CPU_BIND": "quiet,mask_cpu:0x1", "SLURM_EXACT": "1", "SLURM_HOSTFILE": "/nowhere", "SLURM_NTASKS": "1",
        "SLURM_MPI_TYPE": "pmi2", "SLURM_STEP_ID": "3", "SLURM_PROCID": "5", "SLURM_JOB_NODELIST": "elsewhere",
        "SLURM_EXPORT_ENV": "NONE", "SLURM_SOMETHING_NEW": "1", "SRUN_CPUS_PER_TASK": "3", "PMIX_RANK": "5",
        "PMI_FD": "3", "OMPI_COMM_WORLD_RANK": "5", "PYXIS_CONTAINER_IMAGE": "x",
    }  # fmt: skip
    of_site = {"OMPI_MCA_btl": "tcp,self", "UCX_TLS": "tcp"}
    kept = {"SLURM_CONF": "/etc/slurm.conf", "HF_HOME": "/a,b=c"}
    environ = two_nodes.launched("workers", **outer, **of_site, **kept)["environ"]
    assert set((two_nodes.run.logs / "removed.workers.txt").read_text().split()) == {*outer, *of_site}
    assert not {*outer, *of_site} & set(environ)
    assert {name: environ.get(name) for name in kept} == kept
    assert environ["SLURM_JOB_ID"] == "7"


def test_outside_of_a_job_the_remedy_is_named(two_nodes: SlurmRun) -> None:
    done = two_nodes.bash(two_nodes.run.scripts / "03-workers.srun.sh")
    assert done.returncode == 1
    assert "this is no job of Slurm; README.txt" in done.stderr


def test_each_rank_becomes_its_server_on_its_node(two_nodes: SlurmRun) -> None:
    for rank, (server, node) in enumerate([("ctx.0", 0), ("ctx.0", 0), ("ctx.1", 0), ("ctx.1", 0), ("gen.0", 1)]):
        done = two_nodes.on_node("workers", rank, f"n{node}")
        assert (done.returncode, done.stderr) == (0, "")
        environ = two_nodes.seen(f"{server}.{rank % 2}")["environ"]
        assert (environ["TRTDIST_WORLD_RANK"], environ["TRTDIST_SERVER"]) == (str(rank), server)
        assert environ["TRTDIST_NODE_ADDRESS"] == f"10.0.0.{node}"
        assert environ["TRTDIST_CLOCK_AHEAD"] == f"{node}.500"


@pytest.mark.parametrize(("rank", "node"), [(0, "n1"), (4, "n0"), (0, ""), (7, "n2")])
def test_a_rank_on_another_node_is_refused(two_nodes: SlurmRun, rank: int, node: str) -> None:
    two_nodes.on_node("workers", rank, node)
    (seen,) = two_nodes.path.glob("seen.*")
    words = json.loads(seen.read_text())["argv"]
    reason = f"is task {rank} and belongs on n{rank // 4}, but runs on {node or 'no node'}"
    assert words[-2:] == ["--refuse", reason]


def test_an_mpi_rank_of_an_outer_job_does_not_count(two_nodes: SlurmRun) -> None:
    done = two_nodes.on_node("workers", 1, "n0", OMPI_COMM_WORLD_RANK="6", PMIX_RANK="6")
    assert (done.returncode, done.stderr) == (0, "")
    assert two_nodes.seen("ctx.0.1")


def test_a_stale_file_of_addresses_is_waited_out(two_nodes: SlurmRun) -> None:
    """As on a shared file system: the launch line has read what this node does not see yet."""
    run = two_nodes
    late = run.run.resolved_env.read_text().replace("TRTDIST_STAMP=now", "TRTDIST_STAMP=later")
    (run.path / "late.env").write_text(late)
    script = f"(sleep 0.5; mv {run.path}/late.env {run.run.resolved_env}) & exec bash {run.run.scripts}/01-nats.task.sh"
    (run.path / "wait.sh").write_text(script)
    done = run.bash(run.path / "wait.sh", TRTDIST_STAMP="later", SLURMD_NODENAME="n0")
    assert (done.returncode, done.stderr) == (0, "")
    assert run.seen("nats")["environ"]["TRTDIST_STAMP"] == "later"


@pytest.mark.parametrize(("seen", "code"), [("now.1f", 0), ("now.1f.2e", 0), ("now1f", 124), ("old", 124)])
def test_addresses_that_were_changed_once_more_will_do(two_nodes: SlurmRun, seen: str, code: int) -> None:
    run = two_nodes
    changed = run.run.resolved_env.read_text().replace("TRTDIST_STAMP=now", f"TRTDIST_STAMP={seen}")
    run.run.resolved_env.write_text(changed)
    limit = "timeout 0.5" if code else ""
    (run.path / "wait.sh").write_text(f"exec {limit} bash {run.run.scripts}/01-nats.task.sh")
    done = run.bash(run.path / "wait.sh", TRTDIST_STAMP="now", SLURMD_NODENAME="n0")
    assert done.returncode == code, done.stderr


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXT, min_size=1, max_size=6), LINE, st.lists(LINE, min_size=1, max_size=3))
def test_any_text_arrives(
    tmp_path_factory: pytest.TempPathFactory, values: list[str], account: str, words: list[str]
) -> None:
    assume(account.strip() and all(word.strip() for word in words))
    variables = {f"V{number}": value for number, value in enumerate(values)}
    folder = tmp_path_factory.mktemp("any")
    extra = [f"--comment={word}" for word in words]
    setup = [f"export S{number}={json.dumps('x' * number)}" for number in range(3)]
    slurm = {"account": account, "extra_srun": extra, "extra_sbatch": extra, "setup": setup}
    run = made(folder, topology(engine="reference", slurm=slurm, container={"env": variables}))
    assert [word for word in run.launched("workers")["argv"] if word.startswith("--comment=")] == extra
    done = run.on_node("workers", 0, "n0")
    assert (done.returncode, done.stderr) == (0, "")
    environ = run.seen("srv.0.0")["environ"]
    assert {name: environ[name] for name in variables} == variables
    assert [environ[f"S{number}"] for number in range(3)] == ["", "x", "xx"]
    directives = [line for line in (run.path / "job.sbatch").read_text().splitlines() if line.startswith("#SBATCH ")]
    asked = [taken_apart(line[len("#SBATCH ") :]) for line in directives]
    assert [f"--account={account}"] in asked and all([word] in asked for word in extra)


def taken_apart(text: str) -> list[str]:
    """The options of a directive, as `_get_argument` in Slurm's src/sbatch/opt.c reads them."""
    words: list[str] = []
    word, quote, escaped, begun = "", "", False, False
    for character in text:
        if escaped and (quote or not character.isspace()):
            word, escaped = word + character, False
        elif character == "\\":
            escaped = begun = True
        elif quote:
            quote, word = ("", word) if character == quote else (quote, word + character)
        elif character in "'\"":
            quote, begun = character, True
        elif character == "#":
            break
        elif character.isspace():
            words += [word] if begun else []
            word, begun = "", False
        else:
            word, begun = word + character, True
    return words + ([word] if begun else [])


def test_the_files_name_no_run(two_nodes: SlurmRun) -> None:
    for name, text in render_slurm(two_nodes.plan, two_nodes.topology).items():
        assert str(two_nodes.path) not in text, name


def test_the_network_of_mpi_is_a_choice_of_the_topology(tmp_path: Path) -> None:
    run = made(tmp_path, topology(engine="reference", container={"env": {"OMPI_MCA_btl": "self,tcp"}}))
    assert run.on_node("workers", 0, "n0").returncode == 0
    environ = run.seen("srv.0.0")["environ"]
    assert (environ["OMPI_MCA_pml"], environ["OMPI_MCA_btl"]) == ("ob1", "self,tcp")


@pytest.mark.parametrize(("given", "first", "count"), [("20000-20099", "20000", "100"), ("", None, None)])
def test_mpi_keeps_to_the_range_of_ports(two_nodes: SlurmRun, given: str, first: str | None, count: str | None) -> None:
    with two_nodes.run.resolved_env.open("a") as file:
        file.write(f"TRTDIST_PORT_RANGE={given}\n")
    assert two_nodes.on_node("workers", 0, "n0").returncode == 0
    environ = two_nodes.seen("ctx.0.0")["environ"]
    for version in ("v4", "v6"):
        found = [environ.get(f"OMPI_MCA_btl_tcp_port_{what}_{version}") for what in ("min", "range")]
        assert found == [first, count]


def test_a_failing_setup_line_ends_the_task(tmp_path: Path) -> None:
    run = made(tmp_path, topology(engine="reference", slurm={"setup": ["echo $UNSET_THING", "false"]}))
    assert run.on_node("workers", 0, "n0").returncode == 1
    assert not list(run.path.glob("seen.*"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 600), ("10:30", 630), ("1:00:00", 3600), ("1-0", 86400), ("1-1:30", 91800), ("2-0:0:1", 172801),
     ("UNLIMITED", None), ("infinite", None)],
)  # fmt: skip
def test_time_limits(text: str, seconds: float | None) -> None:
    assert limit_seconds(text) == seconds


@pytest.mark.parametrize(
    ("time", "handover", "lead"),
    [(None, "auto", 1030), ("1:00:00", "auto", 1030), ("20", "auto", 600), ("1:00:00", 200.0, 200), (None, None, 0)],
)
def test_the_next_job_is_asked_for_in_time(time: str | None, handover: str | float | None, lead: int) -> None:
    given = topology(servers=section(1), slurm={"time": time, "handover": handover})
    planned = plan(given, Target.SLURM)
    assert job_options(planned, given).lead == lead
    files = render_slurm(planned, given)
    assert (f'/scripts/supervisor.sh" --handover={lead} >>' in files["job.sbatch"]) == bool(lead)
    # Nobody else starts the supervisor so: a run in an allocation of somebody's ends with that.
    assert ('"$@"' in files["scripts/supervisor.sh"]) == bool(lead)
    assert "--handover" not in files["scripts/supervisor.sh"] + files["scripts/head.srun.sh"]


@pytest.mark.parametrize(
    ("handover", "words"),
    [
        (130.0, "130 s before the time limit are too late, the run stops 130 s before it"),
        (3600.0, "no part of slurm.time"),
    ],
)
def test_a_hand_over_without_time_is_refused(handover: float, words: str) -> None:
    given = topology(servers=section(1), slurm={"time": "1:00:00", "handover": handover})
    with pytest.raises(RenderError, match=words):
        job_options(plan(given, Target.SLURM), given)


def test_a_job_that_is_queued_again_hands_nothing_over() -> None:
    given = topology(servers=section(1), slurm={"time": "1:00:00", "handover": "auto", "requeue": True})
    with pytest.raises(RenderError, match="two ways to go on"):
        job_options(plan(given, Target.SLURM), given)


@pytest.mark.parametrize(("time", "stop", "warning"), [(None, 10, 130), ("1:00:00", 60, 180), ("4", 10, 60)])
def test_the_warning_leaves_time_for_an_orderly_stop(time: str | None, stop: float, warning: int) -> None:
    given = topology(engine="reference", slurm={"time": time}, timeouts={"stop": stop})
    planned = plan(given, Target.SLURM)
    assert job_options(planned, given).warning == warning
    assert f"--warning={warning}" in render_slurm(planned, given)["scripts/supervisor.sh"]


def test_what_cannot_be_started_is_said() -> None:
    given = topology(container={"runtime": "enroot", "image": "x", "shm_size": "64G"})
    planned = plan(given, Target.SLURM)
    with pytest.raises(RenderError, match="ranks of a node speak over its own"):
        render_slurm(planned, given)


def test_directives_are_those_of_the_plan() -> None:
    given = topology(context_servers=section(1, 2), generation_servers=section(1, 8), slurm={"gpus_per_node": 4})
    planned = plan(given, Target.SLURM)
    job = job_options(planned, given)
    assert (job.nodes, job.tasks_per_node, job.gpus_per_node) == (3, 4, 4)
    assert job == replace(job, name="test", cpus_per_task=8, mem=0)
