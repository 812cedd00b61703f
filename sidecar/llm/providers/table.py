"""From configuration to a provider: the keys of `ai` backends and those of `llm.models`.

Source: spec llm section 1; spec config sections 5.2 and 5.5. What comes in is a snapshot's payload:
checked by the configuration's models, in the user's camelCase.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from sidecar.errors import ConfigError
from sidecar.llm.providers.address import Site, base_url_site, site
from sidecar.llm.providers.anthropic import Anthropic
from sidecar.llm.providers.azure import Azure
from sidecar.llm.providers.base import Provider, Tags
from sidecar.llm.providers.bedrock import Bedrock
from sidecar.llm.providers.copilot import Copilot
from sidecar.llm.providers.custom import PRESETS, Custom
from sidecar.llm.providers.gemini import Gemini
from sidecar.llm.providers.openai import OpenAI
from sidecar.llm.providers.vertex import Vertex

Data = Mapping[str, Any]


def backend_provider(entry: Data, *, tags: Tags | None = None, place: str = "") -> Provider:
    """The provider of an `ai` backend, or of one entry of a group: `{provider: {<kind>: {…}},
    hostOverride, pathOverride, pathPrefix}`; of a controller, `baseUrl` in the place of the host
    and the prefix. Raises: ConfigError."""
    kind, config = _choice(entry["provider"])
    url, override = entry.get("baseUrl"), entry.get("pathOverride")
    if url is not None:
        where = base_url_site(url, override, place=f"{place}.baseUrl")
    else:
        where = site(entry.get("hostOverride"), override, entry.get("pathPrefix"), place=place)
    return _build(kind, config, where, tags, f"{place}.provider")


def model_provider(
    provider: str | Data, params: Data, *, tags: Tags | None = None, place: str = ""
) -> Provider:
    """The provider of an `llm` model: a name or `{custom: {…}}`, references already followed, and
    the model's `params`. Raises: ConfigError."""
    kind, config = _choice(provider)
    url = params.get("baseUrl")
    if url is not None:
        if params.get("hostOverride") is not None or params.get("pathPrefix") is not None:
            raise ConfigError(
                f"{place}.params.baseUrl", "cannot stand beside hostOverride or pathPrefix"
            )
        where = base_url_site(url, params.get("pathOverride"), place=f"{place}.params.baseUrl")
    else:
        where = site(
            params.get("hostOverride"),
            params.get("pathOverride"),
            params.get("pathPrefix"),
            place=f"{place}.params",
        )
    return _build(kind, {**_settings(params), **config}, where, tags, f"{place}.params")


def _choice(provider: str | Data) -> tuple[str, Data]:
    if isinstance(provider, str):
        return provider, {}
    kind, config = next(iter(provider.items()))
    return kind, config or {}


_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_PARAMS: Final = {
    "model": "model",
    "azureResourceName": "resourceName",
    "azureResourceType": "resourceType",
    "azureApiVersion": "apiVersion",
    "azureProjectName": "projectName",
    "vertexProject": "projectId",
}
_AS_PARAMS: Final = {theirs: ours for ours, theirs in _PARAMS.items()} | {"region": "awsRegion"}


def _settings(params: Data) -> dict[str, Any]:
    made = {theirs: params[ours] for ours, theirs in _PARAMS.items() if params.get(ours)}
    region = params.get("awsRegion") or params.get("vertexRegion")
    return {**made, "region": region} if region else made


def _build(kind: str, config: Data, where: Site, tags: Tags | None, place: str) -> Provider:
    preset = PRESETS.get(kind)
    if preset is not None:
        # Another host does not make other paths: what stands before them stays the preset's own.
        usual = base_url_site(preset.url)
        prefix = usual.prefix if where.prefix is None else where.prefix
        where = Site(where.authority or usual.authority, where.override, prefix)
        return Custom(where, preset.formats, name=kind, model=config.get("model"))
    if kind == "copilot":
        return Copilot(where, config.get("model"), tags)
    if kind == "azure":
        return _azure(config, where, tags, place)
    make = _KINDS.get(kind)
    if make is None:
        raise ConfigError(place, f"unknown provider `{kind}`")
    return make(config, where, place)


def _needed(config: Data, key: str, place: str) -> str:
    value = config.get(key)
    if not value:
        raise ConfigError(place, f"`{_shown(key, place)}` is required for this provider")
    return str(value)


def _label(config: Data, key: str, place: str) -> str:
    """A setting that becomes part of a host's name."""
    value = _needed(config, key, place)
    if not _LABEL.fullmatch(value):
        raise ConfigError(place, f"`{_shown(key, place)}` takes letters, digits and `-`")
    return value


def _shown(key: str, place: str) -> str:
    return _AS_PARAMS.get(key, key) if place.endswith(".params") else key


def _openai(config: Data, where: Site, place: str) -> Provider:
    moderation = config.get("moderation")
    if moderation is not None:
        moderation = {"model": "omni-moderation-latest", **moderation}
    return OpenAI(where, config.get("model"), moderation)


def _anthropic(config: Data, where: Site, place: str) -> Provider:
    return Anthropic(where, config.get("model"))


def _gemini(config: Data, where: Site, place: str) -> Provider:
    return Gemini(where, config.get("model"))


def _vertex(config: Data, where: Site, place: str) -> Provider:
    project = _needed(config, "projectId", place)
    region = _label(config, "region", place) if config.get("region") else None
    return Vertex(where, project, region, config.get("model"))


def _bedrock(config: Data, where: Site, place: str) -> Provider:
    identifier, version = config.get("guardrailIdentifier"), config.get("guardrailVersion")
    if (identifier is None) != (version is None):
        raise ConfigError(place, "`guardrailIdentifier` and `guardrailVersion` go together")
    guardrail = None if identifier is None else (str(identifier), str(version))
    return Bedrock(where, _label(config, "region", place), config.get("model"), guardrail)


def _azure(config: Data, where: Site, tags: Tags | None, place: str) -> Provider:
    return Azure(
        where,
        _label(config, "resourceName", place),
        is_foundry=_needed(config, "resourceType", place) != "openAI",
        api_version=config.get("apiVersion"),
        project=config.get("projectName"),
        model=config.get("model"),
        tags=tags,
    )


def _custom(config: Data, where: Site, place: str) -> Provider:
    formats = {item["type"]: item.get("path") for item in config.get("formats") or ()}
    try:
        return Custom(where, formats, config.get("providerOverride"), config.get("model"))
    except ConfigError as exc:
        raise ConfigError(place, exc.message) from exc


_KINDS: Final[Mapping[str, Callable[[Data, Site, str], Provider]]] = {
    "openAI": _openai,
    "openai": _openai,
    "anthropic": _anthropic,
    "gemini": _gemini,
    "vertex": _vertex,
    "bedrock": _bedrock,
    "custom": _custom,
}
