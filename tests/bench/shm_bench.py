"""What the shared-memory tables cost, in microseconds: `python -m tests.bench.shm_bench`.

Each figure of the first part is the best of several runs, loop and call included. The second part
runs the same operation in 1, 2 and 4 processes: CPU a call is what a request pays, time a call is
longer where processes share a core or wait for each other.
"""

from __future__ import annotations

import mmap
import os
import timeit
from collections.abc import Callable

from shm.config import ConfigTable
from shm.lock import LOCK_BYTES, RobustLock
from shm.metrics import MetricsTable
from tests.bench import table_bench

ROWS, COLUMNS = 4096, 64
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def measure(what: str, statement: str, number: int, **names: object) -> None:
    seconds = min(timeit.repeat(statement, globals=names, number=number, repeat=5))
    print(f"{what:<52} {seconds / number * 1e6:>12.3f} µs")


def bench_lock() -> None:
    page = memoryview(mmap.mmap(-1, 4096))
    lock = RobustLock.create(page[:LOCK_BYTES], lambda: None)
    measure("robust lock, free: with lock: pass", "with lock: pass", 300_000, lock=lock)


def bench_metrics() -> None:
    table = MetricsTable.create(f"bench-{os.getpid()}", COLUMNS, ROWS)
    try:
        writer = table.writer(0)
        counter, real = writer.counter(b"requests"), writer.real_counter(b"seconds")
        histogram = writer.histogram(b"latency", BOUNDS)
        measure("counter.add(1)", "c.add(1)", 1_000_000, c=counter)
        measure("real_counter.add(0.5)", "c.add(0.5)", 1_000_000, c=real)
        measure("histogram.observe(0.02), 11 bounds", "h.observe(0.02)", 1_000_000, h=histogram)
        measure("writer.counter(known key)", "w.counter(b'requests')", 1_000_000, w=writer)
        keys = iter([b"series %d" % index for index in range(ROWS)])
        measure("writer.counter(new key)", "w.counter(next(k))", 500, w=writer, k=keys)
        bench_scrape(table)
    finally:
        table.close()


def bench_scrape(table: MetricsTable) -> None:
    used = table.used_rows
    measure(f"collect, {used} rows, 1 column", "list(t.collect())", 5, t=table)
    in_children(lambda column: table.writer(column), range(1, COLUMNS))
    measure(f"collect, {used} rows, {COLUMNS} columns", "list(t.collect())", 5, t=table)


def in_children(action: Callable[[int], object], columns: range) -> None:
    for column in columns:
        pid = os.fork()
        if pid == 0:
            action(column)
            os._exit(0)
        os.waitpid(pid, 0)


def bench_config() -> None:
    table = ConfigTable.create(f"bench-{os.getpid()}", COLUMNS)
    try:
        data = os.urandom(1 << 20)
        table.join(0)
        table.report(0, 1 << 40)
        measure("publish 1 MiB", "t.publish(d)", 20, t=table, d=data)
        measure("read_current 1 MiB (checksum included)", "t.read_current()", 50, t=table)
        measure("generation", "t.generation", 300_000, t=table)
        measure("report", "t.report(0, 1 << 40)", 20_000, t=table)
    finally:
        table.close()


if __name__ == "__main__":
    bench_lock()
    bench_metrics()
    bench_config()
    table_bench.bench()
