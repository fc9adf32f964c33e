"""Run several commands of aisle in a process, and end the output of each with a record separator.

Usage: several_commands.py COMMANDS

COMMANDS is a JSON list of commands, each a list of words. The last line of the output has the exit codes.
"""

import json
import sys

from aisle.cli import main

codes = []
for arguments in json.loads(sys.argv[1]):
    codes.append(main(arguments))
    for stream in (sys.stdout, sys.stderr):
        stream.write("\x1e")
        stream.flush()
sys.stdout.write(" ".join(map(str, codes)))
