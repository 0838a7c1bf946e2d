"""What is wrong with the nodes of an allocation, by what each of them answered. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from trtdist.observe.check_engine import check_engine
from trtdist.observe.check_services import check_services
from trtdist.observe.findings import Finding, split
from trtdist.observe.node_facts import HERE, LOOK_S, MEET_S, NodeFacts, Wanted

__all__ = ["check_nodes"]

_OLDEST_PYTHON = (3, 9)
# Munge, on which Slurm relies, trusts nothing that is older than five minutes; a run puts up with less.
_SKEW_S, _NOTICED_SKEW_S = 300.0, 1.0
_HOOK = "50-slurm-pmi.sh"
_ENROOT = ("pyxis", "enroot")
# What a run keeps on the node itself: etcd's data, sockets, session files of MPI.
_TEMPORARY = 256 << 20
# Layers of engine images shrink to about a third.
_UNPACKED = 3.0
_MIB = 1 << 20


def check_nodes(wanted: Wanted, facts: Mapping[str, NodeFacts], said: str) -> Iterator[Finding]:
    """Every finding about every node; `said` is what the step that examined them complained about."""
    for name in wanted.nodes:
        node = facts.get(name)
        if node is None:
            what = f"gave no answer ({said})" if said else "gave no answer"
            remedy = "look at it with sinfo, or leave it out with slurm.exclude"
            yield Finding("error", "node.answer", name, what, remedy)
            continue
        if node.at:
            yield _late(node)
        if not node.looked:
            continue
        for check in _CHECKS:
            yield from check(wanted, node)
    yield from _same_image(wanted, facts)
    yield from _head(wanted, facts)


def _late(node: NodeFacts) -> Finding:
    """What hangs on a node: a setup, a file system or a program."""
    what = f"was still {node.at} after {MEET_S if node.looked else LOOK_S:.0f} s"
    remedy = "see there why that does not end, or leave the node out with slurm.exclude"
    return Finding("error", "node.answer", node.node, what, remedy)


def _python(wanted: Wanted, node: NodeFacts) -> Iterator[Finding]:
    if not node.run_python:
        remedy = "install trtdist in a folder that all nodes see, and start the run with that Python"
        yield Finding("error", "python", node.node, f"has no {wanted.python}, which this run is started with", remedy)
    elif node.python < _OLDEST_PYTHON:
        version = ".".join(map(str, node.python))
        yield Finding("error", "python", node.node, f"has Python {version} as {wanted.python}", "take 3.9 or newer")
    else:
        yield Finding("ok", "python", node.node, f"Python {'.'.join(map(str, node.python))}")


def _runtime(wanted: Wanted, node: NodeFacts) -> Iterator[Finding]:
    if not wanted.program or node.programs is None:
        return
    version = node.programs.get(wanted.program, "")
    if not version:
        remedy = f"install {wanted.runtime} there, leave the node out with slurm.exclude, or take another runtime"
        yield Finding("error", "runtime", node.node, f"has no {wanted.program} on PATH", remedy)
    else:
        yield Finding("ok", "runtime", node.node, version)
    if wanted.runtime in _ENROOT and _HOOK not in node.hooks:
        remedy = f"have {_HOOK} copied from enroot's hooks/extra to /etc/enroot/hooks.d"
        what = f"has no {_HOOK} in /etc/enroot/hooks.d: ranks in containers may not find PMIx"
        yield Finding("warning", "runtime.hook", node.node, what, remedy)


def _image(wanted: Wanted, node: NodeFacts) -> Iterator[Finding]:
    image = node.image or {}
    if not image:
        return
    if image["problem"]:
        what, remedy = split(image["problem"])
        yield Finding("error", "image", node.node, what, remedy)
        return
    made_for = image.get("architecture") or wanted.image_architecture
    if made_for and made_for != node.machine:
        remedy = f"import it with `trtdist image import --arch {node.machine}`"
        what = f"is {node.machine}, and the image {wanted.image} is made for {made_for}"
        yield Finding("error", "image.architecture", node.node, what, remedy)
    elif image.get("doubt"):
        yield Finding("warning", "image", node.node, *split(image["doubt"]))
    else:
        yield Finding("ok", "image", node.node, f"reads {wanted.image}")


def _mounts(wanted: Wanted, node: NodeFacts) -> Iterator[Finding]:
    for path in node.mounts_missing:
        remedy = "make it there, or take it out of container.mounts"
        yield Finding("error", "mount", node.node, f"has no {path} to mount", remedy)


def _folders(wanted: Wanted, node: NodeFacts) -> Iterator[Finding]:
    remedy = "set TRTDIST_RUNS to a folder that all nodes see and may write to"
    if node.write_problem:
        what = f"cannot write to the runs folder {wanted.runs} ({node.write_problem})"
        yield Finding("error", "runs", node.node, what, remedy)
    elif node.unseen:
        whose = ", ".join("the machine where this runs" if name == HERE else name for name in node.unseen)
        what = f"does not see in the runs folder {wanted.runs} what {whose} wrote there"
        yield Finding("error", "runs.seen", node.node, what, remedy)
    elif node.met:
        yield Finding("ok", "runs.seen", node.node, f"writes to {wanted.runs} and sees what the others write")


def _space(wanted: Wanted, node: NodeFacts) -> Iterator[Finding]:
    temporary, unpacked = node.temporary or {}, node.unpacked or {}
    free = temporary.get("free", _TEMPORARY)
    if free < _TEMPORARY:
        what = f"has {_mib(free)} left in {temporary['path']}, where a run keeps etcd's data and sockets"
        remedy = f"make room for {_mib(_TEMPORARY)}, or set TMPDIR to another folder"
        yield Finding("error", "space", node.node, what, remedy)
    size = (node.image or {}).get("size", 0) or wanted.image_size
    if not unpacked or not size or unpacked["free"] >= _UNPACKED * size:
        return
    level = "error" if unpacked["free"] < size else "warning"
    what = f"has {_mib(unpacked['free'])} left in {unpacked['path']}, where {wanted.image} ({_mib(size)}) is unpacked"
    remedy = f"make room for {_mib(int(_UNPACKED * size))}, or set ENROOT_DATA_PATH to another folder"
    yield Finding(level, "space", node.node, what, remedy)  # type: ignore[arg-type]


def _mib(size: int) -> str:
    return f"{max(size, 0) / _MIB:,.0f} MiB" if size >= _MIB or size <= 0 else f"{size / 1024:.0f} KiB"


def _network(wanted: Wanted, node: NodeFacts) -> Iterator[Finding]:
    if node.address_problem:
        remedy = "correct network.interface or network.subnet, or leave both out"
        yield Finding("error", "network.address", node.node, node.address_problem, remedy)
        return
    for problem in (node.unreached or {}).values():
        remedy = "open the ports between nodes, or set network.interface or network.subnet to another network"
        yield Finding("error", "network.reach", node.node, problem, remedy)
    if node.unresolved:
        remedy = "have the names put into DNS or /etc/hosts"
        what = f"finds no address for {', '.join(node.unresolved)}"
        yield Finding("warning", "network.names", node.node, what, remedy)
    if node.met and not node.unreached and len(wanted.nodes) > 1:
        whom = "all others" if node.node == wanted.nodes[0] else "the head node"
        yield Finding("ok", "network.reach", node.node, f"reaches {whom} from {node.interface}")


def _clock(wanted: Wanted, node: NodeFacts) -> Iterator[Finding]:
    apart = abs(node.skew) - node.round_trip
    if apart <= _NOTICED_SKEW_S:
        return
    way = "ahead of" if node.skew > 0 else "behind"
    level = "error" if apart > _SKEW_S else "warning"
    what = f"has a clock {abs(node.skew):.1f} s {way} that of the head node"
    yield Finding(level, "clock", node.node, what, "have it set right (chrony, ntpd)")  # type: ignore[arg-type]


_CHECKS: tuple[Callable[[Wanted, NodeFacts], Iterator[Finding]], ...] = (
    _python,
    _runtime,
    _image,
    _mounts,
    _folders,
    _space,
    _network,
    _clock,
    check_engine,
)


def _same_image(wanted: Wanted, facts: Mapping[str, NodeFacts]) -> Iterator[Finding]:
    """Copies on disks of the nodes may be of different age."""
    sizes = {name: image["size"] for name in wanted.nodes if (image := _read_image(facts.get(name))) is not None}
    usual = max(sizes.values(), key=list(sizes.values()).count, default=0)
    for name, size in sizes.items():
        if size != usual:
            what = f"has an image {wanted.image} of {size} bytes, and the other nodes one of {usual}"
            yield Finding("error", "image.differs", name, what, "copy it there again")


def _read_image(node: NodeFacts | None) -> Mapping[str, int] | None:
    image = (node.image if node is not None else None) or {}
    return image if image and not image["problem"] else None


def _head(wanted: Wanted, facts: Mapping[str, NodeFacts]) -> Iterator[Finding]:
    """The programs of NATS and etcd, which run on the head node."""
    name = wanted.nodes[0]
    return check_services(name, (facts[name].services if name in facts else None) or {})
