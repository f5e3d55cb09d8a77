"""The settings of the operator: one tree of values, from arguments, environment and a TOML file.

Sources, strongest first: arguments, environment variables `TRIO_TOOLS_*` (two underscores go one
level down, as in `TRIO_TOOLS_FETCH__ALLOW_PRIVATE=true`), the TOML file named by
`TRIO_TOOLS_CONFIG` or `--config`, defaults. Units are in the names. Everything that opens a door
is closed by default.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from trio_tools.settings.environment import Environment, written_name
from trio_tools.settings.groups.apis import ApiSettings
from trio_tools.settings.groups.clients import ClientSettings
from trio_tools.settings.groups.computing import ClusterSettings, OperationSettings
from trio_tools.settings.groups.data import DatabaseSettings, DatasetSettings
from trio_tools.settings.groups.fetch import FetchSettings
from trio_tools.settings.groups.http import HttpSettings
from trio_tools.settings.groups.limits import LimitsSettings, ToolLimits, over_built_in
from trio_tools.settings.groups.state import StateSettings
from trio_tools.settings.groups.upstreams import UpstreamSettings, check_upstream_names
from trio_tools.settings.telemetry.section import TelemetrySettings

__all__ = [
    "ApiSettings",
    "ClusterSettings",
    "DatabaseSettings",
    "DatasetSettings",
    "FetchSettings",
    "HttpSettings",
    "LimitsSettings",
    "OperationSettings",
    "Settings",
    "StateSettings",
    "TelemetrySettings",
    "ToolLimits",
    "UpstreamSettings",
    "written_name",
]


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

    name: str = Field(
        default="trio-tools",
        description="Name under which the server introduces itself to clients.",
    )
    toolset: Literal["default", "patterns"] = Field(
        default="default",
        description="`patterns` adds seven small tools, each of which shows one pattern.",
    )
    tools: tuple[str, ...] | None = Field(
        default=None, description="Names of the tools to serve; null for all of the toolset."
    )
    file_roots: tuple[Path, ...] = Field(default=(), description="Folders that tools may read.")
    max_file_bytes: PositiveInt = Field(default=2**30, description="Limit of bytes of one file.")
    output_root: Path | None = Field(
        default=None,
        description="Folder in which batch tools may write outcomes (`output_file`); null forbids "
        "it.",
    )
    max_items: PositiveInt = Field(default=1_000, description="Limit of items in one call.")
    ignored_arguments: frozenset[str] = Field(
        default=frozenset(
            {"toolCallId", "tool_call_id", "sessionId", "session_id", "random_string"}
            | {"action", "chatInput"}
        ),
        description="Arguments that some hosts add to every call. They are dropped.",
    )
    max_output_chars: int = Field(
        default=40_000,
        ge=100,
        description="Limit of characters of each form of an answer, text and structured.",
    )
    answers: Literal["both", "text", "structured"] = Field(
        default="both",
        description="Forms of an answer: text, structured content, or both. Each form is complete.",
    )
    answers_envelope: Literal["full", "lean"] = Field(
        default="full",
        description='Fields of an answer: all ("full"), or only those that say more than their '
        'default ("lean"). A batch in which every item succeeded is then its results alone.',
    )
    answers_link_resources: bool = Field(
        default=False,
        description="Whether batch answers link to `operation://{operation_id}`. A host that shows "
        "a link may hide the answer.",
    )
    operation_ttl_seconds: PositiveFloat = Field(
        default=3_600.0, description="How long the outcomes of an operation stay readable."
    )
    max_operations: PositiveInt = Field(default=200, description="Limit of stored operations.")
    max_kept_bytes: PositiveInt = Field(
        default=2**28,
        description="Approximate limit of bytes of items and results, over all operations.",
    )
    max_memory_bytes: PositiveInt = Field(
        default=2**30,
        description="Approximate limit of bytes of items in flight and stored results together. At "
        "the limit, further items wait before they start.",
    )
    shutdown_grace_seconds: float = Field(
        default=1.0,
        ge=0,
        description="Time that running calls have to answer when the server stops.",
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Format of the log on stderr."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Lowest level that is logged."
    )
    blocked_step_seconds: PositiveFloat = Field(
        default=0.1, description="A task step that blocks the event loop for longer is reported."
    )
    background_timeout_seconds: float = Field(
        default=86_400.0,
        gt=0,
        le=86_400.0,
        description="Default and maximum timeout of an operation in the background.",
    )
    state: StateSettings = Field(default_factory=lambda: StateSettings.model_validate({}))
    models_folder: Path | None = Field(default=None, description="Folder of ONNX models.")
    fetch: FetchSettings = Field(default_factory=lambda: FetchSettings.model_validate({}))
    apis: dict[str, ApiSettings] = Field(default_factory=dict[str, ApiSettings])
    databases: dict[str, DatabaseSettings] = Field(default_factory=dict[str, DatabaseSettings])
    datasets: dict[str, DatasetSettings] = Field(default_factory=dict[str, DatasetSettings])
    upstreams: dict[str, UpstreamSettings] = Field(
        default_factory=dict[str, UpstreamSettings],
        description="Other MCP servers, by name. Their tools become operations of this server.",
    )
    http: HttpSettings = Field(default_factory=lambda: HttpSettings.model_validate({}))
    cluster: ClusterSettings = Field(default_factory=lambda: ClusterSettings.model_validate({}))
    operations: dict[str, OperationSettings] = Field(
        default_factory=dict[str, OperationSettings],
        description="Where operations that compute run, by operation name.",
    )
    telemetry: TelemetrySettings = Field(
        default_factory=lambda: TelemetrySettings.model_validate({})
    )
    limits: LimitsSettings = Field(default_factory=lambda: LimitsSettings.model_validate({}))
    clients: dict[str, ClientSettings] = Field(
        default_factory=dict[str, ClientSettings],
        description="Weights, priorities and quotas of clients, by client name.",
    )

    @field_validator("limits")
    @classmethod
    def _are_over_the_built_in_ones(
        cls, limits: LimitsSettings, info: ValidationInfo
    ) -> LimitsSettings:
        state = info.data.get("state")
        if limits.shared and isinstance(state, StateSettings):
            url = state.url.get_secret_value()
            if not url.startswith("postgres"):
                raise ValueError(
                    "limits.shared needs a database that all servers reach, and state.url names "
                    "none: set state.url to postgresql://USER:PASSWORD@HOST/DATABASE, or leave out "
                    "limits.shared"
                )
        over = {tool: over_built_in(tool, given) for tool, given in limits.by_tool.items()}
        return limits.model_copy(update=over)

    @field_validator("databases")
    @classmethod
    def _have_folders_under_the_roots(
        cls, databases: dict[str, DatabaseSettings], info: ValidationInfo
    ) -> dict[str, DatabaseSettings]:
        roots = [root.resolve() for root in info.data.get("file_roots", ())]
        for name, database in databases.items():
            scheme, _, path = database.url.get_secret_value().partition(":///")
            folder = Path(path).resolve()
            if scheme != "duckdb" or not folder.is_dir():
                continue
            if not any(folder.is_relative_to(root) for root in roots):
                raise ValueError(
                    f"databases.{name}.url names a folder that is not under the file_roots: "
                    "add it to them, or move it below one"
                )
        return databases

    @field_validator("datasets")
    @classmethod
    def _are_of_known_databases(
        cls, datasets: dict[str, DatasetSettings], info: ValidationInfo
    ) -> dict[str, DatasetSettings]:
        known = info.data.get("databases")
        for name, dataset in datasets.items():
            if known is not None and dataset.database not in {None, *known}:
                raise ValueError(
                    f"datasets.{name}.database is {dataset.database!r}, which is not one of the "
                    f"databases ({', '.join(known) or 'there are none'}): name one, or add "
                    f"databases.{dataset.database}.url"
                )
        return datasets

    @field_validator("upstreams")
    @classmethod
    def _have_names_for_operations(
        cls, upstreams: dict[str, UpstreamSettings]
    ) -> dict[str, UpstreamSettings]:
        check_upstream_names(list(upstreams))
        return upstreams

    @field_validator("models_folder", "output_root")
    @classmethod
    def _is_a_folder(cls, folder: Path | None, info: ValidationInfo) -> Path | None:
        if folder is not None and not folder.is_dir():
            holds = "holds the models" if info.field_name == "models_folder" else "may be written"
            raise ValueError(
                f"{str(folder)!r} is not a folder: create it, or name the one that {holds}"
            )
        return folder

    def client(self, client_id: str) -> ClientSettings:
        """Return what the operator decided about a client."""
        return self.clients.get(client_id) or ClientSettings.model_validate({})

    def limits_of(self, tool: str) -> ToolLimits:
        """Return the limits of a tool or operation: the operator's, over the built-in ones."""
        return self.limits.get(tool) or over_built_in(
            tool, ToolLimits.model_validate(self._limits_of_upstream(tool))
        )

    def _limits_of_upstream(self, name: str) -> dict[str, Any]:
        kind, _, upstream = name.partition(".")
        if kind != "upstreams" or upstream not in self.upstreams:
            return {}
        at_once = self.upstreams[upstream].calls_at_once
        return {"concurrency": at_once, "max_concurrency": at_once}

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
        del env_settings, dotenv_settings, file_secret_settings
        environment = Environment(settings_cls)
        config = os.environ.get("TRIO_TOOLS_CONFIG")
        if not config:
            return init_settings, environment
        if not Path(config).is_file():
            raise FileNotFoundError(
                f"--config or TRIO_TOOLS_CONFIG names {config!r}, which is not a file: "
                "correct the path"
            )
        try:
            file = TomlConfigSettingsSource(settings_cls, Path(config))
        except ValueError as error:
            raise SettingsError(f"{config} is not TOML in UTF-8: {error}") from None
        return init_settings, environment, file
