"""Faults, caused for real: to a process by its id, or to the disk, the network and the clock of a small machine."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

__all__ = ["PROCESS_FAULTS", "leave"]

# ptrace.h and asm/unistd_64.h
_ATTACH, _DETACH, _GET_REGISTERS, _SET_REGISTERS = 16, 17, 12, 13
_EXIT_GROUP, _NO_CALL = 231, 2**64 - 1
_WAIT_ALL_KINDS = 0x40000000
_SYSCALL = b"\x0f\x05"
_REGISTERS = (
    "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi "
    "orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs"
)


class _Registers(ctypes.Structure):
    """struct user_regs_struct of x86-64 (sys/user.h)."""

    _fields_ = [(name, ctypes.c_ulonglong) for name in _REGISTERS.split()]


def leave(pid: int, code: int) -> None:
    """Have a process end by itself with an exit code, whatever it does: it calls exit_group. x86-64 only."""
    if os.uname().machine != "x86_64" or sys.maxsize < 2**32:
        raise NotImplementedError("an exit is forced on a process of x86-64 only")
    _ptrace(_ATTACH, pid)
    os.waitpid(pid, _WAIT_ALL_KINDS)
    registers = _Registers()
    _ptrace(_GET_REGISTERS, pid, registers)
    registers.rax, registers.rdi, registers.rip = _EXIT_GROUP, code, _call_instruction(pid)
    # Else the kernel takes the call that it interrupted up again.
    registers.orig_rax = _NO_CALL
    _ptrace(_SET_REGISTERS, pid, registers)
    _ptrace(_DETACH, pid)


def _ptrace(request: int, pid: int, data: ctypes.Structure | None = None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.restype = ctypes.c_long
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if libc.ptrace(request, pid, None, None if data is None else ctypes.byref(data)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), f"ptrace of {pid}")


def _call_instruction(pid: int) -> int:
    """The address of an instruction of a process that calls the kernel."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb") as memory:
        for line in maps:
            addresses, rights = line.split()[:2]
            if "x" in rights and "[vsyscall]" not in line:
                first, end = (int(word, 16) for word in addresses.split("-"))
                memory.seek(first)
                offset = memory.read(end - first).find(_SYSCALL)
                if offset >= 0:
                    return first + offset
    raise LookupError(f"{pid} has no instruction that calls the kernel")


PROCESS_FAULTS: dict[str, Callable[[int], None]] = {
    "KILL": lambda pid: os.kill(pid, signal.SIGKILL),
    "STOP": lambda pid: os.kill(pid, signal.SIGSTOP),
    "exit 0": lambda pid: leave(pid, 0),
    "exit 1": lambda pid: leave(pid, 1),
}
