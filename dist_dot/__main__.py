"""The program dist-dot. It hears Ctrl-C before it imports the rest, which takes seconds."""

from dist_dot.jobs.interrupt import interrupt


def main() -> None:
    """Run the command line."""
    interrupt.listen()
    from dist_dot.jobs import cli

    cli.main()


if __name__ == "__main__":
    main()
