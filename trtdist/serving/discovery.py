"""Who serves: instances registered in etcd under leases, and a live view of them.

A key is there exactly as long as its process renews the lease, so what a watcher shows is alive or died within the
lease's time to live.
"""

from __future__ import annotations

from trtdist.serving.instance import Instance
from trtdist.serving.registration import LEASE_TTL_S, Registration, RegistrationError
from trtdist.serving.watcher import Change, Snapshot, Watcher

__all__ = ["LEASE_TTL_S", "Change", "Instance", "Registration", "RegistrationError", "Snapshot", "Watcher"]
