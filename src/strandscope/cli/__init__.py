"""The command line. Results go to stdout or to --out, everything else to stderr; torch is imported when something is measured."""
