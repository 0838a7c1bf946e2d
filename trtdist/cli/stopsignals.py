"""INT, TERM and HUP for a command that must not leave anything behind."""

from __future__ import annotations

import signal

__all__ = ["StopSignals"]


class StopSignals:
    """Each of the signals ends the command at once, until `hold`: then they wait until they are asked for.

    A held signal is never lost and never cuts a thing short. HUP stays ignored where it was (nohup). A program that is
    started while signals are held inherits that.
    """

    def __init__(self) -> None:
        self._numbers = {signal.SIGINT, signal.SIGTERM}
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            self._numbers.add(signal.SIGHUP)
        for number in self._numbers:
            signal.signal(number, signal.default_int_handler)

    def hold(self) -> None:
        """From now on nothing is interrupted."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)

    def wait(self, seconds: float) -> signal.Signals | None:
        """The next held signal, None when there is none within `seconds`."""
        found = signal.sigtimedwait(self._numbers, seconds)
        return None if found is None else signal.Signals(found.si_signo)
