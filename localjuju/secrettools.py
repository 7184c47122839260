"""The secret-* hook commands: (context, options) -> output. Kept apart from hooktools for their size only."""

from __future__ import annotations

from typing import Any

from localjuju import secretstore
from localjuju.hookcontext import HookContext, ToolError
from localjuju.toolargs import Options, pairs, show


def secret_add(c: HookContext, o: Options, stdin: bytes) -> str:
    owner = c.unit.name if o.get("--owner") == "unit" else c.unit.app
    if owner == c.unit.app and not c.is_leader():
        raise ToolError("this unit is not the leader")
    secret_id, content = secretstore.new_id(), pairs(o.rest)
    meta = _meta(o)
    c.write_secret(lambda store: store.add(secret_id, owner, content, **meta))
    return f"secret:{secret_id}\n"


def secret_set(c: HookContext, o: Options, stdin: bytes) -> None:
    secret_id, content, leader = _id(o), pairs(o.rest[1:]), c.is_leader()
    meta = _meta(o)
    c.write_secret(lambda store: store.update(secret_id, c.unit.name, leader, content, **meta))


def secret_get(c: HookContext, o: Options, _: bytes) -> str:
    label, secret_id = o.get("--label"), (*o.rest, "")[0]
    if not label and not secret_id:
        raise ToolError("require either a secret ID or label")
    content = c.read_secret(secret_id, label, refresh="--refresh" in o.switches, peek="--peek" in o.switches)
    return show(o, content.get(o.rest[1]) if len(o.rest) > 1 else content)


def secret_info_get(c: HookContext, o: Options, _: bytes) -> str:
    label = o.get("--label")
    if o.rest:
        secret = c.secrets().get(o.rest[0])
    else:
        found = c.secrets().by_label(label, c.unit.name)
        if found is None:
            raise ToolError(f'secret with label "{label}" not found')
        secret = found
    if not secret.manager(c.unit.name, c.is_leader()):
        raise ToolError(f'secret "{secret.id}" not found')
    info: dict[str, Any] = {
        "revision": secret.latest,
        "label": secret.label,
        "owner": "application" if secret.owner == c.unit.app else "unit",
        "rotation": secret.rotate,
    }
    if secret.description:
        info["description"] = secret.description
    if secret.expire:
        info["expiry"] = secret.expire
    return show(o, {secret.id: info})


def secret_ids(c: HookContext, o: Options, _: bytes) -> str:
    mine = [s.id for s in c.secrets().secrets.values() if s.manager(c.unit.name, c.is_leader())]
    return show(o, sorted(mine))


def secret_remove(c: HookContext, o: Options, _: bytes) -> None:
    secret_id, leader = _id(o), c.is_leader()
    revision = int(o.get("--revision")) if o.get("--revision") else None
    c.write_secret(lambda store: store.remove(secret_id, c.unit.name, leader, revision))


def secret_grant(c: HookContext, o: Options, _: bytes) -> None:
    _change_grant(c, o, grant=True)


def secret_revoke(c: HookContext, o: Options, _: bytes) -> None:
    _change_grant(c, o, grant=False)


def _change_grant(c: HookContext, o: Options, *, grant: bool) -> None:
    secret_id, leader = _id(o), c.is_leader()
    who = o.get("--unit") or o.get("--app", "--application") or c.relation(o.get("--relation", "-r")).app

    def change(store: secretstore.SecretStore) -> None:
        secret = store.managed(secret_id, c.unit.name, leader)
        secret.grants = secret.grants | {who} if grant else secret.grants - {who}

    c.write_secret(change)


def _id(options: Options) -> str:
    if not options.rest:
        raise ToolError("missing secret ID")
    return options.rest[0]


def _meta(options: Options) -> dict[str, str]:
    wanted = {name: options.get(f"--{name}") for name in ("label", "description", "rotate", "expire")}
    return {name: value for name, value in wanted.items() if value}
