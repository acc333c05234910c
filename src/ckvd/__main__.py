"""`python -m ckvd` is the command `ckvd`. Both start here, and handle Ctrl-C from here on."""

try:
    from ckvd.cli.main import run
except KeyboardInterrupt:  # the signals are not handled yet
    import sys

    sys.stderr.write("ckvd: interrupted\n")
    sys.exit(130)

if __name__ == "__main__":
    run()
