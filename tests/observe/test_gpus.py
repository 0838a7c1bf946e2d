"""What nvidia-smi prints is understood, and each GPU of the plan finds its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.observe.fake_run import make_plan
from trtdist.observe.gpus import SCRIPT, GpuMemory, NodeGpus, against_plan, read_gpus
from trtdist.plan import GpuLoad, Plan

NODE = st.from_regex(r"[a-z][a-z0-9.-]{0,8}", fullmatch=True)
MEMORY = st.one_of(st.none(), st.integers(0, 10**9))


def plan(*loads: GpuLoad) -> Plan:
    return Plan(**{**vars(make_plan()), "gpus": loads})


def cell(value: int | None) -> str:
    return "[N/A]" if value is None else str(value)


@settings(deadline=None)
@given(
    st.dictionaries(NODE, st.lists(st.builds(GpuMemory, st.integers(0, 99), MEMORY, MEMORY), min_size=1), max_size=4)
)
def test_what_is_printed_is_read(answers: dict[str, list[GpuMemory]]) -> None:
    lines = [
        f"{node}|gpu|{gpu.index}, {cell(gpu.used)}, {cell(gpu.total)}" for node, gpus in answers.items() for gpu in gpus
    ]
    assert read_gpus("\n".join(lines)) == {node: NodeGpus(tuple(gpus)) for node, gpus in answers.items()}


@settings(deadline=None)
@given(st.text(st.sampled_from("ab|,gpu devices0123\n[]/")), st.text())
def test_nothing_that_is_printed_breaks_the_reader(likely: str, any_text: str) -> None:
    for text in (likely, any_text, f"a|gpu|{any_text}", f"a|devices|{any_text}"):
        against_plan(plan(GpuLoad(0, 3, 0.5, ("gen.0",))), ["a"], read_gpus(text))


@settings(deadline=None)
@given(st.permutations(range(6)), st.integers(1, 6))
def test_gpus_of_the_plan_are_places_in_the_inherited_list(order: list[int], count: int) -> None:
    there = tuple(GpuMemory(index, index * 10, 100) for index in range(6))
    listed = order[:count]
    answer = NodeGpus(there, devices=",".join(map(str, listed)))
    uses = against_plan(plan(*(GpuLoad(0, gpu, 0.25, ("srv.0",)) for gpu in range(count + 1))), ["a"], {"a": answer})
    assert [use.index for use in uses] == [*listed, None]
    assert [use.used for use in uses] == [*(index * 10 for index in listed), None]


def test_devices_by_name_are_those_that_are_shown() -> None:
    there = (GpuMemory(2, 5, 100), GpuMemory(3, 6, 100))
    load = GpuLoad(0, 1, 0.25, ("srv.0",))
    for devices, index in {"GPU-a,GPU-b": 3, "GPU-a": None, "all": 3, "": None}.items():
        assert against_plan(plan(load), ["a"], {"a": NodeGpus(there, devices=devices)})[0].index == index


def test_the_script_says_what_it_finds(tmp_path: Path) -> None:
    def run(path: str) -> NodeGpus:
        environ = {"PATH": path, "SLURMD_NODENAME": "n1", "CUDA_VISIBLE_DEVICES": "1,0"}
        done = subprocess.run(["/bin/bash", "-c", SCRIPT], env=environ, capture_output=True, text=True, check=True)
        return read_gpus(done.stdout)["n1"]

    assert run(str(tmp_path)) == NodeGpus(problem="there is no nvidia-smi", devices="1,0")
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/bash\necho "0, 17, 81559"\necho "1, 4000, 81559"\n')
    program.chmod(0o755)
    assert run(str(tmp_path)).gpus == (GpuMemory(0, 17, 81559), GpuMemory(1, 4000, 81559))
    program.write_text("#!/bin/bash\necho 'no driver'\nexit 9\n")
    assert run(f"{tmp_path}{os.pathsep}/bin").problem == "nvidia-smi: no driver"
