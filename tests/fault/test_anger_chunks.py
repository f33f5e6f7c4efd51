"""scratch"""
from __future__ import annotations
import pytest, time
from tests.fault import anger
from tests.fault.anger import *
from tests.fault.rig import Rig

@pytest.fixture
def big(rig: Rig) -> Rig:
    rig.source.database.psql(anger.SOURCE_BULK)
    rig.target.database.psql(anger.TARGET_BULK)
    anger.narrow(rig)
    return rig

ALL = [anger.target_dies, anger.source_dies, anger.network_dies, anger.target_server_dies, anger.source_server_dies]

@pytest.mark.parametrize("way", ["pull", "push"])
@pytest.mark.parametrize("first", range(5))
def test_x(big, way, first):
    down = big.proxy.down_bytes
    t = time.monotonic()
    job = anger.begin(big, way)
    n = 0
    last = big.proxy.down_bytes
    while anger.stop_after(big, job, n + 1):
        death = ALL[(first + n) % 5]
        big_down = big.proxy.down_bytes
        print("chunk", n + 1, big_down - last, death.__name__, big.view(job)["progress"]["wire_bytes"], "at", round(time.monotonic()-t, 2))
        last = big_down
        death(big)
        anger.go_on(big)
        n += 1
        if n == 9: break
    view = big.done(job)
    anger.assert_equal(big)
    print("total", anger.transfer_bytes(view), "again", anger.sent_again(big, down, view), "wire", view["progress"]["wire_bytes"], "saved", view["progress"]["saved_bytes"], "resumed", view["progress"]["resumed"], "n", n, "took", round(time.monotonic()-t, 2))
