"""ModelManager: which models there are."""

from __future__ import annotations

from typing import Any

from controller.api import messages
from controller.api.domain import Domain, Model
from controller.api.facade import Caller, Facade, Method
from controller.api.facades import cloud
from controller.api.messages import Entities, Nothing

CONTROLLER_MODEL = "controller"


def facade(domain: Domain) -> Facade:
    """Return the ModelManager facade. Every user sees every model, as there is no access to single ones yet."""

    async def summaries(caller: Caller, _: Nothing, __: str) -> dict[str, Any]:
        models = await domain.models.models()
        return {"results": [{"result": _summary(domain, model, caller.identity.is_superuser)} for model in models]}

    async def listed(_: Caller, __: Nothing, ___: str) -> dict[str, Any]:
        return await user_models(domain)

    async def info(caller: Caller, asked: Entities, _: str) -> dict[str, Any]:
        known = {f"model-{m.uuid}": m for m in await domain.models.models()}
        return {"results": [_info(domain, known.get(e.tag), e.tag, caller) for e in asked.entities or ()]}

    methods = {
        "ListModelSummaries": Method(Nothing, summaries),
        "ListModels": Method(Nothing, listed),
        "ModelInfo": Method(Entities, info),
    }
    return Facade("ModelManager", (9,), methods, users=True)


async def user_models(domain: Domain) -> dict[str, Any]:
    """Return all models as ListModels and AllModels answer."""
    return {
        "user-models": [
            {"model": {"name": m.name, "uuid": m.uuid, "type": "iaas", "owner-tag": f"user-{m.owner}"}}
            for m in await domain.models.models()
        ]
    }


def _info(domain: Domain, model: Model | None, tag: str, caller: Caller) -> dict[str, Any]:
    if model is None:
        return {"error": {"message": f"{tag} not found", "code": messages.NOT_FOUND}}
    return {"result": {**_summary(domain, model, caller.identity.is_superuser), "machines": [], "users": []}}


def _summary(domain: Domain, model: Model, superuser: bool) -> dict[str, Any]:
    return {
        "name": model.name,
        "uuid": model.uuid,
        "type": "iaas",
        "controller-uuid": domain.about.controller_uuid,
        "is-controller": model.name == CONTROLLER_MODEL,
        "provider-type": cloud.TYPE,
        "cloud-tag": cloud.TAG,
        "owner-tag": f"user-{model.owner}",
        "life": model.life,
        "user-access": "admin" if superuser else "read",
        "agent-version": messages.SERVER_VERSION,
        "counts": [],
        "status": {"status": "available" if model.life == "alive" else "destroying", "info": "", "since": None},
        "sla": {"level": "", "owner": ""},
    }
