"""lm/command.py: every command answers what its user can mend with one line and an exit code."""

import errno
import importlib

import pytest

COMMANDS = {  # its module, the function it works in, words that lead there
    "train": ("lm.train", "run", ["--config=c", "--workdir=w"]),
    "downstream": ("lm.downstream", "run", ["w/trials/hash", "--tokenizer=bytes"]),
    "corpus": ("lm.data.__main__", "find", ["show", "stdlib"]),
    "sweeps.run": ("sweeps.run", "run", ["--config=c", "--workdir=w"]),
    "challenge": ("sweeps.challenge", "run", ["muon"]),
    "slurm": ("sweeps.slurm", "submit", ["--config=c", "--workdir=w"]),
    "work": ("sweeps.work", "run", ["--workdir=w"]),
    "status": ("sweeps.status", "_show", ["w"]),
}
ENDS = [
    (KeyboardInterrupt(), 130, "interrupted; "),
    (OSError(errno.ENOSPC, "No space left on device", "a/b"), 2, "error: a/b: No space left on "),
    (OSError(errno.ENOSPC, "no space left for a/b", "a/b"), 2, "error: no space left for a/b\n"),
    (NotADirectoryError(errno.ENOTDIR, "Not a directory", "w/x"), 2, "error: w/x: Not a dir"),
    (FileExistsError(errno.EEXIST, "File exists", "w"), 2, "error: w: File exists\n"),
]


@pytest.mark.parametrize("name", COMMANDS)
def test_what_the_user_can_mend_is_one_line(name, capsys, monkeypatch):
    where, function, words = COMMANDS[name]
    module = importlib.import_module(where)
    for error, code, line in ENDS:

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(module, function, fail)
        assert module.main(words) == code
        printed = capsys.readouterr()
        assert printed.err.startswith(line) and printed.err.count("\n") == 1 and not printed.out


@pytest.mark.parametrize("name", COMMANDS)
def test_a_mistake_of_ours_keeps_its_traceback(name, monkeypatch):
    where, function, words = COMMANDS[name]
    module = importlib.import_module(where)

    def fail(*_):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "a/b")

    monkeypatch.setattr(module, function, fail)
    with pytest.raises(FileNotFoundError):
        module.main(words)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_no_error(name, capsys):
    with pytest.raises(SystemExit) as end:
        importlib.import_module(COMMANDS[name][0]).main(["--help"])
    assert end.value.code == 0 and capsys.readouterr().out.startswith("usage: python -m ")
