"""Settings from environment variables; a misspelt variable is an error."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from typing import Any

from pydantic_settings import EnvSettingsSource, SettingsError

# Begins like a setting, but names the file of settings.
_OTHER_VARIABLES = frozenset({"trio_tools_config"})
_SERVICE_VARIABLE = re.compile(
    r"(\w+_)?(service_host|service_port_\w+|port_\d+_(tcp|udp|sctp)(_(proto|port|addr))?)"
)


class Environment(EnvSettingsSource):
    """The environment variables. Lists and tables in them are JSON."""

    def __call__(self) -> dict[str, Any]:
        """Return the values that the environment sets.

        Raises:
            SettingsError: A list or table is not JSON, or a variable sets nothing.
        """
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
