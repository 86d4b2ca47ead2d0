"""A Slurm of two nodes on this machine, for tests: its own munged, slurmctld and two slurmd in a temporary folder.

    with cluster() as slurm_conf:   # path for the variable SLURM_CONF
        subprocess.run(["sbatch", ...], env={**os.environ, "SLURM_CONF": str(slurm_conf)})

Nothing is installed, and nothing stays: this file, run as a program, is the parent of the daemons and of all that they
start (a subreaper), and ends them when its standard input closes, also because the test was killed.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "srun")
START_SECONDS = 60
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
PATHS = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job waits as long as its credential lives, 120 s unless told otherwise, and also with less than 5 s here.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldPort={ports[0]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_min_interval=100000,sched_interval=1
GresTypes=gpu
SlurmdParameters=config_overrides
MpiDefault=none
KillWait=5
ReturnToService=2
MailProg=/bin/true
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 Gres=gpu:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 Gres=gpu:2
PartitionName=test Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why no Slurm can be started here; empty if nothing speaks against it."""
    absent = [name for name in PROGRAMS if not shutil.which(name, path=PATHS)]
    if absent:
        return f"no {', '.join(absent)}: apt-get install --no-install-recommends slurm-wlm munge"
    return ""


@contextlib.contextmanager
def cluster() -> Iterator[Path]:
    """Path of the configuration of a Slurm that works. Raises RuntimeError, with its logs, if it does not start."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:  # short: there are sockets in it
        parent = subprocess.Popen([sys.executable, __file__, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  text=True, start_new_session=True)
        try:
            answer = parent.stdout.readline()
            if answer != "ready\n":
                raise RuntimeError(f"Slurm does not start here: {answer}{parent.stdout.read()}")
            yield Path(folder, "slurm.conf")
        finally:
            parent.communicate()


def start(folder: Path) -> None:
    """Configuration and daemons; those stay children of this process."""
    listeners = [socket.socket() for _ in range(3)]
    for listener in listeners:
        listener.bind(("127.0.0.1", 0))
    user = psutil.Process().username()
    (folder / "slurm.conf").write_text(CONFIGURATION.format(
        host=socket.gethostname().partition(".")[0], user=user, folder=folder,
        ports=[listener.getsockname()[1] for listener in listeners]))
    for listener in listeners:
        listener.close()
    (folder / "gres.conf").write_text("NodeName=n1,n2 Name=gpu File=/dev/null,/dev/zero\n")  # not opened
    for name in ("state", "spool-n1", "spool-n2"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    daemons = [["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files],
               ["slurmctld", "-D"], ["slurmd", "-D", "-N", "n1"], ["slurmd", "-D", "-N", "n2"]]
    for number, daemon in enumerate(daemons):
        with open(folder / f"{daemon[0]}.{number}.out", "w") as output:
            subprocess.Popen(daemon, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        while daemon[0] == "munged" and not (folder / "munge.socket").exists():
            time.sleep(0.05)


def is_ready() -> bool:
    done = subprocess.run(["sinfo", "--noheader", "--format=%T %D"], capture_output=True, text=True, check=False)
    return done.stdout.split() == ["idle", "2"]


def end_all() -> None:
    """Kill everything below this process, what is started meanwhile, too."""
    while children := psutil.Process().children(recursive=True):
        for child in children:
            with contextlib.suppress(psutil.Error):
                child.kill()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.05)


def main(folder: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the end of standard input is what ends us
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.environ["PATH"] = PATHS
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    try:
        start(folder)
        deadline = time.monotonic() + START_SECONDS
        while not is_ready() and time.monotonic() < deadline:
            time.sleep(0.1)
        if is_ready():
            print("ready", flush=True)
            sys.stdin.read()
        else:
            for log in (*folder.glob("*.out"), *folder.glob("*.log")):
                print(f"{log.name}: {log.read_text()[-1000:]}")
    finally:
        end_all()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
