"""Names of the tasks; this module imports no numpy, so that a command can list them at once."""

CLASSIFICATION, MULTILABEL, REGRESSION = "classification", "multilabel", "regression"
AUTO_TASK = "auto"
# The figure of steps of a scale, which stands behind those of all numbers.
ORDINAL_FIGURE = "quadratic_kappa"
# What --task takes; by auto the data set says which.
TASK_NAMES = (AUTO_TASK, CLASSIFICATION, MULTILABEL, REGRESSION)
