"""What the operator decides: one tree of values, from arguments, environment and a TOML file.

Sources, strongest first: arguments, environment variables `TRIO_TOOLS_*` (two underscores go one
level down, as in `TRIO_TOOLS_FETCH__ALLOW_PRIVATE=true`), the TOML file named by
`TRIO_TOOLS_CONFIG` or `--config`, defaults. Units are in the names. Everything that opens a door
is closed by default.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)


class Section(BaseModel):
    """A part of the settings; an unknown name in it is an error, not a surprise."""

    # Times and caps are shown in schemas, and JSON has no infinity. What is wrong is named, not
    # shown: it may be a secret that was given to the wrong name.
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class ToolLimits(Section):
    """How much of one tool may go on at once, and for how long.

    Its defaults are those of a tool without limits of its own; `Settings.limits_of` knows better.
    """

    concurrency: PositiveInt = Field(10, description="Items of one call in flight by default.")
    max_concurrency: PositiveInt = Field(
        50, description="Items in flight over all calls, and the most one call may ask for."
    )
    max_calls: PositiveInt = Field(10, description="Calls at work at once.")
    max_waiting: NonNegativeInt = Field(20, description="Calls that may wait for their turn.")
    timeout_seconds: PositiveFloat = Field(30.0, description="Time of one call by default.")
    max_timeout_seconds: PositiveFloat = Field(
        300.0, description="The most time a call may ask for, for itself or for an item."
    )
    item_timeout_seconds: PositiveFloat | None = Field(
        None, description="Time of one item of a batch by default; null for none of its own."
    )


class FetchSettings(Section):
    """What `fetch_urls` may reach."""

    schemes: frozenset[str] = Field(
        frozenset({"http", "https"}), description="URL schemes it may use."
    )
    ports: frozenset[int] | None = Field(
        frozenset({80, 443, 8080, 8443}), description="Ports it may connect to; null for any."
    )
    allow_private: bool = Field(
        default=False, description="Whether private and local addresses may be reached."
    )
    allow_hosts: frozenset[str] = Field(
        frozenset(), description="Host names that may be reached whatever their address."
    )
    allow_networks: tuple[str, ...] = Field(
        (), description="Networks (CIDR) that may be reached though they are private."
    )
    max_connections: PositiveInt = Field(100, description="Sockets open at once.")
    max_connections_per_host: PositiveInt = Field(10, description="Requests to one host at once.")
    connect_timeout_seconds: PositiveFloat = Field(10.0, description="Time for one connection.")
    max_body_bytes: PositiveInt = Field(5_000_000, description="Most bytes of one body.")
    max_redirects: NonNegativeInt = Field(5, description="Redirects followed per URL.")
    user_agent: str = Field("trio-tools", description="Sent with every request.")


class ApiSettings(Section):
    """One HTTP API that `call_external_api` may call by name."""

    base_url: str = Field(description="Where its paths start, with the scheme.")
    auth_env: str | None = Field(
        None, description="Environment variable that holds the secret; never shown to a caller."
    )
    auth_header: str = Field("authorization", description="Header that carries the secret.")
    auth_scheme: str = Field("Bearer", description="Word in front of the secret; may be empty.")
    rate_per_second: PositiveFloat = Field(5.0, description="Requests per second over time.")
    burst: PositiveInt = Field(5, description="Requests that may come at once.")
    max_concurrent: PositiveInt = Field(3, description="Requests in flight at once.")
    allowed_methods: frozenset[str] = Field(frozenset({"GET"}), description="HTTP methods.")
    allowed_path_prefixes: tuple[str, ...] = Field(("/",), description="Paths that may be called.")


class DatabaseSettings(Section):
    """One database that `query_database` may read by name."""

    url: SecretStr = Field(
        description="SQLAlchemy URL, such as sqlite:////data/app.db; it may hold a password.",
        repr=False,
    )


class DatasetSettings(Section):
    """One dataset that `process_large_dataset` may read by name: a path, or a table."""

    path: str | None = Field(None, description="File or folder under the file roots.")
    kind: Literal["json_lines", "csv", "folder"] | None = Field(
        None, description="What the path is; by default told by its name."
    )
    database: str | None = Field(None, description="Name of a database, for a table in it.")
    table: str | None = Field(None, description="Table or view, `schema.table` if need be.")
    key: str | None = Field(
        None, description="Column that orders the rows of the table, different in each."
    )

    @model_validator(mode="after")
    def _is_a_path_or_a_table(self) -> Self:
        given = (self.database, self.table, self.key)
        if (self.path is None) == (None in given) or (self.path is not None and any(given)):
            raise ValueError("a dataset has either a path, or database, table and key")
        return self


class HttpSettings(Section):
    """How the Streamable HTTP transport is served."""

    host: str = Field("127.0.0.1", description="Address to bind. Others than loopback need tokens.")
    port: int = Field(8000, ge=0, le=65535, description="Port to bind; 0 picks a free one.")
    path: str = Field("/mcp", description="Where MCP is served.")
    insecure: bool = Field(
        default=False, description="Serve other addresses than loopback without tokens."
    )
    tokens: dict[str, str] = Field(
        default_factory=dict[str, str], description="Bearer tokens by client name.", repr=False
    )
    token_file: Path | None = Field(None, description="File of lines `client-name token`.")
    allowed_hosts: tuple[str, ...] = Field((), description="Host headers accepted besides the own.")
    allowed_origins: tuple[str, ...] = Field((), description="Origin headers accepted.")
    max_body_bytes: PositiveInt = Field(4 * 2**20, description="Most bytes of one request body.")
    max_header_bytes: PositiveInt = Field(32_768, description="Most bytes of the request headers.")
    max_sessions: PositiveInt = Field(1_000, description="Sessions of the older protocol at once.")
    max_connections: PositiveInt = Field(1_000, description="Connections open at once.")
    max_calls_per_client: PositiveInt = Field(50, description="Calls of one client in flight.")
    calls_per_second_per_client: PositiveFloat = Field(100.0, description="Calls over time.")
    tls_cert_file: Path | None = Field(None, description="Certificate chain (PEM).")
    tls_key_file: Path | None = Field(
        None, description="Private key (PEM); by default in the file of the certificate."
    )
    tls_key_password: SecretStr | None = Field(
        None, description="Password of the private key, if it has one.", repr=False
    )
    tls_key_password_file: Path | None = Field(
        None, description="File that holds that password in its only line."
    )


# What differs from the defaults of `ToolLimits`. Batch-like tools answer within 50 s, under the
# 60 s after which most clients hang up.
_CPUS = os.cpu_count() or 1
_BATCH = {"timeout_seconds": 50.0}
_BUILT_IN: dict[str, dict[str, Any]] = {
    "fetch_urls": _BATCH,
    "batch_process": _BATCH,
    "process_large_dataset": _BATCH,
    "call_external_api": {"concurrency": 3, "max_concurrency": 3},
    "query_database": {"concurrency": 5, "max_concurrency": 5},
    "compute_hash": {"concurrency": _CPUS, "max_concurrency": _CPUS},
    "compress_data": {"concurrency": _CPUS, "max_concurrency": _CPUS},
    "run_inference": {"concurrency": 2, "max_concurrency": 2},
}
_CAP_OF = {
    "concurrency": "max_concurrency",
    "timeout_seconds": "max_timeout_seconds",
    "item_timeout_seconds": "max_timeout_seconds",
}


def _over_built_in(tool: str, given: ToolLimits) -> ToolLimits:
    """Return the limits of a tool: what was given, and for the rest what is built in.

    A default that nobody gave follows a cap that was lowered.

    Raises:
        ValueError: A default was given that is above its cap.
    """
    chosen = given.model_fields_set
    built_in = {k: v for k, v in _BUILT_IN.get(tool, {}).items() if k not in chosen}
    values = given.model_dump() | built_in
    for name, cap_name in _CAP_OF.items():
        value, cap = values[name], values[cap_name]
        if value is None or value <= cap:
            continue
        if name in chosen:
            usual = "" if cap_name in chosen else " unless set"
            raise ValueError(
                f"limits.{tool}.{name} is {value}, above {cap_name} ({cap}{usual}): lower it, or "
                f"set limits.{tool}.{cap_name} to at least {value}"
            )
        values[name] = cap
    return ToolLimits.model_construct(_fields_set=set(chosen), **values)


class Settings(BaseSettings):
    """Every setting of the server.

    Usage::

        Settings()  # environment, file, defaults
        Settings(file_roots=(Path("/data"),))  # arguments come first
    """

    model_config = SettingsConfigDict(
        env_prefix="TRIO_TOOLS_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
    )

    name: str = Field("trio-tools", description="Name that the server gives itself.")
    toolset: Literal["default", "patterns"] = Field(
        "default", description="`patterns` adds the small tools that each show one pattern."
    )
    file_roots: tuple[Path, ...] = Field((), description="Folders that tools may read.")
    max_file_bytes: PositiveInt = Field(2**30, description="Most bytes of one file.")
    max_items: PositiveInt = Field(1_000, description="Items one call may bring.")
    max_output_chars: PositiveInt = Field(
        200_000, description="Characters of text that one answer may carry."
    )
    operation_ttl_seconds: PositiveFloat = Field(
        3_600.0, description="How long the outcomes of an operation stay readable."
    )
    max_operations: PositiveInt = Field(200, description="Operations kept at once.")
    max_kept_bytes: PositiveInt = Field(
        2**28, description="Bytes of items and results kept over all operations, about."
    )
    shutdown_grace_seconds: float = Field(
        1.0, ge=0, description="Time that running calls get to answer when the server stops."
    )
    log_format: Literal["text", "json"] = Field("text", description="Shape of the log on stderr.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged."
    )
    blocked_step_seconds: PositiveFloat = Field(
        0.1, description="Hold of the event loop from which on a task step is reported."
    )
    models_folder: Path | None = Field(None, description="Folder of ONNX models.")
    fetch: FetchSettings = Field(default_factory=lambda: FetchSettings.model_validate({}))
    apis: dict[str, ApiSettings] = Field(default_factory=dict[str, ApiSettings])
    databases: dict[str, DatabaseSettings] = Field(default_factory=dict[str, DatabaseSettings])
    datasets: dict[str, DatasetSettings] = Field(default_factory=dict[str, DatasetSettings])
    http: HttpSettings = Field(default_factory=lambda: HttpSettings.model_validate({}))
    limits: dict[str, ToolLimits] = Field(
        default_factory=dict[str, ToolLimits], description="Limits that differ, by tool."
    )

    @field_validator("limits")
    @classmethod
    def _are_over_the_built_in_ones(cls, limits: dict[str, ToolLimits]) -> dict[str, ToolLimits]:
        return {tool: _over_built_in(tool, given) for tool, given in limits.items()}

    def limits_of(self, tool: str) -> ToolLimits:
        """Return the limits of a tool or operation: the operator's, over the built-in ones."""
        return self.limits.get(tool) or _over_built_in(tool, ToolLimits.model_validate({}))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the TOML file below the environment; there is no `.env` file by surprise."""
        del dotenv_settings, file_secret_settings
        config = os.environ.get("TRIO_TOOLS_CONFIG")
        if not config:
            return init_settings, env_settings
        if not Path(config).is_file():
            raise FileNotFoundError(f"TRIO_TOOLS_CONFIG names {config!r}, which is not a file")
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, Path(config))
