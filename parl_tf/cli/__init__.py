"""Command line tools: arguments in, exit status out, no logic of their own."""
