"""Locks by key: one holder a key, nobody waits for another key.

Keys that nobody holds cost nothing.
"""

from __future__ import annotations

import gc
import threading

from promptgps_service.flow.keyed_locks import KeyedLocks


def test_who_holds_a_key_keeps_out_others_of_that_key_alone() -> None:
    locks = KeyedLocks()
    inside = [0]
    most = [0]

    def work() -> None:
        for _ in range(200):
            with locks["same"]:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    with locks["other"]:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == [1]


def test_a_held_lock_stays_the_lock_of_its_key() -> None:
    locks = KeyedLocks()
    with locks["key"]:
        gc.collect()
        assert not locks["key"].acquire(blocking=False)
    assert locks["key"].acquire(blocking=False)


def test_keys_that_nobody_holds_cost_nothing() -> None:
    locks = KeyedLocks()
    for number in range(1_000):
        with locks[f"key-{number}"]:
            pass
    gc.collect()
    assert len(locks) == 0
