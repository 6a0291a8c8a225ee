"""One file per task: it ties data, network, loss and metrics together for every setting.

A new task is one file here (a `training.task.Task` subclass and `TASK = ThatClass`) and one YAML in `configs/`. Nothing
else is edited: commands and the generic test suite find it by name. The suite tries it on what a maker of that name in
`datasets/synthetic/` makes, else on the data that its YAML names. docs/new_task.md holds a whole one.
"""
