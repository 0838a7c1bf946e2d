"""Rendered files, run by the real bash and the real mpiexec."""

from __future__ import annotations

import json
import os
import site
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.planning.topologies import section, topology
from tests.rendering.runs import RenderedRun
from trtdist.events import EventReader, TaskExited

SHIM = Path(__file__).parents[2] / "trtdist" / "supervisor" / "shim.py"
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)
NASTY = """$(touch pwned) `id` 'one' "two" \\ ; & | > < * ? ~ # ! {a,b} é 漢 \t\r\n end\n"""


@pytest.fixture
def disaggregated(tmp_path: Path) -> RenderedRun:
    given = topology(engine="reference", context_servers=section(1, 2), generation_servers=section())
    return RenderedRun(tmp_path / "run", given, tmp_path / "local")


def test_each_rank_of_an_mpi_world_becomes_its_server(disaggregated: RenderedRun) -> None:
    run = disaggregated
    here = set(Path("/dev/shm").glob("sm_segment*"))
    done = run.start("workers", WITNESS_MPI=json.dumps(site.getsitepackages()), TMPDIR=str(run.path.parent))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for number, (server, rank, size) in enumerate([("ctx.0", 0, 2), ("ctx.0", 1, 2), ("gen.0", 0, 1)]):
        seen = run.seen(f"{server}.{rank}")
        assert seen["mpi"] == [3, 3]
        assert seen["flags"] == [1, 1]
        assert seen["stdin"] == ""
        shim = str(run.run.site / "trtdist" / "supervisor" / "shim.py")
        assert seen["argv"] == [
            shim, "--run-dir", str(run.path), "--step", "workers", "--name", f"{server}.{rank}", "--server", server,
            "--rank", str(rank), "--", sys.executable, "-m", "trtdist.serving.worker", str(run.path),
        ]  # fmt: skip
        environ = {name: seen["environ"].get(f"TRTDIST_{name}") for name in ("STEP", "SERVER", "RANK", "SERVER_SIZE")}
        assert environ == {"STEP": "workers", "SERVER": server, "RANK": str(rank), "SERVER_SIZE": str(size)}
        assert seen["environ"]["TRTDIST_WORLD_RANK"] == seen["environ"]["TRTDIST_GPU"] == str(number)
        assert seen["environ"]["TRTDIST_LAUNCH"] == "mpi_world"
        assert seen["environ"]["PYTHONPATH"].split(":")[0] == str(run.run.site)
        assert "CUDA_VISIBLE_DEVICES" not in seen["environ"]
    # Whatever MPI made lies in the run's own folder.
    assert {path.name for path in run.path.parent.iterdir()} == {"run", "local"}
    if "PYTEST_XDIST_WORKER" not in os.environ:
        assert set(Path("/dev/shm").glob("sm_segment*")) <= here


def test_a_world_for_each_server(tmp_path: Path) -> None:
    given = topology(engine="reference", launch="per_server", servers=section(2, 2))
    run = RenderedRun(tmp_path / "run", given, tmp_path / "local")
    done = run.start("srv.1", WITNESS_MPI=json.dumps(site.getsitepackages()))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    seen = [run.seen(f"srv.1.{rank}") for rank in range(2)]
    assert [each["mpi"] for each in seen] == [[1, 2]] * 2
    assert [each["environ"]["TRTDIST_WORLD_RANK"] for each in seen] == ["2", "3"]
    assert not (run.path / "seen.srv.0.0.json").exists()


def test_programs_of_the_head(disaggregated: RenderedRun) -> None:
    run = disaggregated
    for step in ("nats", "etcd", "router", "canary"):
        done = run.start(step)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    own = {
        "nats": ["--ignore-first-term", "--", sys.executable, "-m", "trtdist.services", "nats"],
        "etcd": ["--ignore-first-term", "--", sys.executable, "-m", "trtdist.services", "etcd"],
        "router": ["--", sys.executable, "-m", "trtdist.serving.router"],
        "canary": ["--", sys.executable, "-m", "trtdist.serving.canary"],
    }
    for step, words in own.items():
        assert run.seen(step)["argv"][1:] == [
            "--run-dir", str(run.path), "--step", step, "--name", step, *words, str(run.path),
        ]  # fmt: skip


def test_what_an_outer_job_left_does_not_count(disaggregated: RenderedRun) -> None:
    outer = {
        "OMPI_COMM_WORLD_RANK": "7", "OMPI_MCA_btl": "nonsense", "PMIX_RANK": "7", "PMIX_NAMESPACE": "x",
        "PMIX_SERVER_URI41": "x;tcp4://127.0.0.1:1", "PRTE_LAUNCHED": "1", "PMI_RANK": "7", "SLURM_PROCID": "7",
        "SLURM_JOB_ID": "1", "SLURM_NODELIST": "elsewhere[1-2]", "SLURM_TASKS_PER_NODE": "1(x2)",
    }  # fmt: skip
    done = disaggregated.start("workers", **outer)
    assert (done.returncode, done.stderr) == (0, "")
    removed = (disaggregated.run.logs / "removed.workers.txt").read_text().split()
    assert set(removed) >= set(outer) and "OMPI_MCA_pml" not in removed
    assert disaggregated.seen("gen.0.0")["environ"]["OMPI_COMM_WORLD_RANK"] == "2"
    assert "SLURM_JOB_ID" not in disaggregated.seen("gen.0.0")["environ"]


def test_folders_with_any_name_and_any_working_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a 'run' $HOME"
    run = RenderedRun(folder, topology(engine="reference"), tmp_path / "lo cal")
    for script, cwd in ((Path("01-nats.local.sh"), run.run.scripts), (Path("scripts/02-etcd.local.sh"), folder)):
        done = run.bash(script, cwd=cwd)
        assert (done.returncode, done.stderr) == (0, "")
    assert run.start("workers").returncode == 0
    for name in ("nats", "etcd", "srv.0.0"):
        assert run.seen(name)["argv"][-1] == str(folder)


def test_without_resolved_env_the_remedy_is_named(disaggregated: RenderedRun) -> None:
    disaggregated.run.resolved_env.unlink()
    for step in ("nats", "workers"):
        done = disaggregated.start(step)
        assert done.returncode == 1
        assert "resolved.env; README.txt" in done.stderr


@pytest.mark.parametrize("rank", ["3", "-1", "x", ""])
def test_a_rank_that_is_not_planned_is_refused(disaggregated: RenderedRun, rank: str) -> None:
    done = disaggregated.bash(disaggregated.run.scripts / "03-workers.task.sh", OMPI_COMM_WORLD_RANK=rank)
    assert done.returncode == 1
    assert "rank" in done.stderr


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXT, st.lists(TEXT, min_size=1, max_size=8), TEXT)
def test_any_text_arrives_in_the_environment(tmp_path_factory: pytest.TempPathFactory, one: str, values: list[str],
                                             path: str) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("any")
    variables = {"NASTY": NASTY, "one": one, **{f"V{number}": value for number, value in enumerate(values)}}
    given = topology(engine="reference", model="a $(b) 'c' \"d\" \\ é", container={"env": {**variables, "PATH": path}})
    run = RenderedRun(folder / "run", given, folder / "local")
    done = run.task("workers", 0)
    assert (done.returncode, done.stderr) == (0, "")
    environ = run.seen("srv.0.0")["environ"]
    assert {name: environ[name] for name in variables} == variables
    assert environ["PATH"] == path
    assert not list(folder.rglob("pwned"))


def test_the_python_path_of_the_topology_comes_after_ours(tmp_path: Path) -> None:
    given = topology(engine="reference", container={"env": {"PYTHONPATH": "/theirs"}})
    run = RenderedRun(tmp_path / "run", given, tmp_path / "local")
    assert run.task("workers", 0).returncode == 0
    assert run.seen("srv.0.0")["environ"]["PYTHONPATH"] == f"{run.run.site}:/theirs"


def test_the_working_folder_of_the_topology(tmp_path: Path) -> None:
    folder = tmp_path / "-a b"
    folder.mkdir()
    given = topology(engine="reference", container={"workdir": str(folder)})
    run = RenderedRun(tmp_path / "run", given, tmp_path / "local")
    assert run.task("workers", 0).returncode == 0
    assert run.seen("srv.0.0")["cwd"] == str(folder)
    assert run.seen("srv.0.0")["environ"]["PYTHONSAFEPATH"] == "1"


def test_programs_do_not_start_where_other_modules_may_lie(disaggregated: RenderedRun) -> None:
    assert disaggregated.task("workers", 0).returncode == 0
    assert disaggregated.start("router").returncode == 0
    for name in ("ctx.0.0", "router"):
        assert disaggregated.seen(name)["cwd"] == str(disaggregated.run.site)


class TestGpus:
    """`engine: tensorrt_llm`: plan numbers become the GPUs that the task inherits."""

    @pytest.fixture
    def run(self, tmp_path: Path) -> RenderedRun:
        given = topology(context_servers=section(1, 2), generation_servers=section(1, 2))
        return RenderedRun(tmp_path / "run", given, tmp_path / "local")

    @pytest.mark.parametrize(
        ("inherited", "expected"),
        [("0,1,2,3", "2,3"), ("4,5,6,7", "6,7"), ("GPU-a, GPU-b,GPU-c,GPU-d,GPU-e", "GPU-c,GPU-d")],
    )
    def test_the_server_sees_its_gpus_in_rank_order(self, run: RenderedRun, inherited: str, expected: str) -> None:
        for rank in (2, 3):
            done = run.task("workers", rank, CUDA_VISIBLE_DEVICES=inherited)
            assert (done.returncode, done.stderr) == (0, "")
            environ = run.seen(f"gen.0.{rank - 2}")["environ"]
            assert (environ["CUDA_VISIBLE_DEVICES"], environ["TRTDIST_GPU"]) == (expected, str(rank))

    @pytest.mark.parametrize(("inherited", "there"), [("0,1,2", 3), ("", 0), ("-1", 0), ("NoDevFiles", 0)])
    def test_a_short_list_is_refused(self, run: RenderedRun, inherited: str, there: int) -> None:
        run.task("workers", 3, CUDA_VISIBLE_DEVICES=inherited)
        assert run.seen("gen.0.1")["argv"][-2:] == [
            "--refuse",
            f"needs GPU {max(there, 2)} (from 0), and {there} are there",
        ]

    def test_all_gpus_of_the_machine_count_when_none_are_named(self, run: RenderedRun, tmp_path: Path) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text("#!/bin/sh\nprintf '0\\n1\\n2\\n3\\n'\n")
        program.chmod(0o755)
        done = run.task("workers", 0, PATH=f"{tmp_path}:{os.environ['PATH']}")
        assert (done.returncode, done.stderr) == (0, "")
        assert run.seen("ctx.0.0")["environ"]["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_the_real_shim_understands_what_is_rendered(disaggregated: RenderedRun) -> None:
    run = disaggregated.run
    programs = {"serving/worker.py": "TRTDIST_SERVER", "serving/router.py": "TRTDIST_STEP"}
    for name, text in {
        "__init__.py": "",
        "serving/__init__.py": "",
        **{name: f"import os, sys\nprint(os.environ[{shown!r}], sys.argv[1])\n" for name, shown in programs.items()},
        "services/__init__.py": "",
        "services/__main__.py": "import sys\nprint(*sys.argv[1:])\n",
    }.items():
        path = run.site / "trtdist" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (run.site / "trtdist" / "supervisor" / "shim.py").write_text(SHIM.read_text())
    run.events.mkdir()
    for step in ("nats", "workers", "router"):
        done = disaggregated.start(step)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    logs = {path.stem: path.read_text() for path in run.logs.glob("*.log")}
    folder = disaggregated.path
    assert logs == {
        "nats": f"nats {folder}\n",
        "router": f"router {folder}\n",
        "ctx.0.0": f"ctx.0 {folder}\n",
        "ctx.0.1": f"ctx.0 {folder}\n",
        "gen.0.0": f"gen.0 {folder}\n",
    }
    ended = [r.event for r in EventReader(run.events).poll() if isinstance(r.event, TaskExited)]
    assert sorted((event.step, event.name, event.code) for event in ended) == [
        ("nats", "nats", 0),
        ("router", "router", 0),
        ("workers", "ctx.0.0", 0),
        ("workers", "ctx.0.1", 0),
        ("workers", "gen.0.0", 0),
    ]
