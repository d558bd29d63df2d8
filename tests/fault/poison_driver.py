"""After a failed fdatasync: what reopening does to bytes that the kernel may hold for clean.

``python poison_driver.py MODULE DIRECTORY``; prints what it saw. Asserts as it goes.
"""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path

import faults as fault_layer
from crash_states import Kind


def main(module: str, directory: str) -> None:
    faults = fault_layer.install(module)
    import eventlog
    from eventlog.errors import PoisonedError

    root = Path(directory) / "store"
    log = eventlog.open(root)
    topic = log.topic("t")
    topic.append(b"durable")
    faults.plan(0, "syncs", errno.EIO)
    try:
        topic.append(b"in doubt")
        raise AssertionError("the sync failed and the append did not")
    except PoisonedError:
        pass
    faults.lift()
    try:
        log.close()
        raise AssertionError("closing could not sync and did not say so")
    except PoisonedError:
        pass

    faults.reset()
    with eventlog.open(root) as log:
        found = [record.value for record in log.topic("t").read()]
        path = root / "log" / "t-0" / f"{0:020d}.log"
        kept = log.topic("t").partition(0).state().active_position
        expected = path.read_bytes()[:kept]
        trace = [o for o in faults.trace(root) if o.path.endswith(".log")]
    writes = [o for o in trace if o.kind == Kind.PWRITE]
    durable = writes[0].position
    assert 0 < durable < kept, "what was durable is not touched, the rest is"
    assert b"".join(o.data for o in writes) == expected[durable:], "not all of it was written again"
    after = trace[trace.index(writes[-1]) + 1 :]
    assert any(o.kind == Kind.FSYNC and not o.os_errno for o in after), "not synced"
    print(json.dumps({"found": [value.decode() for value in found if value], "bytes": kept}))


if __name__ == "__main__":
    main(*sys.argv[1:])
