"""Completion of command lines by the shell: a script that is printed once and needs no Python on TAB."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from utils.optional import require

SHELLS = ("bash", "zsh")
RUNNERS = "python python3 torchrun"  # in front of the name of a script

# one for all commands: `python … train.py --we` is completed as `train.py --we` would be
BASH = """
_lean5_runner() {
  local at name
  for (( at = 1; at < COMP_CWORD; at++ )); do
    name="${COMP_WORDS[at]##*/}"
    name="_shtab_${name//[^[:word:]]/_}"
    if [[ "${COMP_WORDS[at]}" == *.py ]] && declare -F "$name" > /dev/null; then
      COMP_WORDS=("${COMP_WORDS[@]:at}")
      COMP_CWORD=$(( COMP_CWORD - at ))
      "$name"
      return
    fi
  done
  COMPREPLY=()
}
complete -o bashdefault -o default -F _lean5_runner RUNNERS
""".replace("RUNNERS", RUNNERS)
ZSH = """
_lean5_runner() {
  local at name
  for (( at = 2; at < CURRENT; at++ )); do
    name="_shtab_${${words[at]:t}//[^[:alnum:]]/_}"
    if [[ "${words[at]}" == *.py ]] && (( $+functions[$name] )); then
      words=("${(@)words[at,-1]}")
      (( CURRENT -= at - 1 ))
      "$name"
      return
    fi
  done
  _files
}
compdef _lean5_runner RUNNERS
""".replace("RUNNERS", RUNNERS)


class PrintCompletion(argparse.Action):
    """A flag that prints the script for a shell and ends the command."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, **options, choices=SHELLS, default=argparse.SUPPRESS)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: object,
        values: Any,
        option_string: str | None = None,
    ) -> NoReturn:
        print(completion_script(parser, str(values)))
        parser.exit()


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """What a shell has to read to complete the flags of a command, alone and behind `python`.

    Raises:
        UserError: the package that writes it is not installed.
    """
    script: str = require("shtab", "shtab").complete(parser, shell)
    if shell == "bash":
        # where nothing is known about a value, as of --weights, files are offered
        name = re.escape(parser.prog)
        script = re.sub(
            rf"^complete -o bashdefault (.*{name})$",
            r"complete -o bashdefault -o default \1",
            script,
            flags=re.M,
        )
    return f"{script}\n{BASH if shell == 'bash' else ZSH}"
