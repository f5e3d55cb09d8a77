"""The reference of the settings: complete, true, and accepted by what it describes."""

import json
import re
import tomllib

import pytest

from tests.support.maps import ROOT
from trio_tools.command_line.main import main
from trio_tools.settings import Settings
from trio_tools.settings.reference import FLAGS, example_toml, reference_markdown, setting_rows

ROWS = setting_rows()
EXAMPLE = example_toml()


def uncommented(text):
    return re.sub(r"^#(?=\S)", "", text, flags=re.MULTILINE)


def test_the_example_sets_nothing_as_it_is():
    assert tomllib.loads(EXAMPLE) == {}


def test_the_example_without_its_comments_has_every_setting_once():
    whole = tomllib.loads(uncommented(EXAMPLE))
    names = set()

    def walk(tree, groups, rows):
        for key, value in tree.items():
            name = ".".join([*groups, key])
            if name in rows:
                names.add(name)
            else:
                walk(value, [*groups, key], rows)

    walk(whole, [], {row.name for row in ROWS})
    assert names == {row.name for row in ROWS}


def test_each_setting_has_a_meaning():
    assert [row.name for row in ROWS if not row.description] == []


def test_each_example_value_is_of_the_type_that_is_told():
    fits = {"integer": int, "number": (int, float), "text": str, "path": str, "true or false": bool}
    wrong = [
        row.name
        for row in ROWS
        if row.example is not None
        and row.type.removesuffix(" or null") in fits
        and not isinstance(row.example, fits[row.type.removesuffix(" or null")])
    ]
    assert wrong == []


@pytest.mark.parametrize("group", ["apis.github", "limits.fetch_urls", "fetch"])
def test_a_group_of_the_example_is_accepted(group):
    tree = tomllib.loads(uncommented(EXAMPLE))
    for part in (parts := group.split(".")):
        tree = tree[part]
    given = tree
    for part in reversed(parts):
        given = {part: given}
    settings = Settings(**given)
    assert settings


def test_the_page_of_the_settings_is_made_from_them():
    page = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert reference_markdown() in page, "run `python -m tests.support.maps`"


def test_each_short_flag_is_one_of_the_command_line(capsys):
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    offered = capsys.readouterr().out
    known = {row.name for row in ROWS}
    assert [flag for name, flag in FLAGS.items() if name in known and flag not in offered] == []


def test_the_command_prints_the_example_and_the_values(capsys):
    assert main(["settings", "--example"]) == 0
    assert capsys.readouterr().out == EXAMPLE
    assert main(["settings", "--json", "--set", "max_items=7"]) == 0
    assert json.loads(capsys.readouterr().out)["max_items"] == 7
