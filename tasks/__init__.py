"""One file per task: it ties data, network, loss and metrics together for every setting.

A new task is one file here (a `training.task.Task` subclass and `TASK = ThatClass`) and one YAML in `configs/`. Nothing
else is edited: commands find it by name, and the generic test suite picks it up.
"""
