"""`trio-tools completion`: a script that a shell takes, with every command in it."""

import shutil
import subprocess

import pytest

from trio_tools.command_line.main import _COMMANDS, main


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_a_script_with_every_command(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert [name for name in _COMMANDS if name not in script] == []
    if shutil.which(shell):
        checked = subprocess.run(
            [shell, "-n"], input=script, text=True, capture_output=True, check=False
        )
        assert (checked.returncode, checked.stderr) == (0, "")


def test_another_shell_is_refused_with_those_there_are(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["completion", "elvish"])
    assert "'bash', 'zsh', 'fish'" in capsys.readouterr().err.replace("bash,", "'bash',")
