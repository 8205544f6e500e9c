"""From the schema's models to the plain structures that the daemon and its workers use. Nothing is checked here."""

import posixpath
from typing import TypeVar

import msgspec

from balancer.config import addresses, model, schema, schema_coordination, schema_pools, schema_traffic
from balancer.config.schema_base import Base

_Plain = TypeVar("_Plain", bound=model.Struct)


def located(path: str, base: str) -> str:
    """`path` seen from the folder `base`, where the configuration file is."""
    return posixpath.normpath(posixpath.join(base, path)) if base else path


def plain_bind(form: schema_traffic.BindForm, base: str, mode: int = 0o666) -> model.Bind:
    """A bind address; `mode` is the file mode of a Unix socket that gives none."""
    if form.path is not None:
        return model.Bind(path=located(form.path, base), mode=mode if form.mode is None else form.mode)
    host, port = addresses.bind_address(form.address or "")
    return model.Bind(host=host, port=port)


def _same(source: Base, target: type[_Plain]) -> _Plain:
    """`source` as a `target` that has the same fields."""
    return msgspec.convert(source.model_dump(), target)


def _optional(path: str | None, base: str) -> str | None:
    return None if path is None else located(path, base)


def _listener_tls(tls: schema_traffic.ListenerTls, base: str) -> model.ListenerTls:
    certificates = tuple(
        model.Certificate(cert=located(pair.cert, base), key=located(pair.key, base)) for pair in tls.certificates
    )
    rest = tls.model_dump(exclude={"certificates", "client_ca"})
    return msgspec.structs.replace(
        msgspec.convert({**rest, "certificates": []}, model.ListenerTls),
        certificates=certificates,
        client_ca=_optional(tls.client_ca, base),
    )


def _listener(name: str, listener: schema_traffic.Listener, routes: tuple[str, ...], base: str) -> model.Listener:
    wanted = None if listener.routes is None else set(listener.routes)
    return model.Listener(
        name=name,
        bind=tuple(plain_bind(form, base) for form in listener.bind),
        tls=None if listener.tls is None else _listener_tls(listener.tls, base),
        trusted_proxies=tuple(listener.trusted_proxies),
        routes=routes if wanted is None else tuple(route for route in routes if route in wanted),
        half_close="allow" if listener.half_close == "allow" else "cancel",
        http10_keepalive=listener.http10_keepalive,
        forwarded=listener.forwarded,
        limits=_same(listener.limits, model.ListenerLimits),
        timeouts=_same(listener.timeouts, model.ListenerTimeouts),
    )


def plain_match(match: schema_traffic.Match) -> model.Match:
    """A route's conditions; header names in lower case."""
    headers = {name.lower(): value for name, value in match.headers.items()}
    return msgspec.structs.replace(_same(match, model.Match), headers=headers)


def _action(route: schema_traffic.Route) -> model.Action:
    if route.split is not None:
        return _same(route.split, model.SplitAction)
    if route.redirect is not None:
        return _same(route.redirect, model.RedirectAction)
    if route.respond is not None:
        return _same(route.respond, model.RespondAction)
    return model.PoolAction(pool=route.pool or "")


def _route(route: schema_traffic.Route) -> model.Route:
    return model.Route(
        name=route.name,
        match=plain_match(route.match),
        action=_action(route),
        timeout=route.timeout,
        max_body=route.max_body,
        fallback=route.fallback,
        retry_non_idempotent=route.retry_non_idempotent,
        headers=_same(route.headers, model.RouteHeaders),
        rewrite=None if route.rewrite is None else _same(route.rewrite, model.Rewrite),
    )


def _backend(backend: schema_pools.Backend, base: str) -> model.Backend:
    host, port, path = "", 0, ""
    if backend.address.startswith("unix:"):
        path = located(backend.address.removeprefix("unix:"), base)
    else:
        host, port = addresses.backend_address(backend.address)
    return model.Backend(
        name=backend.name or backend.address,
        host=host,
        port=port,
        path=path,
        weight=backend.weight,
        max_connections=backend.max_connections,
        backup=backend.backup,
    )


def _health_check(pool: schema_pools.Pool) -> model.HealthCheck | None:
    check = pool.health_check
    if check is None:
        return None
    named = None if pool.host in ("keep", "backend") else pool.host
    return msgspec.structs.replace(
        _same(check, model.HealthCheck),
        host=check.host or named,
        fast_interval=min(check.fast_interval, check.interval),
    )


def _backends_from(section: schema_pools.BackendsFrom | None) -> model.BackendsFrom | None:
    return None if section is None or section.prefix is None else model.BackendsFrom(prefix=section.prefix)


def _pool(name: str, pool: schema_pools.Pool, base: str) -> model.Pool:
    tls = None
    if pool.tls is not None:
        files = {key: _optional(getattr(pool.tls, key), base) for key in ("ca", "cert", "key")}
        tls = msgspec.convert({**pool.tls.model_dump(), **files}, model.PoolTls)
    strategy: model.StrategyName = msgspec.convert(pool.strategy, model.StrategyName)
    return model.Pool(
        name=name,
        strategy=strategy,
        host=pool.host,
        tls=tls,
        backends=tuple(_backend(backend, base) for backend in pool.backends),
        backends_from=_backends_from(pool.backends_from),
        timeouts=_same(pool.timeouts, model.PoolTimeouts),
        keepalive=_same(pool.keepalive, model.Keepalive),
        tunnel_idle=pool.tunnel_idle,
        health_check=_health_check(pool),
        outlier_detection=None
        if pool.outlier_detection is None
        else _same(pool.outlier_detection, model.OutlierDetection),
        retry=None if pool.retry is None else _same(pool.retry, model.Retry),
        slow_start=pool.slow_start,
        panic_threshold=pool.panic_threshold,
        queue_timeout=pool.queue_timeout,
        queue_max=pool.queue_max,
    )


def _log(log: schema.Log, base: str) -> model.Log:
    access = log.access if log.access in ("stdout", "off") else located(log.access, base)
    return msgspec.structs.replace(_same(log, model.Log), access=access)


def _coordination(section: schema_coordination.Coordination | None, base: str) -> model.Coordination | None:
    if section is None:
        return None
    embedded = None
    if section.embedded is not None:
        from_file = section.embedded
        own = from_file.bind or from_file.members.get(from_file.name, from_file.client)
        embedded = model.EmbeddedCluster(
            name=from_file.name,
            members=dict(from_file.members),
            client=_plain_address(from_file.client),
            peer=_plain_address(own),
            data_dir=located(from_file.data_dir, base),
            peer_secret_file=_optional(from_file.peer_secret_file, base),
            join=from_file.join,
            heartbeat=from_file.heartbeat,
            election=from_file.election,
        )
    etcd = None
    if section.etcd is not None:
        etcd = model.Etcd(endpoints=tuple(section.etcd.endpoints), name=section.etcd.name)
    return model.Coordination(embedded=embedded, etcd=etcd, share_checks=section.share_checks)


def _plain_address(text: str) -> model.Bind:
    host, port = addresses.backend_address(text)
    return model.Bind(host=host, port=port)


def convert(file: schema.File, cores: int, base: str) -> model.Config:
    """The configuration of a file that was found right. O(size of the file)."""
    routes = tuple(route.name for route in file.routes)
    return model.Config(
        workers=cores if file.workers == "auto" else int(file.workers),
        user=file.user,
        group=file.group,
        runtime_dir=_optional(file.runtime_dir, base),
        via=file.via,
        max_connections=file.max_connections,
        log=_log(file.log, base),
        admin=model.Admin(
            bind=plain_bind(file.admin.bind, base, 0o600),
            token_file=_optional(file.admin.token_file, base),
            hosts=tuple(file.admin.hosts),
        ),
        watch=file.watch,
        coordination=_coordination(file.coordination, base),
        shutdown_delay=file.shutdown_delay,
        shutdown_grace=file.shutdown_grace,
        tunnel_grace=file.tunnel_grace,
        listeners=tuple(_listener(name, listener, routes, base) for name, listener in file.listeners.items()),
        routes=tuple(_route(route) for route in file.routes),
        pools=tuple(_pool(name, pool, base) for name, pool in file.pools.items()),
    )
