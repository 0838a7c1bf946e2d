"""Accounting of the mini cluster: slurmdbd on a MariaDB of its own, started and stopped on request."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
from pathlib import Path

from mini.machine import (
    ACCOUNTING_PORT,
    STATE,
    SUBNET,
    Record,
    idle,
    node_names,
    require,
    run,
    saved_shape,
    slurm,
    start,
    wait_until,
)
from mini.nodes import NO_ACCOUNTING, start_controller

ACCOUNTING_PACKAGES = "slurmdbd mariadb-server-core mariadb-client-core"
ACCOUNTING_PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db", "my_print_defaults")

ACCOUNTING = f"""\
MinJobAge=5
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={SUBNET}.1
AccountingStoragePort={ACCOUNTING_PORT}
AccountingStoragePass={STATE}/munge/socket
"""

ACCOUNTING_CONFIG = f"""\
AuthType=auth/munge
AuthInfo=socket={STATE}/munge/socket
DbdHost=controller
DbdAddr={SUBNET}.1
DbdPort={ACCOUNTING_PORT}
SlurmUser=root
PidFile={STATE}/accounting/slurmdbd.pid
LogFile={STATE}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=minicluster
"""


def accounting(options: argparse.Namespace) -> None:
    """Start or stop accounting (slurmdbd, on a MariaDB of its own), so that sacct works; the controller starts anew."""
    saved_shape()
    require(ACCOUNTING_PROGRAMS, "install --accounting")
    record, folder = Record(), STATE / "accounting"
    record.kill("controller", signal.SIGTERM)
    try:
        if options.action == "start" and not folder.exists():
            try:
                start_accounting(record, folder)
            except BaseException:
                stop_accounting(record, folder)
                raise
        elif options.action == "stop" and folder.exists():
            stop_accounting(record, folder)
    finally:
        start_controller(record)
    wait_until(lambda: idle(node_names(saved_shape())), 30, f"nodes do not become idle; see the logs in {STATE}/log")


def start_accounting(record: Record, folder: Path) -> None:
    """Make a database that only root reaches, by a socket, and start slurmdbd before it."""
    folder.mkdir(mode=0o700)
    data, socket = f"--datadir={folder}/data", folder / "socket"
    run(["mariadb-install-db", "--no-defaults", "--user=root", data, "--skip-test-db"])
    options = ["--no-defaults", "--user=root", data, f"--socket={socket}", "--skip-networking"]
    options += [f"--pid-file={folder}/mariadbd.pid", "--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M"]
    record.add("mariadbd", start(["mariadbd", *options], STATE / "log/mariadbd.log"))
    wait_until(socket.exists, 30, f"mariadbd does not start; see {STATE}/log/mariadbd.log")
    config = STATE / "slurmdbd.conf"
    config.write_text(ACCOUNTING_CONFIG)
    config.chmod(0o600)
    environ = {**os.environ, "SLURM_CONF": f"{STATE}/slurm.conf", "MYSQL_UNIX_PORT": str(socket)}
    program = ["unshare", "--uts", "bash", "-c", "hostname controller; exec slurmdbd -D"]
    record.add("slurmdbd", start(program, STATE / "log/slurmdbd.out", environ))
    swap_lines(NO_ACCOUNTING, ACCOUNTING)
    wait_until(accounted, 30, f"slurmdbd does not answer; see {STATE}/log/slurmdbd.log")


def accounted() -> bool:
    """Whether slurmdbd knows the cluster; it is told."""
    slurm("sacctmgr", "--immediate", "add", "cluster", "minicluster")
    return "minicluster" in slurm("sacctmgr", "--noheader", "--parsable2", "show", "cluster", "format=Cluster")


def stop_accounting(record: Record, folder: Path) -> None:
    """End it, and forget what it knew."""
    swap_lines(ACCOUNTING, NO_ACCOUNTING)
    for name in ("slurmdbd", "mariadbd"):
        record.end(name)
    (STATE / "slurmdbd.conf").unlink(missing_ok=True)
    shutil.rmtree(folder)


def swap_lines(old: str, new: str) -> None:
    """Change the configuration of Slurm."""
    config = STATE / "slurm.conf"
    part = STATE / "slurm.conf.part"
    part.write_text(config.read_text().replace(old, new))
    part.rename(config)
