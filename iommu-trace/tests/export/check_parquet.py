"""Reads the tables with DuckDB (`pip install duckdb`) and compares them with `stats --format json` of the same recording.

    check_parquet.py TABLES STATS.json
"""

import json
import sys

import duckdb

tables, stats = sys.argv[1], json.load(open(sys.argv[2]))


def rows(query):
    return duckdb.sql(query.replace("@", tables + "/")).fetchall()


def near(a, b):
    # Histograms of three significant digits.
    return abs(a - b) <= max(1, b / 1000)


assert rows("SELECT count(*) FROM '@faults.parquet'")[0][0] == stats["events"]["fault"]["count"]
devices = rows(
    "SELECT device, count(*), "
    + ", ".join(
        f"quantile_disc({stage}_ns, {q})"
        for stage in ["lookup", "delivered", "response"]
        for q in [0.5, 0.99]
    )
    + ", max(response_ns) FROM '@faults.parquet' GROUP BY device"
)
assert len(devices) == len(stats["devices"])
for device, count, *figures in devices:
    told = next(row for row in stats["devices"] if row["device"] == device)
    assert count == told["faults"]["count"], device
    of = told["latencies"]
    expected = [of[s][p] for s in ["lookup", "delivered", "response"] for p in ["p50_ns", "p99_ns"]] + [of["response"]["max_ns"]]
    assert all(near(a, b) for a, b in zip(figures, expected)), (device, figures, expected)

assert rows("SELECT count(*) FROM '@violations.parquet'")[0][0] == sum(stats["violations"].values())
for rule, count in rows("SELECT rule, count(*) FROM '@violations.parquet' GROUP BY rule"):
    assert stats["violations"][rule] == count
operations = dict(rows("SELECT operation, count(*) FROM '@dma_operations.parquet' GROUP BY operation"))
assert operations == {k: v["count"] for k, v in stats["events"].items() if k in ("map", "unmap", "invalidate")}, operations
# The join that the guide shows.
joined = rows(
    "SELECT count(*) FROM '@handle_lives.parquet' l JOIN '@faults.parquet' f ON f.recording = l.recording "
    "AND f.handle = l.handle AND f.ts >= coalesce(l.begin_ts, 0) AND f.ts <= coalesce(l.end_ts, f.ts)"
)[0][0]
assert joined == stats["events"]["fault"]["count"], joined
print(f"{len(devices)} devices, {operations}, {joined} faults in lives")
