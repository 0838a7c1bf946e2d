"""What is done to a simulated cluster: each kind of fault, as it looks where it happens."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from trtdist.simulation.cluster import EPOCH, Cluster, Task
from trtdist.simulation.facts import Fault, News
from trtdist.supervisor import handover_messages, messages

__all__ = ["FAULTS", "inject"]

_NEVER = float("inf")
_FOUND_S = (12.0, 40.0)


def inject(cluster: Cluster, fault: Fault) -> None:
    """Do what a fault says, now; nothing when there is nobody to whom it could be done."""
    FAULTS[fault.kind](cluster, fault)


def _task_dies(cluster: Cluster, fault: Fault) -> None:
    task = cluster.tasks.get(fault.target)
    if task is None or not task.begun or not task.launch.alive:
        return
    if task.launch.step.kind == "canary" and fault.end == 0 and not cluster.scene.plan.canary_stays:
        return
    code, number = (fault.end, None) if fault.end >= 0 else (None, -fault.end)
    cluster.end_task(task, code, number, fault.name, itself=True)


def _shim_killed(cluster: Cluster, fault: Fault) -> None:
    task = cluster.tasks.get(fault.target)
    if task is not None and task.begun and task.launch.alive:
        cluster.vanish(task, fault.name, itself=True)


def _launcher_killed(cluster: Cluster, fault: Fault) -> None:
    launch = cluster.launches.get(fault.target)
    if launch is None or not launch.alive:
        return
    cluster.launcher_ends(launch, None, 9, fault.name, itself=True)
    for task in launch.tasks:
        wait = cluster.random.uniform(0.005, 0.1)
        if cluster.random.random() < 0.5:
            cluster.line.after(wait, partial(cluster.vanish, task, fault.name, itself=False))
        else:
            cluster.line.after(wait, partial(cluster.end_task, task, None, 15, fault.name))


def _task_hangs(cluster: Cluster, fault: Fault) -> None:
    """In a run that is ready it is found after a while, unless it is gone by then."""
    task = cluster.tasks.get(fault.target)
    if task is None or not task.begun or not task.alive or not task.launch.alive or not cluster.passed:
        return
    task.frozen = True
    found = partial(_hang_is_found, cluster, task, fault, cluster.line.now)
    cluster.line.after(cluster.random.uniform(*_FOUND_S), found)


def _hang_is_found(cluster: Cluster, task: Task, fault: Fault, since: float) -> None:
    step = task.launch.step.name
    if task.alive and task.launch.alive and cluster.launches[step] is task.launch:
        event = messages.TaskRefused(step, task.name, "hangs", EPOCH + since)
        cluster.hear(event, News(fault.name, task.name, step, since, True))


def _node_dies(cluster: Cluster, fault: Fault) -> None:
    """Nothing is heard of a node any more: launchers notice it after a while, and Slurm ends the job."""
    if not fault.target or int(fault.target) in cluster.dead:
        return
    node = int(fault.target)
    cluster.dead[node] = fault.name
    for launch in cluster.launches.values():
        lost = [task for task in launch.tasks if task.node == node and task.alive]
        for task in lost:
            task.alive = False
        if lost:
            cluster.line.after(cluster.random.uniform(1.0, 20.0), partial(cluster.fail, launch, fault.name, 1))
    ended = messages.EveryoneTerminated(f"the job lost node{node}", "FAILED", 1, certain=True)
    cluster.line.after(cluster.random.choice((_NEVER, fault.length)), partial(cluster.end_job, ended))


def _network_cut(cluster: Cluster, fault: Fault) -> None:
    if fault.target:
        node = int(fault.target)
        cluster.cut_until[node] = max(cluster.cut_until.get(node, 0.0), cluster.line.now + fault.length)


def _asked(interrupt: bool) -> Callable[[Cluster, Fault], None]:
    def ask(cluster: Cluster, fault: Fault) -> None:
        grace = None if fault.length == _NEVER else fault.length
        cluster.hear(messages.StopAsked(interrupt, grace, f"{fault.kind} was asked for"))

    return ask


def _drain(cluster: Cluster, fault: Fault) -> None:
    grace = None if fault.length == _NEVER else fault.length
    cluster.hear(messages.DrainAsked(fault.name, fault.target, grace))


def _stray_signal(cluster: Cluster, fault: Fault) -> None:
    cluster.hear(messages.SignalCame())
    meaning = messages.StopAsked(True, None, "interrupted (SIGTERM)")
    cluster.line.after(cluster.random.uniform(0.0, 0.7), partial(cluster.hear, meaning))


def _disk_full(cluster: Cluster, fault: Fault) -> None:
    cluster.hear(messages.Broke("no event can be written: the disk is full"))


def _ends(told: messages.EveryoneTerminated) -> Callable[[Cluster, Fault], None]:
    return lambda cluster, fault: cluster.end_job(told)


def _limit_near(cluster: Cluster, fault: Fault) -> None:
    cluster.hear(messages.TimeLimit("the job is near its time limit"))


def _hand_over_due(cluster: Cluster, fault: Fault) -> None:
    cluster.hear(handover_messages.HandOverDue())


def _controller_away(cluster: Cluster, fault: Fault) -> None:
    cluster.away_until = max(cluster.away_until, cluster.line.now + fault.length)


FAULTS: dict[str, Callable[[Cluster, Fault], None]] = {
    "task dies": _task_dies,
    "shim killed": _shim_killed,
    "launcher killed": _launcher_killed,
    "task hangs": _task_hangs,
    "node dies": _node_dies,
    "network cut": _network_cut,
    "down": _asked(interrupt=False),
    "interrupt": _asked(interrupt=True),
    "drain": _drain,
    "stray signal": _stray_signal,
    "disk full": _disk_full,
    "scancel": _ends(messages.EveryoneTerminated("the job was cancelled")),
    "time limit": _ends(messages.EveryoneTerminated("the job reached its time limit", "TIMEOUT", 1, certain=True)),
    "preemption": _ends(messages.EveryoneTerminated("the job was preempted", certain=True)),
    "limit near": _limit_near,
    "hand-over due": _hand_over_due,
    "controller away": _controller_away,
}
