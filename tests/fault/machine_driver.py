"""The state machine of tests/log/log_machine.py, with power cuts: what a cut may leave is worked out from
the trace of the faulty file layer, so the machine runs in a process of its own.

``python machine_driver.py MODULE EXAMPLES STEPS SEED``; prints counts.
"""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import faults as fault_layer
from crash_states import Disk, Operation, State, materialise, snapshot
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

# Control pages and locks are of one boot. What LMDB writes is not traced: it syncs each commit by itself.
NOT_TRACED = ("run", "meta", "groups")


def machine(faults: fault_layer.Faults, counts: Counter[str]) -> Any:
    """The machine's class; only now, because eventlog must find the faulty core."""
    from log_machine import CRASHED, LogMachine, another_boot

    from eventlog.log.checkpoints import CLEAN_SHUTDOWN

    class MachineWithCuts(LogMachine):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.boots = 0
            self.initial: State = {}
            self.trace: list[Operation] = []
            self.store.mkdir()
            self.start_machine()

        def start_machine(self) -> None:
            self.boots += 1
            self.stack.enter_context(another_boot(f"boot {self.boots}"))
            self.trace.clear()
            faults.reset()
            faults.reboot(self.boots)

        def listen(self) -> None:
            """Take over what was traced since the last time."""
            self.trace += faults.trace(self.store)
            faults.reset()

        def in_child(self, run: Callable[[], None], *, is_killed: bool) -> None:
            self.listen()
            super().in_child(run, is_killed=is_killed)
            self.trace += pickle.loads(self.words.read_bytes())

        def last_words(self) -> None:
            self.words.write_bytes(pickle.dumps(faults.trace(self.store)))

        @property
        def words(self) -> Path:
            return self.root / "words of a child"

        @rule(luck=st.integers(0, 2**32))
        def cut_the_power(self, luck: int) -> None:
            """All that was surely durable is there; of what came after it whole batches, in order."""
            random = Random(luck)
            self.listen()
            self.forget_all()
            disk = Disk(self.initial)
            for operation in self.trace:
                if operation.path.partition("/")[0] not in NOT_TRACED:
                    disk.apply(operation)
            state = disk.crash(random)
            store = self.root / f"boot{self.boots}"
            materialise(state, store, untraced=dict.fromkeys(NOT_TRACED))
            for name in NOT_TRACED:
                kept = name == "groups" or random.random() < 0.5
                if kept and (self.store / name).is_dir():
                    shutil.copytree(self.store / name, store / name)
            shutil.rmtree(self.store)
            self.store = store
            self.start_machine()
            self.initial = {
                path: content
                for path, content in snapshot(store).items()
                if path.partition("/")[0] not in NOT_TRACED
            }
            self.is_clean = (store / "log" / CLEAN_SHUTDOWN).exists()
            assert not self.is_clean, "marked clean while it was open"
            self.look_what_is_left()

        def look_what_is_left(self) -> None:
            log = self.open()
            counts.update(report.case for report in log.recovery)
            counts["cuts"] += 1
            assert {report.case for report in log.recovery} <= CRASHED
            topic = log.topic("t")
            assert topic.partition_count == len(self.model)
            for number, partition in enumerate(self.model):
                left = topic.log_end_offset(number)
                assert left >= partition.durable, "what was durable is gone"
                assert left in partition.ends, "half a batch"
                counts["records lost"] += len(partition.values) - left
                del partition.values[left:]
                partition.ends = [end for end in partition.ends if end <= left]
                partition.durable = left
                partition.committed = min(partition.committed, left)  # C-H: clamped

    return MachineWithCuts


def main() -> None:
    """Run as the head comment says."""
    module, examples, steps, number = sys.argv[1:]
    faults = fault_layer.install(module)
    faults.skip_syncs()
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "log"))
    warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
    logging.getLogger("eventlog").setLevel(logging.CRITICAL)
    counts: Counter[str] = Counter()
    run_state_machine_as_test(
        seed(int(number))(machine(faults, counts)),
        settings=settings(
            max_examples=int(examples),
            stateful_step_count=int(steps),
            deadline=None,
            database=None,
            print_blob=False,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
