"""What everything that holds a resource must do when it is left, as functions that the tests of each class call.

- `bad_closing`: a pytest plugin that replaces a part of the cleanup by a wrong one. Tests must notice.
- `clients`: how clients are left: used or not, twice, during errors, cancelled, interrupted.
- `closers`: resources that close well or badly, and a runner for lazy and eager tasks.
- `files`: how classes that hold a file or a map are left.
- `half_answers`: servers that stop in the middle of an answer, and all ways of giving up.
- `mutants`: faults of one line in the code of release, each with the test that notices. A pytest plugin.
- `other_loops`: event loops that run in another thread.
- `unanswered`: how clients are left while callers wait for a server that has fallen silent.
- `unclosed`: clients that nobody closes: one warning, and everything released.
"""
