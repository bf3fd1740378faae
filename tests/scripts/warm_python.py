"""A `python3` that starts in milliseconds: scripts run in forks of one process that has imported torch and the rest.

Every script of scripts/ and runs/ starts several Python programs, and most of their time is imports. Here the programs
are the same, with the same arguments, environment, working folder and streams; only the imports are done already.
"""

import array
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.scripts.commands import REPOSITORY

# Sends its arguments, environment, folder and streams to the server; exits with the status that comes back.
CLIENT = """#!{python} -SE
import array, json, os, socket, sys
if len(sys.argv) < 2 or not sys.argv[1].endswith(".py"):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
streams = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
server.sendmsg([len(request).to_bytes(8, "little")], streams)
server.sendall(request)
sys.exit(int(server.recv(8) or b"1"))
"""


def install(folder: Path) -> Path:
    """Make an environment whose python3 is warm; start its server, a child of this process. Return its prefix."""
    prefix, address = folder / "env", str(folder / "socket")
    (prefix / "bin").mkdir(parents=True)
    client = prefix / "bin" / "python3"
    client.write_text(CLIENT.format(python=sys.executable, address=address))
    client.chmod(0o755)
    torchrun = shutil.which("torchrun", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert torchrun is not None
    (prefix / "bin" / "torchrun").symlink_to(torchrun)
    # Complete, as the scripts know it: else each of them would look at all packages before each program.
    stamp = 'source scripts/environment.sh; environment_stamp "$1" >"$1/.contra-kd-installed"'
    subprocess.run(["bash", "-c", stamp, "bash", str(prefix)], cwd=REPOSITORY, check=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    if os.fork() == 0:
        serve(listener)
    listener.close()
    return prefix


def serve(listener: socket.socket) -> None:
    """Fork for every connection, until the process that installed the server is gone."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    import datasets  # noqa: F401
    import deepspeed  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import nltk.stem.porter  # noqa: F401
    import peft  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401
    from transformers import GPT2LMHeadModel, LlamaForCausalLM, Qwen2ForCausalLM  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    parent = os.getppid()
    listener.settimeout(5)
    while os.getppid() == parent:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        if os.fork() == 0:
            listener.close()
            connection.settimeout(None)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            answer(connection)
        connection.close()
    os._exit(0)


def answer(connection: socket.socket) -> None:
    """Run the program that a client asks for in a fork, and send its exit status."""
    size, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(3 * 4))
    request = b""
    while len(request) < int.from_bytes(size, "little"):
        request += connection.recv(1 << 16)
    streams = array.array("i", ancillary[0][2])
    program = os.fork()
    if program == 0:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        run(*json.loads(request))
    _, status = os.waitpid(program, 0)
    connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def run(words: list[str], environment: dict[str, str], folder: str) -> None:
    """Run a program as `python3 PROGRAM OPTION...` would, and leave with its exit status."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    program = os.path.abspath(words[0])
    sys.argv, sys.path[0] = words, os.path.dirname(program)
    sys.path[1:1] = environment.get("PYTHONPATH", "").split(":")
    try:
        runpy.run_path(program, run_name="__main__")
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does at its top level
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        status = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)
