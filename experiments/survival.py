"""`python -m experiments.survival`: proves on this machine that training loses nothing.

kills      kill -9 at random and at aimed moments; what goes on ends as what was never interrupted
equality   several devices and several processes compute what one device does
network    two hosts, in namespaces of Linux (root): the link fails, both end, and go on later
faults     a full, read-only or vanished directory (root): one line, and nothing is lost
soak       an hour of training: memory, handles, threads and processor time stay as they are
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

from experiments import bench, jobs
from zoo import flags, rundir
from zoo.errors import UsageError, check_positive
from zoo.models import names

CHECKS = ("kills", "equality", "network", "faults", "soak")
CLOSE = 1e-6
# One device computing the same, rounded otherwise: flags, environment.
_ROUNDINGS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "without oneDNN": ((), {"TF_ENABLE_ONEDNN_OPTS": "0"}),
    "under XLA": (("--jit_compile",), {}),
}
_PATIENCE = 600.0
_NET, _NOBODY = "10.203.77", "02:00:00:00:00:99"


@dataclasses.dataclass(frozen=True)
class SurvivalFlags:
    """What the command can be told."""

    checks: str = "kills,equality,network,faults,soak"
    """Which, with commas between."""
    models: str = ""
    """Which models, with commas between; all by default."""
    strategies: str = "one_device,mirrored,multi_worker"
    """Which strategies are killed, with commas between."""
    kills: int = 200
    """How often to kill, spread over models, strategies and moments."""
    steps: int = 200
    """Length of the runs whose weights are compared."""
    minutes: int = 60
    """How long `soak` trains."""
    soak_model: str = "vae"
    """Which model `soak` trains."""
    seed: int = 0
    """Of the moments at which is killed, and of which worker is."""
    out: str = "survival.json"
    """File to write all figures to, as they come."""

    def __post_init__(self):
        check_positive(kills=self.kills, steps=self.steps, minutes=self.minutes)
        bench.check_listed("check", self.checks, CHECKS)
        bench.check_listed("strategy", self.strategies, jobs.STRATEGIES)
        bench.check_listed("model", f"{self.models},{self.soak_model}", names())
        if not bench.listed(self.strategies):
            raise UsageError(
                "--strategies is empty: expected some of " + ", ".join(jobs.STRATEGIES)
            )


def main(argv: list[str]) -> int:
    """Runs the checks; exit code 1 if one of them found something lost."""
    usage = "python -m experiments.survival [--flag=value ...]"
    options = flags.parse_options(SurvivalFlags, usage, argv)
    if options is None:
        return 0
    out = pathlib.Path(options.out)
    figures: dict[str, Any] = {"versions": rundir.versions()}

    def keep(name: str, found: Any) -> None:
        figures[name] = found
        bench.write(out, figures)

    keep("flags", dataclasses.asdict(options))
    from zoo import runtime

    runtime.import_tensorflow()
    report = bench.Report()
    with tempfile.TemporaryDirectory() as directory:
        trials = Trials(options, pathlib.Path(directory), report)
        for check in bench.listed(options.checks):
            report.title(check)
            getattr(trials, check)(functools.partial(keep, check))
    keep("checks", report.checks)
    return 0 if all(check["passed"] for check in report.checks) else 1


class Trials:
    """The checks; each gets a function to keep what it found so far."""

    def __init__(self, options: SurvivalFlags, directory: pathlib.Path, report):
        self._options, self._directory, self._report = options, directory, report
        self._models = bench.listed(options.models) or list(names())

    @functools.cache  # noqa: B019  # it lives as long as the command
    def undisturbed(
        self, model: str, strategy: str, workers: int = 2, steps: int = 0, rounded: str = ""
    ):
        """The directory of a run that nobody disturbs; RuntimeError if it fails all the same."""
        steps = steps or self._options.steps
        run_dir = self._directory / f"{model}-{strategy}-{workers}-{steps}-{rounded}"
        own, environment = _ROUNDINGS.get(rounded, ((), {}))
        more: dict[str, Any] = {"environment": environment}
        if strategy == "multi_worker":
            more["hosts"] = jobs.loop_back(workers)
        rest = (f"--total_steps={steps}", "--sample_every=100000", "--eval_every=100000", *own)
        job = jobs.train(model, strategy, run_dir, run_dir.with_suffix(".log"), *rest, **more)
        if any(code != 0 for code in jobs.finish(job, _PATIENCE)):
            raise RuntimeError(f"{model}, {strategy}: {job.complaints(0)[-3:]}")
        return run_dir

    def kills(self, keep) -> None:
        """See `experiments.kills`."""
        from experiments import kills

        options = self._options
        cases = [(m, s) for m in self._models for s in bench.listed(options.strategies)]
        arguments = (cases, options.kills, options.seed, options.steps, self.undisturbed)
        kills.kill_all(self._directory / "kills", *arguments, keep, self._report)

    def equality(self, keep) -> None:
        """Weights and optimizers after so many steps, against those of one device.

        Where even one device comes to be farther from itself when it rounds otherwise, as in a GAN,
        nothing is asked of that many steps, but of ten.
        """
        steps = self._options.steps
        found: dict[str, dict[str, float]] = {}
        for model in self._models:
            one = self.undisturbed(model, "one_device")
            others = {
                "2 devices": self.undisturbed(model, "mirrored"),
                "2 processes": self.undisturbed(model, "multi_worker"),
                "4 processes": self.undisturbed(model, "multi_worker", 4),
            }
            apart = {name: jobs.difference(one, run, steps) for name, run in others.items()}
            rounding = {
                f"1 device {name}": jobs.difference(
                    one, self.undisturbed(model, "one_device", rounded=name), steps
                )
                for name in _ROUNDINGS
            }
            asked = apart if max(rounding.values()) <= CLOSE else {}
            if not asked:
                for few in (1, 10):
                    first = self.undisturbed(model, "one_device", 2, few)
                    second = self.undisturbed(model, "mirrored", 2, few)
                    asked[f"2 devices, {few} steps"] = jobs.difference(first, second, few)
            found[model] = {**rounding, **apart, **asked}
            keep(found)
            for name, value in found[model].items():
                if name in asked:
                    self._report.check(
                        f"{model}, {name}", value, f"{value:.1e}", f"{CLOSE:.0e}", value <= CLOSE
                    )
                else:
                    self._report.figure(f"{model}, {name}", f"{value:.1e}")

    def network(self, keep) -> None:
        """A link that goes down, and one that loses what one host sends, while two train."""
        if os.geteuid() != 0 or not shutil.which("ip"):
            self._report.figure("network namespaces", "skipped: needs root and ip")
            return
        found = {}
        whole = self.undisturbed("vae", "multi_worker")
        cuts = {
            "link down": "ip link set zoo1 down",
            # What is for the other goes to a network card that nobody has.
            "packets lost": f"ip neighbour replace {_NET}.1 lladdr {_NOBODY} dev zoo1",
        }
        options = (f"--total_steps={self._options.steps}", "--checkpoint_every=5")
        for name, cut in cuts.items():
            run_dir = self._directory / name.replace(" ", "-")
            log = run_dir.with_suffix(".log")
            outcome: dict[str, Any] = {}
            with _two_hosts() as (hosts, prefixes):
                with jobs.train(
                    "vae", "multi_worker", run_dir, log, *options, hosts=hosts, prefixes=prefixes
                ) as job:
                    job.watch(functools.partial(_under_way, run_dir), _PATIENCE)
                    subprocess.run([*prefixes[1], *cut.split()], check=True)
                    outcome["seconds"] = job.wait(_PATIENCE)
                    outcome["codes"] = [process.poll() for process in job.processes]
                    outcome["lines"] = [job.complaints(index)[-1:] for index in (0, 1)]
            with _two_hosts() as (hosts, prefixes):
                job = jobs.train(
                    "vae", "multi_worker", run_dir, log, *options, hosts=hosts, prefixes=prefixes
                )
                outcome["codes after"] = jobs.finish(job, _PATIENCE)
            outcome["equal"] = jobs.equal(run_dir, whole, self._options.steps)
            found[name] = outcome
            keep(found)
            seconds = outcome["seconds"] or _PATIENCE
            ended = seconds <= 60 and all(outcome["codes"])
            text = f"{seconds:.0f} s, exit {outcome['codes']}"
            self._report.check(f"{name}: until both had ended", seconds, text, "60 s", ended)
            good = outcome["equal"] and not any(outcome["codes after"])
            self._report.check(f"{name}: bit-equal afterwards", good, str(good), "True", good)

    def faults(self, keep) -> None:
        """What can happen to the directory of a run, on a small disk of its own."""
        if os.geteuid() != 0:
            self._report.figure("disks", "skipped: needs root")
            return
        found = {}
        options = (f"--total_steps={self._options.steps}", "--checkpoint_every=2")
        for fault in ("full", "read-only", "vanished"):
            for strategy in jobs.STRATEGIES:
                whole = self.undisturbed("vae", strategy)
                disk = self._directory / f"disk-{fault}-{strategy}"
                run_dir, log = disk / "run", disk.with_suffix(".log")
                outcome: dict[str, Any] = {}
                with _small_disk(disk):
                    with jobs.train("vae", strategy, run_dir, log, *options) as job:
                        job.watch(functools.partial(_under_way, run_dir), _PATIENCE)
                        before = max(jobs.steps(run_dir), default=-1)
                        _do(fault, disk)
                        outcome["seconds"] = job.wait(_PATIENCE)
                        outcome["codes"] = [process.poll() for process in job.processes]
                        outcome["lines"] = job.complaints(0)[-3:]
                    _undo(fault, disk)
                    outcome["lost"] = max(jobs.steps(run_dir), default=-1) < before
                    job = jobs.train("vae", strategy, run_dir, log, *options)
                    outcome["codes after"] = jobs.finish(job, _PATIENCE)
                    outcome["equal"] = not any(outcome["codes after"]) and jobs.equal(
                        run_dir, whole, self._options.steps
                    )
                name = f"{fault}, {strategy}"
                found[name] = outcome
                keep(found)
                said = [line for line in outcome["lines"] if line.startswith("error: ")]
                told = all(outcome["codes"]) and len(said) == 1
                self._report.check(f"{name}: one line", told, " ".join(said)[:60], "1", told)
                good = outcome["equal"] and not outcome["lost"]
                self._report.check(f"{name}: nothing lost", good, str(good), "True", good)

    def soak(self, keep) -> None:
        """See `experiments.soak`."""
        from experiments import soak

        model, minutes = self._options.soak_model, self._options.minutes
        found = soak.soak(self._directory / "soak", model, minutes, keep)
        keep(found)
        soak.judge(found, self._report)


def _under_way(run_dir: pathlib.Path) -> bool:
    return len(jobs.steps(run_dir)) > 1


@contextlib.contextmanager
def _two_hosts() -> Iterator[tuple[list[str], list[list[str]]]]:
    """Two network namespaces with a link between: workers' addresses, and how to start in them."""
    names = ["zoo-host0", "zoo-host1"]
    enter = [["ip", "netns", "exec", name] for name in names]
    ports = [address.rpartition(":")[2] for address in jobs.loop_back(2)]
    commands = [["ip", "netns", "add", name] for name in names]
    link = ["ip", "link", "add", "zoo0", "netns", names[0]]
    commands.append([*link, "type", "veth", "peer", "name", "zoo1", "netns", names[1]])
    for index, prefix in enumerate(enter):
        address = f"{_NET}.{index + 1}/24"
        commands.append([*prefix, "ip", "address", "add", address, "dev", f"zoo{index}"])
        commands += [[*prefix, "ip", "link", "set", d, "up"] for d in ("lo", f"zoo{index}")]
    try:
        for command in commands:
            subprocess.run(command, check=True, capture_output=True)
        yield [f"{_NET}.{index + 1}:{port}" for index, port in enumerate(ports)], enter
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@contextlib.contextmanager
def _small_disk(path: pathlib.Path) -> Iterator[None]:
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=False)


def _do(fault: str, disk: pathlib.Path) -> None:
    if fault == "vanished":
        (disk / "run").rename(disk / "elsewhere")
    elif fault == "read-only":  # a mount over it: its own cannot change while files are open
        subprocess.run(["mount", "--bind", disk, disk], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", disk], check=True)
    else:
        with contextlib.suppress(OSError), open(disk / "filler", "wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()


def _undo(fault: str, disk: pathlib.Path) -> None:
    if fault == "vanished":
        shutil.rmtree(disk / "run", ignore_errors=True)
        (disk / "elsewhere").rename(disk / "run")
    elif fault == "read-only":
        subprocess.run(["umount", "--lazy", disk], check=True)
    else:
        (disk / "filler").unlink()


if __name__ == "__main__":
    flags.run_command(main)
