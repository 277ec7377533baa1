"""The arithmetic behind docs/scaling.md."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from scripts.scaling import GPUS, Machine, Work, all_reduce_s, predict

WORK = Work(name="x", parameters=90_000_000, flops_per_clip=300e9, clips=16)


def test_all_reduce_within_and_between_nodes() -> None:
    plain = Machine(link_efficiency=1.0, latency_s=0.0)
    assert all_reduce_s(plain, 1e9, 1) == 0
    assert all_reduce_s(plain, 1e9, 8) == pytest.approx(2 * 7 / 8 * 1e9 / 450e9)
    two_nodes = 2 * 7 / 8 * 1e9 / 450e9 + 2 * 1 / 2 * 1e9 / 8 / 50e9
    assert all_reduce_s(plain, 1e9, 16) == pytest.approx(two_nodes)


def test_efficiency_falls_with_devices_and_rises_with_clips_and_links() -> None:
    machine = Machine()
    rows = [predict(machine, replace(WORK, clips=1024 // gpus), gpus) for gpus in GPUS]
    assert rows[0].efficiency == 1.0
    assert all(a.efficiency >= b.efficiency for a, b in itertools.pairwise(rows))
    assert rows[-1].efficiency < 0.5
    few = predict(machine, replace(WORK, clips=2), 512)
    assert predict(machine, replace(WORK, clips=64), 512).efficiency > few.efficiency
    slow = replace(machine, adapter_bytes_s=machine.adapter_bytes_s / 4)
    assert predict(slow, replace(WORK, clips=2), 512).efficiency < few.efficiency


def test_a_measured_speed_replaces_the_assumption() -> None:
    row = predict(Machine(), WORK, 1, clips_s=100.0)
    assert row.step_s == pytest.approx(0.16)
    assert row.clips_s == pytest.approx(100.0)
    assert row.decode_cores_node == pytest.approx(0.136)
