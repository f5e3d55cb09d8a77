"""The settings of the operator: one tree of values, from arguments, environment and a TOML file.

Sources, strongest first: arguments, environment variables `TRIO_TOOLS_*` (two underscores go one
level down, as in `TRIO_TOOLS_FETCH__ALLOW_PRIVATE=true`), the TOML file named by
`TRIO_TOOLS_CONFIG` or `--config`, defaults. Units are in the names. Everything that opens a door
is closed by default.
"""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from nursery_patterns import usable_cpus
from trio_tools.settings.clients import ClientSettings
from trio_tools.settings.schema import (
    ApiSettings,
    ClusterSettings,
    DatabaseSettings,
    DatasetSettings,
    FetchSettings,
    HttpSettings,
    OperationSettings,
    Section,
    StateSettings,
)
from trio_tools.settings.telemetry.section import TelemetrySettings
from trio_tools.settings.upstreams import UpstreamSettings, check_upstream_names

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


class ToolLimits(Section):
    """Concurrency, queue and timeouts of one tool.

    Its defaults are those of a tool without built-in limits; `Settings.limits_of` adds those of a
    tool.
    """

    concurrency: PositiveInt = Field(
        default=10, description="Default number of items that one call runs at once."
    )
    max_concurrency: PositiveInt = Field(
        default=50, description="Limit of items in flight over all calls, and the cap for one call."
    )
    max_calls: PositiveInt = Field(default=10, description="Limit of calls that run at once.")
    max_waiting: NonNegativeInt = Field(
        default=1_000,
        description="Limit of waiting calls. A call whose turn is not expected before its deadline "
        "is refused.",
    )
    timeout_seconds: PositiveFloat = Field(default=30.0, description="Default timeout of one call.")
    max_timeout_seconds: PositiveFloat = Field(
        default=300.0,
        description="Cap of the timeouts that a call may request, for itself and for an item.",
    )
    item_timeout_seconds: PositiveFloat | None = Field(
        default=None,
        description="Default timeout of one item of a batch; null for no limit besides the call's.",
    )

    def under(self, chosen: dict[str, Any]) -> ToolLimits:
        """Return these limits with the chosen values; dependent defaults follow them."""
        values = self.model_dump() | chosen
        for name, cap in _CAP_OF.items():
            value = values[name]
            if value is None or value <= values[cap]:
                continue
            raised = name in chosen and cap not in chosen
            values |= {cap: value} if raised else {name: values[cap]}
        return ToolLimits.model_validate(values)


class LimitsSettings(Section):
    """Limits that differ from the built-in ones, by tool; and whether replicas share some.

    Those of a tool are `limits["fetch_urls"]`, or `limits.by_tool` for all of them.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, ToolLimits] = Field(init=False)  # pyright: ignore[reportIncompatibleVariableOverride] - as pydantic documents it

    shared: bool = Field(
        default=False,
        description="Whether all servers with the same PostgreSQL state share the limits of "
        "external services: rates of APIs and upstreams, concurrent requests to one API"
        " or host.",
    )
    replicas: PositiveInt = Field(
        default=1,
        description="Number of servers that share limits, used until they have been counted.",
    )

    @property
    def by_tool(self) -> dict[str, ToolLimits]:
        """The limits that were given, by tool or operation."""
        return self.__pydantic_extra__

    def get(self, tool: str) -> ToolLimits | None:
        """Return the limits that were given for a tool, None if none were."""
        return self.by_tool.get(tool)

    def __getitem__(self, tool: str) -> ToolLimits:
        return self.by_tool[tool]


# What differs from the defaults of `ToolLimits`. Batch-like tools answer within 50 s, under the
# 60 s after which most clients hang up.
_CPUS = usable_cpus()
_BATCH = {"timeout_seconds": 50.0}
_BUILT_IN: dict[str, dict[str, Any]] = {
    "fetch_urls": _BATCH,
    "batch_process": _BATCH,
    "process_large_dataset": _BATCH,
    "crawl_site": {**_BATCH, "item_timeout_seconds": 20.0},
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

    A default that was not set follows a lowered cap.

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


# Begins like a setting, but names the file of settings.
_OTHER_VARIABLES = frozenset({"trio_tools_config"})
_SERVICE_VARIABLE = re.compile(
    r"(\w+_)?(service_host|service_port_\w+|port_\d+_(tcp|udp|sctp)(_(proto|port|addr))?)"
)


class _Environment(EnvSettingsSource):
    """The environment variables. Lists and tables in them are JSON."""

    def __call__(self) -> dict[str, Any]:
        self._refuse_what_sets_nothing()
        try:
            return super().__call__()
        except SettingsError as error:
            # The text that did not parse tells the variable; it may be a secret, and stays unsaid.
            text, prefix = getattr(error.__cause__, "doc", None), self.env_prefix.lower()
            names = [
                name.upper()
                for name, value in self.env_vars.items()
                if value == text and name.startswith(prefix)
            ]
            raise SettingsError(
                f"{' or '.join(names)} is not JSON, as lists and tables are in the environment: "
                """write it as in TRIO_TOOLS_FILE_ROOTS='["/data", "/srv/more"]'"""
            ) from None

    def _refuse_what_sets_nothing(self) -> None:
        """Refuse a misspelt name: who gave tokens by it would serve without any."""
        prefix = self.env_prefix.lower()
        fields = self.settings_cls.model_fields
        for given, value in self.env_vars.items():
            name = given.removeprefix(prefix)
            section = name.partition("__")[0]
            if given == name or section in fields or given in _OTHER_VARIABLES or not value:
                continue
            if not _is_of_kubernetes(name, value):
                near = self._nearest(name)
                fix = f"write {self.env_prefix}{near.upper()}" if near else "leave it out"
                raise SettingsError(f"{given.upper()} sets nothing: {fix}")

    def _nearest(self, name: str) -> str | None:
        """Return the setting that a variable may have been meant for, as the rest of its name."""
        written: dict[str, str] = {}
        for section, info in self.settings_cls.model_fields.items():
            written[section.replace("_", "")] = section
            for field in getattr(info.annotation, "model_fields", ()):
                full = f"{section}__{field}"
                written[full.replace("_", "")] = written[field.replace("_", "")] = full
        section, marks, rest = name.partition("__")
        if marks and rest:  # of a table of tables, such as databases
            near = get_close_matches(section, list(self.settings_cls.model_fields), 1, 0.8)
            if near:
                return f"{near[0]}__{rest}"
        plain = name.replace("_", "")
        return written.get(plain) or next(
            (written[each] for each in get_close_matches(plain, list(written), 1, 0.8)), None
        )


def _is_of_kubernetes(name: str, value: str) -> bool:
    """Whether Kubernetes sets this variable for a service called trio-tools."""
    if name == "port" or name.endswith("_port"):
        return "://" in value or name.endswith("service_port")
    return _SERVICE_VARIABLE.fullmatch(name) is not None


def written_name(name: str) -> str:
    """Return a setting by the name that the operator gave it by: a variable, or the dotted one."""
    variable = f"TRIO_TOOLS_{name.replace('.', '__')}".upper()
    given = {each.upper() for each in os.environ}
    while variable not in given and "__" in variable:
        variable = variable.rpartition("__")[0]
    return variable if variable in given else name


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
        over = {tool: _over_built_in(tool, given) for tool, given in limits.by_tool.items()}
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
        return self.limits.get(tool) or _over_built_in(
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
        environment = _Environment(settings_cls)
        config = os.environ.get("TRIO_TOOLS_CONFIG")
        if not config:
            return init_settings, environment
        if not Path(config).is_file():
            raise FileNotFoundError(f"TRIO_TOOLS_CONFIG names {config!r}, which is not a file")
        try:
            file = TomlConfigSettingsSource(settings_cls, Path(config))
        except ValueError as error:
            raise SettingsError(f"{config} is not TOML in UTF-8: {error}") from None
        return init_settings, environment, file
