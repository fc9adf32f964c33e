"""Ranks that are forked for the tests behave as those of torchrun."""

from tests.commands.launch import start_ranks


def test_each_rank_has_its_number_the_arguments_and_the_output(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "sys.stdout.write(' '.join([os.environ['RANK'], os.environ['WORLD_SIZE'], *sys.argv[1:]]) + '\\n')\n"
        "sys.stderr.write('noted\\n')\n"
    )

    done = start_ranks(2, script, "--flag", 1)

    assert sorted(done.stdout.splitlines()) == ["0 2 --flag 1", "1 2 --flag 1"]
    assert done.stderr == "noted\n" * 2


def test_a_rank_that_fails_ends_the_others_and_gives_its_code(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, sys\nif os.environ['RANK'] == '1':\n    sys.exit(3)\nsignal.pause()\n"
    )

    assert start_ranks(2, script, check=False, timeout=120).returncode == 3


def test_without_a_number_of_processes_no_launcher_is_seen(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import os, sys\nsys.stdout.write(f'{os.environ.get(\"RANK\")} {sys.argv[1:]}')\n")

    assert start_ranks(None, script, "--flag").stdout == "None ['--flag']"
