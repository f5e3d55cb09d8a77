"""The groups of one database and of one dataset."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from trio_tools.settings.database_urls import check_database_url
from trio_tools.settings.groups.section import Section


def _database_url(url: SecretStr) -> SecretStr:
    check_database_url(url.get_secret_value())
    return url


class DatabaseSettings(Section):
    """One database that `query_database` may read by name."""

    url: Annotated[SecretStr, AfterValidator(_database_url)] = Field(
        description="URL: sqlite:////data/app.db, duckdb:////data/app.duckdb, "
        "duckdb:////data/folder (Parquet and CSV files under a file root) or "
        "postgresql://user:password@host/database. It may contain a password.",
        repr=False,
    )
    optional: bool = Field(
        default=False, description="Whether the server starts when the database is unavailable."
    )


class DatasetSettings(Section):
    """One dataset that `process_large_dataset` may read by name: a path, or a table."""

    path: str | None = Field(default=None, description="File or folder under the file roots.")
    kind: (
        Literal["json_lines", "json", "csv", "lines", "parquet", "arrow", "excel", "folder"] | None
    ) = Field(default=None, description="Format of the path; by default its name decides.")
    encoding: str | None = Field(
        default=None, description="Encoding of the text; by default it is detected, usually UTF-8."
    )
    delimiter: str | None = Field(
        default=None,
        min_length=1,
        max_length=1,
        description="Delimiter of a CSV file; by default it is detected.",
    )
    database: str | None = Field(
        default=None, description="Name of the database that contains the table."
    )
    table: str | None = Field(
        default=None, description="Table or view, optionally with its schema: `schema.table`."
    )
    key: str | None = Field(
        default=None, description="Column that orders the rows. Its values must be unique."
    )

    @model_validator(mode="after")
    def _is_a_path_or_a_table(self) -> Self:
        given = (self.database, self.table, self.key)
        if (self.path is None) == (None in given) or (self.path is not None and any(given)):
            raise ValueError("a dataset has either a path, or database, table and key")
        return self
