"""A server is started again just before the clock of the machine is set back."""

from __future__ import annotations

import os
import signal

import pytest

from tests.end_to_end.workplace import UP_SECONDS, Workplace
from tests.faults.machine import small_machine
from tests.faults.runner import AGAIN
from tests.supervisor.runs import wait_for
from trtdist.events import Restarting, RunState, StepStarted, TaskStarted

TOPOLOGY = """\
name: faults
model: reference/tiny
engine: reference
launch: {launch}
context_servers: {{num_instances: 1, {again}}}
generation_servers: {{num_instances: 1, {again}}}
"""
ASK = ("client", "--prompt", "The capital of France is", "--max-tokens", 4)


@pytest.mark.long
@pytest.mark.parametrize(("launch", "step"), [("per_server", "gen.0"), ("mpi_world", "workers")])
def test_a_life_that_began_before_the_clock_was_set_back_is_heard(place: Workplace, launch: str, step: str) -> None:
    def lives() -> int:
        return len([event for event in place.events(StepStarted) if event.step == step])

    with small_machine(place) as machine:
        front = place.start("up", place.topology(TOPOLOGY.format(launch=launch, again=AGAIN)), "--local")
        place.wait_for_state("READY", front)
        for again in (1, 2):
            rank = [event for event in place.events(TaskStarted) if event.name == "gen.0.0"][-1]
            os.kill(rank.pid, signal.SIGKILL)
            wait_for(lambda again=again: lives() == 1 + again, UP_SECONDS, "another life")
            machine.inflict("clock behind")
            wait_for(lambda: place.events(RunState)[-1] == RunState("READY"), UP_SECONDS, "READY again")
        reasons = {event.reason for event in place.events(Restarting)}
        assert reasons == {f"gen.0.0 (step {step}) was killed by SIGKILL"}
        assert place.trtdist(*ASK).stdout.strip()
        place.trtdist("down")
        front.communicate(timeout=UP_SECONDS)
    place.nothing_left()
