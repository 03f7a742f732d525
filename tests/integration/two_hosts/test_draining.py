"""A worker drains across hosts."""

from __future__ import annotations

import signal

from tests.support.fleet.two_hosts import BOTH, PATIENCE, SLOW, TWO_HOSTS, Site
from tests.support.until import until

pytestmark = TWO_HOSTS


def test_sigterm_to_an_agent_lets_streams_across_hosts_finish(site: Site) -> None:
    with site.workers("leaver", *SLOW, hosts="bc") as workers:
        started: list[str] = []
        streams = [site.chat("leaver", f"stream-{number}", started) for number in range(BOTH)]
        until(lambda: len(started) == BOTH, PATIENCE, "all streams to have begun")
        workers["b"].send_signal(signal.SIGTERM)
        until(lambda: site.states().get("b") in ("draining", None), PATIENCE, "b to drain, or to have left")
        later = [site.chat("leaver", f"later-{number}", options={"num_predict": 5}) for number in range(8)]
        assert all(future.result(PATIENCE).whole for future in later)
        assert {site.worker_of(f"later-{number}") for number in range(8)} == {"c"}
        assert all(future.result(PATIENCE).whole for future in streams)
        assert "b" in {site.worker_of(f"stream-{number}") for number in range(BOTH)}
        assert workers["b"].wait(PATIENCE) == 0
        until(lambda: "b" not in site.states(), PATIENCE, "b to have left")
