"""The command line tools: arguments in, exit status out."""
