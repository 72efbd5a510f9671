"""The code interpreter of a sandbox: runs code in kernels that live on, and tells what came of it.

Runs inside the sandbox on the template's own Python, and speaks what E2B's clients expect on port 49999. The server
(`__main__`) is small and imports no package. Python's kernels are IPython's, forked from a process that has imported
everything already (`zygote`); those of other languages are small programs of ours. They are told what to run over a
socket, and print into pipes (`pipes`). R's is a program of others', which speaks Jupyter's messages (`jupyter`).
"""
