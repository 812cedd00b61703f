"""`provider: {reference: …}`: models take over what `llm.providers` say.

Source: spec llm section 1.4; spec config section 5.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sidecar.errors import ConfigError

Data = Mapping[str, Any]
_MERGED_MAPS: Final = ("defaults", "overrides", "transformation")


def follow_references(models: Sequence[Data], providers: Sequence[Data]) -> list[Data]:
    """Models with what their `provider: {reference}` stands for: provider, params and defaults.

    Maps of request fields merge by key, the model's first; other fields are the model's or the
    provider's whole. Raises: ConfigError.
    """
    known: dict[str, Data] = {}
    for index, provider in enumerate(providers):
        name = provider["name"]
        if name in known:
            raise ConfigError(
                f"llm.providers[{index}].name", "llm.providers contains duplicate provider names"
            )
        if _reference(provider) is not None:
            raise ConfigError(
                f"llm.providers[{index}].provider",
                f"llm.providers.{name} cannot reference another provider",
            )
        known[name] = provider
    return [_followed(model, known, index) for index, model in enumerate(models)]


def _reference(data: Data) -> str | None:
    provider = data["provider"]
    return None if isinstance(provider, str) else provider.get("reference")


def _followed(model: Data, known: Mapping[str, Data], index: int) -> Data:
    name = _reference(model)
    if name is None:
        return model
    place = f"llm.models[{index}]"
    provider = known.get(name)
    if provider is None:
        raise ConfigError(
            f"{place}.provider",
            f"model {model['name']} has unresolved provider reference {name}",
        )
    params = {key: item for key, item in (model.get("params") or {}).items() if item}
    if params.keys() - {"model"}:
        raise ConfigError(
            f"{place}.params",
            f"model {model['name']} references provider {name} and can only set params.model",
        )
    inherited: Data = _one_tls(provider.get("defaults") or {})
    own = {key: item for key, item in _one_tls(model).items() if item is not None}
    merged = {**inherited, **own}
    for key in _MERGED_MAPS:
        if inherited.get(key) and own.get(key):
            merged[key] = {**inherited[key], **own[key]}
    merged["provider"] = provider["provider"]
    merged["params"] = {**(provider.get("params") or {}), **params}
    return merged


def _one_tls(data: Data) -> dict[str, Any]:
    # The two spellings of one key would else stand beside each other after a merge.
    made = dict(data)
    if "tls" in made:
        made["backendTLS"] = made.pop("tls")
    return made
