"""What ``nft -j list ruleset`` tells, as values (libnftables-json(5)).

Expressions stay as JSON has them: what they mean depends on where they stand, and a newer nft may have others. Nothing
here trusts them to have any shape.
"""

from __future__ import annotations

import gc

from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    Json = Any
    Expression = dict[str, Json]

FAMILIES = frozenset(["ip", "ip6", "inet", "arp", "bridge", "netdev"])
TABLE_FLAGS = frozenset(["dormant", "owner", "persist"])


class RulesetError(ValueError):
    """The text is no JSON of nft; says what is wrong, and where."""


class Rule(Value):
    """One rule: its expressions in order, each an object with one key; what is none stands under an empty one."""

    handle: int | None
    expressions: tuple[Expression, ...]
    comment: str | None = None


class Chain(Value):
    """A chain; ``hook`` is None for one that is jumped to."""

    name: str
    rules: tuple[Rule, ...]
    handle: int | None = None
    type: str | None = None
    hook: str | None = None
    priority: int | str | None = None
    policy: str | None = None
    devices: tuple[str, ...] = ()


class Set(Value):
    """A named set, or a map where ``data`` says of what. ``elements`` are as JSON has them; a map's are pairs."""

    name: str
    type: Json
    elements: tuple[Json, ...]
    data: Json = None
    flags: frozenset[str] = frozenset()
    timeout: int | None = None
    size: int | None = None


class Named(Value):
    """Another named object of a table: a counter, quota, limit, ct helper, flowtable; ``body`` is its JSON."""

    kind: str
    name: str
    body: Expression


class Table(Value):
    """A table.

    ``is_dormant`` is None where it has flags but which is unknown: nft up to 1.0.6 prints other memory for their
    names.
    """

    family: str
    name: str
    chains: tuple[Chain, ...] = ()
    sets: Mapping[str, Set] = {}
    objects: tuple[Named, ...] = ()
    flags: frozenset[str] = frozenset()
    is_dormant: bool | None = False
    handle: int | None = None


class Ruleset(Value):
    """All tables of a namespace, in order."""

    tables: tuple[Table, ...]
    version: str | None = None


def parse(text: str) -> Ruleset:
    """Read the output of ``nft -j list ruleset``.

    Raises:
        RulesetError: it is not that.
    """
    import json  # Which what only writes rules has no use for.

    with Uncollected():
        try:
            loaded = json.loads(text)
        except RecursionError:
            raise RulesetError("the JSON is nested too deeply") from None
        except ValueError as error:
            raise RulesetError(f"no JSON: {error}") from None
        items = loaded.get("nftables") if isinstance(loaded, dict) else None
        if not isinstance(items, list):
            raise RulesetError("no list 'nftables' at the top")
        return _Reading().read(items)


class Uncollected:
    """Have no garbage collected: of a hundred thousand objects none is, and looking for it takes most of the time."""

    def __enter__(self) -> None:
        self._was_enabled = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self._was_enabled:
            gc.enable()


class _Reading:
    """Collects tables while their parts are read, in the order of the output."""

    def __init__(self) -> None:
        self.version: str | None = None
        self.tables: dict[tuple[str, str], Expression] = {}
        self.chains: dict[tuple[str, str], dict[str, Expression]] = {}
        self.rules: dict[tuple[str, str, str], list[Rule]] = {}
        self.sets: dict[tuple[str, str], dict[str, Set]] = {}
        self.objects: dict[tuple[str, str], list[Named]] = {}

    def read(self, items: list[Json]) -> Ruleset:
        for number, item in enumerate(items):
            try:
                self.item(item)
            except RulesetError as error:
                raise RulesetError(f"item {number}: {error}") from None
        return Ruleset(tuple([self.table(key, body) for key, body in self.tables.items()]), self.version)

    def item(self, item: Json) -> None:
        if not isinstance(item, dict) or len(item) != 1:
            raise RulesetError("not an object of one key")
        [(kind, body)] = item.items()
        if not isinstance(body, dict):
            raise RulesetError(f"{kind!r} is no object")
        if kind == "rule":
            self.rule(body)
        elif kind == "chain":
            self.chain(body)
        elif kind == "table":
            key = _family(body), _text(body, "name")
            self.tables[key] = body
            self.chains[key], self.sets[key], self.objects[key] = {}, {}, []
        elif kind == "metainfo":
            version = body.get("version")
            self.version = version if isinstance(version, str) else None
        elif kind in ("set", "map"):
            found = _set(body, is_map=kind == "map")
            self.sets[self.key(body)][found.name] = found
        elif "table" in body:
            self.objects[self.key(body)].append(Named(kind, _text(body, "name"), body))

    def key(self, body: Expression) -> tuple[str, str]:
        """The table that something stands in."""
        key = _family(body), _text(body, "table")
        if key not in self.tables:
            raise RulesetError(f"table {key[1]!r} of family {key[0]} was not listed before")
        return key

    def chain(self, body: Expression) -> None:
        key, name = self.key(body), _text(body, "name")
        self.chains[key][name] = body
        self.rules[*key, name] = []

    def rule(self, body: Expression) -> None:
        key = self.key(body)
        rules = self.rules.get((*key, _text(body, "chain")))
        if rules is None:
            raise RulesetError(f"chain {body['chain']!r} of table {key[1]!r} was not listed before")
        expressions = body.get("expr", [])
        if not isinstance(expressions, list):
            raise RulesetError("'expr' of a rule is no list")
        known = [each if isinstance(each, dict) and len(each) == 1 else {"": each} for each in expressions]
        comment = body.get("comment")
        rules.append(Rule(_number(body, "handle"), tuple(known), comment if isinstance(comment, str) else None))

    def table(self, key: tuple[str, str], body: Expression) -> Table:
        flags = frozenset(_texts(body.get("flags")))
        dormant = "dormant" in flags or (None if flags - TABLE_FLAGS else False)
        chains = [self.chain_of(key, name, chain) for name, chain in self.chains[key].items()]
        objects = tuple(self.objects[key])
        return Table(*key, tuple(chains), self.sets[key], objects, flags, dormant, _number(body, "handle"))

    def chain_of(self, key: tuple[str, str], name: str, body: Expression) -> Chain:
        priority = body.get("prio")
        if isinstance(priority, bool) or not isinstance(priority, int | str | None):
            raise RulesetError(f"the priority of chain {name!r} is neither number nor name")
        kind, hook, policy = (_optional(body, each) for each in ("type", "hook", "policy"))
        if hook is not None and (kind is None or priority is None):
            raise RulesetError(f"base chain {name!r} has no type or no priority")
        devices = tuple(_texts(body.get("dev")))
        rules = tuple(self.rules[*key, name])
        return Chain(name, rules, _number(body, "handle"), kind, hook, priority, policy, devices)


def _set(body: Expression, *, is_map: bool) -> Set:
    name = _text(body, "name")
    elements = body.get("elem", [])
    if not isinstance(elements, list):
        raise RulesetError(f"the elements of {name!r} are no list")
    flags = frozenset(_texts(body.get("flags")))
    timeout, size = _number(body, "timeout"), _number(body, "size")
    return Set(name, body.get("type"), tuple(elements), body.get("map") if is_map else None, flags, timeout, size)


def _family(body: Expression) -> str:
    family = _text(body, "family")
    if family not in FAMILIES:
        raise RulesetError(f"no family {family!r}")
    return family


def _text(body: Expression, key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str):
        raise RulesetError(f"{key!r} is missing, or no text")
    return value


def _optional(body: Expression, key: str) -> str | None:
    return None if body.get(key) is None else _text(body, key)


def _number(body: Expression, key: str) -> int | None:
    value = body.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _texts(value: Json) -> Iterator[str]:
    """A text, or several in a list."""
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, str):
            yield each
