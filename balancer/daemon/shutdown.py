"""The three phases of a stop: say goodbye and serve on; empty the queues and close; finish.

Each phase is over for all workers before the next begins: a client that is told to close must find an open door.
"""

import asyncio

import structlog

from balancer.clock import monotonic
from balancer.config.model import Config
from balancer.daemon.bindings import Bindings
from balancer.daemon.lending import COMMAND_TIMEOUT
from balancer.daemon.messages import Drain
from balancer.daemon.workers import Workers
from balancer.telemetry import events
from balancer.transport.framed import ChannelError
from balancer.transport.sockets import refuse_new

log = structlog.get_logger()

QUIET = 2.0  # without a new connection for so long, whoever sends traffic here has noticed
_LOOK_EVERY = 0.1
_HANDSHAKE = 0.25  # a client far away has sent its SYN: its ACK comes a round trip later and finds an open door
_LATE = 5.0  # beyond a worker's own deadline, before it is killed


async def shut_down(config: Config, workers: Workers, bindings: Bindings) -> None:
    """All phases, in order. Takes at most shutdown_delay + max(shutdown_grace, tunnel_grace) and about 10 s."""
    await workers.stop_restarting()
    log.info(events.DAEMON_STOPPING, phase="announce")
    await workers.everywhere(Drain("announce"), COMMAND_TIMEOUT)
    await _until_quiet(config.shutdown_delay, workers)
    log.info(events.DAEMON_STOPPING, phase="stop_listening")
    refused = [refuse_new(each.sock) for each in bindings.all()]
    if any(refused):
        await asyncio.sleep(_HANDSHAKE)
    for listener, address in bindings.announced:
        log.info(events.LISTENER_CLOSED, listener=listener, address=address)
    bindings.close()
    await workers.everywhere(Drain("stop_listening"), COMMAND_TIMEOUT)
    log.info(events.DAEMON_STOPPING, phase="finish")
    longest = max(config.shutdown_grace, config.tunnel_grace) + _LATE
    workers.expect_ends()
    await workers.everywhere(Drain("finish", config.shutdown_grace, config.tunnel_grace), longest)
    await workers.end(_LATE)


async def _until_quiet(delay: float, workers: Workers) -> None:
    """Wait until 2 s have passed without a new connection anywhere, at most `delay` seconds."""
    began = monotonic()
    newest = began
    while (now := monotonic()) - began < delay and now - newest < QUIET:
        await asyncio.sleep(min(_LOOK_EVERY, delay))
        for child in workers.ready():
            try:
                newest = max(newest, (await child.ping(COMMAND_TIMEOUT)).last_accept)
            except ChannelError:
                continue  # it ended, or hangs and will be killed: either way nobody connects to it
