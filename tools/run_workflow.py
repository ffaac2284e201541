#!/usr/bin/env python3
"""Runs a GitHub Actions workflow of this repository on one machine, so that the workflow
in docs/ci is known to work.

    tools/run_workflow.py docs/ci/kvtool.yml --env REPLAY_OPTIONS="--cpu-isa avx2" --skip Build

Every job runs in a workspace of its own, which sees the repository's files and nothing that
another job made: only artifacts go from one to the next. Jobs run in the order in which
they need one another. Understood are `run` steps, `env`, GITHUB_ENV, GITHUB_STEP_SUMMARY,
`needs`, `if: always()`, and the actions checkout, upload-artifact and download-artifact;
anything else is an error, not silently left out. The exit status is 0 only if every job
succeeded.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]


class Unsupported(Exception):
    """The workflow uses something that this script does not understand."""


def in_order(jobs: dict) -> list[str]:
    """Job names, each after the ones that it needs."""
    order: list[str] = []
    while len(order) < len(jobs):
        ready = [name for name, job in jobs.items()
                 if name not in order and all(need in order for need in needs(job))]
        if not ready:
            raise Unsupported(f"jobs need one another: {sorted(set(jobs) - set(order))}")
        order += ready
    return order


def needs(job: dict) -> list[str]:
    found = job.get("needs", [])
    return [found] if isinstance(found, str) else found


class Job:
    def __init__(self, name: str, folder: Path, artifacts: Path, environment: dict[str, str]):
        self.name = name
        self.workspace = folder / name
        self.artifacts = artifacts
        self.summary = folder / f"{name}-summary.md"
        self.summary.touch()
        self.exported = folder / f"{name}-env"
        self.exported.touch()
        self.environment = {**environment, "GITHUB_STEP_SUMMARY": str(self.summary),
                            "GITHUB_ENV": str(self.exported),
                            "GITHUB_WORKSPACE": str(self.workspace)}

    def run(self, steps: list[dict], skipped: set[str]) -> bool:
        self.workspace.mkdir()
        succeeded = True
        for step in steps:
            title = step.get("name") or step.get("uses") or step["run"]
            if not succeeded and step.get("if") != "always()":
                continue
            if title in skipped:
                print(f"-- {self.name}: {title} (skipped)", flush=True)
                continue
            print(f"-- {self.name}: {title}", flush=True)
            succeeded = self.step(step) and succeeded
        print(f"-- {self.name}: {'succeeded' if succeeded else 'FAILED'}", flush=True)
        return succeeded

    def step(self, step: dict) -> bool:
        known = {"name", "run", "uses", "with", "if", "env"}
        if step.keys() - known or step.get("if", "always()") != "always()":
            raise Unsupported(f"{self.name}: {sorted(step.keys() - known) or step['if']}")
        if "run" in step:
            environment = {**self.environment,
                           **variables(self.exported.read_text().splitlines()),
                           **{k: str(v) for k, v in step.get("env", {}).items()}}
            # The options that GitHub gives to its default shell.
            done = subprocess.run(["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c",
                                   step["run"]], cwd=self.workspace, env=environment)
            if done.returncode != 0:
                print(f"-- exit status {done.returncode}", flush=True)
            return done.returncode == 0
        action = step["uses"].split("@")[0]
        actions = {"actions/checkout": self.checkout, "actions/upload-artifact": self.upload,
                   "actions/download-artifact": self.download}
        if action not in actions:
            raise Unsupported(f"{self.name}: action {action}")
        actions[action](**step.get("with", {}))
        return True

    def checkout(self) -> None:
        """The tracked files, and the build and Python environment of this machine."""
        listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, check=True, text=True,
                                capture_output=True).stdout
        for name in {Path(line).parts[0] for line in listed.splitlines()} | {"build", ".venv"}:
            if (REPOSITORY / name).exists():
                (self.workspace / name).symlink_to(REPOSITORY / name)

    def upload(self, name: str, path: str) -> None:
        target = self.artifacts / name
        target.mkdir()
        for line in path.split():
            source = self.workspace / line
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            elif source.exists():
                shutil.copy(source, target)
            else:
                print(f"-- {line} is not there", flush=True)

    def download(self, name: str, path: str) -> None:
        shutil.copytree(self.artifacts / name, self.workspace / path, dirs_exist_ok=True)


def variables(assignments: list[str]) -> dict[str, str]:
    """Of NAME=VALUE, as --env and the file of GITHUB_ENV have them."""
    pairs = [assignment.partition("=") for assignment in assignments]
    for name, separator, _ in pairs:
        if not name or not separator:
            raise Unsupported(f"environment {name}: expected NAME=VALUE")
    return {name: value for name, _, value in pairs}


def run_workflow(workflow: dict, folder: Path, overrides: dict[str, str],
                 skipped: set[str]) -> bool:
    environment = {**os.environ,
                   **{name: str(value) for name, value in workflow.get("env", {}).items()},
                   **overrides}
    artifacts = folder / "artifacts"
    artifacts.mkdir()
    jobs = workflow["jobs"]
    succeeded: set[str] = set()
    for name in in_order(jobs):
        if not set(needs(jobs[name])) <= succeeded:
            print(f"-- {name}: left out, since a job that it needs failed", flush=True)
            continue
        job = Job(name, folder, artifacts, environment)
        if job.run(jobs[name]["steps"], skipped):
            succeeded.add(name)
    return succeeded == set(jobs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workflow", type=Path)
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE",
                        help="replaces a variable of the workflow; repeatable")
    parser.add_argument("--skip", action="append", default=[], metavar="STEP",
                        help="leaves out the steps of this name; repeatable")
    parser.add_argument("--keep", type=Path, metavar="DIR",
                        help="keeps workspaces, summaries and artifacts in this new folder")
    options = parser.parse_args()
    workflow = yaml.safe_load(options.workflow.read_text(encoding="utf-8"))
    try:
        if options.keep:
            options.keep.mkdir(parents=True)
            return 0 if run_workflow(workflow, options.keep.resolve(), variables(options.env),
                                     set(options.skip)) else 1
        with tempfile.TemporaryDirectory() as folder:
            return 0 if run_workflow(workflow, Path(folder), variables(options.env),
                                     set(options.skip)) else 1
    except Unsupported as error:
        print(f"{options.workflow}: not understood: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
