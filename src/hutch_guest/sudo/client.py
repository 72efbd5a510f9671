"""The `sudo` command of a sandbox: `/usr/bin/sudo` leads here, and this asks the guest (see `server`).

Stands alone, for a quick start. Takes sudo's usual options; there are no passwords.
"""

from __future__ import annotations

import array
import json
import os
import re
import signal
import socket
import sys

ADDRESS = "\0hutch-sudo"
SCM_RIGHTS, SCM_CREDENTIALS = 1, 2
SECURE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KEPT = {"TERM", "LANG", "LANGUAGE", "COLORTERM", "DISPLAY", "XAUTHORITY", "TZ", "HUTCH_EXEC_ID", "HUTCH_SANDBOX_ID"}
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
USAGE = "usage: sudo [-EHins] [-u user] [-g group] [-D directory] [VAR=value] [-i | -s] [command [argument ...]]\n"

_WITH_VALUE = {
    **{"-u": "user", "-g": "group", "-D": "chdir", "-p": "prompt", "-C": "close-from", "-r": "role", "-t": "type"},
    **{"-T": "command-timeout", "-h": "host", "-R": "chroot", "-U": "other-user"},
}
_FLAGS = {
    **{"-E": "preserve-env", "-H": "set-home", "-i": "login", "-s": "shell", "-n": "non-interactive", "-S": "stdin"},
    **{"-k": "reset-timestamp", "-K": "remove-timestamp", "-v": "validate", "-l": "list", "-b": "background"},
    **{"-A": "askpass", "-B": "bell", "-P": "preserve-groups", "-N": "no-update", "-V": "version"},
}


class Usage(Exception):
    """The command line is wrong."""


def parse(words: list[str]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Options by their long names, variables to set, and the command."""
    options: dict[str, str] = {}
    rest = list(words)
    values = set(_WITH_VALUE.values())
    flags = {*_FLAGS.values(), "help"}
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            if name in values and not value:
                value = _value(word, rest)
            elif name not in flags | values:
                raise Usage(f"unknown option {word}")
            options[name] = value
        else:
            _parse_short(word, rest, options)
    variables: dict[str, str] = {}
    while rest and "=" in rest[0] and rest[0].partition("=")[0].isidentifier():
        name, _, value = rest.pop(0).partition("=")
        variables[name] = value
    return options, variables, rest


def _parse_short(word: str, rest: list[str], options: dict[str, str]) -> None:
    letters = word[1:]
    while letters:
        letter, letters = "-" + letters[0], letters[1:]
        if letter in _FLAGS:
            options[_FLAGS[letter]] = ""
        elif letter == "-h" and not letters and not rest:
            options["help"] = ""
        elif letter in _WITH_VALUE:
            options[_WITH_VALUE[letter]] = letters or _value(letter, rest)
            return
        else:
            raise Usage(f"unknown option {letter}")


def _value(option: str, rest: list[str]) -> str:
    if not rest:
        raise Usage(f"option {option} needs a value")
    return rest.pop(0)


def account(name: str) -> tuple[str, str, str]:
    """Name, home and shell of a user, given by name or #number."""
    with open("/etc/passwd", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.rstrip("\n").split(":")
            if len(fields) >= 7 and (fields[0] == name or "#" + fields[2] == name):
                return fields[0], fields[5] or "/", fields[6] or "/bin/sh"
    raise Usage(f"unknown user {name}")


def environment(options: dict[str, str], user: str, home: str, shell: str) -> dict[str, str]:
    """What the command sees: little of the caller's, unless asked for more."""
    wanted = options.get("preserve-env")
    if wanted is None or wanted:
        names = KEPT | set((wanted or "").split(","))
        env = {name: value for name, value in os.environ.items() if name in names or name.startswith("LC_")}
    else:
        env = dict(os.environ)
    env |= {"PATH": SECURE_PATH, "USER": user, "LOGNAME": user, "SHELL": shell}
    if wanted is None or "set-home" in options or "login" in options:
        env["HOME"] = home
    caller = str(os.getuid())
    env |= {"SUDO_UID": caller, "SUDO_GID": str(os.getgid()), "SUDO_USER": os.environ.get("USER", caller)}
    return env


def request(words: list[str]) -> dict[str, object] | None:
    """What to ask the guest for; None when there is nothing to run."""
    options, variables, command = parse(words)
    if "help" in options or "version" in options:
        sys.stdout.write(USAGE)
        return None
    user, home, shell = account(options.get("user", "root"))
    env = environment(options, user, home, shell) | variables
    cwd = options.get("chdir") or os.getcwd()
    line = " ".join(re.sub(r"([^\w$-])", r"\\\1", word, flags=re.ASCII) for word in command)  # as sudo does: $ is left
    if "login" in options:
        command = [shell, "-l", *(["-c", line] if line else [])]
        cwd = options.get("chdir") or home
    elif "shell" in options:
        command = [os.environ.get("SHELL", shell), *(["-c", line] if line else [])]
    elif "list" in options and not command:
        sys.stdout.write(f"User {env['SUDO_USER']} may run the following commands:\n    (ALL : ALL) NOPASSWD: ALL\n")
        return None
    elif not command:
        if {"validate", "reset-timestamp", "remove-timestamp"} & options.keys():
            return None
        raise Usage("no command given")
    env["SUDO_COMMAND"] = " ".join(command)
    return {"argv": command, "env": env, "cwd": cwd, "user": user}


def run(asked: dict[str, object]) -> int:
    """Have it run, and pass on every signal, until it ends."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(ADDRESS)
        body = json.dumps(asked).encode()
        data = len(body).to_bytes(4, "big") + body
        who = array.array("i", [os.getpid(), os.getuid(), os.getgid()])
        files = array.array("i", [0, 1, 2])
        control = [(socket.SOL_SOCKET, kind, value) for kind, value in ((SCM_CREDENTIALS, who), (SCM_RIGHTS, files))]
        sent = connection.sendmsg([data[:1]], control)
        connection.sendall(data[sent:])
        for number in FORWARDED:
            signal.signal(number, lambda got, _: connection.send(bytes([got])))
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    said = json.loads(answer)
    if "error" in said:
        sys.stderr.write(f"sudo: {said['error']}\n")
        return 1
    code = int(said["exit_code"])
    return code if code >= 0 else 128 - code


def main() -> int:
    """The command; its exit code."""
    try:
        asked = request(sys.argv[1:])
        return run(asked) if asked is not None else 0
    except Usage as error:
        sys.stderr.write(f"sudo: {error}\n{USAGE}")
    except (OSError, ValueError) as error:
        sys.stderr.write(f"sudo: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
