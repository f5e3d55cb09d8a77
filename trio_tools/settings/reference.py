"""The settings as a table and as an example file, both made from the models that check them.

So a page of documentation, `trio-tools settings --example` and what the server accepts cannot
differ: a setting has its description, type, default and bounds in one place.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, cast

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from trio_tools.settings.settings import Settings

# Options of `serve` that are an abbreviation of a setting.
FLAGS: Final[Mapping[str, str]] = {
    "file_roots": "--file-root",
    "toolset": "--toolset",
    "tools": "--tools",
    "state.url": "--state",
    "log_level": "--log-level",
    "log_format": "--log-format",
    "http.host": "--host",
    "http.port": "--port",
    "http.socket": "--socket",
    "http.insecure": "--insecure",
    "http.workers": "--workers",
}

_WORDS: Final[Mapping[Any, str]] = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    Path: "path",
    SecretStr: "secret text",
}
_BOUNDS: Final[Mapping[str, str]] = {
    "gt": "above {}",
    "ge": "at least {}",
    "lt": "below {}",
    "le": "at most {}",
    "min_length": "at least {} long",
    "max_length": "at most {} long",
}
# Placeholders for names that the operator chooses, in tables such as [apis.NAME].
_GIVEN_NAMES: Final[Mapping[str, str]] = {
    "apis": "github",
    "databases": "shop",
    "datasets": "orders",
    "limits": "fetch_urls",
    "upstreams": "files",
    "clients": "alice",
    "operations": "hash",
}
# For settings without a default, or whose default does not show the form.
_EXAMPLES: Final[Mapping[str, Any]] = {
    "file_roots": ["/srv/data"],
    "models_folder": "/srv/models",
    "output_root": "/srv/results",
    "tools": ["fetch_urls", "batch_process"],
    "fetch.allow_hosts": ["intranet.example"],
    "fetch.allow_networks": ["10.0.0.0/8"],
    "fetch.hedge_after_seconds": 2.0,
    "fetch.proxy": "http://proxy.example:3128",
    "apis.github.base_url": "https://api.github.com",
    "apis.github.auth_env": "GITHUB_TOKEN",
    "apis.github.description": "Issues and code of our repositories.",
    "databases.shop.url": "postgresql://reader:${SHOP_PASSWORD}@db.example/shop",
    "datasets.orders.path": "/srv/data/orders.csv",
    "http.tokens": {"alice": "a long random text"},
    "http.token_file": "/etc/trio-tools/tokens",
    "http.allowed_hosts": ["mcp.example"],
    "http.oauth.issuer": "https://login.example",
    "http.oauth.audience": "https://mcp.example/mcp",
    "http.oauth.jwks_url": "https://login.example/keys.json",
    "http.oauth.scopes": ["mcp"],
    "http.oauth.tool_scopes": {"web": "tools:web", "data": "tools:data"},
    "http.allowed_origins": ["https://app.example"],
    "http.tls_cert_file": "/etc/trio-tools/cert.pem",
    "http.tls_key_file": "/etc/trio-tools/key.pem",
    "http.tls_key_password_file": "/etc/trio-tools/key-password",
    "upstreams.files.command": "npx",
    "upstreams.files.args": ["-y", "@modelcontextprotocol/server-filesystem", "/srv/data"],
    "upstreams.files.env": {"API_TOKEN": "${FILES_TOKEN}"},
    "upstreams.files.tools": ["read_*", "list_directory"],
    "upstreams.files.rate_per_second": 10.0,
    "operations.hash.runs": "cluster",
    "limits.fetch_urls.item_timeout_seconds": 10.0,
    "clients.alice.calls_per_day": 1_000,
    "clients.alice.items_per_day": 100_000,
}


@dataclass(frozen=True)
class SettingRow:
    """One setting.

    Attributes:
        name: With its groups, as `--set` takes it; a name that the operator chooses is an
            example.
        group: The groups above it, joined by dots; empty for the top level.
        type: In words.
        bounds: Bounds of the value in words; empty if its type has none.
        default: As JSON; None if the setting is required.
        example: A value, as JSON has it; None without an example.
        description: What it means.
        secret: Whether its value is never shown.
    """

    name: str
    group: str
    type: str
    bounds: str
    default: str | None
    example: Any
    description: str
    secret: bool

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"TRIO_TOOLS_{self.name.replace('.', '__').upper()}"

    @property
    def flag(self) -> str:
        """The option of the command line that sets it."""
        return FLAGS.get(self.name, f"--set {self.name}=…")


def setting_rows() -> list[SettingRow]:
    """Return every setting in declared order, the top level first, then the groups."""
    return sorted(_rows(Settings, ()), key=lambda row: row.group != "")


def example_toml() -> str:
    """Return a file of settings in which each setting is a comment, with its meaning and default.

    The text is TOML. It sets nothing until the operator uncomments a line.
    """
    lines = [
        "# Settings of trio-tools. Every line is a comment. Remove the # before the settings and",
        "# the [groups] that you want; lines with a blank after the # are explanations.",
        "# Name this file by --config FILE or TRIO_TOOLS_CONFIG. The environment comes before it,",
        "# options of the command line before both.",
    ]
    group = ""
    for row in setting_rows():
        if row.group != group:
            group = row.group
            lines += ["", f"#[{group}]"]
        lines += ["", *(f"# {line}" for line in _explained(row))]
        leaf = row.name.rpartition(".")[2]
        value = row.example if row.example is not None else json.loads(row.default or '""')
        lines.append(f"#{leaf} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def reference_markdown() -> str:
    """Return the tables of docs/configuration.md: one a group, one row a setting."""
    lines: list[str] = []
    group = None
    for row in setting_rows():
        if row.group != group:
            group = row.group
            lines += ["", f"## {f'`[{group}]`' if group else 'Top level'}", ""]
            lines += ["| setting | type | default | meaning |", "|---|---|---|---|"]
        bounds = f", {row.bounds}" if row.bounds else ""
        default = "required" if row.default is None else f"`{row.default}`"
        flag = f" (`{FLAGS[row.name]}`)" if row.name in FLAGS else ""
        leaf = row.name.rpartition(".")[2]
        meaning = row.description.replace("|", "\\|")
        lines.append(f"| `{leaf}`{flag} | {row.type}{bounds} | {default} | {meaning} |")
    return "\n".join(lines).strip() + "\n"


def _explained(row: SettingRow) -> Iterator[str]:
    yield row.description
    bounds = f" ({row.bounds})" if row.bounds else ""
    default = "it has to be given" if row.default is None else f"default {row.default}"
    yield f"{row.type}{bounds}; {default}; {row.variable}"


def _rows(model: type[BaseModel], groups: tuple[str, ...]) -> Iterator[SettingRow]:
    # In TOML, the values of a group must come before the groups in it.
    inside = {leaf: _inner_model(info.annotation) for leaf, info in model.model_fields.items()}
    for leaf, info in model.model_fields.items():
        if inside[leaf][0] is None:
            yield _row(".".join((*groups, leaf)), ".".join(groups), info)
    for leaf, (inner, named) in inside.items():
        if inner is not None:
            given = (_GIVEN_NAMES.get(leaf, "name"),) if named else ()
            yield from _rows(inner, (*groups, leaf, *given))
    extra = model.__annotations__.get("__pydantic_extra__")
    if extra is not None:  # tables that the operator names, beside settings
        inner, _ = _inner_model(typing.get_type_hints(model)["__pydantic_extra__"])
        assert inner is not None
        yield from _rows(inner, (*groups, _GIVEN_NAMES[groups[-1]]))


def _row(name: str, group: str, info: FieldInfo) -> SettingRow:
    default = _plain(info.get_default(call_default_factory=True, validated_data={}))
    example = _EXAMPLES.get(name, info.examples[0] if info.examples else None)
    return SettingRow(
        name=name,
        group=group,
        type=_words(info.annotation),
        bounds=", ".join(dict.fromkeys(_bounds(info.metadata))),
        default=None if info.is_required() else json.dumps(default, ensure_ascii=False),
        example=example if example is not None or default is not None else _sample(info.annotation),
        description=info.description or "",
        secret=not info.repr or "SecretStr" in str(info.annotation),
    )


def _inner_model(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """Return the model of a setting, and whether the operator chooses its name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    if typing.get_origin(annotation) is dict:
        value = typing.get_args(annotation)[1]
        if isinstance(value, type) and issubclass(value, BaseModel):
            return value, True
    return None, False


def _words(annotation: Any) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _words(args[0])
    if origin in {Union, types.UnionType}:
        return " or ".join("null" if arg is types.NoneType else _words(arg) for arg in args)
    if origin is Literal:
        return " or ".join(json.dumps(arg) for arg in args)
    if origin in {tuple, frozenset, set, list}:
        return f"list of {_words(args[0])}"
    if origin is dict:
        return f"table of {_words(args[1])}"
    return _WORDS.get(annotation, getattr(annotation, "__name__", "value"))


def _bounds(metadata: Sequence[Any]) -> Iterator[str]:
    for each in metadata:
        for name, words in _BOUNDS.items():
            bound = getattr(each, name, None)
            if bound is not None:
                yield words.format(bound)


def _sample(annotation: Any) -> Any:
    """Return a value that shows the form of a setting whose default is null."""
    args = [a for a in typing.get_args(annotation) if a is not types.NoneType]
    kind = args[0] if args else annotation
    if typing.get_origin(kind) is Literal:
        return typing.get_args(kind)[0]
    if isinstance(kind, type) and issubclass(kind, bool):
        return True
    return 100 if kind is int else 10.0 if kind is float else ""


def _plain(value: Any) -> Any:
    if value is PydanticUndefined or isinstance(value, SecretStr):
        return None
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, AbstractSet):
        return sorted(_plain(each) for each in cast("AbstractSet[Any]", value))
    if isinstance(value, tuple | list):
        return [_plain(each) for each in cast("Sequence[Any]", value)]
    return str(value) if isinstance(value, Path) else value


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        pairs = cast("Mapping[str, Any]", value).items()
        inner = ", ".join(f"{key} = {_toml(each)}" for key, each in pairs)
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return f"[{', '.join(_toml(each) for each in cast('list[Any]', value))}]"
    return '""' if value is None else json.dumps(value, ensure_ascii=False)
