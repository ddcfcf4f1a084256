"""``python -m benchmarks``: a module of its own, because processes that are spawned do not import this one."""

from benchmarks.run import main

if __name__ == "__main__":
    main()
