"""The survival program: actions and faults under traffic, on both loops, as a table (`make chaos`).

`python -m tests.e2e.survival.chaos [--times N] [--loop L] [--action A]... [--fault F]... [--cycles N]
[--json FILE]`; the short forms are test_survival.py and test_faults.py. Every action has its own traffic, so
that whatever failed belongs to one line. Exit status 1 when a line is not as required.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.survival.actions import ACTIONS, Action, Death, Moved, Outage
from tests.e2e.survival.faults import FAULTS
from tests.e2e.survival.stage import Belongings, Instance, Stage
from tests.e2e.survival.table import Line, as_json, render
from tests.e2e.survival.traffic import Seen, Traffic
from tests.e2e.survival.watch import Watch

LOOPS = ("uring", "epoll")
RECOVERY_MS = 500
RATE_LEAST = 0.75  # of 2,000 requests a second: less would be a claim about another program
RATE = 2000
EXPLAINED_MAX = 5
CROWD_MAX = 3.0  # threads ready to run for each CPU: beyond it, pace is not ours
SETTLED_S = 3.0
SETTLE_S = 1.2  # a process that lived less than a second is started again with a delay


def run(stage: Stage, action: Action, times: int) -> Line:
    """Do an action `times` times under traffic, and judge what was seen."""
    edge = stage.edge
    line = Line(action.name, str(edge.options["loop"]), times)
    belongings: list[Belongings] = []
    notes: list[object] = []
    with Watch(edge) as watch:
        with Traffic(stage.lab) as traffic:
            try:
                for number in range(times):
                    if action.fresh_memory:
                        watch.pause()
                    noted = action.do(stage, number)
                    notes += noted if isinstance(noted, tuple) else [noted]
                    if action.fresh_memory:
                        watch.forget()
                    time.sleep(action.settle_s)  # traffic of its own for what came back
                    belongings.append(settled(edge, belongings))
            except AssertionError as error:
                line.wrong.append(f"at {number + 1} of {times}: {error}")
            seen = traffic.finish()
        watch.look()
    if belongings:
        line.left = belongings[0].change(belongings[-1])
        line.wrong += belongings[0].grown(belongings[-1])
    judge(line, action, seen, notes, float(str(edge.options["grace_period"])))
    if watch.crowd <= CROWD_MAX:
        judge_pace(line, action, seen, notes)
    else:
        line.clients = f"the machine was crowded ({watch.crowd:.1f} threads a CPU): its pace is not judged"
    judge_counters(line, action, watch, seen)
    return line


def settled(edge: Instance, before: Sequence[Belongings]) -> Belongings:
    """Count what the instance has, when what is under way (a client of the admin API) is over."""
    now = Belongings.of(edge)
    deadline = time.monotonic() + SETTLED_S
    while before and before[0].grown(now) and time.monotonic() < deadline:
        time.sleep(0.05)
        now = Belongings.of(edge)
    return now


def judge(line: Line, action: Action, seen: Seen, notes: Sequence[object], grace_s: float) -> None:
    """Fill in what clients saw, and name what they should not have seen."""
    deaths = [note for note in notes if isinstance(note, Death)]
    outages = [note for note in notes if isinstance(note, Outage)]
    gap, _lag = seen.gap()
    failed = [event for event in seen.events if event.failed]
    ended = [event for event in failed if event.kind == "tunnel" and event.what == "closed-within"]
    if action.stops or action.tunnel_ends:
        failed = [event for event in failed if event not in ended]
    for note in notes if action.tunnel_ends else ():
        early = [
            event
            for event in ended
            if isinstance(note, Moved) and note.began < event.at < note.began + grace_s
        ]
        line.wrong += [f"before the grace period: {event.describe()}" for event in early]
    inside = [event for event in failed if any(death.held(event) for death in deaths)]
    outside = [event for event in failed if event not in inside]
    resets = [event for event in seen.events if event.reset]
    line.requests = seen.requests
    line.inside, line.outside = len(inside), len(outside)
    line.gap_ms = gap * 1000
    line.resets, line.refused = len(resets), seen.refused
    cut = sum(event.kind == "tunnel" for event in failed)
    line.tunnel = f"cut {cut}" if cut else f"ended {len(ended)}" if ended else "kept"
    wrong = line.wrong
    for event in outside[:EXPLAINED_MAX]:
        wrong.append(f"failed outside: {event.describe()}")
    if len(outside) > EXPLAINED_MAX:
        wrong.append(f"... and {len(outside) - EXPLAINED_MAX} more")
    if not action.kills_data:
        for event in [event for event in resets if event not in outside][:EXPLAINED_MAX]:
            wrong.append(f"reset: {event.describe()}")
    if seen.refused and not action.stops:
        wrong.append(f"{seen.refused} connections refused")
    through = [at for at in seen.passed if not any(one.began <= at <= one.ended for one in outages)]
    line.denied = len(through)
    if through or seen.denied["accepted"] or not seen.denied["attempts"]:
        wrong.append(f"denied source: {len(through)} packets through, {seen.denied}")


def judge_pace(line: Line, action: Action, seen: Seen, notes: Sequence[object]) -> None:
    """Name what was too slow: recovery, and the traffic itself."""
    if action.stops:
        return
    gap, lag = seen.gap()
    waited = max([lag, *(note.starved for note in notes if isinstance(note, Death))])
    if (gap - waited) * 1000 > RECOVERY_MS:
        line.wrong.append(
            f"{gap * 1000:.0f} ms without an answer; of these the client could not run for {lag * 1000:.0f}, "
            f"holder and data plane in no case for more than {waited * 1000:.0f}"
        )
    rate = seen.requests / (seen.ended - seen.began)
    if rate < RATE * RATE_LEAST and not action.kills_data:
        line.wrong.append(f"only {rate:.0f} requests a second were sent")


def judge_counters(line: Line, action: Action, watch: Watch, seen: Seen) -> None:
    """Compare the instance's own counters with each other and with the client's."""
    wrong = list(watch.wrong)
    text = f"{watch.pages} pages"
    if not action.fresh_memory:
        lost = watch.since_start('edge_request_outcomes_total{outcome="lost"}')
        counted = watch.since_start("edge_requests_total")
        answered = sum(seen.answered.values())
        failed = line.inside + line.outside
        if not answered <= counted <= answered + failed:
            wrong.append(f"{counted} requests counted, {answered} answered and {failed} failed")
        if action.kills_data:
            text += f", lost {lost}"
            if not line.times <= lost <= failed + line.times * 4:
                wrong.append(f"{lost} counted as lost, {failed} were cut")
        elif lost:
            wrong.append(f"{lost} counted as lost")
    line.counters = text if wrong else f"add up ({text})"
    line.wrong += [f"counters: {one}" for one in wrong]


def on_stage(loop: str, names: Sequence[str], times: int, folder: Path) -> list[Line]:
    """Run actions on one instance; one that does not come back is replaced for those that follow."""
    lines: list[Line] = []
    while len(lines) < len(names):
        place = folder / str(len(lines))
        place.mkdir(0o755)
        with Stage(place, loop) as stage:
            for name in names[len(lines) :]:
                lines.append(run(stage, ACTIONS[name], times))
                print(render(lines[-1:]).splitlines()[2], flush=True)
                if not stage.edge.well():
                    break
    return lines


def after_all(loop: str, names: Sequence[str], cycles: int, folder: Path) -> Line:
    """Do every action once, then all of them in turn `cycles` times: what is left must be the same."""
    line = Line("after all these, as after one", loop)
    folder.mkdir(0o755)
    with Stage(folder, loop) as stage:
        for name in names:
            ACTIONS[name].do(stage, 0)
        first = Belongings.of(stage.edge)
        try:
            for number in range(cycles):
                ACTIONS[names[number % len(names)]].do(stage, number)
                line.times = number + 1
                time.sleep(SETTLE_S)
        except AssertionError as error:
            line.wrong.append(f"at {line.times + 1}: {error}")
        last = settled(stage.edge, [first])
    line.left = first.change(last)
    line.wrong += first.grown(last) + first.heavier(last)
    return line


def with_fault(loop: str, fault: str) -> Line:
    """Make one fault on an instance of its own, under the traffic of scene.py."""
    with tempfile.TemporaryDirectory(prefix="edge-fault-") as name:
        try:
            line = FAULTS[fault](Path(name), loop)
        except AssertionError as error:
            line = Line(fault, loop, wrong=[str(error)])
    print(f"{fault}, {loop}: {'; '.join(line.wrong) or 'as required'}", file=sys.stderr, flush=True)
    return line


def main() -> int:
    """Read the command line, run, print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.survival.chaos")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--loop", action="append", choices=LOOPS)
    parser.add_argument("--action", action="append", choices=list(ACTIONS))
    parser.add_argument("--fault", action="append", choices=list(FAULTS))
    parser.add_argument("--cycles", type=int, default=0, help="then so many of all in turn, for leaks")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if os.getuid() != 0:
        print("make chaos: needs root (BPF, network namespaces)", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lines: list[Line] = []
    for loop in arguments.loop or LOOPS:
        with tempfile.TemporaryDirectory(prefix="edge-chaos-") as name:
            folder, names = Path(name), arguments.action or ([] if arguments.fault else list(ACTIONS))
            folder.chmod(0o755)
            lines += on_stage(loop, names, arguments.times, folder)
            if arguments.cycles and names:
                lines.append(after_all(loop, names, arguments.cycles, folder / "all"))
        faults = arguments.fault or ([] if arguments.action else list(FAULTS))
        lines += [with_fault(loop, name) for name in faults]
    print()
    print(render(lines))
    if arguments.json:
        arguments.json.write_text(as_json(lines) + "\n")
    return 1 if any(line.wrong for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
