"""`mcpAuthorization`: what of a list a client sees, and which calls it may make.

Source: spec/config.md sections 3.7 and 6.4; spec/mcp_a2a.md sections 1.5, 2.8 and 5.2, row 15.

API: `Rules(rules, engine)` when the configuration is compiled; `rules.evaluation(request)` for one
client's message; of that `shows(kind, target, name)` for the items of lists and `check(kind,
target, name, arguments)` for calls; `unknown(kind, name)` for the error of a denied call.

The names that rules see are the servers' own. Any deny that matches refuses, then every require
must match, then any allow, if there are any. An error is not a match. Rules of several levels come
here as one list.

Two keys of a rule are extensions. `requiredScope` makes scopes of the token part of the rule; when
they are all that is missing the verdict names them, for a 403 `insufficient_scope` at which the
client asks its user for more. What it could have after that is shown in lists. `readsArguments`
lets a rule see `mcp.tool.arguments`; lists show what some arguments would let pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, final

from pydantic import ValidationError

from sidecar.cel.analysis import Path
from sidecar.cel.engine import CelError, Engine, Program
from sidecar.cel.values import Unavailable
from sidecar.cel.variables import Plan
from sidecar.config.model.mcp_rules import McpRule
from sidecar.errors import ConfigError
from sidecar.http.message import Request
from sidecar.jsonrpc import INVALID_PARAMS, JsonRpcError
from sidecar.mcp.names import Kind

Effect = Literal["allow", "deny", "require"]
Test = Callable[[Mapping[str, object]], bool]

_EFFECTS: Final[tuple[Effect, ...]] = ("allow", "deny", "require")
_KINDS: Final = ("tool", "prompt", "resource", "task")
_FIELDS: Final = ("name", "target")
_NO_ARGUMENTS: Final = Unavailable("a list has no arguments")


@final
class Verdict(NamedTuple):
    """What the rules say of a call."""

    is_allowed: bool
    scopes: tuple[str, ...] = ()
    """Of a denied call: the scopes with which it would pass; () when nothing helps."""


ALLOWED: Final = Verdict(True)
DENIED: Final = Verdict(False)


class _Rule(NamedTuple):
    true_in: Test
    may_be_true_in: Test
    """As `true_in`, but an error of a rule that reads arguments counts as true."""
    scopes: tuple[str, ...]
    is_fixed: bool
    """Whether it says the same of everything, as it does not read `mcp`."""


@final
class Rules:
    """Rules of all levels, compiled. `rules`: as configured, text or a mapping.

    Raises: ConfigError with a path below the policy, `rules[0].deny`.
    """

    __slots__ = ("_plan", "_reads_arguments", "_rules", "needs_request_body")

    def __init__(self, rules: Sequence[str | Mapping[str, Any]], engine: Engine) -> None:
        self._rules: dict[Effect, list[_Rule]] = {effect: [] for effect in _EFFECTS}
        programs: list[Program] = []
        self._reads_arguments = False
        for index, given in enumerate(rules):
            rule, effect, path = _parsed(given, f"rules[{index}]")
            program = _compiled(getattr(rule, effect), engine, path)
            _check(program, effect, path, reads_arguments=rule.reads_arguments)
            programs.append(program)
            self._reads_arguments = self._reads_arguments or rule.reads_arguments
            self._rules[effect].append(
                _Rule(
                    program.truth,
                    _possible(program) if rule.reads_arguments else program.truth,
                    tuple(rule.required_scope.split()),
                    "mcp" not in program.variables,
                )
            )
        self.needs_request_body = any(program.needs_request_body for program in programs)
        """Whether a rule reads `request.body`, which must be whole then."""
        self._plan = Plan(programs) if programs else None

    def evaluation(self, request: Request) -> Evaluation | None:
        """The rules as they are for this request; None when there are none: all is allowed.

        `request`: with what policies and guards have put into its state. Raises: RequestError when
        a rule names `request.path` and that is ambiguous.
        """
        if self._plan is None:
            return None
        return Evaluation(
            self._rules,
            self._plan.activation(request),
            _scopes_of(request),
            reads_arguments=self._reads_arguments,
        )


@final
class Evaluation:
    """For one message of one client; not kept beyond it."""

    __slots__ = ("_activation", "_held", "_listed", "_reads_arguments", "_rules", "_seen")

    def __init__(
        self,
        rules: Mapping[Effect, list[_Rule]],
        activation: dict[str, object],
        held: frozenset[str],
        *,
        reads_arguments: bool,
    ) -> None:
        self._rules = rules
        self._activation = activation
        self._held = held
        self._reads_arguments = reads_arguments
        self._listed = self._for_lists()
        self._seen: dict[tuple[str, str, str], bool] = {}

    def shows(self, kind: Kind, target: str, name: str) -> bool:
        """Whether a list has it for this client; a template counts as a resource."""
        listed = self._listed
        if listed is None:
            return False
        key = (kind, target, name)
        shown = self._seen.get(key)
        if shown is None:
            self._seen[key] = shown = self._shows(listed, kind, target, name)
        return shown

    def check(
        self, kind: Kind, target: str, name: str, arguments: Mapping[str, object] | None = None
    ) -> Verdict:
        """Whether it may be used. `arguments`: of a call of a tool, the fixed ones in place."""
        if self._reads_arguments and not isinstance(arguments or {}, Mapping):
            # Rules can say nothing of what has no names; a deny would let it pass.
            return DENIED
        activation = self._about(kind, target, name, arguments or {})
        lacking: list[str] = []
        for rule in self._rules["deny"]:
            if rule.true_in(activation):
                if not rule.scopes:
                    return DENIED
                lacking += () if self._held.issuperset(rule.scopes) else rule.scopes
        for rule in self._rules["require"]:
            if not self._held.issuperset(rule.scopes):
                lacking += rule.scopes
            elif not rule.true_in(activation):
                return DENIED
        allowing = self._rules["allow"]
        if allowing:
            needed = self._needed(allowing, activation)
            if needed is None:
                return DENIED
            lacking += needed
        return Verdict(False, tuple(dict.fromkeys(lacking))) if lacking else ALLOWED

    def _needed(
        self, allowing: Iterable[_Rule], activation: Mapping[str, object]
    ) -> tuple[str, ...] | None:
        """The scopes that are missing: () for none. None when no rule allows."""
        needed: tuple[str, ...] | None = None
        for rule in allowing:
            if rule.true_in(activation):
                if self._held.issuperset(rule.scopes):
                    return ()
                needed = rule.scopes if needed is None else needed
        return needed

    def _for_lists(self) -> tuple[list[Test], list[Test], list[Test]] | None:
        """Tests against and for an item, without those that say the same of all: (deny, require,
        allow), None when nothing passes. Where scopes would help there is nothing to test."""
        activation, held = self._activation, self._held
        deny: list[Test] = []
        for rule in self._rules["deny"]:
            if rule.scopes:
                continue
            if not rule.is_fixed:
                deny.append(rule.true_in)
            elif rule.true_in(activation):
                return None
        require: list[Test] = []
        for rule in self._rules["require"]:
            if not held.issuperset(rule.scopes):
                continue
            if not rule.is_fixed:
                require.append(rule.may_be_true_in)
            elif not rule.true_in(activation):
                return None
        allow: list[Test] = []
        for rule in self._rules["allow"]:
            if not rule.is_fixed:
                allow.append(rule.may_be_true_in)
            elif rule.true_in(activation):
                return deny, require, []
        return (deny, require, allow) if allow or not self._rules["allow"] else None

    def _shows(
        self,
        listed: tuple[list[Test], list[Test], list[Test]],
        kind: Kind,
        target: str,
        name: str,
    ) -> bool:
        deny, require, allow = listed
        activation = self._about(kind, target, name, _NO_ARGUMENTS)
        for is_true in deny:
            if is_true(activation):
                return False
        for is_true in require:
            if not is_true(activation):
                return False
        # Not any(): a generator costs as much as a rule.
        for is_true in allow:
            if is_true(activation):
                return True
        return not allow

    def _about(self, kind: Kind, target: str, name: str, arguments: object) -> dict[str, object]:
        """The variables, with `mcp` for this item: they are the same but for that."""
        about: dict[str, object] = {"name": name, "target": target}
        if self._reads_arguments and kind == "tool":
            about["arguments"] = arguments
        self._activation["mcp"] = {"resource" if kind == "template" else kind: about}
        return self._activation


def unknown(kind: Kind, name: str) -> JsonRpcError:
    """The error of a call that is denied, and of one of what is not there: they look alike.

    `name` as the client gave it.
    """
    word = "resource" if kind == "template" else kind
    return JsonRpcError(INVALID_PARAMS, f"Unknown {word}: {name}")


def _parsed(given: str | Mapping[str, Any], path: str) -> tuple[McpRule, Effect, str]:
    if isinstance(given, str):
        return McpRule(allow=given), "allow", path
    try:
        rule = McpRule.model_validate(dict(given))
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join((path, *(str(part) for part in first["loc"])))
        raise ConfigError(place, first["msg"]) from None
    effect = next(effect for effect in _EFFECTS if getattr(rule, effect) is not None)
    return rule, effect, f"{path}.{effect}"


def _compiled(source: str, engine: Engine, path: str) -> Program:
    try:
        return engine.compile(source)
    except ConfigError as problem:
        raise ConfigError(path, problem.message) from problem


def _check(program: Program, effect: Effect, path: str, *, reads_arguments: bool) -> None:
    if "response" in program.variables:
        raise ConfigError(path, "`response` is not known yet where this is evaluated")
    if not reads_arguments and any(
        one[:3] == ("mcp", "tool", "arguments") for one in program.paths
    ):
        raise ConfigError(path, "`mcp.tool.arguments` needs `readsArguments: true` in this rule")
    if effect != "deny":
        return
    # An error is not true, so a misspelt variable would let everybody in.
    strangers = program.unknown_variables | {
        ".".join(one) for one in program.paths if not _is_known(one)
    }
    if strangers:
        names = ", ".join(f"`{name}`" for name in sorted(strangers))
        raise ConfigError(path, f"unknown variable {names}: this rule could never deny")


def _is_known(path: Path) -> bool:
    if path[0] != "mcp" or len(path) == 1:
        return True
    fields = (*_FIELDS, "arguments") if path[1] == "tool" else _FIELDS
    return path[1] in _KINDS and (len(path) == 2 or path[2] in fields)


def _possible(program: Program) -> Test:
    def may_be_true(activation: Mapping[str, object]) -> bool:
        try:
            return program.eval(activation) is True
        except CelError:
            # Of a prompt or resource the rule speaks in vain: arguments could not make it true.
            about = activation.get("mcp")
            return isinstance(about, dict) and "tool" in about

    return may_be_true


def _scopes_of(request: Request) -> frozenset[str]:
    """Of a token that has been checked: `scope` (RFC 8693) or `scp`, text or list."""
    claims = request.state.get("jwt")
    make = getattr(claims, "cel", None)
    if callable(make):
        claims = make(frozenset(("scope", "scp")))
    if not isinstance(claims, Mapping):
        return frozenset()
    found: set[str] = set()
    for key in ("scope", "scp"):
        value = claims.get(key)
        if isinstance(value, str):
            found.update(value.split())
        elif isinstance(value, list):
            found.update(item for item in value if isinstance(item, str))
    return frozenset(found)
