"""All of it, within a number of minutes: crash points, churn, power cuts, journal.

    run.py [minutes=10] [seed=1]

Each program can be run by itself; its first lines say how. Exit code 1: something that must hold did not.
"""
import sys
from lab import *

SHARES = (("crashpoints.py", 0.4), ("churn.py", 0.35), ("powercut.py", 0.15), ("journal.py", 0.1))


def main():
    options = options_of(sys.argv[1:], minutes=10.0, seed=1)
    failed = []
    for program, share in SHARES:
        seconds = options["minutes"] * 60 * share
        words = {"crashpoints.py": [f"seconds={seconds}"], "churn.py": [f"minutes={seconds / 60}", f"seed={options['seed']}"],
                 "powercut.py": [f"seconds={seconds}", f"seed={options['seed']}"], "journal.py": [f"seconds={seconds}", f"seed={options['seed']}"]}[program]
        print(f"== {program} {' '.join(words)}", flush=True)
        if subprocess.run([sys.executable, f"{SOURCES}/{program}", *words]).returncode:
            failed.append(program)
    print(f"violations in: {', '.join(failed)}" if failed else "no violations")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
