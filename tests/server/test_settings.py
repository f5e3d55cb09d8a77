"""Where settings come from, which one wins, and what a wrong one is told."""

import pytest
from pydantic import BaseModel, ValidationError

from tests.transports.requests import exchange, get, http_server
from trio_tools.server import create_server
from trio_tools.settings import Settings
from trio_tools.settings.database_urls import PostgresUrl
from trio_tools.settings.groups.http import OWN_PATHS


@pytest.fixture
def config(tmp_path, monkeypatch):
    path = tmp_path / "trio-tools.toml"
    monkeypatch.setenv("TRIO_TOOLS_CONFIG", str(path))
    return path


def told(error):
    return [(".".join(map(str, e["loc"])), e["msg"]) for e in error.value.errors()]


def test_arguments_come_before_the_environment_before_the_file_before_the_defaults(
    config, monkeypatch
):
    config.write_text('name = "file"\nmax_items = 2\nmax_operations = 2\ntoolset = "patterns"\n')
    monkeypatch.setenv("TRIO_TOOLS_NAME", "environment")
    monkeypatch.setenv("TRIO_TOOLS_MAX_ITEMS", "3")
    settings = Settings(name="argument")
    assert (settings.name, settings.max_items, settings.max_operations) == ("argument", 3, 2)
    assert settings.toolset == "patterns"
    assert settings.log_level == "info"


def test_two_underscores_go_one_level_down(monkeypatch):
    monkeypatch.setenv("TRIO_TOOLS_FETCH__ALLOW_PRIVATE", "true")
    monkeypatch.setenv("TRIO_TOOLS_LIMITS__FETCH_URLS__CONCURRENCY", "4")
    settings = Settings()
    assert settings.fetch.allow_private is True
    assert settings.limits_of("fetch_urls").concurrency == 4


def test_the_sources_are_merged_section_by_section(config, monkeypatch):
    config.write_text("[fetch]\nmax_redirects = 1\nmax_connections = 7\n")
    monkeypatch.setenv("TRIO_TOOLS_FETCH__MAX_REDIRECTS", "2")
    settings = Settings(fetch={"user_agent": "me"})
    fetch = settings.fetch
    assert (fetch.user_agent, fetch.max_redirects, fetch.max_connections) == ("me", 2, 7)


def test_lists_and_tables_come_from_the_environment_as_json(monkeypatch, tmp_path):
    monkeypatch.setenv("TRIO_TOOLS_FILE_ROOTS", f'["{tmp_path}"]')
    monkeypatch.setenv("TRIO_TOOLS_APIS", '{"weather": {"base_url": "https://example.org"}}')
    settings = Settings()
    assert settings.file_roots == (tmp_path,)
    assert settings.apis["weather"].base_url == "https://example.org"


def test_a_file_that_is_not_there_is_told_by_name(config):
    with pytest.raises(FileNotFoundError) as error:
        Settings()
    assert str(error.value) == (
        f"--config or TRIO_TOOLS_CONFIG names {str(config)!r}, which is not a file: "
        "correct the path"
    )


@pytest.mark.parametrize("content", [b"max_items = [", b"name = '\xff'"])
def test_a_file_that_is_no_toml_is_told_by_name(config, content):
    config.write_bytes(content)
    with pytest.raises(ValueError, match="is not TOML in UTF-8") as error:
        Settings()
    assert str(config) in str(error.value)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("TRIO_TOOLS_HTTP_TOKENS", "TRIO_TOOLS_HTTP__TOKENS"),
        ("trio_tools_fetch_allow_private", "TRIO_TOOLS_FETCH__ALLOW_PRIVATE"),
        ("TRIO_TOOLS_FILEROOTS", "TRIO_TOOLS_FILE_ROOTS"),
        ("TRIO_TOOLS_DATABASE__SHOP__URL", "TRIO_TOOLS_DATABASES__SHOP__URL"),
        ("TRIO_TOOLS_TOKEN_FILE", "TRIO_TOOLS_HTTP__TOKEN_FILE"),
        ("TRIO_TOOLS_TOKENS", "TRIO_TOOLS_HTTP__TOKENS"),
        ("TRIO_TOOLS__HTTP__TOKENS", "TRIO_TOOLS_HTTP__TOKENS"),
        ("TRIO_TOOLS_PORT", "TRIO_TOOLS_HTTP__PORT"),
    ],
)
def test_a_variable_that_lacks_an_underscore_is_refused_with_its_name(monkeypatch, given, meant):
    monkeypatch.setenv("TRIO_TOOLS_SERVICE_HOST", "10.0.0.1")  # as Kubernetes does for services
    monkeypatch.setenv("TRIO_TOOLS_HTTP_PORT", "tcp://10.0.0.1:80")
    monkeypatch.setenv("TRIO_TOOLS_PORT_8000_TCP_ADDR", "10.0.0.1")
    monkeypatch.setenv("TRIO_TOOLS_SERVICE_PORT_MCP", "8000")
    assert Settings().http.tokens == {}
    monkeypatch.setenv(given, "hush")
    with pytest.raises(ValueError, match=f"{given.upper()} sets nothing: write {meant}$"):
        Settings()


def test_a_variable_that_is_like_no_setting_is_refused_too(monkeypatch):
    monkeypatch.setenv("TRIO_TOOLS_MY_ACCESS_TOKENS_OF_TODAY", "hush")
    with pytest.raises(ValueError, match=r"OF_TODAY sets nothing: leave it out$") as error:
        Settings()
    assert "hush" not in str(error.value)


def test_no_env_file_is_read_by_surprise(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("TRIO_TOOLS_NAME=surprise\n")
    monkeypatch.chdir(tmp_path)
    assert Settings().name == "trio-tools"


@pytest.mark.parametrize(
    "given",
    [
        {"max_itmes": 3},
        {"fetch": {"allow_privat": True}},
        {"limits": {"fetch_urls": {"parallel": 3}}},
    ],
)
def test_an_unknown_name_is_an_error(given):
    with pytest.raises(ValidationError) as error:
        Settings(**given)
    assert [message for _, message in told(error)] == ["Extra inputs are not permitted"]


def test_an_unknown_name_in_the_file_is_an_error(config):
    config.write_text("[fetch]\nallow_privat = true\n")
    with pytest.raises(ValidationError) as error:
        Settings()
    assert told(error) == [("fetch.allow_privat", "Extra inputs are not permitted")]


def test_an_unknown_name_in_a_section_of_the_environment_is_an_error(monkeypatch):
    monkeypatch.setenv("TRIO_TOOLS_FETCH__ALLOW_PRIVAT", "true")
    with pytest.raises(ValidationError):
        Settings()


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"max_items": 0}, "max_items"),
        ({"max_output_chars": 99}, "max_output_chars"),
        ({"max_items": "many"}, "max_items"),
        ({"toolset": "all"}, "toolset"),
        ({"operation_ttl_seconds": -1}, "operation_ttl_seconds"),
        ({"shutdown_grace_seconds": -1}, "shutdown_grace_seconds"),
        ({"http": {"port": 70_000}}, "http.port"),
        ({"fetch": {"max_connections": 0}}, "fetch.max_connections"),
        ({"limits": {"x": {"max_calls": 0}}}, "limits.x.max_calls"),
        ({"apis": {"x": {}}}, "apis.x.base_url"),
    ],
)
def test_a_bad_value_is_told_by_the_name_of_its_setting(given, where):
    with pytest.raises(ValidationError) as error:
        Settings(**given)
    assert [place for place, _ in told(error)] == [where]


@pytest.mark.parametrize("seconds", [float("nan"), float("inf")])
def test_a_time_without_end_is_no_time(seconds):
    with pytest.raises(ValidationError):
        Settings(operation_ttl_seconds=seconds)


@pytest.mark.parametrize("name", ["concurrency", "timeout_seconds"])
def test_a_default_above_its_cap_is_refused_and_the_cap_is_named(name):
    with pytest.raises(ValidationError) as error:
        Settings(limits={"x": {name: 20, f"max_{name}": 10}})
    [(_, message)] = told(error)
    assert "20" in message
    assert f"above max_{name} (10" in message


def test_limits_of_a_tool_are_the_operators_over_the_built_in_ones():
    settings = Settings(limits={"fetch_urls": {"max_calls": 3}})
    assert settings.limits_of("fetch_urls").max_calls == 3
    assert settings.limits_of("fetch_urls").timeout_seconds == 50
    assert settings.limits_of("call_external_api").concurrency == 3
    assert settings.limits_of("query_database").concurrency == 5
    assert settings.limits_of("an_operation_of_mine").concurrency == 10


@pytest.mark.parametrize(
    ("tool", "given", "expected"),
    [
        ("fetch_urls", {"max_timeout_seconds": 40}, {"timeout_seconds": 40}),
        ("batch_process", {"max_timeout_seconds": "40"}, {"timeout_seconds": 40}),
        ("fetch_urls", {"max_timeout_seconds": 60}, {"timeout_seconds": 50}),
        ("fetch_urls", {"max_concurrency": 5}, {"concurrency": 5}),
        ("call_external_api", {"max_concurrency": 2}, {"concurrency": 2}),
        ("call_external_api", {"max_concurrency": 20}, {"concurrency": 3}),
        ("an_operation_of_mine", {"max_concurrency": 4}, {"concurrency": 4}),
        ("fetch_urls", {"concurrency": 50}, {"max_concurrency": 50}),
    ],
)
def test_a_default_that_nobody_gave_follows_its_cap_down_and_never_up(tool, given, expected):
    settings = Settings(limits={tool: given})
    for limits in (settings.limits[tool], settings.limits_of(tool)):
        assert limits.model_dump(include=expected) == expected
    again = Settings(limits=settings.limits)
    assert again.limits_of(tool) == settings.limits_of(tool)


@pytest.mark.parametrize(
    ("tool", "given", "message"),
    [
        ("query_database", {"concurrency": 8}, "concurrency is 8, above max_concurrency (5"),
        ("run_inference", {"concurrency": 4}, "concurrency is 4, above max_concurrency (2"),
        ("x", {"concurrency": 51}, "concurrency is 51, above max_concurrency (50"),
        (
            "fetch_urls",
            {"timeout_seconds": 301},
            "timeout_seconds is 301.0, above max_timeout_seconds (300.0",
        ),
        (
            "fetch_urls",
            {"item_timeout_seconds": 301},
            "item_timeout_seconds is 301.0, above max_timeout_seconds (300.0",
        ),
    ],
)
def test_a_default_above_a_cap_that_nobody_gave_is_refused_with_setting_cap_and_fix(
    tool, given, message
):
    with pytest.raises(ValidationError) as error:
        Settings(limits={tool: given})
    [(name, value)] = given.items()
    cap = "max_concurrency" if name == "concurrency" else "max_timeout_seconds"
    [(_, told_)] = told(error)
    value = value if name == "concurrency" else float(value)
    assert f"limits.{tool}.{message} unless set)" in told_
    assert told_.endswith(f"lower it, or set limits.{tool}.{cap} to at least {value}")


async def test_what_a_server_declares_are_its_limits_whichever_of_them_were_given(tmp_path):
    lowered = {
        "fetch_urls": {"max_timeout_seconds": 40},
        "batch_process": {"max_timeout_seconds": 40, "max_concurrency": 5},
        "call_external_api": {"max_concurrency": 2},
        "query_database": {"max_concurrency": 8},
    }
    settings = Settings(
        limits=lowered,
        apis={"github": {"base_url": "https://api.example"}},
        databases={"shop": {"url": f"sqlite:///{tmp_path}/shop.db", "optional": True}},
    )
    listings = await create_server(settings).list_tools()
    told_ = {listing.name: listing.description for listing in listings}
    assert "Timeout: 40 s by default, 40 s at most" in told_["fetch_urls"]
    assert "Timeout: 40 s by default, 40 s at most" in told_["batch_process"]
    assert "up to 2 in parallel" in told_["call_external_api"]
    assert "up to 8 in parallel" in told_["query_database"]


def test_settings_do_not_change_once_they_are_made():
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.name = "other"
    with pytest.raises(ValidationError):
        settings.fetch.allow_private = True


def sections_of(section, prefix=""):
    for name, info in section.model_fields.items():
        yield f"{prefix}{name}", info
        for inner in (info.annotation, *getattr(info.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from sections_of(inner, f"{prefix}{name}.")


@pytest.mark.parametrize(("name", "info"), list(sections_of(Settings)), ids=lambda v: str(v)[:40])
def test_every_setting_says_what_it_means(name, info):
    inner = (info.annotation, *getattr(info.annotation, "__args__", ()))
    described = [c for c in inner if isinstance(c, type) and issubclass(c, BaseModel)]
    assert info.description or any(c.__doc__ for c in described)


def test_every_door_is_closed_by_default():
    settings = Settings()
    assert settings.file_roots == ()
    assert settings.fetch.allow_private is False
    assert settings.fetch.schemes == {"http", "https"}
    assert settings.apis == settings.databases == settings.http.tokens == {}
    assert settings.http.host == "127.0.0.1"
    assert settings.http.insecure is False


def tokens_of(settings):
    return {name: token.get_secret_value() for name, token in settings.http.tokens.items()}


def test_tokens_are_shown_nowhere():
    settings = Settings(http={"tokens": {"me": "hush"}})
    for shown in (settings, settings.model_dump(), settings.model_dump_json()):
        assert "hush" not in f"{shown!r} {shown}"
    assert tokens_of(settings) == {"me": "hush"}
    assert tokens_of(Settings(**settings.model_dump())) == {"me": "hush"}


@pytest.mark.parametrize(
    "variable", [("", '{"me": "hush"}'), ("__ME", "hush"), ("__ME", "1234567890123456")]
)
def test_tokens_come_from_the_environment(monkeypatch, variable):
    end, value = variable
    monkeypatch.setenv(f"TRIO_TOOLS_HTTP__TOKENS{end}", value)
    assert tokens_of(Settings()) == {"me": value if end else "hush"}


def test_tokens_come_from_the_file(monkeypatch, tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text('[http.tokens]\nme = "hush"\n', encoding="utf-8")
    monkeypatch.setenv("TRIO_TOOLS_CONFIG", str(path))
    assert tokens_of(Settings()) == {"me": "hush"}


def test_the_url_of_a_database_is_shown_nowhere():
    settings = Settings(databases={"shop": {"url": "postgresql://me:hush@host/shop"}})
    for shown in (repr(settings), str(settings), settings.model_dump_json()):
        assert "hush" not in shown
    assert settings.databases["shop"].url.get_secret_value() == "postgresql://me:hush@host/shop"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://",
        "postgresql:///d",
        "postgresql://me@/d?host=/run/postgresql",
        "postgresql+psycopg://me:a/b?c%40@h:5432/d?sslmode=require",
        "postgres://me@server:word@h/d",
        "postgresql://[::1]:5432/d",
        "postgresql://me@one:5432,two:5433/d?target_session_attrs=read-write",
        "postgresql:///?service=shop",
        "postgresql://h/d?schema=stock&sslmode=verify-full",
    ],
)
def test_what_libpq_reads_as_the_url_of_a_database_is_one(url):
    conninfo = pytest.importorskip("psycopg.conninfo")
    settings = Settings(databases={"shop": {"url": url}})
    assert settings.databases["shop"].url.get_secret_value() == url
    read = conninfo.conninfo_to_dict(PostgresUrl.parse(url).conninfo)
    assert read.get("user") in {None, "me", "me@server"}
    assert read.get("password") in {None, "a/b?c@", "word"}


@pytest.mark.parametrize(
    ("parameter", "told"),
    [
        ("pgbouncer=true", "parameter 'pgbouncer' is Prisma's"),
        ("currentSchema=a", "write schema="),
        ("colour=red", "parameter 'colour' is unknown"),
        ("connect_timeout=soon", "must be a number of seconds"),
    ],
)
def test_a_parameter_of_another_tool_is_named_at_the_start(parameter, told):
    with pytest.raises(ValidationError) as caught:
        Settings(databases={"shop": {"url": f"postgresql://me:hush@h/d?{parameter}"}})
    assert told in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"databases": {"shop": "postgresql://me:hush@host/shop"}},
        {"databases": {"shop": {"url": ["hush"]}}},
        {"databases": {"shop": {"uri": "postgresql://me:hush@host/shop"}}},
        {"databases": "hush"},
        {"http": {"tokens": ["hush"]}},
        {"http": {"tls_key_password": 1, "hush_is_no_name": "hush"}},
    ],
)
def test_a_wrong_setting_is_told_without_what_was_given(given):
    with pytest.raises(ValidationError) as error:
        Settings(**given)
    assert "hush" not in str(error.value).replace("hush_is_no_name", "")


@pytest.mark.parametrize(
    ("given", "where", "reason"),
    [
        (
            {"fetch": {"allow_networks": ["10.0.0.0/8", "127.0.0.1/8"]}},
            "fetch.allow_networks.1",
            "it has bits set behind its prefix: write 127.0.0.0/8, or an address alone",
        ),
        (
            {"fetch": {"allow_networks": ["intranet"]}},
            "fetch.allow_networks.0",
            "it is not a network: write one like 10.0.0.0/8, or an address",
        ),
        *(
            ({"databases": {"a": {"url": url}}}, "databases.a.url", "it must begin with sqlite:///")
            for url in (
                "mysql://h/d",
                "sqlite://",
                "sqlite:///",
                "sqlite:///:memory:",
                "postgresql:d",
                "postgresql://me:se@cret@h/d",
                "postgresql://me:se@cr:et@h/d",
                "postgresql://h:port/d",
                "postgresql://h:/d",
                "xpostgres://h/d",
                "",
            )
        ),
        (
            {
                "databases": {"shop": {"url": "postgresql://h/d"}},
                "datasets": {"customers": {"database": "shap", "table": "t", "key": "id"}},
            },
            "datasets",
            "datasets.customers.database is 'shap', which is not one of the databases (shop): name",
        ),
        (
            {"datasets": {"customers": {"database": "shop", "table": "t", "key": "id"}}},
            "datasets",
            "datasets.customers.database is 'shop', which is not one of the databases (there are",
        ),
        *(
            ({"apis": {"a": {"base_url": url}}}, "apis.a.base_url", "it must be an absolute URL")
            for url in (
                "example.org",
                "//example.org",
                "ftp://example.org",
                "https://",
                "https:///v1",
                "https://:443",
                "https://me:hush@example.org",
                "https://example.org:0",
                "https://example.org:99999",
                "https://[::1",
                "https://example.org/v 1",
                "https://example.org?key=hush",
                "https://example.org/#v1",
            )
        ),
        (
            {"apis": {"a": {"base_url": "https://a", "allowed_methods": ["GE T"]}}},
            "apis.a.allowed_methods.0",
            "it is not an HTTP method: write one like GET or POST",
        ),
        (
            {"apis": {"a": {"base_url": "https://a", "allowed_path_prefixes": ["/v1", "v2"]}}},
            "apis.a.allowed_path_prefixes.1",
            "it must begin with a slash",
        ),
        *(
            (
                {"http": {"path": path}},
                "http.path",
                "it must begin with a slash and be a plain path",
            )
            for path in ("mcp", "", "/m cp", "/mcp?x", "/mcp#x", "/m%63p", "/{name}")
        ),
        *(
            (
                {"http": {"path": path}},
                "http.path",
                f"{path} is a path of the server's own",
            )
            for path in ("/healthz", "/readyz", "/metrics")
        ),
        (
            {"models_folder": "/no/such/folder"},
            "models_folder",
            "'/no/such/folder' is not a folder: create it",
        ),
    ],
)
def test_what_could_show_only_with_the_first_call_is_refused_at_the_start(given, where, reason):
    with pytest.raises(ValidationError) as error:
        Settings(**given)
    [(place, message)] = told(error)
    assert place == where
    assert message.startswith(f"Value error, {reason}")
    assert "hush" not in str(error.value)


def test_what_can_be_meant_is_taken(tmp_path):
    api = {"base_url": "HTTPS://[::1]:8443/v1/", "allowed_methods": ["get", "Post"]}
    urls = ["sqlite:////srv/a.db", "sqlite+pysqlite:///a.db", "postgres://h", "postgresql+x://h/d"]
    settings = Settings(
        apis={"a": api},
        databases={str(number): {"url": url} for number, url in enumerate(urls)},
        fetch={"allow_networks": ["10.0.0.0/8", "192.168.1.7", "fd00::/8"]},
        http={"path": "/"},
        models_folder=tmp_path,
    )
    assert settings.apis["a"].allowed_methods == {"GET", "POST"}
    assert [each.url.get_secret_value() for each in settings.databases.values()] == urls


@pytest.mark.parametrize("path", sorted(OWN_PATHS))
async def test_the_server_answers_these_paths_itself(path):
    async with http_server(create_server(Settings())) as address:
        allowed = 405 if path == "/reload" else 200
        assert (await exchange(address, get(path))).status == allowed
