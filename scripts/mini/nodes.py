"""What the mini cluster is made of: its configuration, munge, the controller, the network and the nodes."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from mini.machine import (
    BRIDGE,
    CONTROLLER_PORT,
    NODE_PORT,
    SRUN_PORTS,
    STATE,
    SUBMIT,
    SUBNET,
    Record,
    Shape,
    cut_off,
    node_names,
    run,
    saved_shape,
    start,
    wait_until,
)

CONFIG = """\
ClusterName=minicluster
SlurmctldHost=controller({subnet}.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SrunPortRange={srun_ports}
SlurmUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={state}/munge/socket
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
ReturnToService=2
SlurmdParameters=config_overrides
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/node/slurmd.pid
SlurmdSpoolDir={state}/node/spool
StateSaveLocation={state}/controller
SlurmctldLogFile={state}/log/slurmctld.log
SlurmdLogFile={state}/log/%n.log
TmpFS=/tmp
TaskProlog={state}/task-prolog
GresTypes=gpu
KillWait={kill_wait}
SlurmctldTimeout=10
SlurmdTimeout=10
InactiveLimit=0
MinJobAge=300
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=node[1-{nodes}] NodeAddr={subnet}.[11-{last}] CPUs={cpus} RealMemory={memory}{gres} State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes=ALL MaxTime=00:10:00 State=UP
PartitionName=yielding Nodes=ALL MaxTime=INFINITE PreemptMode=REQUEUE State=UP
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=10 State=UP
"""

# Where accounting remembers jobs, the controller need not for long.
NO_ACCOUNTING = "MinJobAge=300\nAccountingStorageType=accounting_storage/none\n"

# A task inherits its environment from the srun on another node, whose clock may be another.
TASK_PROLOG = """\
#!/bin/sh
if [ -e {state}/clock/$SLURMD_NODENAME ]; then
    sed 's/^/export /' {state}/clock/$SLURMD_NODENAME
elif [ -n "${{MINICLUSTER_CLOCK-}}" ]; then
    printf 'unset LD_PRELOAD\\nunset MINICLUSTER_CLOCK\\n'
fi
"""

# The kernel has no clock of a node's own, and libfaketime 0.9.10 cannot leave the monotonic clock alone: sleep() fails.
# A wait until some time of the shifted clock, as srun has them, is told to the kernel by its own clock.
CLOCK = """\
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long ahead(void) {
    const char *seconds = getenv("MINICLUSTER_CLOCK");
    return seconds ? atol(seconds) : 0;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += ahead();
    return failed;
}
int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *end) {
    struct timespec real = {end->tv_sec - ahead(), end->tv_nsec};
    int since_boot = end->tv_sec < 1000000000;
    return pthread_cond_clockwait(cond, mutex, since_boot ? CLOCK_MONOTONIC : CLOCK_REALTIME, since_boot ? end : &real);
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *now) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (now) *now = found.tv_sec;
    return found.tv_sec;
}
"""

NODE_INIT = """\
set -eu
hostname {name}
mount -t tmpfs -o mode=0755 node {state}/node
mount --bind {state}/hosts /etc/hosts
mkdir {state}/node/spool
export SLURM_CONF={state}/slurm.conf
{private}
touch {state}/up/{name}
{program} &
while wait || true; [ -n "$(jobs -r)" ] || [ -e {state}/headless/{name} ]; do sleep infinity & done
"""


def write_state(shape: Shape) -> None:
    """Write the configuration of Slurm, the host table and the device nodes that stand for GPUs."""
    for folder in ("log", "controller", "node", "dev", "up", "clock", "headless"):
        (STATE / folder).mkdir()
    gres = ""
    if shape.gpus_per_node:
        gres = f" Gres=gpu:{shape.gpus_per_node}"
        for number in range(shape.gpus_per_node):
            os.mknod(STATE / "dev" / f"gpu{number}", 0o666 | 0o020000, os.makedev(1, 3))
        files = f"{STATE}/dev/gpu[0-{shape.gpus_per_node - 1}]" if shape.gpus_per_node > 1 else f"{STATE}/dev/gpu0"
        (STATE / "gres.conf").write_text(f"NodeName=node[1-{shape.nodes}] Name=gpu File={files}\n")
    text = CONFIG.format(
        state=STATE,
        subnet=SUBNET,
        controller_port=CONTROLLER_PORT,
        node_port=NODE_PORT,
        srun_ports=SRUN_PORTS,
        kill_wait=shape.kill_wait,
        nodes=shape.nodes,
        last=10 + shape.nodes,
        cpus=shape.cpus_per_node,
        memory=shape.memory,
        gres=gres,
    )
    (STATE / "slurm.conf").write_text(text)
    (STATE / "task-prolog").write_text(TASK_PROLOG.format(state=STATE))
    (STATE / "task-prolog").chmod(0o755)
    addresses = [f"{SUBNET}.{10 + number} node{number}" for number in range(1, shape.nodes + 1)]
    others = ["127.0.0.1 localhost", f"{SUBNET}.1 controller", f"{SUBNET}.2 {SUBMIT}"]
    (STATE / "hosts").write_text("\n".join([*others, *addresses, ""]))
    (STATE / "shape.json").write_text(json.dumps(vars(shape)))


def start_munge(record: Record) -> None:
    """Start a munged of the cluster's own, with a key of its own."""
    folder = STATE / "munge"
    folder.mkdir()
    key = folder / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    for path in (folder, key):
        shutil.chown(path, "munge", "munge")
    options = [f"--key-file={key}", f"--socket={folder}/socket", f"--pid-file={folder}/pid"]
    options += [f"--log-file={folder}/log", f"--seed-file={folder}/seed", "--foreground"]
    pid = start(
        ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", "munged", *options], STATE / "log/munged.log"
    )
    record.add("munged", pid)
    wait_until((folder / "socket").exists, 10, f"munged does not start; see {STATE}/log/munged.log and {folder}/log")


def start_controller(record: Record) -> None:
    """Start slurmctld under the host name `controller`."""
    program = f"hostname controller; exec slurmctld -D -f {STATE}/slurm.conf"
    record.add("controller", start(["unshare", "--uts", "bash", "-c", program], STATE / "log/controller.log"))


def start_network(shape: Shape) -> None:
    """Make the bridge and a network namespace with one interface, eth0, for each node and the submit host."""
    run(["ip", "link", "add", BRIDGE, "type", "bridge"])
    run(["ip", "addr", "add", f"{SUBNET}.1/24", "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])
    connect(SUBMIT, f"{BRIDGE}0", 2)
    for number, name in enumerate(node_names(shape), start=1):
        connect(name, f"{BRIDGE}{number}", 10 + number)
    if shape.cut_off:
        cut_off()


def connect(name: str, port: str, number: int) -> None:
    """Give a host a network namespace that is connected to the bridge."""
    space = f"{BRIDGE}-{name}"
    run(["ip", "netns", "add", space])
    run(["ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space])
    run(["ip", "link", "set", port, "master", BRIDGE, "up"])
    run(["ip", "-n", space, "addr", "add", f"{SUBNET}.{number}/24", "dev", "eth0"])
    for interface in ("lo", "eth0"):
        run(["ip", "-n", space, "link", "set", interface, "up"])
    run(["ip", "-n", space, "route", "add", "default", "via", f"{SUBNET}.1"])


def start_node(record: Record, name: str) -> None:
    """Start a node: its namespaces, its private folders and slurmd, which the submit host does without."""
    program = "sleep infinity" if name == SUBMIT else f"slurmd -D -N {name}"
    private = private_folders(saved_shape().expose)
    init = NODE_INIT.format(name=name, state=STATE, program=program, private=private)
    # `ip netns exec` would remount /sys and hide the cgroups from slurmd; nsenter changes the network alone.
    argv = ["nsenter", f"--net=/run/netns/{BRIDGE}-{name}"]
    argv += ["unshare", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
    (STATE / "up" / name).unlink(missing_ok=True)
    record.add(name, start([*argv, "bash", "-c", init], STATE / "log" / f"{name}.out"))


def private_folders(expose: Sequence[str]) -> str:
    """The shell lines that give a node its own /tmp and /dev/shm, in which the exposed paths are still seen.

    A closed folder above an exposed path is covered by an empty one that everybody may enter.
    """
    covers = {"/tmp": "1777", "/dev/shm": "1777"}
    closed = [above for above in map(closed_above, expose) if above]
    covers.update((above, "0755") for above in closed if not Path(above).is_relative_to("/tmp"))
    hidden = [path for path in expose if any(Path(cover) in Path(path).parents for cover in covers)]
    binds = [(path, f"{STATE}/node/exposed{number}") for number, path in enumerate(hidden)]
    lines = [f"mkdir {kept}; mount --bind {shlex.quote(path)} {kept}" for path, kept in binds]
    lines += [f"mount -t tmpfs -o mode={mode} private {shlex.quote(cover)}" for cover, mode in covers.items()]
    lines += [
        f"mkdir -p {shlex.quote(path)}; mount --move {kept} {shlex.quote(path)}; rmdir {kept}" for path, kept in binds
    ]
    return "\n".join(lines)


def closed_above(path: str) -> str:
    """The topmost folder above a path that not everybody may enter; "" when there is none."""
    return next((str(above) for above in reversed(Path(path).parents) if above.stat().st_mode & 0o005 != 0o005), "")
