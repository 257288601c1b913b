"""Reads a Perfetto trace with Perfetto's own schema (`pip install perfetto`) and compares it with JSON lines of the same
recording: the right number of slices, at the right times, nested as they must be.

    check_perfetto.py TRACE.pftrace EVENTS.jsonl
"""

import json
import sys
from collections import Counter, defaultdict

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as schema

trace = schema.Trace()
trace.ParseFromString(open(sys.argv[1], "rb").read())
events = [json.loads(line) for line in open(sys.argv[2])]
start = next(e for e in events if e["event"] == "start")
end = next(e for e in events if e["event"] == "end")

tracks = {}
by_track = defaultdict(list)
instants = []
for packet in trace.packet:
    if packet.HasField("track_descriptor"):
        d = packet.track_descriptor
        assert d.uuid not in tracks, "a track is told once"
        tracks[d.uuid] = d
    if packet.HasField("track_event"):
        e = packet.track_event
        assert e.track_uuid in tracks, "a track is told before its events"
        if e.type == e.TYPE_INSTANT:
            instants.append((packet.timestamp, e.name))
        else:
            by_track[e.track_uuid].append((packet.timestamp, e))

slices = []
for track, list_of in by_track.items():
    if tracks[track].HasField("counter"):
        assert list_of[-1][1].counter_value == 0 or any(not f["complete"] for f in events if f["event"] == "fault")
        continue
    stack, last = [], 0
    for ts, e in list_of:
        assert ts >= last, "a track's events are in the order of time"
        last = ts
        if e.type == e.TYPE_SLICE_BEGIN:
            stack.append((ts, e))
        else:
            begin, opened = stack.pop()
            slices.append((opened.categories[0], begin, ts, opened))
    assert not stack, "every slice ends"

faults = [e for e in events if e["event"] == "fault"]
got = Counter((b, t - b) for c, b, t, e in slices if c == "fault")
stages = ["lookup_ns", "device_id_ns", "handler_ns", "delivered_ns", "response_ns", "freed_ns"]
expected = Counter((f["ts"], max([f[s] for s in stages if f.get(s) is not None], default=0)) for f in faults)
assert got == expected, (got - expected, expected - got)

interrupts = {(b, t) for c, b, t, e in slices if c == "stage" and e.name == "interrupt"}
begins = {(b, e.name): t for c, b, t, e in slices if c == "stage"}
for f in faults:
    if f.get("lookup_ns") is not None:
        assert begins[(f["ts"], "lookup")] == f["ts"] + f["lookup_ns"]
    if f.get("interrupt_ns"):
        assert (f["ts"] - f["interrupt_ns"], f["ts"]) in interrupts

quiet = {"fault", "fault_stage", "start", "end", "lost", "violation"}
calls = Counter((e["event"], e["ts"]) for e in events if e["event"] not in quiet)
got = Counter((e.name, b) for c, b, t, e in slices if c == "call")
assert got == calls, (got - calls, calls - got)

told = Counter(name.split(":")[0] for _, name in instants)
assert told["violation"] == sum(end["violations"].values()), told
assert told["lost"] == sum(1 for e in events if e["event"] == "lost"), told
handles = [s for s in slices if s[0] == "handle"]
assert all(begin >= start.get("ts", 0) for _, begin, _, _ in handles)
print(f"{len(faults)} faults, {len(begins)} stages, {sum(calls.values())} calls, {len(handles)} handles, {len(instants)} instants")
