"""Runs the steps of a job one after the other; counts each Ctrl-C or other request to stop once.

    steps = Steps()
    result = steps.run("Training", [sys.executable, "launch/local.py", ...])

A step has a session of its own, so a terminal's Ctrl-C reaches only this process, which asks the
step to end. Needs nothing but Python.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time

import local

WRONG_USAGE, PREEMPTED = local.WRONG_USAGE, local.PREEMPTED
# Seconds that a launcher has to end its workers after a second request.
_AT_ONCE_S = 5.0
# Exit codes of a step that was asked to stop: it has saved, or had nothing to save.
_STOPPED = {0, PREEMPTED, *(128 + number for number in (signal.SIGINT, signal.SIGTERM))}


class Stopped(Exception):
    """The job was asked to stop.

    Attributes:
        code: exit code: 42, or 128 + signal after a second request.
        saved: whether the interrupted step reported that it has saved.
    """

    def __init__(self, code, saved):
        super().__init__()
        self.code, self.saved = code, saved


class StepFailed(Exception):
    """A step failed and has written its error to stderr.

    Attributes:
        code: exit code for the job.
        log: stderr of the step, if it was not shown.
    """

    def __init__(self, title, code, log=""):
        super().__init__(f"{title} failed with exit code {code}.")
        self.code, self.log = code, log


class Steps:
    """Runs one step at a time.

    Attributes:
        seconds: {title: seconds that the step took}.
    """

    def __init__(self):
        self.seconds = {}
        self._stop = local.StopSignals()

    def run(self, title, command, quiet=False, is_launcher=False) -> dict:
        """Runs a step, passes its output on, and returns the JSON object of its last line.

        Args:
            title: of the step, for people.
            command: list of str.
            quiet: hide its output unless it fails.
            is_launcher: whether it is `local.py`, which ends its workers at a second request.

        Raises:
            Stopped: on a request to stop, before or during the step.
            StepFailed: it ended with an exit code other than 0.
        """
        self.stop_if_asked()
        say(f"== {title}")
        started = time.monotonic()
        step = _Step(command, quiet)
        try:
            code = self._wait(step, is_launcher)
        finally:
            step.kill()
        log = step.finish_output(is_result=code == 0)
        self.seconds[title] = time.monotonic() - started
        asked = self._stop.received
        if asked and (code in _STOPPED or len(asked) > 1):
            raise self._stopped(saved=code in (0, PREEMPTED))
        if code:
            raise StepFailed(title, code, log)
        return json.loads(step.last)

    def stop_if_asked(self) -> None:
        if self._stop.received:
            raise self._stopped(saved=True)

    def _stopped(self, saved):
        asked = self._stop.received
        return Stopped(PREEMPTED if len(asked) == 1 else 128 + asked[0], saved)

    def _wait(self, step, is_launcher):
        """The exit code of the step, to which requests to stop are passed on."""
        passed_on, kill_at = 0, None
        while step.exit_code() is None:
            if len(self._stop.received) > passed_on:
                passed_on = len(self._stop.received)
                step.terminate()
                if passed_on == 1:
                    say("\nstopping; finished work is kept. Ctrl-C again ends it at once.")
                elif kill_at is None:
                    kill_at = time.monotonic() + (_AT_ONCE_S if is_launcher else 0.0)
            if kill_at is not None:
                step.terminate()  # again, since the launcher may have counted two signals as one
                if time.monotonic() >= kill_at:
                    step.kill()
            time.sleep(local.POLL_S)
        return step.exit_code()


class _Step:
    """A process in a session of its own, and its output.

    Attributes:
        last: the last line on its stdout, "" without one.
    """

    def __init__(self, command, quiet):
        path = os.pathsep.join(filter(None, [str(local.ROOT), os.getenv("PYTHONPATH")]))
        self.last = ""
        self._quiet = quiet
        self._log = []
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if quiet else None,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
            preexec_fn=functools.partial(local.die_with, os.getpid()),
        )
        readers = [self._read_results] + ([self._read_log] if quiet else [])
        self._readers = [threading.Thread(target=reader, daemon=True) for reader in readers]
        for reader in self._readers:
            reader.start()

    def exit_code(self) -> int | None:
        """The exit code as a shell gives it, None while running."""
        code = self._process.poll()
        return 128 - code if code is not None and code < 0 else code

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        """Ends the process and the rest of its session."""
        local.signal_group(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def finish_output(self, is_result) -> str:
        """Passes on the rest of the pipes except a result; returns the lines not shown."""
        for reader in self._readers:
            reader.join(timeout=5)
        if self.last and not is_result and not self._quiet:
            local.write(sys.stdout, self.last)
        return "\n".join(dict.fromkeys(self._log))

    def _read_results(self):
        for line in self._process.stdout:
            if self.last and not self._quiet:
                local.write(sys.stdout, self.last)
            self.last = line.rstrip("\n")

    def _read_log(self):
        """Reads lines and removes the workers' names, since workers mostly write the same."""
        for line in self._process.stderr:
            name, bracket, rest = line.rstrip("\n").partition("] ")
            self._log.append(rest if bracket and name.startswith("[w") else line.rstrip("\n"))


def say(text) -> None:
    local.write(sys.stderr, text)
