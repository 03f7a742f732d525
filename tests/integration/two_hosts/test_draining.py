"""A worker drains across hosts."""

from __future__ import annotations

import signal

from tests.support.fleet.two_hosts import SLOW, TWO_HOSTS, Site
from tests.support.until import until

pytestmark = TWO_HOSTS


def test_sigterm_to_an_agent_lets_streams_across_hosts_finish(site: Site) -> None:
    with site.workers("leaver", *SLOW, hosts="bc") as workers:
        streams = [site.chat("leaver", f"stream-{number}") for number in range(8)]
        until(lambda: site.in_flight().get("b", 0) >= 1, 10, "a stream on b")
        workers["b"].send_signal(signal.SIGTERM)
        until(lambda: site.states()["b"] == "draining", 5, "b to drain")
        later = [site.chat("leaver", f"later-{number}", options={"num_predict": 5}) for number in range(8)]
        assert all(future.result(20).whole for future in later)
        assert {site.worker_of(f"later-{number}") for number in range(8)} == {"c"}
        assert all(future.result(30).whole for future in streams)
        assert workers["b"].wait(15) == 0
        assert "b" not in site.states()
