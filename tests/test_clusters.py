"""The files that start a run on several hosts, with stand-ins for ssh, Slurm and the training."""

import json
import os
import pathlib
import signal
import subprocess
import time

import pytest
from commands import ROOT

from zoo import devices

CLUSTERS = ROOT / "experiments" / "clusters"
# Instead of `python -m zoo.train`: notes what it was told, and ends with the next of its codes.
WORKER = """#!/bin/sh
[ "$1 $2" = "-m zoo.train" ] || exit 99
index=$(printf %s "$TF_CONFIG" | tr -d '\\n ' | sed 's/.*"index"://; s/}}$//')
printf '%s\\n' "$TF_CONFIG" | tr -d '\\n' >> "$NOTES/$index"
printf ' %s|%s|%s\\n' "$3" "$4" "$PWD" >> "$NOTES/$index"
code=$(sed -n "$(wc -l < "$NOTES/$index")p" "$NOTES/codes-$index")
[ "$code" != wait ] || { trap 'exit 143' TERM; : > "$NOTES/waiting-$index"; sleep 30 & wait $!; }
exit "$code"
"""
ARGUMENTS = ("--model=vae", "--styles=two words, $HOME")


def executable(path: pathlib.Path, text: str) -> pathlib.Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """(how each worker ends, in turn) -> the environment, with a worker and programs to call."""

    def prepare(*codes: str, **programs: str) -> pathlib.Path:
        for index, of_worker in enumerate(codes):
            (tmp_path / f"codes-{index}").write_text(of_worker.replace(" ", "\n") + "\n")
        for name, text in programs.items():
            executable(tmp_path / "bin" / name, text)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        monkeypatch.setenv("PYTHON", str(executable(tmp_path / "bin" / "worker", WORKER)))
        monkeypatch.setenv("NOTES", str(tmp_path))
        return tmp_path

    return prepare


def told(notes: pathlib.Path, index: int, monkeypatch) -> tuple[list[str], list[str]]:
    """What a worker was told: the hosts, its number being right, and its arguments; each time."""
    lines = (notes / str(index)).read_text().splitlines()
    hosts = []
    for line in lines:
        config, end = json.JSONDecoder().raw_decode(line)
        monkeypatch.setenv("TF_CONFIG", json.dumps(config))
        cluster = devices.cluster_from_environment()
        assert cluster is not None
        assert cluster.number == index
        assert len(set(cluster.workers)) == len(cluster.workers)
        assert line[end + 1 :].split("|")[:2] == list(ARGUMENTS)
        hosts.append([address.partition(":")[0] for address in cluster.workers])
    return hosts


SSH = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift 2; done
exec bash -c "$2"
"""


def start_hosts(stage, *codes: str) -> tuple[pathlib.Path, subprocess.Popen]:
    notes = stage(*codes, ssh=SSH)
    environment = {**os.environ, "HOSTS": "me@first second", "DIRECTORY": str(notes)}
    command = [CLUSTERS / "hosts.sh", *ARGUMENTS]
    with open(notes / "said", "w") as said:
        return notes, subprocess.Popen(command, env=environment, stderr=said)


def test_hosts_are_told_of_each_other(stage, monkeypatch):
    notes, script = start_hosts(stage, "0", "0")
    assert script.wait(timeout=20) == 0
    assert told(notes, 0, monkeypatch) == told(notes, 1, monkeypatch) == [["first", "second"]]
    assert (notes / "1").read_text().splitlines()[0].endswith(f"|{notes}")


def test_all_start_again_after_one_failed(stage, monkeypatch):
    notes, script = start_hosts(stage, "1 0", "137 0")
    assert script.wait(timeout=20) == 0
    assert "starting all again" in (notes / "said").read_text()
    assert len(told(notes, 0, monkeypatch)) == len(told(notes, 1, monkeypatch)) == 2


def test_wrong_flags_end_all(stage):
    # The other, which waits for the one with wrong flags, is stopped.
    notes, script = start_hosts(stage, "2", "wait")
    assert script.wait(timeout=20) == 2
    assert len((notes / "1").read_text().splitlines()) <= 1


def test_a_signal_stops_all_hosts(stage):
    notes, script = start_hosts(stage, "wait", "wait")
    deadline = time.monotonic() + 20
    while len(list(notes.glob("waiting-*"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    script.send_signal(signal.SIGTERM)
    assert script.wait(timeout=20) == 143


SRUN = """#!/bin/bash
while [ "${1#-}" != "$1" ]; do shift; done
worst=0
for SLURM_PROCID in 0 1; do
  SLURM_PROCID=$SLURM_PROCID "$@"
  code=$?
  [ $code -le $worst ] || worst=$code
done
exit $worst
"""
NOTE = '#!/bin/sh\necho "$(basename "$0") $*" >> "$NOTES/calls"\n'
SCONTROL = NOTE + '[ "$1" != show ] || printf "node1\\nnode2\\n"\n'


@pytest.mark.parametrize(
    ("codes", "restarts", "code", "calls"),
    [
        (("0", "0"), 0, 0, []),
        (("143", "143"), 3, 0, ["scontrol requeue 77"]),
        (("1", "137"), 3, 0, ["scontrol requeue 77"]),
        (("1", "1"), 100, 1, []),  # often enough
        (("2", "0"), 100, 2, ["scancel 77"]),
    ],
)
def test_slurm_queues_again_what_is_not_finished(stage, monkeypatch, codes, restarts, code, calls):
    notes = stage(*codes, srun=SRUN, scontrol=SCONTROL, scancel=NOTE)
    slurm = {"SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "node[1-2]"}
    environment = {**os.environ, **slurm, "SLURM_RESTART_COUNT": str(restarts)}
    done = subprocess.run([CLUSTERS / "slurm.sbatch", *ARGUMENTS], env=environment)
    assert done.returncode == code
    assert told(notes, 0, monkeypatch) == told(notes, 1, monkeypatch) == [["node1", "node2"]]
    made = (notes / "calls").read_text().splitlines()
    assert made == ["scontrol show hostnames node[1-2]", *calls]


def test_kubernetes_pods_are_told_of_each_other(stage, monkeypatch):
    yaml = pytest.importorskip("yaml")
    service, job = yaml.safe_load_all((CLUSTERS / "kubernetes.yaml").read_text())
    spec = job["spec"]
    pod = spec["template"]["spec"]
    (worker,) = pod["containers"]
    (workers,) = (variable["value"] for variable in worker["env"] if variable["name"] == "WORKERS")
    assert spec["completions"] == spec["parallelism"] == int(workers) == 2
    # A pod's name in the network is <job>-<index>.<service>, if the service chooses it.
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    notes = stage("0", "0")
    (notes / "bin" / "python").symlink_to(notes / "bin" / "worker")
    for index in range(2):
        environment = {**os.environ, "WORKERS": workers, "JOB_COMPLETION_INDEX": str(index)}
        subprocess.run([*worker["command"], *ARGUMENTS], env=environment, check=True)
        hosts = [f"{job['metadata']['name']}-{number}.zoo" for number in range(2)]
        assert told(notes, index, monkeypatch) == [hosts]
